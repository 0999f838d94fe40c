"""Which column makes a row unusual."""

import numpy as np
import pytest

from jaxflow.diagnostics import column_gains

SLOPE = 3.0


def log_prob(x):
    """A Gaussian of two coupled columns and a third of its own, 0 beyond 20."""
    z = np.stack([x[:, 0], x[:, 1] - SLOPE * x[:, 0], x[:, 2]], axis=1)
    return np.where(np.abs(x).max(axis=1) > 20, -np.inf, -0.5 * (z**2).sum(axis=1))


@pytest.fixture
def usual():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    x[:, 1] += SLOPE * x[:, 0]
    return x


def test_the_cell_that_is_wrong_gains_most(usual):
    rows = np.array([[0.0, 0.0, 8.0], [0.0, 9.0, 0.0], [0.1, 0.2, 0.3]])
    gains = column_gains(log_prob, rows, usual)
    assert gains.nats[0].argmax() == 2
    np.testing.assert_allclose(gains.nats[0, 2], 32.0, atol=0.1)
    # Column 1 does not fit column 0, and either could be the wrong one.
    assert gains.nats[1, 2] < 0.1 < 10 < min(gains.nats[1, :2])
    assert gains.nats[2].max() < 0.2
    best = usual[gains.donors[0, 2]]
    np.testing.assert_allclose(log_prob(np.array([[0.0, 0.0, best[2]]])), 0.0, atol=0.1)


def test_a_row_outside_the_support(usual):
    gains = column_gains(log_prob, [[0.0, 0.0, 30.0], [0.0, 30.0, 30.0]], usual)
    assert np.isinf(gains.nats[0, 2])
    np.testing.assert_array_equal(gains.nats[0, :2], 0.0)
    np.testing.assert_array_equal(gains.nats[1], 0.0)  # no cell alone brings it back


@pytest.mark.parametrize(
    ("x", "reference", "match"),
    [
        (np.zeros(3), np.zeros((4, 3)), r"x has shape \(3,\)"),
        (np.zeros((2, 3)), np.zeros((4, 2)), r"reference has shape \(4, 2\)"),
        (np.full((2, 3), np.nan), np.zeros((4, 3)), "x"),
    ],
)
def test_bad_rows(x, reference, match):
    with pytest.raises(ValueError, match=match):
        column_gains(log_prob, x, reference)
