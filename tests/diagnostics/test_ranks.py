"""Ranks of log-densities: a missing mode shows, whatever the base, and p-values are right."""

from typing import Any

import numpy as np
import pytest

from jaxflow.diagnostics.corrected import correct, holm
from jaxflow.diagnostics.ranks import Ranks, compare_ranks


def test_the_number_below_every_sample_has_its_exact_probability():
    # Unpaired, it is that of c rows drawn first, without replacement; with pairs at most 2^-c.
    draws = np.random.default_rng(0).normal(size=(300, 2, 50))
    found = [compare_ranks(rows, samples, 0.01).below for rows, samples in draws]
    for c in (1, 2, 3, 5):
        share = np.mean(np.asarray(found) >= c)
        exact = np.prod([(50 - j) / (100 - j) for j in range(c)])
        assert share == pytest.approx(exact, abs=4 * np.sqrt(exact / 300))
        assert exact <= 0.5**c


def test_what_lies_below_every_sample_is_counted_and_named():
    rng = np.random.default_rng(1)
    rows, samples = rng.normal(size=(2, 500))
    rows[:25] = -40.0 - np.arange(25)
    # Density 0 lies below too.
    rows[0] = -np.inf
    found = compare_ranks(rows, samples, 0.01)
    assert found.below == 25 + np.sum(rows[25:] < samples.min())
    assert found.below_p == 0.5**found.below
    text = "\n".join(finding.text for finding in found.findings() if finding.grade == "bad")
    assert text.startswith(f"{found.below} rows lie below the log-density of every sample (p = ")
    # One sample out there hides them from this test.
    samples[0] = -100.0
    assert compare_ranks(rows, samples, 0.01).below == 1


def test_rows_that_fit_worse_show_in_the_distance():
    rng = np.random.default_rng(2)
    rows, samples = -0.5 * rng.normal(size=(2, 500, 4)) ** 2
    found = compare_ranks(1.5 * rows.sum(axis=1), samples.sum(axis=1), 0.01)
    assert found.distance_p < 1e-4
    assert "the log-densities of rows are not those of samples" in found.findings()[-1].text
    (right,) = compare_ranks(rows.sum(axis=1), samples.sum(axis=1), 0.01).findings()
    assert right.grade == "good"


def test_corrected_p_values_are_holms():
    p = np.asarray([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.asarray([0.9, 0.8])), 1.0)
    # Of independent true hypotheses some are rejected with probability 1 - (1 - level / m)^m.
    many = np.random.default_rng(3).uniform(size=(20_000, 7))
    rejected = np.mean([holm(each).min() < 0.05 for each in many])
    assert rejected == pytest.approx(1 - (1 - 0.05 / 7) ** 7, abs=0.005)


def test_parts_are_corrected_together():
    first, second = (Ranks(100, 0.1, p, 3, 0.125, 0.01) for p in (0.001, 0.004))
    parts: dict[str, Any] = {"a": first, "b": second, "c": "too few"}
    corrected, count = correct(parts)
    assert count == 4
    assert corrected["c"] == "too few"
    assert corrected["a"].distance_p == pytest.approx(0.004)
    # Alone a difference at 0.01, of four tests none.
    assert corrected["b"].distance_p == pytest.approx(0.012)
    assert (second.findings()[0].grade, corrected["b"].findings()[0].grade) == ("bad", "good")
