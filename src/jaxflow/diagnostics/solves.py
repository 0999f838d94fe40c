"""The solves of the rows: which failed, what they cost, how exact their log-densities are."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.density.audit import tolerance_for
from jaxflow.diagnostics.findings import (
    Finding,
    Line,
    Quantiles,
    counted,
    named,
    on_host,
    quantiles,
)
from jaxflow.flows.cnf import CNF
from jaxflow.flows.flow import Flow, score_rows
from jaxflow.ode import Status
from jaxflow.ode.status import MESSAGES

# Rows that are solved again at most, to see whether a tighter tolerance helps.
AGAIN = 256
# Evaluations of one log-density beyond which a field counts as stiff, for explicit methods.
STIFF = 1000.0
# What a row is called that was solved, and whose log-density is no number nevertheless.
UNDEFINED = "UNDEFINED"


class Solves(NamedTuple):
    """How the log-densities of the rows came about.

    Attributes:
        log_prob: log-density of each row, nats; NaN where it failed.
        failed: row numbers by the name of their `jaxflow.Status`, `"UNDEFINED"` where the solve
            succeeded and the log-density is not finite; successes are left out.
        num_evals: evaluations of the field of one log-density; None without a solve.
        ode_errors: stated error of each row, nats; None where none is stated.
        ode_error: its quantiles; infinite where solved rows have too many steps to state one.
        trace_se: standard errors of a stochastic trace, nats; None for an exact trace.
        atol_nats: the error that was asked for.
        missed: rows that were solved and whose stated error is larger.
        tried: those of them, 256 at most, that were solved again with tighter tolerances.
        inaccurate: those of these that no tolerance brings within it.
        single: whether the precision is float32 or less.
        has_solve: False for a flow in closed form.
        one_probe: whether the trace has an error that is not known.
    """

    log_prob: Float[np.ndarray, " rows"]
    failed: dict[str, tuple[int, ...]]
    num_evals: Quantiles | None
    ode_errors: Float[np.ndarray, " rows"] | None
    ode_error: Quantiles | None
    trace_se: Quantiles | None
    atol_nats: float
    missed: tuple[int, ...]
    tried: tuple[int, ...]
    inaccurate: tuple[int, ...]
    single: bool
    has_solve: bool
    one_probe: bool

    def lines(self) -> list[Line]:
        """Counts, the mean log-density, and quantiles over rows."""
        num = len(self.log_prob)
        good = self.log_prob[np.isfinite(self.log_prob)]
        lines: list[Line] = [
            ("solved", f"{num - sum(map(len, self.failed.values())):,} of {num:,}")
        ]
        if good.size:
            error = f" +- {good.std(ddof=1) / good.size**0.5:.2g}" if good.size > 1 else ""
            lines.append(("mean log-density", f"{good.mean():.4f}{error} nats"))
        each = {
            "evaluations": self.num_evals,
            "ODE error, nats": self.ode_error,
            "trace error, nats": self.trace_se,
        }
        return lines + [(name, found) for name, found in each.items() if found is not None]

    def findings(self) -> list[Finding]:
        """Failures first, then how exact the others are."""
        found = [Finding(self._failure(name), "bad") for name in self.failed]
        if not self.has_solve:
            return [*found, Finding("log-densities need no solve: exact up to rounding", "good")]
        return found + self._exactness() + self._trace() + self._cost()

    def _failure(self, name: str) -> str:
        rows = self.failed[name]
        which = f"{counted(len(rows), 'row')} of {len(self.log_prob):,} failed ({named(rows)})"
        if name == UNDEFINED:
            return f"{which}: the log-density is not finite; check the transform and the base"
        return f"{which}: {MESSAGES[Status[name]]}"

    def _exactness(self) -> list[Finding]:
        if self.ode_error is None:
            if not np.isfinite(self.log_prob).any():
                return []
            text = "these solves state no error of their steps (fixed steps, XTrace or diffrax)"
            return [Finding(text, "unknown")]
        size, asked = self.ode_error.p99, f"{self.atol_nats:g} nats"
        most = "99 % of the rows that were solved" if self.failed else "99 % of rows"
        noisy = self.trace_se is not None or self.one_probe
        what = "log-densities are, but for their trace," if noisy else "log-densities are"
        if size <= self.atol_nats:
            found = [Finding(f"{what} good to {size:.2g} nats on {most}", "good")]
        elif size < math.inf:
            text = f"{what} good to {size:.2g} nats only on {most}, where {asked} were asked for"
            found = [Finding(text, "bad")]
        else:
            assert self.ode_errors is not None
            unstated = int(np.isnan(self.ode_errors[np.isfinite(self.log_prob)]).sum())
            text = f"{counted(unstated, 'row')} took too many steps to state their error"
            found = [Finding(text, "bad")]
        return found + self._missed(asked)

    def _missed(self, asked: str) -> list[Finding]:
        """Which rows miss the error that was asked for, and what they need."""
        found = []
        of = f" of {len(self.tried)} solved again" if len(self.tried) < len(self.missed) else ""
        rest = tuple(sorted(set(self.tried) - set(self.inaccurate)))
        if self.inaccurate:
            rows = f"{counted(len(self.inaccurate), 'row')}{of} ({named(self.inaccurate)})"
            need = f"need float64 to come within {asked}"
            if not self.single:
                need = f"do not come within {asked} at any tolerance: the field is too hard there"
            found.append(Finding(f"{rows} {need}", "bad"))
        if rest:
            rows = f"{counted(len(rest), 'row')}{of} ({named(rest)})"
            call = f"flow.log_prob(x, atol_nats={self.atol_nats:g}, verify=True)"
            need = f"miss {asked} at the tolerance of ode_eval and meet them by {call}"
            found.append(Finding(f"{rows} {need}", "bad"))
        return found

    def _cost(self) -> list[Finding]:
        if self.num_evals is None or self.num_evals.median < STIFF:
            return []
        text = (
            f"a log-density takes {self.num_evals.median:,.0f} evaluations of the field (median)"
        )
        return [Finding(f"{text}: it is stiff or rough, and explicit steps are short", "bad")]

    def _trace(self) -> list[Finding]:
        exact = "dataclasses.replace(flow, trace='exact') has none"
        if self.one_probe:
            return [Finding(f"a single probe a row leaves an error not known: {exact}", "unknown")]
        if self.trace_se is None:
            return []
        size = self.trace_se.p99
        text = f"the stochastic trace leaves a standard error of {size:.2g} nats on 99 % of rows"
        if size <= self.atol_nats:
            return [Finding(text, "good")]
        return [Finding(f"{text}, more than {self.atol_nats:g}: {exact}", "bad")]


def check_atol(flow: Flow, rows: Array, atol_nats: float) -> None:
    """Refuse an error that the precision cannot reach, before anything is solved.

    Raises:
        ValueError: `atol_nats` is not positive, or below rounding.
    """
    if isinstance(flow, CNF) and flow.ode_eval.adaptive:
        tolerance_for(atol_nats, flow.ode_eval, rows.dtype, checked=True)
    elif not atol_nats > 0:
        raise ValueError(f"atol_nats={atol_nats} must be positive, in nats")


def examine_solves(
    flow: Flow,
    rows: Float[Array, "rows *event"],
    cond: Array | None,
    numbers: Int[np.ndarray, " rows"],
    *,
    key: PRNGKeyArray,
    atol_nats: float,
) -> Solves:
    """Solve the rows, and those again that miss `atol_nats`.

    Args:
        flow: the flow; its solves must not raise.
        rows: rows in data units.
        cond: their conditions.
        numbers: what the rows are called.
        key: for the probes of a stochastic trace.
        atol_nats: error of a log-density that counts as good, nats.
    """
    single = rows.dtype.itemsize <= 4
    if not isinstance(flow, CNF):
        value = on_host(flow.log_prob(rows, cond, key))
        failed = by_status(np.zeros(len(value), int), value, numbers)
        return Solves(
            *(value, failed, None, None, None, None, atol_nats),
            *((), (), (), single, False, False),
        )
    flow = flow.choose_probes(rows, cond, key)
    value, stats = score_rows(flow, rows, cond, key)
    assert stats is not None
    answer = flow.log_prob_with_error(rows, cond, key)
    value, status = on_host(value), np.asarray(stats.status)
    missed = tried = inaccurate = np.zeros(0, int)
    errors = answer.ode_error
    if errors is not None:
        errors = on_host(errors)
        missed = np.flatnonzero(~(errors <= atol_nats) & np.isfinite(value))
        tried = missed[:: max(1, math.ceil(len(missed) / AGAIN))]
        if len(tried):
            part = None if cond is None else cond[tried]
            again = flow.log_prob_with_error(rows[tried], part, key, atol_nats=atol_nats)
            inaccurate = tried[np.asarray(again.status) != Status.SUCCESS]
    trace_se = quantiles(answer.trace_se)
    return Solves(
        log_prob=value,
        failed=by_status(status, value, numbers),
        num_evals=quantiles(stats.num_evals),
        ode_errors=errors,
        # Not stated is worse than any error, where a row was solved.
        ode_error=None
        if errors is None
        else quantiles(np.where(np.isnan(errors) & np.isfinite(value), np.inf, errors)),
        trace_se=trace_se if trace_se is not None and trace_se.largest > 0 else None,
        atol_nats=atol_nats,
        missed=tuple(numbers[missed].tolist()),
        tried=tuple(numbers[tried].tolist()),
        inaccurate=tuple(numbers[inaccurate].tolist()),
        single=single,
        has_solve=True,
        one_probe=answer.trace_se is None,
    )


def by_status(
    status: Int[np.ndarray, " rows"],
    value: Float[np.ndarray, " rows"],
    numbers: Int[np.ndarray, " rows"],
) -> dict[str, tuple[int, ...]]:
    """The numbers of the rows that failed, by the name of their status."""
    names = {member.name: status == member for member in Status if member != Status.SUCCESS}
    names[UNDEFINED] = (status == Status.SUCCESS) & ~np.isfinite(value)
    return {name: tuple(numbers[at].tolist()) for name, at in names.items() if at.any()}


def without_raising(flow: Any) -> Any:
    """The flow with failed solves as NaN and a status."""
    if not isinstance(flow, CNF):
        return flow
    return replace(flow, ode_eval=replace(flow.ode_eval, throw=False))
