"""Student's t as a simple density to start from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t as student_t

import jaxflow
from jaxflow.training.folds import make_folds
from jaxflow.training.heavy_tails import fit_heavy_tails
from jaxflow.training.starts import Fold, Start, choose_start
from jaxflow.transforms.choose import forward

FACTOR = np.asarray([[2.0, 0.0], [-1.0, 0.5]])


def rows(n, df):
    return np.random.default_rng(0).standard_t(df, (n, 2)) @ FACTOR.T + 3.0


def folds(x):
    x = jnp.asarray(x)
    splits = make_folds(np.arange(len(x)), 5, 0)
    return [Fold(x[a], x[b], np.zeros(len(b))) for a, b in splits]


@pytest.mark.parametrize("df", [1.5, 4.0])
@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_location_scale_and_tails_are_found(df, covariance):
    factor = FACTOR if covariance == "full" else np.diag([2.0, 0.5])
    x = np.random.default_rng(0).standard_t(df, (5000, 2)) @ factor.T + 3.0
    fitted = fit_heavy_tails(x, covariance, 0.0)
    assert fitted.df == df
    np.testing.assert_allclose(fitted.mean, 3.0, atol=0.1)
    new = np.random.default_rng(1).standard_t(df, (5000, 2))
    exact = student_t.logpdf(new, df).sum(axis=1) - np.log(np.diagonal(factor)).sum()
    gap = exact - fitted.log_density(new @ factor.T + 3.0)
    assert gap.mean() + 2 * gap.std() / 5000**0.5 >= 0
    assert gap.mean() < (0.01 if covariance == "diag" else 0.03)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_few_rows_and_equal_ones_have_a_bounded_density(covariance):
    rng = np.random.default_rng(0)
    few = rng.normal(size=(12, 20))
    rare = np.where(rng.random((400, 2)) < 0.8, 0.0, rng.normal(size=(400, 2)))
    for x in (few, rare):
        for ridge in (0.01, 1e-5):
            log_p = fit_heavy_tails(x, covariance, ridge).log_density(x)
            assert np.isfinite(log_p).all()
            # No scale is below that of the ridge, whose quartiles are those of different values.
            assert log_p.mean() < -0.5 * x.shape[1] * np.log(ridge)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_flow_starts_as_students_t(dtype):
    x = rows(400, 3.0).astype(dtype)
    start = Start(heavy=True)
    scaling: Any = None
    scaling, base = start.fit(None, jnp.asarray(x))
    assert base.df.dtype == dtype
    flow = jaxflow.CNF(
        jaxflow.dynamics.Linear(matrix=jnp.zeros((2, 2), dtype)), base, transform=scaling
    )
    scaled, log_det = forward(scaling.parts[0], jnp.asarray(x))
    expected = start.log_density(*2 * (np.asarray(scaled, np.float64),)) + np.asarray(log_det)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(flow.log_prob(x), expected, atol=tolerance)


@pytest.mark.slow
def test_heavy_tails_are_chosen_where_the_rows_have_them():
    heavy = choose_start(folds(rows(200, 2.0)))
    assert next(iter(heavy)).heavy
    light = choose_start(folds(np.random.default_rng(2).normal(size=(200, 2))))
    assert next(iter(light)).is_gaussian
    assert any(start.name == "Student t" for start in light)


@pytest.mark.slow
def test_the_density_of_heavy_tails_is_near_the_truth():
    x, new = rows(300, 2.0), rows(5000, 2.0)
    flow, _, comparison = jaxflow.fit_density(x, key=jax.random.key(0), steps=25, progress=False)
    z = np.linalg.solve(FACTOR, (new - 3.0).T)
    exact = student_t.logpdf(z, 2.0).sum(axis=0) - np.log(np.diagonal(FACTOR)).sum()
    assert np.mean(exact - np.asarray(flow.log_prob(new))) < 0.06
    assert "Student t" in str(comparison)
