"""Weights say how often a row counts: rows of weight 0 are not there, others are repeated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, StandardNormal, TrainConfig, fit, fit_noise
from jaxflow.dynamics import MLP, ConditionScaling, Linear
from jaxflow.objectives import maximum_likelihood
from jaxflow.objectives.weights import weighted_mean
from jaxflow.training.prepare import prepare
from jaxflow.training.rows import Dataset, repeat_rows
from jaxflow.transforms import Dequantise

KEY = jax.random.key(2)
CONFIG = TrainConfig(steps=2, batch_size=4096, eval_every=1)
RNG = np.random.default_rng(3)
X = np.stack([RNG.lognormal(sigma=1.5, size=400), RNG.normal(size=400)], axis=1)
COND = RNG.normal(5.0, 2.0, size=(400, 1))
COUNTS = RNG.integers(0, 4, size=400)


def flow():
    return CNF(MLP(2, width=4, depth=1, cond_dim=1, key=KEY), StandardNormal(2))


def problems(x, cond, weights, validation):
    return prepare(flow(), x, cond, KEY, validation, "auto", CONFIG, weights)


def spoilt(values):
    """Rows that do not count, with what a masked row may hold."""
    values = values.copy()
    values[COUNTS == 0] = np.resize([-9999.0, np.nan, np.inf], (np.sum(COUNTS == 0), 1))
    return values


def test_weights_are_repetitions():
    held = RNG.integers(0, 3, size=100)
    weighted = problems(spoilt(X), spoilt(COND), COUNTS, (X[:100], COND[:100], held.astype(float)))
    again = np.repeat(X, COUNTS, axis=0), np.repeat(COND, COUNTS, axis=0)
    held_again = np.repeat(X[:100], held, axis=0), np.repeat(COND[:100], held, axis=0)
    repeated = problems(*again, None, held_again)
    assert list(weighted) == list(repeated) == ["Standardise", "Gaussianise"]
    for name, one in weighted.items():
        two = repeated[name]
        jax.tree.map(np.testing.assert_array_equal, one.transform, two.transform)
        jax.tree.map(np.testing.assert_array_equal, one.cond_scaling, two.cond_scaling)
        np.testing.assert_allclose(one.offsets, two.offsets, rtol=1e-12)
        assert len(one.train.x) == np.sum(COUNTS > 0)
        losses = [
            maximum_likelihood(p.flow, p.train.x, p.train.cond, KEY, p.train.weights)[0]
            for p in (one, two)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-12)


@pytest.mark.slow
def test_a_fit_is_that_of_the_repeated_rows():
    settings = {"key": KEY, "config": CONFIG, "objective": maximum_likelihood}
    held = X[:50], COND[:50]
    one, first = fit(flow(), spoilt(X), spoilt(COND), weights=COUNTS, validation=held, **settings)
    again = np.repeat(X, COUNTS, axis=0), np.repeat(COND, COUNTS, axis=0)
    two, second = fit(flow(), *again, validation=held, **settings)
    for column in ("loss", "validation"):
        np.testing.assert_allclose(first[column], second[column], rtol=1e-9)
    np.testing.assert_allclose(one.log_prob(*held), two.log_prob(*held), rtol=1e-7)


def test_rows_of_weight_zero_are_in_no_split():
    weights = (np.arange(400) % 2).astype(float)
    plain = CNF(Linear(2, key=KEY), StandardNormal(2))
    found = prepare(plain, X, None, KEY, 0.1, None, CONFIG, weights)["as given"]
    both = np.concatenate([found.train.x, found.validation.x])
    np.testing.assert_array_equal(np.sort(both[:, 0]), np.sort(X[1::2, 0]))
    assert len(found.validation.x) == 20


def test_a_masked_row_does_not_squeeze_the_condition():
    weights = np.ones(400)
    weights[7] = 0
    cond = COND.copy()
    cond[7] = -9999.0
    found = problems(X, cond, weights, (X, COND))["Standardise"].cond_scaling
    assert found is not None
    wanted = ConditionScaling.fit(np.delete(COND, 7, axis=0))
    np.testing.assert_allclose(found.scale, wanted.scale, rtol=1e-12)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)


def test_errors_number_the_rows_that_were_given():
    x = X.copy()
    x[[3, 9]] = np.nan
    with pytest.raises(ValueError, match=r"x has NaN or infinity in 1 of 400 rows: rows 9 \("):
        problems(x, COND, (np.arange(400) != 3).astype(float), 0.1)


@pytest.mark.slow
def test_other_weights_are_rounded_to_repetitions():
    rows = jnp.arange(4.0)[:, None]
    for weights, wanted in (
        ([2.0, 1.0, 3.0, 1.0], [0, 0, 1, 2, 2, 2, 3]),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 2, 3]),
        ([1.5, 0.25, 0.25, 2.0], [0, 0, 3, 3]),
    ):
        found = repeat_rows(Dataset(rows, None, jnp.asarray(weights)))
        assert found.weights is None
        np.testing.assert_array_equal(found.x[:, 0], wanted)
    # A sum that no memory could hold keeps the shares.
    many = repeat_rows(Dataset(rows, None, jnp.asarray([3e15, 1e15, 0.0, 4e15])))
    counts = np.bincount(np.asarray(many.x[:, 0], int), minlength=4)
    assert counts.sum() == 2**24
    np.testing.assert_allclose(counts / 2**24, [0.375, 0.125, 0, 0.5], atol=1e-7)


def test_a_value_of_weight_zero_does_not_count():
    values, weights = jnp.asarray([1.0, jnp.inf, 3.0]), jnp.asarray([1.0, 0.0, 3.0])
    assert float(weighted_mean(values, weights)) == 2.5
    assert float(jax.grad(lambda v: weighted_mean(v, weights))(values)[1]) == 0


@pytest.mark.slow
def test_the_noise_of_a_grid_counts_rows_too():
    x = RNG.poisson(4.0, size=(60, 1)).astype(float)
    grid = Dequantise([1.0], [0.0])
    counted = CNF(Linear(1, key=KEY), StandardNormal(1), transform=grid)
    bad = np.concatenate([x, [[0.5], [np.nan]]])
    weights = np.concatenate([np.ones(60), np.zeros(2)])
    config = TrainConfig(steps=2, eval_every=2, batch_size=8)
    settings: dict[str, Any] = {"key": KEY, "width": 4, "depth": 1, "config": config}
    noises = [
        fit_noise(counted, rows, weights=counts, **settings).transform.noise.scaling
        for rows, counts in ((bad, weights), (x, None))
    ]
    jax.tree.map(np.testing.assert_array_equal, *noises)
