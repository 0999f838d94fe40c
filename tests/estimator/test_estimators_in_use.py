"""Estimators as they are used: in other processes, on few rows, from the guide."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score

from jaxflow.estimator import ConditionalFlowDensity, FlowDensity

GUIDE = Path(__file__).parents[2] / "docs" / "estimator.md"
X = np.random.default_rng(0).normal((1.0, -20.0), (0.5, 30.0), size=(60, 2))

pytestmark = pytest.mark.slow


def test_folds_in_other_processes_give_the_same_scores():
    density = FlowDensity(
        width=8, depth=1, steps=20, objective="matching", scaling="standardise", random_state=0
    )
    scores = [cross_val_score(density, X, cv=2, n_jobs=n) for n in (1, 2)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)


def test_three_rows_and_one_column_are_enough():
    for x in (X[:3], X[:, :1]):
        assert np.isfinite(FlowDensity(steps=10, random_state=0).fit(x).score(x))


def test_conditions_reach_the_density():
    density = ConditionalFlowDensity(
        width=16, depth=1, steps=300, learning_rate=1e-2, objective="likelihood", random_state=0
    )
    rng = np.random.default_rng(1)
    y = rng.normal(size=1000)
    x = 2.0 * y[:, None] + 0.1 * rng.normal(size=(1000, 1))
    density.fit(x[:700], y[:700])
    exact = -0.5 * np.log(2 * np.pi * np.e * 0.01)
    assert density.score(x[700:], y[700:]) > exact - 0.3
    drawn = density.sample(np.full(500, 1.0), random_state=0)
    assert abs(drawn.mean() - 2.0) < 0.1
