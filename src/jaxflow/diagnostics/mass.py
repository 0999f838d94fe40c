"""The integral of a density, which is 1 if the log-density is right.

The integral over data space is taken in flow space, `u = transform(x)`:
`int p(x) dx = int p(x(u)) |det dx/du| du`. The determinant comes from the transform's dense
Jacobian, so an error in the transform's own determinant shows.

In up to three dimensions a grid is used: for smooth densities that vanish at its edge, the
trapezoidal rule converges faster than any power of the spacing. In higher dimensions, and if the
grid is too coarse, importance sampling is used, with a proposal from data and samples, not from
the flow's own density. On circles, spheres and two-dimensional tori there is a quadrature rule; on
other manifolds, importance sampling.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxflow.density import dense_log_det
from jaxflow.density.kernels import best_width
from jaxflow.diagnostics.findings import Finding, Line, flatten, judge, to_host
from jaxflow.diagnostics.proposal import Proposal, propose_on_manifold
from jaxflow.dynamics.on_manifold import manifold_of
from jaxflow.flows.data_space import to_flow_space, with_transform
from jaxflow.flows.flow import Flow, score_rows
from jaxflow.flows.importance import RELIABLE, log_mean
from jaxflow.manifolds import Manifold, Sphere, Torus, quadrature
from jaxflow.runtime.checks import finite_rows

# Points along a side for each dimension; the next number is tried if the error is too large. They
# are odd, so that every second point makes a grid too.
SIDES = {1: (1025, 8193), 2: (129, 257), 3: (41,)}
# The grid extends beyond the points by MARGIN times their range. The integral over the outermost
# share EDGE of a side measures the mass outside.
MARGIN, EDGE = 0.25, 1 / 16
# Relative errors up to which a grid is accepted at once, is accepted after all, and is reported if
# importance sampling fails.
FINE, COARSE, HOPELESS = 1e-3, 2e-2, 0.1
# Steps of two quadrature rules, whose difference is the error.
RULES = (48, 96)
# Draws of importance sampling, fewest effective ones of a measurement, most kernels on a manifold.
DRAWS, LEAST, KERNELS = 8192, 100.0, 1000
# Largest event: beyond it determinants and draws take too long.
LARGEST = 64
# Rows whose Jacobians are in memory at once.
_CHUNK = 1024

LogDensity = Callable[[Float[np.ndarray, "m d"]], Float[np.ndarray, " m"]]


class Mass(NamedTuple):
    """The integral of a density; NaN if it could not be measured.

    The error of a grid is its difference to the grid of every second point plus the mass at the
    edge, that of a quadrature rule its difference to a coarser rule, and that of importance
    sampling one standard error. `effective` is the effective number of draws,
    `(sum w)^2 / sum w^2`; None without draws. `failed` points count as density 0. `allowed` is the
    relative error that the target accuracy of log-densities allows.
    """

    value: float
    error: float
    how: str
    effective: float | None
    failed: int
    allowed: float

    def lines(self) -> list[Line]:
        """Return the integral and the method."""
        value = self._number() if self.value >= 0 else "not measurable"
        return [("mass", f"{value} ({self.how})")]

    def findings(self) -> list[Finding]:
        """Return whether the integral is 1."""
        if math.isnan(self.value):
            text = f"the mass of the density is not measurable ({self.how}): it may be wrong"
            return [Finding(text, "unknown")]
        # An infinite integral has an infinite error, which must not pass.
        allowed = self.allowed + (3 * self.error if math.isfinite(self.error) else 0)
        text = f"the density integrates to {self._number()} ({self.how})"
        text += f"; 1 within {allowed:.2g} is right"
        if 3 * self.error > HOPELESS and abs(self.value - 1) <= allowed:
            return [Finding(f"{text}, too coarse to judge", "unknown")]
        wrong = "log-densities are wrong"
        if self.failed:
            text += f", counting {self.failed:,} points where the solve failed as 0"
            wrong += ", or mass lies where solves fail"
        return [judge(abs(self.value - 1) <= allowed, text, bad=wrong)]

    def _number(self) -> str:
        """The value with the digits that its error leaves."""
        if not math.isfinite(self.value):
            return "infinity"
        digits = min(8, max(2, 1 - math.floor(math.log10(self.error)))) if self.error > 0 else 8
        return f"{self.value:.{digits}f} +- {self.error:.1g}"


def measure_mass(
    flow: Flow,
    points: Float[Array, "n *event"],
    cond: Float[Array, "..."] | None,
    rng: np.random.Generator,
    *,
    allowed: float,
) -> Mass | str:
    """Integrate a flow's density for one condition; returns the reason if that is impossible.

    `flow` has an exact trace, and its solves must not raise. `points`, data and samples in data
    units, show where the mass lies. `allowed` is the acceptable relative error of the density.
    """
    manifold = manifold_of(getattr(flow, "field", None))
    if manifold is not None:
        return surface_mass(flow, manifold, points, cond, rng, allowed)
    size = math.prod(flow.event_shape)
    if size > LARGEST:
        return f"an event has {size} entries; up to {LARGEST} can be integrated"
    u = flatten(to_flow_space(flow.transform, points)[0])
    u = u[finite_rows(u)]
    if len(u) < 10 * (size + 1):
        return f"{len(u)} points are too few to locate the mass; {10 * (size + 1)} are needed"

    def log_density(u: np.ndarray) -> np.ndarray:
        rows = jnp.asarray(u, points.dtype).reshape(-1, *flow.event_shape)
        x, log_det = _to_data(flow.transform, rows)
        return _log_prob(flow, x, cond) + to_host(log_det)

    on_grid = None
    if size in SIDES:
        on_grid = grid_mass(log_density, u, allowed)
        # A grid without mass is too coarse, whatever its error.
        if on_grid.value > 0 and on_grid.error <= COARSE * on_grid.value:
            return on_grid
    sampled = sampled_mass(log_density, u, rng, allowed)
    if on_grid is not None and math.isnan(sampled.value) and 0 < on_grid.value < math.inf:
        hopeless = on_grid.error > HOPELESS * on_grid.value
        return on_grid._replace(value=math.nan) if hopeless else on_grid
    return sampled


def grid_mass(log_density: LogDensity, u: Float[np.ndarray, "n d"], allowed: float) -> Mass:
    """Integrate by the trapezoidal rule in a box around the points."""
    low, high = u.min(axis=0), u.max(axis=0)
    margin = MARGIN * np.where(high > low, high - low, 1.0)
    low, high = low - margin, high + margin
    dim = u.shape[1]
    mass = Mass(math.nan, math.nan, "", None, 0, allowed)
    for side in SIDES[dim]:
        axes = [np.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dim)
        log_p, failed = _without_failures(log_density(grid))
        with np.errstate(over="ignore"):
            p = np.exp(log_p).reshape([side] * dim)
        spacing = (high - low) / (side - 1)
        value = _trapezoid(p, spacing)
        coarse = _trapezoid(p[(slice(None, None, 2),) * dim], 2 * spacing)
        rim = max(1, round(EDGE * side))
        inner = _trapezoid(p[(slice(rim, side - rim),) * dim], spacing)
        with np.errstate(invalid="ignore"):
            error = float(abs(value - coarse) + abs(value - inner))
        how = f"grid of {' x '.join([str(side)] * dim)} points"
        mass = Mass(value, error, how, None, failed, allowed)
        if error <= FINE * value:
            break
    return mass


def sampled_mass(
    log_density: LogDensity, u: Float[np.ndarray, "n d"], rng: np.random.Generator, allowed: float
) -> Mass:
    """Integrate by importance sampling: the mean of `p(u) / q(u)` over draws of a proposal `q`.

    The standard error can be trusted if the tail of the weights is light: its index, by Hill's
    estimator from the largest `3 sqrt(n)` weights, must be at most 0.7 (Vehtari et al. 2024,
    "Pareto Smoothed Importance Sampling", JMLR 25).
    """
    proposal = Proposal.fit(u, rng)
    draws = proposal.sample(DRAWS, rng)
    log_w, failed = _without_failures(log_density(draws) - proposal.log_prob(draws))
    if not np.isfinite(log_w.max()):
        return Mass(math.nan, math.inf, "no draw has a density", 0.0, failed, allowed)
    log_value, relative, effective = log_mean(log_w)
    largest = np.sort(log_w)[-math.ceil(3 * math.sqrt(DRAWS)) :]
    tail = float(np.mean(largest[1:] - largest[0])) if np.isfinite(largest[0]) else math.inf
    how = (
        f"importance sampling, {effective:,.0f} effective of {DRAWS:,} draws, tail index "
        f"{tail:.2f}"
    )
    if effective < LEAST or tail > RELIABLE:
        return Mass(math.nan, math.inf, how, effective, failed, allowed)
    with np.errstate(over="ignore"):
        value = float(np.exp(log_value))
    return Mass(value, relative * value, how, effective, failed, allowed)


def surface_mass(
    flow: Any,
    manifold: Manifold,
    points: Array,
    cond: Array | None,
    rng: np.random.Generator,
    allowed: float,
) -> Mass:
    """Integrate over the manifold of a flow's field, by a quadrature rule or importance sampling.

    The proposal is made of the base and of kernels around `points`, in data units.
    """
    on_manifold = with_transform(flow, None)
    if isinstance(manifold, Sphere | Torus) and manifold.dim <= 2:
        values, failed = [], 0
        for num in RULES:
            nodes, weights = quadrature(manifold, num)
            log_p, failed = _without_failures(_log_prob(on_manifold, jnp.asarray(nodes), cond))
            values.append(float(np.sum(weights * np.exp(log_p))))
        how = f"{len(nodes):,} points of a quadrature rule"
        return Mass(values[1], abs(values[1] - values[0]), how, None, failed, allowed)
    known = points[finite_rows(points)]
    u = to_flow_space(flow.transform, known[rng.permutation(len(known))[:KERNELS]])[0]
    key = jax.random.key(int(rng.integers(2**31)))
    width = best_width(manifold, u)
    draws, log_q = propose_on_manifold(flow.base, manifold, u, width, DRAWS, key)
    log_p, failed = _without_failures(_log_prob(on_manifold, draws, cond))
    log_value, relative, effective = log_mean(log_p - to_host(log_q))
    how = f"importance sampling, {effective:,.0f} effective of {DRAWS:,} draws"
    if effective < LEAST:
        return Mass(math.nan, math.inf, how, effective, failed, allowed)
    value = float(np.exp(log_value))
    return Mass(value, relative * value, how, effective, failed, allowed)


def _log_prob(flow: Flow, x: Array, cond: Array | None) -> Float[np.ndarray, " m"]:
    """Log-densities of rows at one condition; NaN where the solve failed."""
    each = None if cond is None else jnp.broadcast_to(cond, (len(x), *cond.shape))
    return to_host(score_rows(flow, x, each)[0])


def _without_failures(log_p: Float[np.ndarray, " m"]) -> tuple[Float[np.ndarray, " m"], int]:
    """Log-densities with -inf in place of NaN, and the number of these."""
    failed = np.isnan(log_p)
    return np.where(failed, -np.inf, log_p), int(failed.sum())


def _trapezoid(p: np.ndarray, spacing: np.ndarray) -> float:
    for h in spacing[::-1]:
        p = np.trapezoid(p, dx=h, axis=-1)
    return float(p)


@eqx.filter_jit
def _to_data(
    transform: Any, u: Float[Array, "m *event"]
) -> tuple[Float[Array, "m *event"], Float[Array, " m"]]:
    """Points in data units, and `log |det dx/du|` of the dense Jacobian."""
    if transform is None:
        return u, jnp.zeros(len(u), u.dtype)
    return lax.map(
        lambda u: dense_log_det(lambda u: transform.inverse(u)[0], u), u, batch_size=_CHUNK
    )
