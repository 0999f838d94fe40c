"""Encoded rows against N(0, I): what differs is found and named, and nothing else."""

from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from jaxflow.diagnostics.normality import Normality, measure_normality

# Its results are tuples to a type checker.
stats: Any = scipy_stats
Z = np.random.default_rng(0).normal(size=(500, 4))


def examine(z) -> Normality:
    found = measure_normality(z, 1e-3)
    assert isinstance(found, Normality)
    return found


def test_the_statistics_are_those_of_their_definitions():
    found = examine(Z)
    distances = [stats.ks_1samp(column, stats.norm.cdf) for column in Z.T]
    worst = int(np.argmax([test.statistic for test in distances]))
    assert (found.coordinate, found.distance) == (worst, distances[worst].statistic)
    # Bonferroni over 4 coordinates, and over 6 pairs.
    assert found.distance_p == pytest.approx(min(1, 4 * distances[worst].pvalue))
    radius = stats.ks_1samp(np.sum(Z**2, axis=1), stats.chi2(4).cdf)
    assert (found.radius, found.radius_p) == (radius.statistic, radius.pvalue)
    pairs = {(i, j): np.corrcoef(Z[:, i], Z[:, j])[0, 1] for i in range(4) for j in range(i)}
    (i, j), largest = max(pairs.items(), key=lambda pair: abs(pair[1]))
    assert (found.pair, found.correlation) == ((j, i), pytest.approx(largest))
    # Fisher's p-value is that of Student's t, nearly.
    assert found.correlation_p == pytest.approx(
        min(1, 6 * stats.pearsonr(Z[:, i], Z[:, j]).pvalue), rel=0.01
    )
    assert [finding.grade for finding in found.findings()] == ["good"]
    # What it calls visible is where the p-value, one of seven, falls to the level.
    visible = 7 * 4 * stats.distributions.kstwo.sf(found.least, 500)
    assert visible == pytest.approx(1e-3, rel=0.2)


def test_a_shifted_coordinate_is_named():
    z = Z.copy()
    z[:, 2] += 0.5
    found = examine(z)
    assert found.coordinate == 2
    assert found.distance == pytest.approx(stats.norm.cdf(0.25) - stats.norm.cdf(-0.25), abs=0.06)
    assert found.distance_p < 1e-6
    (finding,) = found.findings()
    assert finding.grade == "bad"
    assert "the encoded data are not N(0, I): coordinate 2 (distance 0." in finding.text


def test_a_common_factor_shows_in_the_radius_alone():
    # Each coordinate is nearly normal and none correlate, but all are large at once.
    scale = np.where(np.random.default_rng(1).uniform(size=(500, 1)) < 0.5, 0.75, 1.2)
    found = examine(scale * np.concatenate([Z, np.roll(Z, 1, axis=0), np.roll(Z, 2, 0)], axis=1))
    assert found.radius_p < 1e-3
    (finding,) = found.findings()
    assert "not N(0, I): |z|^2 (distance 0." in finding.text


def test_a_correlation_is_named_by_its_pair():
    z = Z.copy()
    z[:, 3] = 0.4 * z[:, 1] + np.sqrt(1 - 0.16) * z[:, 3]
    found = examine(z)
    assert found.pair == (1, 3)
    assert found.correlation == pytest.approx(0.4, abs=0.1)
    (finding,) = found.findings()
    assert "coordinates 1 and 3 (corr. +0." in finding.text


def test_one_dimension_has_no_correlation():
    found = examine(Z[:, :1])
    assert (found.correlation, found.correlation_p) == (0.0, 1.0)
    assert len(found.lines()) == 2
    too_few = "10 encoded rows are too few to test; 20 are needed"
    assert measure_normality(Z[:10], 1e-3) == too_few
