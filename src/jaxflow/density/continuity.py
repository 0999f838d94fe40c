"""Log-density along trajectories: the continuity equation.

If `x(0)` has density `p_0` and `dx/dt = f(t, x)`, the density `p_t` of `x(t)` obeys
`dp/dt + div(p f) = 0`, and along a trajectory

```
d log p_t(x(t)) / dt = -tr(df/dx)
```

(Chen et al. 2018, "Neural Ordinary Differential Equations", arXiv 1806.07366). A discrete flow
pays for `log |det|`, O(d^3); here a trace is enough, O(d^2), or O(d) by probes.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxflow.dynamics.protocol import evaluate
from jaxflow.ode import ODE, Stats, odeint_many, odeint_together
from jaxflow.ode.checks import check_save_at
from jaxflow.ode.odeint import with_num_steps
from jaxflow.ode.twice import Twice, solve_twice
from jaxflow.trace import exact_trace, prepare
from jaxflow.trace.hutchinson import probe_traces
from jaxflow.trace.products import products


def augmented_dynamics(
    t: Float[Array, ""],
    state: tuple[Float[Array, "*event"], Float[Array, "..."]],
    args: tuple[Any, Array | None, Array | None],
) -> tuple[Float[Array, "*event"], Float[Array, "..."]]:
    """Derivative of a point and its log-density, `d/dt (x, log p) = (f, -tr(df/dx))`.

    Args:
        t: time.
        state: `(x, log p)` of one sample; log p () is one number, log p (k,) one for each of k
            probes, along the one trajectory.
        args: `(field, cond, probes)`. Without probes the trace is exact, with them it is
            Hutchinson's estimate; probes (*event) or (k, *event) stay fixed through a solve.
    """
    x, log_p = state
    field, cond, probes = args
    if probes is None:
        f, trace = exact_trace(field, t, x, cond)
    else:
        f, trace = probe_traces(field, t, x, probes, cond)
        trace = trace if log_p.ndim else jnp.mean(trace)
    return f, -trace.astype(log_p.dtype)


def transport(
    field: Any,
    x: Float[Array, "batch *event"],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None = None,
    *,
    ode: ODE,
    save_at: Any = None,
) -> tuple[Float[Array, "..."], Stats]:
    """Where points at time `t0` are at `t1`, each row by steps of its own.

    With `save_at` at each of its times: each is hit exactly, and counts have a leading axis.
    """
    if save_at is None:
        return odeint_many(_point, x, t0, t1, field, (cond,), ode=ode)
    times = check_save_at(save_at, t0, t1, x.dtype)
    ode = with_num_steps(ode, t0, t1, times)

    def segment(carry: tuple[Array, Array], tb: Array) -> tuple[Any, Any]:
        x, ta = carry
        x, stats = odeint_many(_point, x, ta, tb, field, (cond,), ode=ode)
        return (x, tb), (x, stats)

    return lax.scan(segment, (x, jnp.asarray(t0, x.dtype)), jnp.asarray(times))[1]


def transport_density(
    field: Any,
    x: Float[Array, "batch *event"],
    log_p: Float[Array, "batch ..."],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None = None,
    probes: Float[Array, "batch k *event"] | None = None,
    *,
    ode: ODE,
    each: bool = False,
) -> tuple[tuple[Float[Array, "batch *event"], Float[Array, "batch ..."]], Stats]:
    """Points at `t1` and their log-densities there, from those at `t0`.

    `log_p` is (batch,), or (batch, k) to carry one for each probe. With `each` a row has steps
    of its own, else all rows share one solve.
    """
    field = field if probes is not None else prepare(field)
    solve = odeint_many if each else odeint_together
    return solve(_density, (x, log_p), t0, t1, field, (cond, probes), ode=ode)


def transport_density_twice(
    field: Any,
    x: Float[Array, "batch *event"],
    log_p: Float[Array, "batch ..."],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None = None,
    probes: Float[Array, "batch k *event"] | None = None,
    *,
    ode: ODE,
) -> tuple[Twice, Stats]:
    """`transport_density` of each row by steps of its own, and again by finer ones."""
    field = field if probes is not None else prepare(field)
    start, end = (jnp.broadcast_to(jnp.asarray(t, x.dtype), len(x)) for t in (t0, t1))
    return solve_twice(_density, (x, log_p), start, end, field, (cond, probes), ode=ode)


def transport_products(
    field: Any,
    x: Float[Array, "batch *event"],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None,
    vectors: Float[Array, "batch k *event"],
    *,
    ode: ODE,
    each: bool,
) -> tuple[tuple[Float[Array, "batch *event"], Float[Array, "batch k *event"]], Stats]:
    """Points at `t1`, and the Jacobian integrated from `t0` to `t1` times each vector."""
    start = x, jnp.zeros(vectors.shape, vectors.dtype)
    solve = odeint_many if each else odeint_together
    return solve(_products, start, t0, t1, field, (cond, vectors), ode=ode)


# One row; without conditions and probes the solver passes no row at all.


def _point(t: Array, x: Array, field: Any, row: Any = (None,)) -> Array:
    return evaluate(field, t, x, row[0])


def _density(t: Array, state: Any, field: Any, row: Any = (None, None)) -> Any:
    return augmented_dynamics(t, state, (field, *row))


def _products(t: Array, state: Any, field: Any, row: Any) -> Any:
    cond, vectors = row
    return products(field, t, state[0], vectors, cond)
