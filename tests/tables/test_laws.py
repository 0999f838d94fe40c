"""Laws of discrete cells: probabilities that sum to 1, and samples that follow them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.tables.laws import Labels, Steps
from jaxflow.tables.steps import step_log_prob

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(3.0, 500).astype(float)

LAWS = {
    "labels": (Labels(4), np.arange(4.0)),
    "count": (Steps.fit(COUNTS, 0.0, np.inf), np.arange(150.0)),
    "range": (Steps.fit(COUNTS + 1, 1.0, 25.0), np.arange(1.0, 26.0)),
    "skewed": (Steps.fit(np.floor(np.exp(2 * RNG.normal(size=500))), 0.0, np.inf), None),
    "whole": (Steps.fit(np.round(20 * RNG.normal(size=500)), -np.inf, np.inf), None),
}


def parameters_of(law, spread=0.5):
    """The parameters at the start, moved at random."""
    codes = RNG.integers(0, 4, 300).astype(float)
    return law.start(codes) + spread * RNG.normal(size=law.num_parameters)


def log_prob(law, parameters, codes):
    """Log-probabilities of cells that share their parameters."""
    return law.log_prob(np.tile(parameters, (len(codes), 1)), law.cells(codes))


@pytest.mark.parametrize("name", ["labels", "count", "range"])
def test_probabilities_of_all_cells_sum_to_one(name):
    law, cells = LAWS[name]
    log_p = log_prob(law, parameters_of(law), cells)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1.0, rtol=1e-9)


@pytest.mark.parametrize("name", ["skewed", "whole"])
def test_probabilities_of_wide_ranges_sum_to_one(name):
    law, _ = LAWS[name]
    cells = np.arange(0.0, 100_000.0) if law.log else np.arange(-5000.0, 5000.0)
    total = np.exp(log_prob(law, parameters_of(law, 0.2), cells)).sum()
    assert 0.999 < total < 1 + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_samples_follow_the_probabilities(name):
    law, _ = LAWS[name]
    parameters = parameters_of(law, 0.2)
    drawn = law.sample(np.tile(parameters, (40_000, 1)), RNG.random((40_000, 2)))
    np.testing.assert_array_equal(drawn, np.round(drawn))
    if isinstance(law, Steps):
        assert drawn.min() >= law.lower
        assert drawn.max() <= law.upper
    values, counts = np.unique(drawn, return_counts=True)
    p = np.exp(log_prob(law, parameters, values))
    frequent = p > 1e-3
    error = np.sqrt(p * (1 - p) / 40_000)
    assert (np.abs(counts / 40_000 - p) < 5 * error + 1e-9)[frequent].all()


def test_a_law_is_exact_in_float32_where_numbers_are_large():
    codes = np.floor(1e6 + 1e5 * RNG.normal(size=400))
    law = Steps.fit(codes, 0.0, np.inf)
    every = np.tile(law.start(codes), (len(codes), 1))
    arguments = law._every(every), law.cells(codes), *np.array(law.span)
    with jax.enable_x64(False):
        rounded = step_log_prob(*(jnp.asarray(each, jnp.float32) for each in arguments))
    np.testing.assert_allclose(rounded, law.log_prob(every, law.cells(codes)), atol=1e-3)


def test_starts_are_frequencies():
    law = Labels(3)
    codes = np.repeat([0.0, 1.0, 2.0], [70, 20, 10])
    p = np.exp(law.start(codes))
    np.testing.assert_allclose(p, [0.7, 0.2, 0.1], atol=0.02)
    np.testing.assert_allclose(p.sum(), 1.0)


def test_labels_that_hardly_repeat_are_all_as_likely():
    """The smoothing follows the table: next to none where each label has many rows."""
    np.testing.assert_allclose(np.exp(Labels(40).start(np.arange(40.0))), 1 / 40)
    rare = np.exp(Labels(40).start(np.repeat([0.0, 1.0], 500)))
    assert rare[2:].sum() < 1e-3
    # One label in half of the rows, the others once: it keeps its share.
    codes = np.concatenate([np.zeros(40), np.arange(1.0, 41)])
    assert np.exp(Labels(41).start(codes))[0] > 0.45


def test_heaped_numbers_keep_their_frequencies():
    """Ages that are mostly multiples of 5 in a smooth range: the table's part has these."""
    ages = RNG.integers(20, 80, 2000)
    ages = np.where(RNG.random(2000) < 0.7, 5 * (ages // 5), ages).astype(float)
    law, (rows, new) = Steps.fit(ages[:1000], 0.0, np.inf), np.split(ages, 2)
    truth = np.where(np.arange(20.0, 80) % 5 == 0, 0.7 * 5 / 60 + 0.3 / 60, 0.3 / 60)
    entropy = -(truth * np.log(truth)).sum()
    assert abs(log_prob(law, law.frequencies(rows), new).mean() + entropy) < 0.1
    assert log_prob(law, law.start(rows), new).mean() < -entropy - 0.3
    # A number of the table that no other row has is not its own evidence.
    once = Steps.fit(np.arange(500.0) ** 2, 0.0, np.inf)
    assert (once.cells(np.arange(10.0, 500) ** 2, others=True)[:, 3] < -1e29).all()
