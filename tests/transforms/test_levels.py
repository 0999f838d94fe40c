"""Normal scores of the levels of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, StandardNormal
from jaxflow.transforms import LevelScores

P = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])


def test_a_standard_normal_is_the_density_of_independent_entries():
    flow = CNF(lambda t, x: 0 * x, StandardNormal((2,)), transform=LevelScores(P))
    x = np.array([[0.0, 2.0], [-0.4999, 2.4999], [1.3, 0.2], [2.0, 1.0]])
    level = np.round(x).astype(int)
    np.testing.assert_allclose(
        flow.log_prob(x), np.log(P[0, level[:, 0]] * P[1, level[:, 1]]), rtol=1e-12
    )
    assert (flow.log_prob(np.array([[2.5, 0.0], [0.0, -0.6]])) == -np.inf).all()


def test_samples_have_the_frequencies():
    flow = CNF(lambda t, x: 0 * x, StandardNormal((2,)), transform=LevelScores(P))
    x = np.round(flow.sample(jax.random.key(0), 20_000)).astype(int)
    for entry in range(2):
        counts = np.bincount(x[:, entry], minlength=3) / len(x)
        np.testing.assert_allclose(counts, P[entry], atol=0.012)


def test_entries_of_one_level_have_frequencies_of_all_levels():
    images = np.random.default_rng(0).integers(0, 17, (300, 2, 3, 1))
    images[:, 0, 0] = 0
    transform = LevelScores.fit(images, 17)
    assert transform.event_shape == (2, 3, 1)
    frequencies = np.asarray(transform.frequencies)
    assert (frequencies > 0).all()
    np.testing.assert_allclose(frequencies.sum(axis=-1), 1.0, rtol=1e-6)
    assert frequencies[0, 0, 0, 0] > 0.9


def test_rare_levels_come_back_in_float32():
    rare = np.full((4, 256), 1e-8, np.float32)
    rare[:, 0] = 1 - 255e-8
    transform = LevelScores(rare)
    x = jnp.asarray([[0.0, 1.0, 128.0, 255.0]], jnp.float32)
    back, _ = jax.jit(jax.vmap(lambda x: transform.inverse(transform.forward(x)[0])))(x)
    np.testing.assert_array_equal(np.round(back), x)


@pytest.mark.parametrize("wrong", [P[:1, :1], 2 * P, P - 0.3, P[0]])
def test_frequencies_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match=r"frequencies .*LevelScores\.fit"):
        LevelScores(wrong)


@pytest.mark.parametrize("images", [np.full((9, 2), 3), np.full((9, 2), -1), np.full((9, 2), 0.5)])
def test_values_that_are_no_levels_are_refused(images):
    with pytest.raises(ValueError, match=r"entry 0 of row 0 is .*levels=3 allows"):
        LevelScores.fit(images, 3)
