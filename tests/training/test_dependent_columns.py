"""Columns that follow from others have no density: they are named, and nothing else is refused."""

import jax
import numpy as np
import pytest

from jaxflow import CNF, StandardNormal, TrainConfig, fit
from jaxflow.dynamics import Linear
from jaxflow.objectives import maximum_likelihood
from jaxflow.runtime.dependence import dependent_columns, describe_dependent
from jaxflow.transforms import Dequantise, Whiten, propose

KEY = jax.random.key(8)
RNG = np.random.default_rng(8)
A, B, C = RNG.normal(size=(3, 500))
SETTINGS = {
    "key": KEY,
    "config": TrainConfig(steps=1, eval_every=1, batch_size=16),
    "objective": maximum_likelihood,
}


def flow(dim):
    return CNF(Linear(dim, key=KEY), StandardNormal(dim))


def table(*columns):
    return np.stack(columns, axis=1)


CASES = {
    "a, b, a + b": (table(A, B, A + B), {2: [0, 1]}),
    "a copy": (table(A, B, A), {2: [0]}),
    "another unit": (table(A, 1.8 * A + 32, B), {1: [0]}),
    "far from 0": (table(A + 1e4, B, 2 * (A + 1e4)), {2: [0]}),
    "shares of one": (table(A**2, B**2, C**2) / (A**2 + B**2 + C**2)[:, None], {2: [0, 1]}),
    "two of them": (table(A, A, B, 3 * B + A), {1: [0], 3: [0, 2]}),
    "a constant": (table(np.full(500, 0.1), A), {0: []}),
    "small and large": (table(1e-9 * A, 1e9 * B, A + B), {2: [0, 1]}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_dependent_columns_are_named(name, dtype):
    x, wanted = CASES[name]
    assert dependent_columns(x.astype(dtype)) == wanted
    assert dependent_columns(x[:, ::-1].astype(dtype)) != {}
    assert ("from a constant" in describe_dependent(wanted)) == ("constant" in name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_beyond_rounding_is_independent(dtype):
    eps = np.finfo(dtype).eps
    for x in (
        table(A, B, C),
        table(A, B, A + B + 1000 * eps * C),
        table(1e-12 * A, 1e12 * B, 1e12 * B + 3e10 * C),
        np.concatenate([table(A, A), [[1.0, 2.0]]]),
        RNG.normal(size=(60, 50)),
        np.vander(np.linspace(-1, 1, 200), 6)[:, :-1],
    ):
        assert dependent_columns(x.astype(dtype)) == {}
    # Equal in the rows that are looked at first, and not in all of them.
    many = RNG.normal(size=20_000)
    other = many.copy()
    other[1] += 1.0
    assert dependent_columns(table(many, other)) == {}
    assert dependent_columns(table(many, many)) == {1: [0]}


@pytest.mark.parametrize("transform", ["auto", None, "proposed"])
def test_fit_refuses_them(transform):
    x = table(A, B, A + B)
    transform = propose(x) if transform == "proposed" else transform
    words = r"are linearly dependent: column 2 from 0, 1\..*drop column 2, or add noise to it"
    with pytest.raises(ValueError, match=words):
        fit(flow(3), x, transform=transform, **SETTINGS)


def test_propose_tells_and_whiten_refuses():
    x = table(A, B, A + B)
    proposal = propose(x, columns=("a", "b", "sum"))
    assert "linearly dependent: column 'sum' from 'a', 'b'" in str(proposal)
    assert "dependent" not in str(propose(table(A, B, C)))
    with pytest.raises(ValueError, match="linearly dependent: column 2 from 0, 1"):
        Whiten.fit(x)
    with pytest.raises(ValueError, match="linearly dependent"):
        Whiten.fit(x + 1e-7 * RNG.normal(size=x.shape))
    with pytest.raises(ValueError, match="linearly dependent"):
        Whiten.fit(RNG.normal(size=(5, 8)))


@pytest.mark.slow
def test_counts_with_noise_have_a_density_and_few_rows_are_not_judged():
    counts = RNG.poisson(4.0, size=(2, 300)).astype(float)
    x = table(*counts, counts.sum(axis=0))
    assert "dependent" not in str(propose(x))
    fit(flow(3), x, transform=Dequantise([1.0, 1.0, 1.0]), **SETTINGS)
    with pytest.raises(ValueError, match="linearly dependent"):
        fit(flow(3), x, **SETTINGS)
    fit(flow(8), RNG.normal(size=(8, 8)), **SETTINGS)
