"""The integral of a density over all of its space: 1, if the log-density is right.

The density of *data* is integrated, by points placed in flow space, `u = transform(x)`:
`int p(x) dx = int p(x(u)) |det dx/du| du`. The determinant is that of the transform's dense
Jacobian, not the one the transform states, so that a wrong one shows.

In up to three dimensions the trapezoidal rule on a grid converges faster than any power of its
spacing for smooth densities that vanish at the edge; beyond them, and where a grid is too
coarse, importance sampling serves, whose points come from data and samples and not from the
flow's own density.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxflow.diagnostics.findings import Finding, Line, on_host
from jaxflow.diagnostics.proposal import Proposal
from jaxflow.flows.coupling import dense_log_det
from jaxflow.flows.flow import Flow, score_rows, to_flow_space
from jaxflow.flows.importance import RELIABLE, log_mean

# Points along a side by dimension, the next where the last was too coarse; odd, so that every
# second point makes a grid of its own.
SIDES = {1: (1025, 8193), 2: (129, 257), 3: (41,)}
# The grid reaches beyond all points by this part of their range, and its outermost part of this
# size measures what may lie outside.
MARGIN, EDGE = 0.25, 1 / 16
# Relative errors of a grid: no finer one is tried, no other way is tried, no answer is given.
FINE, COARSE, HOPELESS = 1e-3, 2e-2, 0.1
# Importance sampling: draws, and the least effective number of them that makes a measurement.
DRAWS, LEAST = 8192, 100.0
# Events beyond which the determinants and draws take too long.
LARGEST = 64
# Rows whose Jacobians are held in memory at once.
_CHUNK = 1024

LogDensity = Callable[[Float[np.ndarray, "m d"]], Float[np.ndarray, " m"]]


class Mass(NamedTuple):
    """The integral of a density.

    Attributes:
        value: the integral; NaN where it could not be measured.
        error: of a grid, its difference to the grid of every second point and what lies at its
            edge; of importance sampling, one standard error.
        how: the method in words.
        effective: effective number of draws, `(sum w)^2 / sum w^2`; None for a grid.
        failed: points where the solve failed, which count as none.
        allowed: what an error of the log-densities may make of it.
    """

    value: float
    error: float
    how: str
    effective: float | None
    failed: int
    allowed: float

    def lines(self) -> list[Line]:
        """The integral and how it was found."""
        if not self.value >= 0:
            return [("mass", f"not measurable ({self.how})")]
        return [("mass", f"{self._number()} ({self.how})")]

    def findings(self) -> list[Finding]:
        """Whether it is 1."""
        if math.isnan(self.value):
            text = f"the mass of the density is not measurable ({self.how}): this is no pass"
            return [Finding(text, "unknown")]
        text = f"the density integrates to {self._number()} ({self.how})"
        if self.failed:
            text += f", counting {self.failed:,} points where the solve failed as none"
        # An infinite mass has an infinite error, which excuses nothing.
        if math.isfinite(self.value) and abs(self.value - 1) <= 3 * self.error + self.allowed:
            return [Finding(text, "good")]
        why = ", or mass lies where solves fail" if self.failed else ""
        return [Finding(f"{text}, not to 1: log-densities are wrong{why}", "bad")]

    def _number(self) -> str:
        """The value with as many digits as its error leaves."""
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
    """The mass of a flow's density, for one condition; says in words why where it has none.

    Args:
        flow: the flow, with an exact trace; its solves must not raise.
        points: data and samples, in data units: where the mass lies.
        cond: the condition.
        rng: for the draws of importance sampling.
        allowed: relative error of the density that counts as none.
    """
    size = math.prod(flow.event_shape)
    if size > LARGEST:
        return f"more than {LARGEST} dimensions, where no proposal comes near"
    u = on_host(to_flow_space(flow.transform, points)[0]).reshape(len(points), size)
    u = u[np.isfinite(u).all(axis=1)]
    if len(u) < 10 * (size + 1):
        return f"{len(u)} points are too few to tell where the mass lies"

    def log_density(u: np.ndarray) -> np.ndarray:
        rows = jnp.asarray(u, points.dtype).reshape(-1, *flow.event_shape)
        x, log_det = _to_data(flow.transform, rows)
        each = None if cond is None else jnp.broadcast_to(cond, (len(x), *cond.shape))
        return on_host(score_rows(flow, x, each)[0]) + on_host(log_det)

    found = None
    if size in SIDES:
        found = grid_mass(log_density, u, allowed)
        # A grid that meets no mass at all is too coarse, whatever it says of itself.
        if found.value > 0 and found.error <= COARSE * found.value:
            return found
    drawn = sampled_mass(log_density, u, rng, allowed)
    if found is not None and math.isnan(drawn.value) and 0 < found.value < math.inf:
        return found._replace(
            value=found.value if found.error <= HOPELESS * found.value else math.nan
        )
    return drawn


def grid_mass(log_density: LogDensity, u: Float[np.ndarray, "n d"], allowed: float) -> Mass:
    """The integral by the trapezoidal rule in a box about the points."""
    low, high = u.min(axis=0), u.max(axis=0)
    margin = MARGIN * np.where(high > low, high - low, 1.0)
    low, high = low - margin, high + margin
    dim = u.shape[1]
    value = error = math.nan
    how, failed = "", 0
    for side in SIDES[dim]:
        axes = [np.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dim)
        log_p = log_density(grid)
        failed = int(np.isnan(log_p).sum())
        with np.errstate(over="ignore"):
            p = np.exp(np.where(np.isnan(log_p), -np.inf, log_p)).reshape([side] * dim)
        spacing = (high - low) / (side - 1)
        value = _trapezoid(p, spacing)
        coarse = _trapezoid(p[(slice(None, None, 2),) * dim], 2 * spacing)
        rim = max(1, round(EDGE * side))
        inner = _trapezoid(p[(slice(rim, side - rim),) * dim], spacing)
        with np.errstate(invalid="ignore"):
            error = abs(value - coarse) + abs(value - inner)
        how = f"grid of {' x '.join([str(side)] * dim)} points"
        if error <= FINE * value:
            break
    return Mass(value, float(error), how, None, failed, allowed)


def sampled_mass(
    log_density: LogDensity, u: Float[np.ndarray, "n d"], rng: np.random.Generator, allowed: float
) -> Mass:
    """The integral as the mean of the weights `p(u) / q(u)` over draws from a proposal `q`.

    A standard error can be believed where the weights' tail is light: its index, by Hill's
    estimator from the largest `3 sqrt(n)` of them, must not exceed 0.7 (Vehtari et al. 2024,
    "Pareto Smoothed Importance Sampling", JMLR 25).
    """
    proposal = Proposal.fit(u, rng)
    drawn = proposal.sample(DRAWS, rng)
    log_w = log_density(drawn) - proposal.log_prob(drawn)
    failed = int(np.isnan(log_w).sum())
    log_w = np.where(np.isnan(log_w), -np.inf, log_w)
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


def _trapezoid(p: np.ndarray, spacing: np.ndarray) -> float:
    for h in spacing[::-1]:
        p = np.trapezoid(p, dx=h, axis=-1)
    return float(p)


@eqx.filter_jit
def _to_data(
    transform: Any, u: Float[Array, "m *event"]
) -> tuple[Float[Array, "m *event"], Float[Array, " m"]]:
    """Points in data units, and `log |det dx/du|` by the dense Jacobian."""
    if transform is None:
        return u, jnp.zeros(len(u), u.dtype)

    def one(u: Array) -> tuple[Array, Array]:
        return dense_log_det(lambda u: transform.inverse(u)[0], u)

    return lax.map(one, u, batch_size=_CHUNK)
