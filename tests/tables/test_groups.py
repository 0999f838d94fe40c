"""Heads of similar laws as one batch: the same probabilities, and nothing learned from padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.tables.discrete import Autoregressive, Head, constant_heads
from jaxflow.tables.groups import Groups, log_prob
from jaxflow.tables.laws import Labels, Steps

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(2.0, 60).astype(float)
PAIR = RNG.integers(0, 2, 60).astype(float)
CODES = np.stack([PAIR, COUNTS, RNG.integers(0, 5, 60), 3 * PAIR, np.zeros(60)], axis=1)
CODES[::7, 2] = np.nan
LAWS = (
    Labels(2),
    Steps.fit(COUNTS, 0.0, np.inf),
    Labels(5),
    Steps.fit(3 * PAIR, 0.0, np.inf),
    Labels(1),
)


def moved(head):
    """A head whose weights are not 0."""
    return jax.tree.map(lambda leaf: leaf + 0.3 * RNG.normal(size=leaf.shape), head)


@pytest.fixture(scope="module")
def model():
    starts = [law.start(column) for law, column in zip(LAWS, CODES.T, strict=True)]
    heads = tuple(map(moved, constant_heads(LAWS, starts, 0)))
    return Autoregressive(heads, LAWS, (-1, -1, 0, -1, -1))


def test_a_batch_of_heads_has_the_probabilities_of_each(model):
    groups = Groups.of(LAWS)
    assert len(groups.groups) == 3
    stacked = jax.tree.map(lambda leaf: leaf[0], groups.stack([model.heads], LAWS))
    found = log_prob(groups.groups, stacked, *groups.rows(LAWS, CODES))
    np.testing.assert_allclose(
        found, model.log_prob(CODES, others=True)[:, groups.order], rtol=1e-9
    )
    back = groups.unstack(stacked, LAWS)
    jax.tree.map(np.testing.assert_array_equal, back, model.heads)


@pytest.mark.slow
def test_padding_has_no_slope(model):
    groups = Groups.of(LAWS)
    rows = groups.rows(LAWS, CODES)
    stacked = jax.tree.map(lambda leaf: leaf[0], groups.stack([model.heads], LAWS))
    slopes = jax.grad(lambda heads: jnp.sum(log_prob(groups.groups, heads, *rows)))(stacked)
    kept = groups.stack([groups.unstack(slopes, LAWS)], LAWS)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), slopes, kept)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert isinstance(slopes[0], Head)
