"""Continuous normalizing flow: a field, a base, and the settings of its solves."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import check_base
from jaxflow.density.accuracy import base_density
from jaxflow.density.audit import (
    LogDensity,
    solved_twice,
    to_tolerance,
    tolerance_for,
    within_rounding,
    without_density,
)
from jaxflow.density.continuity import transport
from jaxflow.density.divergence import choose_probes, density_change, integrated_jacobian
from jaxflow.flows.flow import (
    Flow,
    check_arguments,
    raise_on_failure,
    score_rows,
    to_data_space,
    to_flow_space,
)
from jaxflow.ode import ODE, Stats, Status
from jaxflow.ode.odeint import with_num_steps
from jaxflow.ode.status import poison
from jaxflow.runtime.precision import full_precision
from jaxflow.trace import Auto, Estimator, Exact, Hutchinson, Trace, XTrace, as_trace, resolve


class CNF(Flow):
    """A continuous normalizing flow.

    Base at `t = 0`, data at `t = 1`: `dx/dt = field(t, x, cond)` carries `z ~ base` to a sample,
    and `log p_1(x(1)) = log p_0(x(0)) - int_0^1 tr(df/dx) dt`.

    ```python
    flow = CNF(MLP(2, key=key), base=StandardNormal((2,)))
    flow.log_prob(x)
    ```

    Attributes:
        field: `f(t, x, cond=None)`, for one sample.
        base: density at `t = 0`: an object with `event_shape`, `log_prob` and `sample`.
        transform: fixed map from data to flow space, counted in the log-density; None for none.
        trace: `"auto"` is the field's closed form where it has one; else one Hutchinson probe
            while training, exact for events of up to four entries, and exact in evaluation, in
            chunks of bounded memory. `"closed"` insists on the closed form. `"exact"`,
            `"hutchinson"`, a `Hutchinson(...)`, `HutchPlusPlus(...)`, `XTrace(...)` or another
            `jaxflow.trace.Estimator` hold for training and evaluation.
        ode: settings of the training solve.
        ode_eval: settings of every other solve.
    """

    field: Any
    base: Any
    transform: Any
    trace: Auto | Exact | Estimator | XTrace
    ode: ODE = eqx.field(static=True)
    ode_eval: ODE = eqx.field(static=True)

    def __init__(
        self,
        field: Any,
        base: Any,
        *,
        transform: Any = None,
        trace: Trace = "auto",
        ode: ODE = ODE(solver="rk4", num_steps=4),
        ode_eval: ODE = ODE(solver="tsit5", rtol=1e-5, atol=1e-5),
    ) -> None:
        if not callable(field):
            raise TypeError(f"field={field!r} must be a function f(t, x, cond=None)")
        check_base(base)
        for name, settings in (("ode", ode), ("ode_eval", ode_eval)):
            if settings.partial:
                raise ValueError(
                    f"{name}={settings} may stop on its way, where the density is not the flow's: "
                    "leave partial out"
                )
        self.field, self.base, self.transform = field, base, transform
        self.trace, self.ode, self.ode_eval = as_trace(trace, field), ode, ode_eval

    def density_rows(
        self,
        u: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool,
    ) -> tuple[Float[Array, " rows"], Stats | None]:
        """Log-density at `t = 1` of rows in flow space."""
        value, _, stats = self._density_at(1.0, u, cond, key, training=training)
        return value, stats

    def _density_at(
        self, t: Any, u: Array, cond: Array | None, key: PRNGKeyArray | None, *, training: bool
    ) -> tuple[Array, Array | None, Stats]:
        """Log-density, its trace's standard error, and counts."""
        z, change, trace_se, stats = self._change(u, t, 0.0, cond, key, training=training)
        value = base_density(self.base, z) - change
        return value, trace_se, without_density(stats, value)

    def _audited(
        self, u: Array, cond: Array | None, key: PRNGKeyArray | None
    ) -> tuple[LogDensity, Stats]:
        """Log-density at `t = 1` of rows in flow space, and what is known of its error."""
        trace, ode = self.trace_for(training=False), replace(self.ode_eval, throw=False)
        if isinstance(trace, XTrace) or not self.tells_error():
            value, trace_se, stats = self._density_at(1.0, u, cond, key, training=False)
            return LogDensity(value, trace_se, None, None, stats.status, stats.num_evals), stats
        return solved_twice(trace, self.field, self.base, u, cond, key, ode=ode)

    def _change(
        self,
        x: Array,
        t0: Any,
        t1: Any,
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool,
    ) -> tuple[Array, Array, Array | None, Stats]:
        trace = self.trace_for(training=training)
        ode = replace(self.ode if training else self.ode_eval, throw=False)
        return density_change(trace, self.field, x, t0, t1, cond, key, ode=ode, each=not training)

    def trace_for(self, *, training: bool) -> Exact | Estimator | XTrace:
        """What `trace="auto"` stands for, in training or in evaluation; any other trace itself."""
        trace = resolve(self.trace, self.field, math.prod(self.event_shape), training=training)
        if isinstance(trace, Hutchinson) and trace.target_se is not None and not training:
            raise ValueError(
                f"target_se={trace.target_se} chooses the number of probes from rows whose values "
                "are known: write flow = flow.choose_probes(x, key=key) first, outside jit"
            )
        return trace

    def sample_rows(
        self,
        z: Float[Array, "rows *event"],
        log_p: Float[Array, " rows"] | None,
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool = False,
    ) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"] | None, Stats | None]:
        """Rows of the base carried to `t = 1`."""
        if log_p is None:
            ode = replace(self.ode if training else self.ode_eval, throw=False)
            u, stats = transport(self.field, z, 0.0, 1.0, cond, ode=ode)
            return u, None, stats
        u, change, _, stats = self._change(z, 0.0, 1.0, cond, key, training=training)
        return u, log_p + change, stats

    def log_prob(
        self,
        x: Any,
        cond: Any = None,
        key: PRNGKeyArray | None = None,
        *,
        atol_nats: float | None = None,
        verify: bool = False,
        progress: bool | None = False,
    ) -> Float[Array, "*batch"]:
        """`Flow.log_prob`, if need be to a tolerance in nats.

        Args:
            x: (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all.
            key: for the probes of a stochastic trace.
            atol_nats: how exact the log-densities shall be, in place of the tolerances of
                `ode_eval`: one solve with a tolerance of `atol_nats / 20`, which by experience
                is enough for all but a few rows in a thousand.
            verify: state the error of every row and solve those again that miss `atol_nats`; at
                2 to 3 times the cost, and not under jit.
            progress: whether to show a bar; None shows one on a terminal only.

        Raises:
            ValueError: as `Flow.log_prob`; a tolerance that cannot be asked for.
            SolveError: the solve of a row failed, or cannot be as exact as `atol_nats`.
        """
        if atol_nats is None:
            if verify:
                raise ValueError("verify=True has nothing to verify: give atol_nats, in nats")
            return super().log_prob(x, cond, key, progress=progress)
        if verify:
            answer, stats, batch = self._with_error(x, cond, key, atol_nats, progress)
            log_p = answer.value
        else:
            flow, rows, cond, batch = check_arguments(self, x, cond, "x")
            ode = tolerance_for(atol_nats, self.ode_eval, rows.dtype, checked=False)
            flow = replace(flow.choose_probes(rows, cond, key), ode_eval=ode)
            score = partial(_log_prob_within, atol_nats=jnp.asarray(atol_nats, rows.dtype))
            log_p, stats = score_rows(flow, rows, cond, key, score=score, progress=progress)
        assert stats is not None
        log_p = jax.vmap(poison)(log_p, stats.status)
        return raise_on_failure(self, log_p, stats, "log_prob").reshape(batch)

    def log_prob_with_error(
        self,
        x: Any,
        cond: Any = None,
        key: PRNGKeyArray | None = None,
        *,
        atol_nats: float | None = None,
        progress: bool | None = False,
    ) -> LogDensity:
        """`log_prob` and, row by row, what is known of its error.

        *The trace.* With k probes each one's divergence is integrated along the one trajectory.
        `value +- q trace_se`, with q the 97.5 % point of Student's t with k - 1 degrees of
        freedom, covers the log-density of the exact trace about 95 % of the time.

        *The steps.* Each row is solved twice, at 2 to 3 times the cost of `log_prob`; the true
        error is within `ode_error` for about 99 % of rows (`jaxflow.density.accuracy`).

        Args:
            x: (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all.
            key: for the probes of a stochastic trace.
            atol_nats: solve rows again, with tighter tolerances, until their `ode_error` is at
                most this; a row for which that is out of reach has the status `INACCURATE`.
            progress: whether to show a bar; None shows one on a terminal only.
        """
        answer, stats, batch = self._with_error(x, cond, key, atol_nats, progress)
        # What is inaccurate is told by its own error and raises nothing.
        solved = jnp.where(stats.status == Status.INACCURATE, int(Status.SUCCESS), stats.status)
        answer = raise_on_failure(
            self, answer, replace(stats, status=solved), "log_prob_with_error"
        )
        return jax.tree.map(lambda values: values.reshape(batch), answer)

    def _with_error(
        self,
        x: Any,
        cond: Any,
        key: PRNGKeyArray | None,
        atol_nats: float | None,
        progress: bool | None,
    ) -> tuple[LogDensity, Stats, tuple[int, ...]]:
        flow, rows, cond, batch = check_arguments(self, x, cond, "x")
        flow = flow.choose_probes(rows, cond, key)

        def score(ode: ODE, rows: Array, cond: Array | None) -> Any:
            solving = replace(flow, ode_eval=ode)
            score = _log_prob_with_error
            return score_rows(solving, rows, cond, key, score=score, progress=progress)

        if atol_nats is None:
            return *score(self.ode_eval, rows, cond), batch
        ode = tolerance_for(atol_nats, self.ode_eval, rows.dtype, checked=True)
        if not flow.tells_error():
            raise ValueError(
                f"trace={flow.trace} with ode_eval={ode} states no error of its steps to compare "
                f"with atol_nats={atol_nats}: write log_prob(x, atol_nats=...) without verify, or "
                "choose another trace or one of jaxflow's own solvers"
            )
        return *to_tolerance(score, rows, cond, atol_nats=atol_nats, ode=ode), batch

    def tells_error(self) -> bool:
        """Whether a solve of `ode_eval` states the error that its steps leave."""
        xtrace = isinstance(self.trace_for(training=False), XTrace)
        return self.ode_eval.adaptive and not self.ode_eval.by_diffrax and not xtrace

    def choose_probes(self, x: Any, cond: Any = None, key: PRNGKeyArray | None = None) -> "CNF":
        """The flow with as many probes as its `Hutchinson(target_se=...)` takes on such rows.

        A pilot solve with 8 probes on at most 64 rows measures the variance of one probe. The
        number is rounded up to a power of two; where it would reach the size of an event the
        trace becomes exact. Other flows are returned as they are.

        Raises:
            ValueError: no key, or rows whose values are not known (under jit).
        """
        trace = self.trace
        if not isinstance(trace, Hutchinson) or trace.target_se is None:
            return self
        flow, rows, cond, _ = check_arguments(self, x, cond, "x")
        if isinstance(rows, Tracer):
            raise ValueError(
                f"target_se={trace.target_se} chooses the number of probes from values, which are "
                "not known under jit: write flow = flow.choose_probes(x, key=key) first, outside"
            )
        if not len(rows):
            return replace(self, trace=replace(trace, target_se=None))
        rows, _ = to_flow_space(flow.transform, rows)
        ode = replace(self.ode_eval, throw=False)
        chosen = choose_probes(trace, flow.field, rows, cond, key, ode=ode)
        return replace(self, trace=chosen)

    def integrated_jacobian(self, x: Any, cond: Any = None) -> Float[Array, "..."]:
        """The field's Jacobian integrated over [0, 1] along each row's trajectory.

        In flow space; (*batch, *event, *event), `J[..., i, j] = int df_i/dx_j dt`. Its trace is
        the change of the log-density, its other entries are what a stochastic trace's variance
        is made of; d Jacobian-vector products an evaluation, so meant for a few rows.
        """
        flow, rows, cond, batch = check_arguments(self, x, cond, "x")
        rows, _ = to_flow_space(flow.transform, rows)
        ode = replace(self.ode_eval, throw=False)
        out, stats = integrated_jacobian(flow.field, rows, cond, ode=ode)
        out = raise_on_failure(self, out, stats, "integrated_jacobian")
        return out.reshape(*batch, *out.shape[1:])

    def log_prob_at(
        self, t: Any, x: Any, cond: Any = None, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch"]:
        """Log-density `log p_t(x)` at any moment, base at `t = 0` and data at `t = 1`.

        At every `t` points are in data units (the transform belongs to the density), so
        `log_prob_at(1.0, x)` is `log_prob(x)`.

        Args:
            t: moment, a number; the flow was trained on [0, 1].
            x: (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all.
            key: for the probes of a stochastic trace.
        """
        flow, rows, cond, batch = check_arguments(self, x, cond, "x")
        # Steps are counted here, where the moment is still known.
        flow = replace(flow, ode_eval=with_num_steps(self.ode_eval, t, 0.0, None))
        flow = flow.choose_probes(rows, cond, key)
        log_p, stats = _log_prob_at(flow, jnp.asarray(t, rows.dtype), rows, cond, key)
        return raise_on_failure(self, log_p, stats, "log_prob_at").reshape(batch)

    def transport(
        self, x: Any, t0: Any, t1: Any, cond: Any = None, *, save_at: Any = None
    ) -> Float[Array, "..."]:
        """Where a point at time `t0` is at time `t1`, in data units at every time.

        Args:
            x: (*batch, *event).
            t0: time of `x`.
            t1: time of the answer; before `t0` to go back.
            cond: conditions, (*batch, *condition), or one vector for all.
            save_at: times between, whose points are returned along a new leading axis.
        """
        flow, rows, cond, batch = check_arguments(self, x, cond, "x")
        rows, _ = to_flow_space(flow.transform, rows)
        out = flow._move(rows, t0, t1, cond, save_at)
        flat, _ = to_data_space(flow.transform, out.reshape(-1, *self.event_shape))
        return flat.reshape(*out.shape[: out.ndim - rows.ndim], *batch, *self.event_shape)

    def encode(self, x: Any, cond: Any = None) -> Float[Array, "..."]:
        """The base's point `z = x(0)` of data `x = x(1)`; (*batch, *event)."""
        flow, rows, cond, batch = check_arguments(self, x, cond, "x")
        rows, _ = to_flow_space(flow.transform, rows)
        return flow._move(rows, 1.0, 0.0, cond, None).reshape(*batch, *self.event_shape)

    def decode(self, z: Any, cond: Any = None) -> Float[Array, "..."]:
        """The data `x = x(1)` of the base's point `z = x(0)`; (*batch, *event)."""
        flow, rows, cond, batch = check_arguments(self, z, cond, "z")
        x, _ = to_data_space(flow.transform, flow._move(rows, 0.0, 1.0, cond, None))
        return x.reshape(*batch, *self.event_shape)

    def _move(self, rows: Array, t0: Any, t1: Any, cond: Array | None, save_at: Any) -> Array:
        ode = replace(self.ode_eval, throw=False)
        out, stats = transport(self.field, rows, t0, t1, cond, ode=ode, save_at=save_at)
        return raise_on_failure(self, out, stats, "transport")


@eqx.filter_jit
@full_precision
def _log_prob_at(
    flow: CNF, t: Array, x: Array, cond: Array | None, key: PRNGKeyArray | None
) -> tuple[Array, Stats]:
    u, log_det = to_flow_space(flow.transform, x)
    value, _, stats = flow._density_at(t, u, cond, key, training=False)
    return value + log_det.astype(value.dtype), stats


@eqx.filter_jit
@full_precision
def _log_prob_with_error(
    flow: CNF, x: Array, cond: Array | None, key: PRNGKeyArray | None
) -> tuple[LogDensity, Stats]:
    u, log_det = to_flow_space(flow.transform, x)
    answer, stats = flow._audited(u, cond, key)
    log_det = log_det.astype(answer.value.dtype)
    refined = None if answer.refined is None else answer.refined + log_det
    return answer._replace(value=answer.value + log_det, refined=refined), stats


@eqx.filter_jit
@full_precision
def _log_prob_within(
    flow: CNF, x: Array, cond: Array | None, key: PRNGKeyArray | None, *, atol_nats: Array
) -> tuple[Array, Stats]:
    u, log_det = to_flow_space(flow.transform, x)
    z, change, _, stats = flow._change(u, 1.0, 0.0, cond, key, training=False)
    value = base_density(flow.base, z) - change
    stats = without_density(stats, value)
    return value + log_det.astype(value.dtype), within_rounding(stats, z, change, atol_nats)
