"""`CNF`: the continuous normalizing flow, a field, a base, and the settings of its solves."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import as_base, log_prob_rows
from jaxflow.density.continuity import density_change, integrated_jacobian, transport
from jaxflow.density.error import LogDensity, mark_no_density
from jaxflow.density.probes import Change
from jaxflow.dynamics import Linear
from jaxflow.dynamics.on_manifold import manifold_of
from jaxflow.dynamics.protocol import check_field, has_closed_form
from jaxflow.dynamics.wrapper import AbstractWrapper
from jaxflow.flows.accuracy import log_prob_to, trace_for_rows, unknown_rows, with_error
from jaxflow.flows.data_space import check_arguments, raise_on_failure, transform_rows
from jaxflow.flows.flow import Flow
from jaxflow.flows.summary import size_words, solve_words, transform_words, words
from jaxflow.flows.times import log_prob_at, transport_rows
from jaxflow.ode import ODE, Stats, Status, odeint_many, odeint_together
from jaxflow.ode.derivatives import value_only
from jaxflow.ode.status import poison
from jaxflow.runtime.lanes import per_row
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.trace import Auto, Estimator, Exact, Hutchinson, Trace, XTrace, as_trace, resolve


class CNF(Flow):
    """A continuous normalizing flow.

    Base at `t = 0`, data at `t = 1`: the solution of `dx/dt = field(t, x, cond)` carries
    `z ~ base` to a sample, and `log p_1(x(1)) = log p_0(x(0)) - int_0^1 tr(df/dx) dt`
    (Chen et al. 2018, arXiv 1806.07366, eq. 8; Grathwohl et al. 2019, arXiv 1810.01367).

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import MLP

    key = jax.random.key(0)
    flow = CNF(MLP(2, key=key), base=StandardNormal((2,)))
    x = flow.sample(key, 5)
    print(flow.log_prob(x))  # nats
    ```

    Attributes:
        field: `f(t, x, cond=None)` for one sample `x` of shape (*event).
        base: density at `t = 0`: an object with `event_shape`, `log_prob` and `sample`.
        transform: fixed map from data to flow space, part of the log-density; None for none.
            `"auto"` is the manifold of an `OnManifold` field (rows off it raise), and None for
            any other field.
        trace: how `tr(df/dx)` is computed. `"auto"` takes the field's closed form if it has one;
            else it is exact in evaluation and for events of up to four entries, and one
            Hutchinson probe in training. `"closed"` requires the closed form. `"exact"`,
            `"hutchinson"`, a `Hutchinson(...)`, `HutchPlusPlus(...)`, `XTrace(...)` or another
            `jaxflow.trace.Estimator` hold for training and evaluation.
        ode: settings of the training solve.
        ode_eval: settings of every other solve.

    Raises:
        TypeError: `field` cannot be called, or holds its weights where jax does not see them;
            `base` lacks a method of a base.
        ValueError: `trace` is unknown, or `ode` allows partial solves.
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
        transform: Any = "auto",
        trace: Trace = "auto",
        ode: ODE = ODE(solver="rk4", num_steps=4),
        ode_eval: ODE = ODE(solver="tsit5", rtol=1e-5, atol=1e-5),
    ) -> None:
        check_field(field, "field")
        base = as_base(base)
        for name, settings in (("ode", ode), ("ode_eval", ode_eval)):
            if settings.partial:
                raise ValueError(
                    f"{name}={settings} may stop before t = 1, where the density is not the "
                    "flow's: leave partial out"
                )
        if isinstance(transform, str):
            if transform != "auto":
                raise ValueError(f"transform={transform!r}: give a transform, 'auto' or None")
            transform = manifold_of(field)
        self.field, self.base, self.transform = field, base, transform
        self.trace, self.ode, self.ode_eval = as_trace(trace, field), ode, ode_eval

    def summary(self) -> dict[str, str]:
        """A text for each part, by its name; as `Flow.summary`."""
        traces = [self._trace_words(training=training) for training in (True, False)]
        return {
            "field": f"{words(self.field)}, {size_words(self.field)}",
            "trace": traces[0] if traces[0] == traces[1] else "; in evaluation ".join(traces),
            "transform": transform_words(self.transform),
            "base": words(self.base),
            "training": solve_words(self.ode),
            "evaluation": solve_words(self.ode_eval),
        }

    def _trace_words(self, *, training: bool) -> str:
        trace = self._resolved(training=training)
        if not isinstance(trace, Exact):
            return words(trace)
        closed = has_closed_form(self.field)
        return f"exact, {'in closed form' if closed else 'by Jacobian-vector products'}"

    def _resolved(self, *, training: bool) -> Exact | Estimator | XTrace:
        size = math.prod(self.base.event_shape)
        return resolve(self.trace, self.field, size, training=training)

    def check_loaded(self) -> None:
        """Raise ValueError unless the base of a flow from a file fits its field."""
        parts = [self.field]
        while parts:
            part = parts.pop()
            parts += part.parts() if isinstance(part, AbstractWrapper) else ()
            dim = len(part.matrix) if isinstance(part, Linear) else getattr(part, "dim", None)
            if not type(part).__module__.startswith("jaxflow."):
                dim = None  # what it means there is not known
            if dim is not None and dim != math.prod(self.base.event_shape):
                raise ValueError(
                    f"base has events of shape {tuple(self.base.event_shape)}, and the field's "
                    f"{type(part).__name__} takes {dim} entries"
                )

    def density_rows(
        self,
        u: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool,
    ) -> tuple[Float[Array, " rows"], Stats | None]:
        """Log-density at `t = 1` of rows in flow space; arguments as for `Flow.density_rows`."""
        log_p, _, stats = self.score_rows_at(1.0, u, cond, key, training=training)
        return log_p, stats

    def score_rows_at(
        self,
        t: Any,
        u: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool,
    ) -> tuple[Float[Array, " rows"], Float[Array, " rows"] | None, Stats]:
        """Log-density at `t` of rows in flow space, its standard error, and the counts."""
        z, change, trace_se, stats = self.change_rows(u, t, 0.0, cond, key, training=training)
        log_p = log_prob_rows(self.base, z, grouped=not training) - change
        return log_p, trace_se, mark_no_density(stats, log_p)

    def sample_rows(
        self,
        z: Float[Array, "rows *event"],
        log_p: Float[Array, " rows"] | None,
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool = False,
    ) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"] | None, Stats | None]:
        """Carry rows of the base to `t = 1`; arguments as for `Flow.sample_rows`."""
        if log_p is None:
            ode = replace(self.ode if training else self.ode_eval, throw=False)
            u, stats = transport(self.field, z, 0.0, 1.0, cond, ode=ode)
            return u, None, stats
        u, change, _, stats = self.change_rows(z, 0.0, 1.0, cond, key, training=training)
        return u, log_p + change, stats

    def encode_rows(
        self, u: Float[Array, "rows *event"], cond: Array | None
    ) -> tuple[Float[Array, "rows *event"], Stats | None]:
        """Carry rows of flow space to `t = 0`; as `Flow.encode_rows`."""
        ode = replace(self.ode_eval, throw=False)
        z, stats = transport(self.field, u, 1.0, 0.0, cond, ode=ode)
        manifold = manifold_of(self.field)
        return z if manifold is None else per_row(manifold.retract, z), stats

    def change_rows(
        self,
        x: Array,
        t0: Any,
        t1: Any,
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool,
        measure_rounding: bool = False,
    ) -> Change:
        """Points at `t1` and the change of their log-density, in flow space.

        With `measure_rounding` the counts hold the rounding of each row's solve in evaluation.
        """
        trace = self.trace_for(training=training)
        ode = replace(self.ode if training else self.ode_eval, throw=False)
        solver = partial(odeint_many, measure_rounding=measure_rounding)
        solver = odeint_together if training else solver
        return density_change(trace, self.field, x, t0, t1, cond, key, ode=ode, solver=solver)

    def trace_for(self, *, training: bool) -> Exact | Estimator | XTrace:
        """The trace in training or in evaluation: resolves `trace="auto"`."""
        trace = self._resolved(training=training)
        if isinstance(trace, Hutchinson) and trace.target_se is not None and not training:
            raise unknown_rows(trace)
        return trace

    def log_prob(
        self,
        x: ArrayInput,
        cond: ArrayInput | None = None,
        key: PRNGKeyArray | None = None,
        *,
        atol_nats: float | None = None,
        verify: bool = False,
        progress: bool | None = False,
    ) -> Float[Array, "*batch"]:
        """Log-density of `x` in nats and the data's own units, optionally to `atol_nats`.

        In a loss write `train_log_prob` instead, which takes the steps that training takes.

        Args:
            x: data, (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all rows.
            key: random key for the probes of a stochastic trace.
            atol_nats: target accuracy in nats; replaces the tolerances of `ode_eval` by
                `atol_nats / 20`. Rows whose errors the field may amplify beyond that are
                verified; under jit they count as failed.
            verify: whether to check every row's error and solve again those above `atol_nats`,
                in float64 where float32 cannot reach it, raising if some cannot be improved:
                `log_prob_with_error(x, atol_nats=...)`, at 3 to 4 times the cost, and not
                under jit.
            progress: whether to show a progress bar; None shows it on a terminal only.

        Returns:
            Log-densities, (*batch).

        Raises:
            ValueError: as `Flow.log_prob`; `atol_nats` is not positive, or beyond the precision.
            SolveError: the solve of a row failed, or cannot reach `atol_nats`.
        """
        if atol_nats is None:
            if verify:
                raise ValueError("verify=True needs a target: give atol_nats, in nats")
            return super().log_prob(x, cond, key, progress=progress)
        solve = with_error if verify else log_prob_to
        answer, stats, batch = solve(self, x, cond, key, atol_nats, progress=progress)
        log_p = jax.vmap(poison)(answer.value, stats.status)
        return raise_on_failure(self, log_p, stats, "log_prob").reshape(batch)

    def log_prob_with_error(
        self,
        x: ArrayInput,
        cond: ArrayInput | None = None,
        key: PRNGKeyArray | None = None,
        *,
        atol_nats: float | None = None,
        progress: bool | None = False,
    ) -> LogDensity:
        """Log-density of `x` with an estimate of its error, row by row.

        *Trace.* With k probes the divergence of each is integrated along one trajectory.
        `value +- q trace_se`, with q the 97.5 % point of Student's t with k - 1 degrees of
        freedom, covers the log-density of the exact trace in 95 % of rows or more.

        *Steps and rounding.* Each row is solved twice, at 3 to 4 times the cost of `log_prob`;
        the true error is below `ode_error` for about 99 % of rows (`jaxflow.density.error`).

        ```python
        import jax
        from jaxflow import CNF, StandardNormal
        from jaxflow.dynamics import MLP

        key = jax.random.key(0)
        flow = CNF(MLP(2, key=key), base=StandardNormal((2,)))
        answer = flow.log_prob_with_error(jax.random.normal(key, (5, 2)))
        print(answer.value, answer.ode_error)
        ```

        Args:
            x: data, (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all rows.
            key: random key for the probes of a stochastic trace.
            atol_nats: target accuracy in nats: rows with a larger `ode_error` are solved again
                at tighter tolerances. Rows that miss it do not raise: their status is
                `INACCURATE`.
            progress: whether to show a progress bar; None shows it on a terminal only.

        Returns:
            A `LogDensity`, each field of shape (*batch).

        Raises:
            ValueError: as `Flow.log_prob`; or `atol_nats` for a solve that states no error.
            SolveError: the solve of a row failed.
            RuntimeError: reverse-mode derivatives (jax.grad) of a solve that states its error.
        """
        answer, stats, batch = with_error(self, x, cond, key, atol_nats, progress=progress)
        accepted = jnp.where(stats.status == Status.INACCURATE, int(Status.SUCCESS), stats.status)
        stats = replace(stats, status=accepted)
        answer = raise_on_failure(self, answer, stats, "log_prob_with_error")
        if self.states_error():
            answer = value_only(answer)
        return jax.tree.map(lambda values: values.reshape(batch), answer)

    def needs_key(self) -> bool:
        """Whether the trace in evaluation is stochastic; as `Flow.needs_key`."""
        return not isinstance(self._resolved(training=False), Exact)

    def states_error(self) -> bool:
        """Whether a solve by `ode_eval` estimates the error of its steps."""
        xtrace = isinstance(self._resolved(training=False), XTrace)
        return self.ode_eval.adaptive and not self.ode_eval.by_diffrax and not xtrace

    def choose_probes(
        self, x: ArrayInput, cond: ArrayInput | None = None, key: PRNGKeyArray | None = None
    ) -> "CNF":
        """Fix the number of probes of `Hutchinson(target_se=...)` for rows like these.

        A pilot solve with 8 probes on at most 64 rows measures the variance of one probe. The
        number is rounded up to a power of two; if it reaches the size of an event, the trace
        becomes exact. Flows with another trace are returned unchanged.

        Args:
            x: data, (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all rows.
            key: random key for the pilot's probes.

        Raises:
            ValueError: there is no key, or the rows are unknown (under jit).
        """
        if isinstance(self.trace, Hutchinson) and self.trace.target_se is not None:
            return replace(self, trace=trace_for_rows(self, x, cond, key))
        return self

    def integrated_jacobian(
        self, x: ArrayInput, cond: ArrayInput | None = None
    ) -> Float[Array, "..."]:
        """Integrate the field's Jacobian over [0, 1] along each row's trajectory.

        In flow space, `J[..., i, j] = int df_i/dx_j dt`. Its trace is the change of the
        log-density; its other entries make up the variance of a stochastic trace. Costs d
        Jacobian-vector products an evaluation, so meant for a few rows.

        Args:
            x: data, (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all rows.

        Returns:
            (*batch, *event, *event).
        """
        flow, rows, cond, batch = check_arguments(self, x, cond, "x", keep_float64=True)
        rows, _ = transform_rows(flow, rows)
        ode = replace(self.ode_eval, throw=False)
        out, stats = integrated_jacobian(flow.field, rows, cond, ode=ode)
        out = raise_on_failure(self, out, stats, "integrated_jacobian")
        return out.reshape(*batch, *out.shape[1:])

    def log_prob_at(
        self,
        t: ArrayInput,
        x: ArrayInput,
        cond: ArrayInput | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*batch"]:
        """Log-density `log p_t(x)` at time `t`, base at `t = 0` and data at `t = 1`.

        Points are in data units at every `t` (the transform is part of the density), so
        `log_prob_at(1.0, x)` equals `log_prob(x)`.

        Args:
            t: time, a number; the flow was trained on [0, 1].
            x: points, (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all rows.
            key: random key for the probes of a stochastic trace.

        Returns:
            Log-densities in nats, (*batch).
        """
        return log_prob_at(self, t, x, cond, key)

    def transport(
        self,
        x: ArrayInput,
        t0: ArrayLike,
        t1: ArrayLike,
        cond: ArrayInput | None = None,
        *,
        save_at: ArrayInput | None = None,
    ) -> Float[Array, "..."]:
        """Move points from time `t0` to `t1`, in data units at every time.

        Args:
            x: points at `t0`, (*batch, *event).
            t0: time of `x`.
            t1: time of the result; before `t0` to go back.
            cond: conditions, (*batch, *condition), or one vector for all rows.
            save_at: times between `t0` and `t1` to return instead of `t1` alone.

        Returns:
            (*batch, *event), or (times, *batch, *event) with `save_at`.
        """
        return transport_rows(self, x, t0, t1, cond, save_at)
