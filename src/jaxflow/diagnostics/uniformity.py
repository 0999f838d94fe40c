"""Tests of encoded rows against the base of a flow on a manifold."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.diagnostics.findings import Finding, Line, flatten, p_value, untestable
from jaxflow.diagnostics.two_sample import energy
from jaxflow.flows.data_space import to_flow_space
from jaxflow.manifolds import Manifold
from jaxflow.runtime.checks import finite_rows

# Draws of the base that estimate its moments; products of entries are tested up to FEW_ENTRIES.
DRAWS, FEW_ENTRIES = 20_000, 16
# A moment with a smaller share of the largest variance counts as constant.
FLAT = 1e-6


class Uniformity(NamedTuple):
    """Tests of `z = encode(x)` against draws of the base, both embedded.

    `mean_p` tests the means of the entries (Rayleigh's test on circles and spheres), `square_p`
    also the means of their products (Bingham's test) if a point has at most 16 entries. The energy
    distance to as many draws of the base finds differences of every kind. P-values below `level`
    count as a difference.
    """

    num_rows: int
    mean_p: float
    square_p: float
    energy: float
    energy_p: float
    base: str
    level: float

    def lines(self) -> list[Line]:
        """Return the three tests."""
        return [
            ("z, means (Rayleigh)", p_value(self.mean_p)),
            ("z, squares (Bingham)", p_value(self.square_p)),
            ("z, energy distance", f"{self.energy:.2g}, {p_value(self.energy_p)}"),
        ]

    def findings(self) -> list[Finding]:
        """Return how the rows differ from the base."""
        tests = (self.mean_p, "means"), (self.square_p, "squares"), (self.energy_p, "energy")
        differ = [f"{name} {p_value(p)}" for p, name in tests if not p >= self.level]
        if differ:
            text = f"the encoded data are not those of the base, {self.base} ({', '.join(differ)}"
            why = f"threshold {self.level:g}): the flow does not fit the data"
            return [Finding(f"{text}, {why}", "bad")]
        text = f"{self.num_rows:,} encoded rows show no difference from the base, {self.base} ("
        least = p_value(min(p for p, _ in tests))
        return [Finding(f"{text}{least} or more, threshold {self.level:g})", "good")]


def measure_uniformity(
    base: Any, manifold: Manifold, z: Array, rng: np.random.Generator, level: float
) -> Uniformity | str:
    """Test encoded rows against the base of a flow on a manifold; returns the reason if it cannot.

    Points are embedded, so there are no seams: entries are cosines and sines, or those of unit
    vectors, and their products are the harmonics of second order. Where the base is uniform, these
    are Rayleigh's and Bingham's tests (Mardia and Jupp 2000, "Directional Statistics", section
    10.4). Covariances of the moments come from draws of the base.
    """
    solved = finite_rows(z)
    if why := untestable(solved, "encoded rows"):
        return why
    points = flatten(_embed(manifold, z))[solved]
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), DRAWS + len(points))
    drawn = flatten(_embed(manifold, _sample_base(base, keys)))
    reference = drawn[:DRAWS]
    mean_p = square_p = _moments_p(points, reference)
    if points.shape[1] <= FEW_ENTRIES:
        square_p = _moments_p(_with_products(points), _with_products(reference))
    tested = energy(points, drawn[DRAWS:], rng, level)
    assert not isinstance(tested, str)
    return Uniformity(len(points), mean_p, square_p, *tested, type(base).__name__, level)


def points_of(transform: Any, x: Array) -> Float[Array, "rows n"]:
    """Rows in data units as points of the manifold; failed rows stay NaN."""
    u, _ = to_flow_space(transform, x)
    failed = ~jnp.isfinite(x).all(axis=1, keepdims=True)
    # The transform of a NaN may be a finite point.
    return jnp.where(failed, jnp.nan, u)


@eqx.filter_jit
def _sample_base(base: Any, keys: Array) -> Float[Array, "draws n"]:
    return jax.vmap(base.sample)(keys)


@eqx.filter_jit
def _embed(manifold: Manifold, z: Float[Array, "rows n"]) -> Float[Array, "rows ambient"]:
    return jax.vmap(manifold.embed)(z)


def _with_products(x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n _"]:
    first, second = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, first] * x[:, second]], axis=1)


def _moments_p(x: Float[np.ndarray, "n k"], reference: Float[np.ndarray, "m k"]) -> float:
    """P-value of the hypothesis that the rows have the means of the reference."""
    from scipy import stats

    spread = reference.std(axis=0)
    scale = np.where(spread > FLAT * spread.max(), spread, np.inf)
    away = (x.mean(axis=0) - reference.mean(axis=0)) / scale
    values, vectors = np.linalg.eigh(
        np.cov(reference / scale, rowvar=False).reshape(len(away), -1)
    )
    free = values > FLAT * values.max()
    parts = (vectors.T @ away)[free] ** 2 / values[free]
    statistic = float(parts.sum()) / (1 / len(x) + 1 / len(reference))
    return float(stats.chi2.sf(statistic, int(free.sum())))
