"""Log-densities with what is known of their error, and to a tolerance in nats."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.density.accuracy import base_density, rounding_error, stated_error
from jaxflow.density.divergence import density_change_twice
from jaxflow.ode import ODE, Stats, Status
from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.trace import Estimator, Exact

# The tolerance of a solve whose log-density shall be right to 1 nat: of a single solve, which is
# checked by nothing, and of the first of those that state their error.
UNCHECKED, CHECKED = 1 / 20, 1 / 10
# Rows that miss are solved again, each time with a tenth of the tolerance.
TIGHTER, ROUNDS = 1 / 10, 6


class LogDensity(NamedTuple):
    """Log-densities and what is known of their error, all of the batch's shape, in nats.

    Attributes:
        value: log-density.
        trace_se: standard error that a stochastic trace leaves in the value; zeros where the
            trace is exact, None where a single probe tells nothing of its error.
        ode_error: error that the steps of the solve leave in the value, as stated by
            `jaxflow.density.accuracy`; None with fixed steps, by diffrax and for XTrace.
        refined: the log-density by a second, finer solve, more exact than `value` as a rule;
            None where `ode_error` is.
        status: a `jaxflow.Status`, how the row's solve ended.
        num_evals: evaluations of the field that the row took.
    """

    value: Float[Array, "*batch"]
    trace_se: Float[Array, "*batch"] | None
    ode_error: Float[Array, "*batch"] | None
    refined: Float[Array, "*batch"] | None
    status: Int[Array, "*batch"]
    num_evals: Int[Array, "*batch"]


Score = Callable[[ODE, Any, Any], tuple[LogDensity, Stats]]


def solved_twice(
    trace: Exact | Estimator,
    field: Any,
    base: Any,
    u: Float[Array, "rows *event"],
    cond: Array | None,
    key: PRNGKeyArray | None,
    *,
    ode: ODE,
) -> tuple[LogDensity, Stats]:
    """Log-density at `t = 1` of rows in flow space, with the error that its steps leave."""
    twice, rule, stats = density_change_twice(trace, field, u, 1.0, 0.0, cond, key, ode=ode)
    change, trace_se = rule(twice.y[1])
    value = base_density(base, twice.y[0]) - change
    refined = base_density(base, twice.refined[0]) - rule(twice.refined[1])[0]
    error = stated_error(base, twice, value, refined, ode)
    stats = without_density(stats, value)
    return LogDensity(value, trace_se, error, refined, stats.status, stats.num_evals), stats


def tolerance_for(atol_nats: float, ode: ODE, dtype: Any, *, checked: bool) -> ODE:
    """Settings of a solve whose log-densities shall be right to `atol_nats`.

    Raises:
        ValueError: not positive, below what the precision can tell, or steps that are fixed.
    """
    eps = float(jnp.finfo(accumulation_dtype(dtype)).eps)
    share = CHECKED if checked else UNCHECKED
    if not atol_nats > 0:
        raise ValueError(f"atol_nats={atol_nats} must be positive, in nats")
    if not ode.adaptive:
        raise ValueError(
            f"atol_nats={atol_nats} chooses the steps and ode_eval={ode} fixes them: leave "
            "num_steps and dt out of ode_eval"
        )
    if atol_nats * share < eps:
        raise ValueError(
            f"atol_nats={atol_nats} is below what {jnp.dtype(accumulator(dtype))} can reach, "
            f"{eps / share:.1e} nats: solve in float64, "
            'jax.config.update("jax_enable_x64", True)'
        )
    # A share of the tolerance for every nat: the solver's own, relative or not, is left out.
    return replace(ode, rtol=0.0, atol=min(atol_nats * share, 1e-2))


def without_density(stats: Stats, value: Float[Array, " rows"]) -> Stats:
    """Counts of a solve, `NO_DENSITY` where it went well and the log-density is NaN all the same.

    It is the base's then. A solve of all rows at once has one status for all.
    """
    bad = jnp.isnan(value)
    bad = (bad if stats.status.ndim else jnp.any(bad)) & (stats.status == Status.SUCCESS)
    return replace(stats, status=jnp.where(bad, int(Status.NO_DENSITY), stats.status))


def within_rounding(
    stats: Stats, z: Float[Array, "rows *event"], change: Array, atol_nats: Any
) -> Stats:
    """Counts of a single solve, `INACCURATE` where rounding alone leaves more than `atol_nats`."""
    rough = (rounding_error(z, jnp.abs(change)) > atol_nats) & (stats.status == Status.SUCCESS)
    return replace(stats, status=jnp.where(rough, int(Status.INACCURATE), stats.status))


def to_tolerance(
    score: Score, rows: Array, cond: Array | None, *, atol_nats: float, ode: ODE
) -> tuple[LogDensity, Stats]:
    """Log-densities whose stated error is at most `atol_nats`; the others are `INACCURATE`.

    All rows are solved with a tolerance of `atol_nats / 10`; those whose stated error is larger
    again with a tenth of it, and so on. Their counts add up.

    Args:
        score: solves rows with such settings.
        rows: rows, whose values must be known (not under jit).
        cond: their conditions.
        atol_nats: in nats.
        ode: settings of the first solve, of `tolerance_for`.
    """
    if isinstance(rows, Tracer):
        raise ValueError(
            f"atol_nats={atol_nats} with verification repeats the rows that miss it, which are "
            "not known under jit: call it outside, or write log_prob(x, atol_nats=...)"
        )
    found = score(ode, rows, cond)
    eps = float(jnp.finfo(rows.dtype).eps)
    for _ in range(ROUNDS):
        missed = np.flatnonzero(_missed(found[0], atol_nats))
        ode = replace(ode, atol=ode.atol * TIGHTER)
        if not len(missed) or ode.atol < eps:
            break
        again = score(ode, rows[missed], None if cond is None else cond[missed])
        found, improved = _merged(found, again, missed)
        if not improved:
            break
    answer, stats = found
    rough = jnp.asarray(_missed(answer, atol_nats))
    status = jnp.where(rough, int(Status.INACCURATE), stats.status)
    return answer._replace(status=status), replace(stats, status=status)


def _missed(answer: LogDensity, atol_nats: float) -> np.ndarray:
    """Rows that were solved, but not as exactly as asked for."""
    within = np.asarray(answer.ode_error) <= atol_nats
    return ~within & (np.asarray(answer.status) == Status.SUCCESS)


def _merged(
    found: tuple[LogDensity, Stats], again: tuple[LogDensity, Stats], at: np.ndarray
) -> tuple[tuple[LogDensity, Stats], bool]:
    """What is known of all rows after some were solved again, and whether that helped any."""
    old, new = found[0].ode_error, again[0].ode_error
    assert old is not None
    assert new is not None
    better = new < old[at]

    def put(old: Array, new: Array) -> Array:
        return old.at[at].set(jnp.where(better, new, old[at]))

    answer, stats = jax.tree.map(put, found, again)
    spent = found[0].num_evals.at[at].add(again[0].num_evals)
    merged = answer._replace(num_evals=spent), replace(stats, num_evals=spent)
    return merged, bool(jnp.any(better))
