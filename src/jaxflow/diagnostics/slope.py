"""The Lipschitz constant of a field along trajectories, and the error of its closed-form trace."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.density.continuity import transport
from jaxflow.diagnostics.findings import Finding, Line, evenly_spaced, take, to_host
from jaxflow.dynamics.protocol import evaluate, has_closed_form
from jaxflow.flows.cnf import CNF
from jaxflow.flows.data_space import to_flow_space
from jaxflow.trace import exact_trace, prepare

# Trajectories, and times along each.
ROWS, TIMES = 64, 17
# Largest event with a dense Jacobian; above it, power iteration with this many iterations.
DENSE, ITERATIONS = 128, 20


class Slope(NamedTuple):
    """The field along trajectories, in flow space.

    `lipschitz` is the largest spectral norm of `df/dx` on the trajectories, a lower bound of the
    Lipschitz constant; it is that of `row` at time `t`. `trace_error` is the largest difference of
    `with_trace` from the trace of the Jacobian, relative to `max(1, sum_i |df_i/dx_i|)`; None
    without `with_trace` and for large events. Rounding explains up to `tolerance`.
    """

    lipschitz: float
    row: int
    t: float
    trace_error: float | None
    tolerance: float

    def lines(self) -> list[Line]:
        """Return the Lipschitz constant and the error of the trace."""
        lines: list[Line] = [
            ("Lipschitz constant", f">= {self.lipschitz:.3g} (row {self.row}, t={self.t:g})")
        ]
        if self.trace_error is not None:
            lines.append(("closed-form trace", f"off by {self.trace_error:.1g}, relative"))
        return lines

    def findings(self) -> list[Finding]:
        """Return how steep the field is, and whether its trace is right."""
        text = (
            f"the field's Lipschitz constant along trajectories is at least {self.lipschitz:.3g} "
            f"(row {self.row} at t = {self.t:g})"
        )
        findings = [Finding(text, "good")]
        if self.trace_error is not None and not self.trace_error <= self.tolerance:
            text = (
                f"the field's with_trace differs from the trace of its Jacobian by "
                f"{self.trace_error:.1g} (relative, allowed {self.tolerance:g}), so log-densities "
                "are wrong: see jaxflow.diagnostics.check_trace"
            )
            findings.append(Finding(text, "bad"))
        return findings


def measure_slope(
    flow: CNF,
    rows: Float[Array, "rows *event"],
    cond: Array | None,
    numbers: Int[np.ndarray, " rows"],
    *,
    key: PRNGKeyArray,
) -> Slope | str:
    """Search the trajectories of 64 rows; returns the reason if all of them fail.

    Findings call the rows by their `numbers`. Solves of `flow` must not raise.
    """
    some = evenly_spaced(len(rows), ROWS)
    times = np.linspace(1.0, 0.0, TIMES)
    norms, errors = map(to_host, _measure_paths(flow, rows[some], take(cond, some), key))
    if np.isnan(norms).all():
        return "every trajectory failed"
    moment, row = np.unravel_index(np.nanargmax(norms), norms.shape)
    has_trace = has_closed_form(flow.field) and math.prod(flow.event_shape) <= DENSE
    return Slope(
        lipschitz=float(norms[moment, row]),
        row=int(numbers[some][row]),
        t=float(times[moment]),
        trace_error=float(np.nanmax(errors)) if has_trace else None,
        tolerance=1e-8 if rows.dtype == np.float64 else 1e-4,
    )


@eqx.filter_jit
def _measure_paths(
    flow: CNF, x: Array, cond: Array | None, key: PRNGKeyArray
) -> tuple[Float[Array, "times rows"], Float[Array, "times rows"]]:
    """Spectral norms of the Jacobian, and errors of the field's own trace."""
    u, _ = to_flow_space(flow.transform, x)
    times = jnp.linspace(1.0, 0.0, TIMES, dtype=u.dtype)
    ode = replace(flow.ode_eval, throw=False)
    path, _ = transport(flow.field, u, 1.0, 0.0, cond, ode=ode, save_at=times)
    field, dense = prepare(flow.field), math.prod(flow.event_shape) <= DENSE
    keys = jax.random.split(key, len(x))

    def measure(t: Array, u: Array, cond: Array | None, key: Array) -> tuple[Array, Array]:
        return _by_jacobian(field, t, u, cond) if dense else _by_iteration(field, t, u, cond, key)

    measure_rows = jax.vmap(measure, in_axes=(None, 0, 0, 0))
    return lax.map(lambda at: measure_rows(at[0], at[1], cond, keys), (times, path))


def _by_jacobian(field: Any, t: Array, u: Array, cond: Array | None) -> tuple[Array, Array]:
    jacobian = jax.jacfwd(lambda u: evaluate(field, t, u, cond))(u).reshape(u.size, u.size)
    # The SVD of a matrix with NaN may not end.
    known = jnp.all(jnp.isfinite(jacobian))
    norm = jnp.linalg.norm(jnp.where(known, jacobian, jnp.zeros_like(jacobian)), ord=2)
    diagonal = jnp.diagonal(jacobian)
    error = jnp.zeros_like(norm)
    if has_closed_form(field):
        own = exact_trace(field, t, u, cond)[1].astype(norm.dtype)
        scale = jnp.maximum(1.0, jnp.sum(jnp.abs(diagonal)))
        error = jnp.abs(own - jnp.sum(diagonal)) / scale
        # A trace of NaN at a finite Jacobian is wrong.
        error = jnp.where(jnp.isnan(error), jnp.inf, error)
    return jnp.where(known, norm, jnp.nan), jnp.where(known, error, jnp.nan)


def _by_iteration(
    field: Any, t: Array, u: Array, cond: Array | None, key: Array
) -> tuple[Array, Array]:
    """The largest singular value by power iteration of `J^T J`, which approaches it from below."""
    _, push = jax.linearize(lambda u: evaluate(field, t, u, cond), u)
    pull = jax.linear_transpose(push, u)

    def iterate(v: Array, _: None) -> tuple[Array, Array]:
        image = push(v / jnp.linalg.norm(v.ravel()))
        return pull(image)[0], jnp.linalg.norm(image.ravel())

    start = jax.random.normal(key, u.shape, u.dtype)
    _, norms = lax.scan(iterate, start, None, length=ITERATIONS)
    # A field that is constant in x ends at 0 / 0.
    return jnp.where(norms[0] == 0, norms[0], norms[-1]), jnp.zeros(())
