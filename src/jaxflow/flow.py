"""Continuous normalizing flow: a field, a base, and the settings of its solves."""

import warnings
from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import check_base
from jaxflow.continuity import transport, transport_density
from jaxflow.model import Flow, accept, checked, into_data_space, into_flow_space
from jaxflow.ode import ODE, Stats
from jaxflow.ode.odeint import with_num_steps
from jaxflow.trace import Hutchinson, has_closed_form

# `trace="auto"`: up to these sizes an event's d Jacobian-vector products are cheap enough.
EXACT_TRAINING_SIZE = 4
EXACT_EVALUATION_SIZE = 256
# Above that, evaluation averages this many probes and says that it is not exact.
EVALUATION_PROBES = 16

Trace = Literal["auto", "exact", "hutchinson"] | Hutchinson


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
        trace: `"auto"` takes the field's closed form where it has one; else the exact trace for
            small events, Hutchinson's estimate while training, and in evaluation the exact
            trace up to 256 entries, probes (with a warning) above. `"exact"`, `"hutchinson"` or
            a `Hutchinson(...)` hold for both.
        ode: settings of the training solve.
        ode_eval: settings of every other solve.
    """

    field: Any
    base: Any
    transform: Any
    trace: Trace = eqx.field(static=True)
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
        if not isinstance(trace, Hutchinson) and trace not in ("auto", "exact", "hutchinson"):
            raise ValueError(
                f"trace={trace!r} is unknown; choose 'auto', 'exact', 'hutchinson' or "
                "jaxflow.Hutchinson(num_probes=...)"
            )
        self.field, self.base, self.transform = field, base, transform
        self.trace, self.ode, self.ode_eval = trace, ode, ode_eval

    def density_rows(
        self,
        u: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool,
    ) -> tuple[Float[Array, " rows"], Stats | None]:
        """Log-density at `t = 1` of rows in flow space."""
        return self._density_at(1.0, u, cond, key, training=training)

    def _density_at(
        self, t: Any, u: Array, cond: Array | None, key: PRNGKeyArray | None, *, training: bool
    ) -> tuple[Array, Stats]:
        ode = replace(self.ode if training else self.ode_eval, throw=False)
        probes = self._probes(key, u, training=training)
        change = jnp.zeros(len(u), u.dtype)
        (z, change), stats = transport_density(
            self.field, u, change, t, 0.0, cond, probes, ode=ode
        )
        return jax.vmap(self.base.log_prob)(z) - change, stats

    def sample_rows(
        self,
        z: Float[Array, "rows *event"],
        log_p: Float[Array, " rows"] | None,
        cond: Array | None,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"] | None, Stats | None]:
        """Rows of the base carried to `t = 1`."""
        ode = replace(self.ode_eval, throw=False)
        if log_p is None:
            u, stats = transport(self.field, z, 0.0, 1.0, cond, ode=ode)
            return u, None, stats
        probes = self._probes(key, z, training=False)
        (u, log_p), stats = transport_density(
            self.field, z, log_p, 0.0, 1.0, cond, probes, ode=ode
        )
        return u, log_p, stats

    def _probes(self, key: PRNGKeyArray | None, rows: Array, *, training: bool) -> Array | None:
        """Probes for each row, drawn once for the whole solve; None where the trace is exact."""
        size = max(1, rows[0].size) if len(rows) else 1
        trace = self.trace
        if trace == "auto":
            limit = EXACT_TRAINING_SIZE if training else EXACT_EVALUATION_SIZE
            if has_closed_form(self.field) or size <= limit:
                trace = "exact"
            elif training:
                trace = Hutchinson()
            else:
                trace = Hutchinson(num_probes=EVALUATION_PROBES)
                warnings.warn(
                    f"events of {size} entries: the log-density is a stochastic estimate by "
                    f"{EVALUATION_PROBES} probes, not exact; CNF(..., trace='exact') makes it so",
                    stacklevel=2,
                )
        if trace == "exact":
            return None
        if trace == "hutchinson":
            trace = Hutchinson()
        if key is None:
            raise ValueError(
                f"trace={trace} needs random probes: pass key=jax.random.key(0), or evaluate "
                "exactly with dataclasses.replace(flow, trace='exact')"
            )
        assert isinstance(trace, Hutchinson)
        keys = jax.random.split(key, len(rows))
        return jax.vmap(lambda key: trace.draw(key, self.event_shape, rows.dtype))(keys)

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
        flow, rows, cond, batch = accept(self, x, cond, "x")
        # Steps are counted here, where the moment is still known.
        flow = replace(flow, ode_eval=with_num_steps(self.ode_eval, t, 0.0, None))
        log_p, stats = _log_prob_at(flow, jnp.asarray(t, rows.dtype), rows, cond, key)
        return checked(self, log_p, stats, "log_prob_at").reshape(batch)

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
        flow, rows, cond, batch = accept(self, x, cond, "x")
        rows, _ = into_flow_space(flow.transform, rows)
        out = flow._move(rows, t0, t1, cond, save_at)
        flat, _ = into_data_space(flow.transform, out.reshape(-1, *self.event_shape))
        return flat.reshape(*out.shape[: out.ndim - rows.ndim], *batch, *self.event_shape)

    def encode(self, x: Any, cond: Any = None) -> Float[Array, "..."]:
        """The base's point `z = x(0)` of data `x = x(1)`; (*batch, *event)."""
        flow, rows, cond, batch = accept(self, x, cond, "x")
        rows, _ = into_flow_space(flow.transform, rows)
        return flow._move(rows, 1.0, 0.0, cond, None).reshape(*batch, *self.event_shape)

    def decode(self, z: Any, cond: Any = None) -> Float[Array, "..."]:
        """The data `x = x(1)` of the base's point `z = x(0)`; (*batch, *event)."""
        flow, rows, cond, batch = accept(self, z, cond, "z")
        x, _ = into_data_space(flow.transform, flow._move(rows, 0.0, 1.0, cond, None))
        return x.reshape(*batch, *self.event_shape)

    def _move(self, rows: Array, t0: Any, t1: Any, cond: Array | None, save_at: Any) -> Array:
        ode = replace(self.ode_eval, throw=False)
        out, stats = transport(self.field, rows, t0, t1, cond, ode=ode, save_at=save_at)
        return checked(self, out, stats, "transport")


@eqx.filter_jit
def _log_prob_at(
    flow: CNF, t: Array, x: Array, cond: Array | None, key: PRNGKeyArray | None
) -> tuple[Array, Stats]:
    u, log_det = into_flow_space(flow.transform, x)
    log_p, stats = flow._density_at(t, u, cond, key, training=False)
    return log_p + log_det, stats
