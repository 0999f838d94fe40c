"""The error of a log-density: how large it is, and how to meet a tolerance in nats.

A row is solved twice (`jaxflow.ode.twice`): adaptively, and again on 1.75 times as many steps
placed on its own grid. With `d` the difference of the two log-densities, `e` the embedded errors
of the second solve's steps and `g` the gradient of the base's log-density at their end,

```
E = sum |e_logp| + || |g_i| sum |e_xi| ||_2
F = 3 eps (sum |step of log p| + min(|x|^2 / 2, |log p_0|)) + eps |log p|
A = 5 (|| g_i r_i ||_2 + r_logp)
stated = 1.5 d + kappa E + F + A,    kappa = clip(3 (tolerance / 1e-3)^(1/4), 0.5, 3)
```
`d` misses the errors that both solves share. `E` is too small where errors add up and too large
where they cancel; errors of different entries have independent signs and add up as squares. `F`
is the rounding of sums, and `A` that of the state, `r` at the end, which a field may amplify
(`jaxflow.ode.rounding`). The constants are empirical and were checked on fields that did not
choose them (`tests/density/test_accuracy.py`, `test_rounding.py`): a conservative estimate, not a
bound.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.bases import log_prob_rows
from jaxflow.density.continuity import solve_density
from jaxflow.density.probes import as_integrals
from jaxflow.ode import ODE, Stats, Status
from jaxflow.ode.rounding import UNIT
from jaxflow.ode.twice import Twice, solve_twice
from jaxflow.runtime.lanes import per_row
from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.trace import Estimator, Exact

# Weights of the difference of the two solves and of rounding.
DIFFERENCE, ROUNDING = 1.5, 3.0
AMPLIFIED = 5.0
# The weight of the embedded errors at a tolerance of 1e-3, and its range.
EMBEDDED, LEAST, MOST = 3.0, 0.5, 3.0
# A single solve has the error (share x tolerance x change in nats by one unit of error in the
# state). No share seen exceeds the first; the second is usual where errors are amplified.
POSSIBLE, USUAL = 0.2, 0.02
# Solver tolerance for each nat of `atol_nats`: for a single, unchecked solve, and for the first
# solve that states its error.
UNCHECKED, CHECKED = 1 / 20, 1 / 10
# Rows that miss `atol_nats` are solved again, each time at a tenth of the tolerance or less.
TIGHTER, ROUNDS = 1 / 10, 6


class LogDensity(NamedTuple):
    """Log-densities with their error, each field of the batch's shape, in nats.

    Attributes:
        value: log-density.
        trace_se: standard error of `value` from a stochastic trace; 0 for an exact trace, None
            for too few probes (fewer than 8 of Rademacher, or one).
        ode_error: estimated error of `value` from the steps of the solve and from rounding
            (`jaxflow.density.error`); inf where it could not be measured; None with fixed
            steps, diffrax and XTrace.
        refined: log-density of a second, finer solve, usually more accurate than `value`; None
            where `ode_error` is.
        status: a `jaxflow.Status`: how the row's solve ended.
        num_evals: field evaluations of the row.
    """

    value: Float[Array, "*batch"]
    trace_se: Float[Array, "*batch"] | None
    ode_error: Float[Array, "*batch"] | None
    refined: Float[Array, "*batch"] | None
    status: Int[Array, "*batch"]
    num_evals: Int[Array, "*batch"]


def solve_with_error(
    trace: Exact | Estimator,
    field: Any,
    base: Any,
    u: Float[Array, "rows *event"],
    cond: Array | None,
    key: PRNGKeyArray | None,
    *,
    ode: ODE,
) -> tuple[LogDensity, Stats]:
    """Log-density at `t = 1` of rows in flow space, with its error, by two solves."""
    start, probes, read = as_integrals(trace, key, u, 1.0, 0.0, grouped=True)
    t0, t1 = jnp.ones(len(u), u.dtype), jnp.zeros(len(u), u.dtype)
    twice, stats = solve_density(solve_twice, field, u, start, t0, t1, cond, probes, ode=ode)
    change, trace_se = read(twice.y[1])
    value = log_prob_rows(base, twice.y[0]) - change
    refined = log_prob_rows(base, twice.refined[0]) - read(twice.refined[1])[0]
    error = stated_error(base, twice, value, refined, ode)
    stats = mark_no_density(stats, value)
    return LogDensity(value, trace_se, error, refined, stats.status, stats.num_evals), stats


def stated_error(
    base: Any, twice: Twice, value: Float[Array, " rows"], refined: Float[Array, " rows"], ode: ODE
) -> Float[Array, " rows"]:
    """Estimated error of the log-density `value` of each row, in nats.

    `twice` solves `(x, log p)`, where log p has one entry a row, or one a probe; `value` is by the
    first solve, `refined` by the second.
    """
    tolerance = max(ode.rtol, ode.atol)
    kappa = min(MOST, max(LEAST, EMBEDDED * (tolerance / 1e-3) ** 0.25))

    def row_error(twice: Twice, value: Array, refined: Array) -> Array:
        (z, _), (local_x, local_p), (_, path_p) = twice.refined, twice.local, twice.path
        round_x, round_p = twice.rounding
        z, local_x, round_x = (leaf.astype(value.dtype) for leaf in (z, local_x, round_x))
        log_base, slope = jax.value_and_grad(base.log_prob)(z)
        slope = jnp.abs(slope)
        embedded = jnp.mean(local_p) + jnp.linalg.norm((slope * local_x).ravel())
        rounding = rounding_error(z, log_base, jnp.mean(path_p), value)
        rounding += amplified_error(slope, round_x, round_p)
        error = DIFFERENCE * jnp.abs(refined - value) + kappa * embedded + rounding
        # An unmeasured error counts as infinite, so it meets no target.
        return jnp.where(jnp.isnan(error) & ~jnp.isnan(value), jnp.inf, error)

    return per_row(row_error, twice, value, refined)


def rounding_error(
    z: Float[Array, "*event"], log_base: Array, path: Float[Array, ""], value: Float[Array, ""]
) -> Float[Array, ""]:
    """Rounding error of one log-density in nats, the term F above.

    `path` is the sum of the absolute changes of log p along the trajectory, which ends in `z`.
    """
    squares = jnp.sum(jnp.square(z.astype(path.dtype)))
    terms = jnp.minimum(squares / 2, jnp.abs(log_base).astype(path.dtype))
    sums = (ROUNDING * (path + terms)).astype(value.dtype)
    return float(jnp.finfo(path.dtype).eps) * (sums + jnp.abs(value))


def amplified_error(
    slope: Float[Array, "*event"], round_x: Float[Array, "*event"], round_p: Array
) -> Float[Array, ""]:
    """Rounding of a solve, carried to its end, in one log-density in nats: the term A above.

    `slope` is the gradient of the base's log-density at that end, `round_x` the rounding error of
    the end, and `round_p` the change of the integrals by rounding.
    """
    at_end = jnp.linalg.norm((slope * round_x.astype(slope.dtype)).ravel())
    return AMPLIFIED * (at_end + jnp.mean(round_p))


def mark_no_density(stats: Stats, value: Float[Array, " rows"]) -> Stats:
    """Set the status `NO_DENSITY` where the solve succeeded and the base's log-density is NaN.

    A joint solve has one status for all rows.
    """
    bad = jnp.isnan(value)
    bad = bad if stats.status.ndim else jnp.any(bad)
    return _downgrade(stats, bad, Status.NO_DENSITY)


def mark_inaccurate(
    stats: Stats,
    base: Any,
    ends: tuple[Float[Array, "rows *event"], Float[Array, "rows *event"]],
    change: Array,
    value: Array,
    *,
    ode: ODE,
    share: Any,
    atol_nats: Any,
) -> Stats:
    """Set the status `INACCURATE` where one solve may miss `atol_nats`.

    The rounding of a solve measures how much errors are amplified, those of steps too. It is
    relative to the state, and the tolerance is not, so the smaller end counts. `ends` are the
    trajectories' start and end, `share` is `POSSIBLE` or `USUAL`.
    """

    def possible_error(
        start: Array, end: Array, change: Array, value: Array, rounding: tuple[Array, Array] | None
    ) -> Array:
        error = rounding_error(end, value + change, jnp.abs(change), value)
        if rounding is None:
            return error
        amplified = amplified_error(jax.grad(base.log_prob)(end), *rounding)
        size = jnp.minimum(jnp.linalg.norm(start.ravel()), jnp.linalg.norm(end.ravel()))
        roundings = AMPLIFIED * UNIT * float(jnp.finfo(end.dtype).eps) * size
        unit = amplified / jnp.maximum(roundings, jnp.finfo(end.dtype).tiny)
        return error + amplified + share * unit * ode.atol

    error = per_row(possible_error, *ends, change, value, stats.rounding)
    return _downgrade(stats, error > atol_nats, Status.INACCURATE)


def _downgrade(stats: Stats, bad: Array, status: Status) -> Stats:
    bad = bad & (stats.status == Status.SUCCESS)
    return replace(stats, status=jnp.where(bad, int(status), stats.status))


def ode_for_tolerance(atol_nats: float, ode: ODE, dtype: Any, *, checked: bool) -> ODE:
    """Settings whose solve gives log-densities to `atol_nats`; raises where no solve can."""
    dtype = jnp.dtype(accumulation_dtype(dtype))
    eps = float(jnp.finfo(dtype).eps)
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
            f"atol_nats={atol_nats} is below {eps / share:.1e} nats, the best that {dtype} can "
            'do: solve in float64, jax.config.update("jax_enable_x64", True)'
        )
    # The solver's own tolerances, relative or not, do not apply.
    return replace(ode, rtol=0.0, atol=min(atol_nats * share, 1e-2))


def solve_to_tolerance(
    solve: Callable[[ODE, Any], tuple[LogDensity, Stats]],
    rows: tuple[Any, ...],
    *,
    atol_nats: float,
    ode: ODE,
    rounds: int = ROUNDS,
) -> tuple[LogDensity, Stats]:
    """Log-densities whose stated error is at most `atol_nats`; the others are `INACCURATE`.

    Rows with a larger error are solved again at a tenth of the tolerance or less, depending on
    their median error, at most `rounds` times. Their evaluations add up. `rows` is a tuple of
    arrays or None; the answer must have known values (not under jit).
    """
    answer, stats = solve(ode, rows)
    if isinstance(answer.status, Tracer):
        raise ValueError(
            f"atol_nats={atol_nats} with verification solves again the rows that miss it, which "
            "are unknown under jit: call it outside, or write log_prob(x, atol_nats=...)"
        )
    eps = float(jnp.finfo(rows[0].dtype).eps)
    for _ in range(rounds):
        missed = np.flatnonzero(_misses(answer, atol_nats))
        if not len(missed):
            break
        ode = replace(ode, atol=ode.atol * _tighter(answer, missed, atol_nats))
        if ode.atol < eps:
            break
        # Rows are taken and put in NumPy: jax would compile programs for each number of them.
        left = jax.tree.map(lambda leaf, at=missed: jnp.asarray(np.asarray(leaf)[at]), rows)
        again = solve(ode, left)
        answer, stats, improved = _replace_rows(answer, stats, again, missed)
        if not improved:
            break
    status = jnp.where(_misses(answer, atol_nats), int(Status.INACCURATE), stats.status)
    return answer._replace(status=status), replace(stats, status=status)


def _tighter(answer: LogDensity, missed: np.ndarray, atol_nats: float) -> float:
    """The next tolerance over the last, a power of ten."""
    errors = np.asarray(answer.ode_error)[missed]
    excess = np.median(np.clip(np.nan_to_num(errors / atol_nats), 1, 1e6))
    return TIGHTER ** max(1, int(np.log10(excess)))


def _misses(answer: LogDensity, atol_nats: float) -> np.ndarray:
    """The rows that were solved with a stated error above `atol_nats`."""
    within = np.asarray(answer.ode_error) <= atol_nats
    return ~within & (np.asarray(answer.status) == Status.SUCCESS)


def _replace_rows(
    answer: LogDensity, stats: Stats, again: tuple[LogDensity, Stats], at: np.ndarray
) -> tuple[LogDensity, Stats, bool]:
    """Replace the rows `at` by those of another solve if its error is smaller; whether any is."""
    better = np.asarray(again[0].ode_error) < np.asarray(answer.ode_error)[at]

    def put(old: Array, new: Any) -> Array:
        values = np.array(old)
        values[at] = np.where(better, new, values[at])
        return jax.device_put(values, old.sharding)

    spent = np.array(answer.num_evals)
    spent[at] += np.asarray(again[0].num_evals)
    num_evals = jax.device_put(spent, answer.num_evals.sharding)
    answer, stats = jax.tree.map(put, (answer, stats), again)
    both = answer._replace(num_evals=num_evals), replace(stats, num_evals=num_evals)
    return *both, bool(better.any())
