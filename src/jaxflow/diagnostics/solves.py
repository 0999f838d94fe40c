"""The solves of the rows: failures, costs, and the estimated errors of log-densities."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.density.error import ode_for_tolerance
from jaxflow.diagnostics.findings import (
    Finding,
    Line,
    Quantiles,
    judge,
    list_rows,
    quantiles,
    take,
    to_host,
)
from jaxflow.flows.cnf import CNF
from jaxflow.flows.ensemble import Ensemble
from jaxflow.flows.flow import Flow, score_rows
from jaxflow.ode import Status
from jaxflow.ode.status import MESSAGES
from jaxflow.runtime.text import plural

# Most rows that are solved again with a tighter tolerance.
AGAIN = 256
# Median evaluations per log-density above which a field counts as stiff.
STIFF = 1000
# Key of `Solves.failed` for rows that were solved, but whose log-density is not finite.
UNDEFINED = "UNDEFINED"
EXACT_TRACE = "dataclasses.replace(flow, trace='exact') has no such error"


class Solves(NamedTuple):
    """The solves of the rows' log-densities; a flow in closed form fills the first fields only.

    Attributes:
        log_prob: log-densities in nats, NaN where the solve failed.
        failed: numbers of the failed rows by the name of their `jaxflow.Status`; `"UNDEFINED"` is
            a successful solve whose log-density is not finite.
        atol_nats: target accuracy.
        single: whether the precision is float32 or less.
        has_solve: False for a flow in closed form.
        num_evals: evaluations of the field.
        ode_errors: estimated errors of the steps, in nats.
        ode_error: their quantiles; infinite for solved rows with too many steps for an estimate.
        trace_se: standard errors of a stochastic trace.
        one_probe: whether there are too few probes to estimate the error of the trace.
        missed: solved rows whose error exceeds the target.
        tried: those of them, 256 at most, that were solved again with tighter tolerances.
        inaccurate: those that miss the target at every tolerance.
    """

    log_prob: Float[np.ndarray, " rows"]
    failed: dict[str, tuple[int, ...]]
    atol_nats: float
    single: bool
    has_solve: bool
    num_evals: Quantiles | None = None
    ode_errors: Float[np.ndarray, " rows"] | None = None
    ode_error: Quantiles | None = None
    trace_se: Quantiles | None = None
    one_probe: bool = False
    missed: tuple[int, ...] = ()
    tried: tuple[int, ...] = ()
    inaccurate: tuple[int, ...] = ()

    def lines(self) -> list[Line]:
        """Return counts, the mean log-density, and quantiles over rows."""
        num = len(self.log_prob)
        good = self.log_prob[np.isfinite(self.log_prob)]
        lines: list[Line] = [
            ("solved", f"{num - sum(map(len, self.failed.values())):,} of {num:,}")
        ]
        if good.size:
            error = f" +- {good.std(ddof=1) / good.size**0.5:.2g}" if good.size > 1 else ""
            lines.append(("mean log-density", f"{good.mean():.4f}{error} nats"))
        by_row = {
            "evaluations": self.num_evals,
            "ODE error, nats": self.ode_error,
            "trace error, nats": self.trace_se,
        }
        return lines + [(name, values) for name, values in by_row.items() if values is not None]

    def findings(self) -> list[Finding]:
        """Return failures first, then the accuracy and the cost of the others."""
        failures = [Finding(self._failure(name), "bad") for name in self.failed]
        if not self.has_solve:
            exact = Finding("log-densities need no solve: exact up to rounding", "good")
            return [*failures, exact]
        return [*failures, *self._accuracy(), *self._missed(), *self._trace(), *self._cost()]

    def _failure(self, name: str) -> str:
        rows = self.failed[name]
        if name == UNDEFINED:
            why = "the log-density is not finite; check the transform and the base"
        else:
            why = MESSAGES[Status[name]]
        return f"{_name_rows(rows, f' of {len(self.log_prob):,} failed')}: {why}"

    def _accuracy(self) -> list[Finding]:
        if self.ode_error is None:
            if not np.isfinite(self.log_prob).any():
                return []
            text = "these solves estimate no error of their steps (fixed steps, XTrace, diffrax)"
            return [Finding(text, "unknown")]
        size = self.ode_error.p99
        if math.isinf(size):
            assert self.ode_errors is not None
            unknown = int(np.isnan(self.ode_errors[np.isfinite(self.log_prob)]).sum())
            text = f"{plural(unknown, 'row')} took too many steps to estimate their error"
            return [Finding(text, "bad")]
        good = size <= self.atol_nats
        noisy = self.trace_se is not None or self.one_probe
        text = (
            f"log-densities are{', but for their trace,' if noisy else ''} good to {size:.2g} "
            f"nats {'' if good else 'only '}on 99 % of {'solved ' if self.failed else ''}rows "
            f"(target {self.atol_nats:g} nats)"
        )
        return [Finding(text, "good" if good else "bad")]

    def _missed(self) -> list[Finding]:
        """Rows that miss the target accuracy, and how to reach it."""
        target = f"{self.atol_nats:g} nats"
        hard = f"do not come within {target} at any tolerance: the field is too hard there"
        call = f"flow.log_prob(x, atol_nats={self.atol_nats:g}, verify=True)"
        causes = (
            (self.inaccurate, f"need float64 to come within {target}" if self.single else hard),
            (
                tuple(sorted(set(self.tried) - set(self.inaccurate))),
                f"miss {target} at the tolerance of ode_eval; {call} reaches it",
            ),
        )
        of = f" of {len(self.tried)} solved again" if len(self.tried) < len(self.missed) else ""
        return [Finding(f"{_name_rows(rows, of)} {text}", "bad") for rows, text in causes if rows]

    def _trace(self) -> list[Finding]:
        if self.one_probe:
            text = f"so few probes per row leave the error of the trace unknown: {EXACT_TRACE}"
            return [Finding(text, "unknown")]
        if self.trace_se is None:
            return []
        text = (
            f"the stochastic trace has a standard error of {self.trace_se.p99:.2g} nats on 99 % "
            f"of rows (target {self.atol_nats:g} nats)"
        )
        return [judge(self.trace_se.p99 <= self.atol_nats, text, bad=EXACT_TRACE)]

    def _cost(self) -> list[Finding]:
        if self.num_evals is None or self.num_evals.median < STIFF:
            return []
        text = (
            f"a log-density takes {self.num_evals.median:,.0f} evaluations of the field (median; "
            f"threshold {STIFF:,}): the field is stiff or rough"
        )
        return [Finding(text, "bad")]


def _name_rows(rows: tuple[int, ...], which: str) -> str:
    return f"{plural(len(rows), 'row')}{which} ({list_rows(rows)})"


def check_atol(flow: Flow, rows: Array, atol_nats: float) -> None:
    """Raise ValueError unless `atol_nats` is positive and within reach of the precision."""
    if isinstance(flow, CNF) and flow.ode_eval.adaptive:
        ode_for_tolerance(atol_nats, flow.ode_eval, rows.dtype, checked=True)
    elif not atol_nats > 0:
        raise ValueError(f"atol_nats={atol_nats} must be positive, in nats")


def measure_solves(
    flow: Flow,
    rows: Float[Array, "rows *event"],
    cond: Array | None,
    numbers: Int[np.ndarray, " rows"],
    *,
    key: PRNGKeyArray,
    atol_nats: float,
) -> Solves:
    """Solve the rows, and solve those that miss `atol_nats` again.

    Findings call the rows by their `numbers`. Solves of `flow` must not raise.
    """
    single = rows.dtype.itemsize <= 4
    if not isinstance(flow, CNF):
        value = to_host(flow.log_prob(rows, cond, key))
        failed = _failed_by_status(np.zeros(len(value), int), value, numbers)
        return Solves(value, failed, atol_nats, single, has_solve=False)
    flow = flow.choose_probes(rows, cond, key)
    value, stats = score_rows(flow, rows, cond, key)
    assert stats is not None
    answer = flow.log_prob_with_error(rows, cond, key)
    value = to_host(value)
    missed = tried = inaccurate = np.zeros(0, int)
    errors = ode_error = None
    if answer.ode_error is not None:
        errors = to_host(answer.ode_error)
        # A solved row without an estimate counts as the worst.
        ode_error = quantiles(np.where(np.isnan(errors) & np.isfinite(value), np.inf, errors))
        missed = np.flatnonzero(~(errors <= atol_nats) & np.isfinite(value))
        tried = missed[:: max(1, math.ceil(len(missed) / AGAIN))]
        if len(tried):
            again = flow.log_prob_with_error(
                rows[tried], take(cond, tried), key, atol_nats=atol_nats
            )
            inaccurate = tried[np.asarray(again.status) != Status.SUCCESS]
    trace_se = quantiles(answer.trace_se)
    return Solves(
        log_prob=value,
        failed=_failed_by_status(np.asarray(stats.status), value, numbers),
        atol_nats=atol_nats,
        single=single,
        has_solve=True,
        num_evals=quantiles(stats.num_evals),
        ode_errors=errors,
        ode_error=ode_error,
        trace_se=trace_se if trace_se is not None and trace_se.largest > 0 else None,
        one_probe=answer.trace_se is None,
        missed=tuple(numbers[missed].tolist()),
        tried=tuple(numbers[tried].tolist()),
        inaccurate=tuple(numbers[inaccurate].tolist()),
    )


def _failed_by_status(
    status: Int[np.ndarray, " rows"],
    value: Float[np.ndarray, " rows"],
    numbers: Int[np.ndarray, " rows"],
) -> dict[str, tuple[int, ...]]:
    """Numbers of the failed rows by the name of their status."""
    masks = {member.name: status == member for member in Status if member != Status.SUCCESS}
    masks[UNDEFINED] = (status == Status.SUCCESS) & ~np.isfinite(value)
    return {name: tuple(numbers[at].tolist()) for name, at in masks.items() if at.any()}


def without_raising(flow: Any) -> Any:
    """The flow with solves that return NaN and a status instead of raising."""
    if isinstance(flow, Ensemble):
        return flow.with_flows(tuple(map(without_raising, flow.flows)))
    if not isinstance(flow, CNF):
        return flow
    return replace(flow, ode_eval=replace(flow.ode_eval, throw=False))
