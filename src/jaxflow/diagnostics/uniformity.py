"""Tests of encoded rows against the base of a flow on a manifold, such as the uniform density."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from jaxflow.diagnostics.findings import Finding, Line, flatten, p_value, untestable
from jaxflow.diagnostics.two_sample import energy
from jaxflow.manifolds import Manifold
from jaxflow.runtime.checks import finite_rows

# Draws of the base that show its moments, and the most entries of a point whose products are
# moments too.
DRAWS, FEW_ENTRIES = 20_000, 16
# Directions of the moments whose variance is a smaller share of the largest one do not vary.
FLAT = 1e-6


class Uniformity(NamedTuple):
    """Tests of `z = encode(x)` against draws of the base, as the manifold shows points.

    `mean_p` is of the means of the entries, Rayleigh's test on circles and spheres; `square_p` of
    these and the means of their products, as in Bingham's test, if a point has few entries. The
    energy distance to as many draws of the base finds differences of every kind. P-values below
    `level` count as a difference.
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
    """Test encoded rows against the base, for any manifold and any base; or say why not.

    Points are seen as fields see them, without seams, so that the means of the entries are those
    of cosines and sines, or of unit vectors, and their products the harmonics of second order:
    Rayleigh's and Bingham's tests where the base is uniform (Mardia and Jupp 2000, "Directional
    Statistics", section 10.4), and moments of the same orders where it is not. Their covariances
    are those of draws of the base.
    """
    solved = finite_rows(z)
    if why := untestable(solved, "encoded rows"):
        return why
    points = flatten(_seen(manifold, z))[solved]
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), DRAWS + len(points))
    drawn = flatten(_seen(manifold, _draw(base, keys)))
    reference = drawn[:DRAWS]
    mean_p = square_p = _moments_p(points, reference)
    if points.shape[1] <= FEW_ENTRIES:
        square_p = _moments_p(_with_products(points), _with_products(reference))
    found = energy(points, drawn[DRAWS:], rng, level)
    assert not isinstance(found, str)
    named = type(base).__name__
    return Uniformity(len(points), mean_p, square_p, *found, named, level)


@eqx.filter_jit
def _draw(base: Any, keys: Array) -> Float[Array, "draws n"]:
    return jax.vmap(base.sample)(keys)


@eqx.filter_jit
def _seen(manifold: Manifold, z: Float[Array, "rows n"]) -> Float[Array, "rows ambient"]:
    return jax.vmap(manifold.embed)(z)


def _with_products(x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n _"]:
    first, second = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, first] * x[:, second]], axis=1)


def _moments_p(x: Float[np.ndarray, "n k"], reference: Float[np.ndarray, "m k"]) -> float:
    """P-value of the means of the rows, whose distribution is that of the reference."""
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
