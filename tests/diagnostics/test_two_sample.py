"""Two-sample tests: their level under the hypothesis, their power, their definitions."""

import sys
from typing import Any

import numpy as np
import pytest

from jaxflow.diagnostics import two_sample
from jaxflow.runtime.extras import install_extra

LEVEL = 1e-2


def mmd(x, y, rng) -> Any:
    return two_sample.mmd(x, y, rng, LEVEL)


def c2st(x, y, rng) -> Any:
    return two_sample.c2st(x, y, rng, LEVEL)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(two_sample, "TREES", 60)


def draw(rng, num):
    x, y = rng.normal(size=(2, num, 2))
    return x, y


def test_mmd_is_the_unbiased_estimate_by_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 3))
    found = mmd(x, y, rng)
    both = np.concatenate([x, y])
    distances = [np.sum((a - b) ** 2) for i, a in enumerate(both) for b in both[i + 1 :]]
    width = np.median(distances)

    def k(a, b):
        return np.exp(-np.sum((a - b) ** 2) / width)

    n = len(x)
    within = sum(k(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j)
    between = sum(k(a, b) for a in x for b in y)
    assert found.squared == pytest.approx(within / (n * (n - 1)) - 2 * between / n**2, abs=1e-14)


def test_p_values_are_uniform_where_samples_are_right():
    rng = np.random.default_rng(1)
    p = np.array([mmd(*draw(rng, 40), rng).p for _ in range(100)])
    # Kolmogorov-Smirnov distance of 100 uniform numbers: below 0.195 in 99.9 % of cases.
    assert np.max(np.abs(np.sort(p) - (np.arange(100) + 0.5) / 100)) < 0.195


@pytest.mark.slow
def test_the_classifiers_error_is_no_smaller_than_it_is():
    # By the error of independent guesses the scores would scatter by about 1.3.
    rng = np.random.default_rng(6)
    found = [c2st(*draw(rng, 200), rng) for _ in range(100)]
    scores = np.array([(test.accuracy - 0.5) / test.se for test in found])
    assert 0.5 < scores.std() < 1.1
    assert abs(scores.mean()) < 0.3


def test_a_small_level_takes_more_exchanges():
    # Else no p-value, corrected for the number of tests, could fall below it.
    rng = np.random.default_rng(7)
    x, y = draw(rng, 40)
    for level in (1e-2, 1e-3):
        found: Any = two_sample.mmd(x, y + 5, rng, level)
        assert two_sample.TESTS * found.p < level


def test_exchanges_keep_the_level_where_each_pair_has_its_own_condition():
    # With conditions far apart, unpaired exchanges would see rows and samples too much alike.
    rng = np.random.default_rng(2)
    found = []
    for _ in range(60):
        c = 5 * rng.normal(size=(40, 1))
        x, y = (np.concatenate([c + rng.normal(size=c.shape), c], axis=1) for _ in range(2))
        found.append(mmd(x, y, rng).p)
    assert np.mean(np.asarray(found) < 0.2) == pytest.approx(0.2, abs=0.17)


def test_both_see_wrong_samples():
    rng = np.random.default_rng(3)
    x, y = draw(rng, 300)
    turned = y @ np.linalg.cholesky([[1.0, 0.7], [0.7, 1.0]]).T
    for wrong in (1.5 * y, y + 0.5, turned):
        for test in (mmd, c2st):
            found = test(x, wrong, rng)
            assert found.p < LEVEL
            (finding,) = found.findings()
            assert finding.grade == "bad"
            assert "distinguishes samples from data" in finding.text
    for test in (mmd, c2st):
        found = test(x, y, rng)
        assert found.p > 0.01
        (finding,) = found.findings()
        assert finding.grade == "good"
        assert "cannot distinguish 300 samples from as many rows" in finding.text


def test_a_classifier_reaches_the_best_accuracy_and_no_more():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 1000, 1))
    # N(0, 1) against N(2, 1): right with probability Phi(1) = 0.8413.
    found = c2st(x, y + 2, rng)
    assert found.accuracy == pytest.approx(0.8413, abs=0.03)
    assert found.se == pytest.approx(1.5 / np.sqrt(8000))
    # A copy of the rows cannot be told from them, whatever the trees remember.
    assert c2st(x, x.copy(), rng).accuracy == pytest.approx(0.5, abs=3 * found.se)


def test_reasons_for_no_test(monkeypatch):
    rng = np.random.default_rng(5)
    for test in (mmd, c2st):
        assert test(np.zeros((5, 2)), np.ones((5, 2)), rng) == (
            "5 pairs of row and sample are too few to test; 20 are needed"
        )
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    found = c2st(*draw(rng, 50), rng)
    assert found == f"a classifier needs scikit-learn: {install_extra('sklearn')}"
