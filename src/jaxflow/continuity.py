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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.dynamics.protocol import evaluate
from jaxflow.ode import ODE, Stats, odeint
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
    """Where points at time `t0` are at `t1`; with `save_at` at each of its times."""
    return odeint(_point_rows, x, t0, t1, (field, cond), ode=ode, save_at=save_at)


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
) -> tuple[tuple[Float[Array, "batch *event"], Float[Array, "batch ..."]], Stats]:
    """Points at `t1` and their log-densities there, from those at `t0`, in one joint solve.

    `log_p` is (batch,), or (batch, k) to carry one for each probe.
    """
    args = (field if probes is not None else prepare(field), cond, probes)
    return odeint(_density_rows, (x, log_p), t0, t1, args, ode=ode)


def transport_products(
    field: Any,
    x: Float[Array, "batch *event"],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None,
    vectors: Float[Array, "batch k *event"],
    *,
    ode: ODE,
) -> tuple[tuple[Float[Array, "batch *event"], Float[Array, "batch k *event"]], Stats]:
    """Points at `t1`, and the Jacobian integrated from `t0` to `t1` times each vector."""
    images = jnp.zeros(vectors.shape, vectors.dtype)
    return odeint(_product_rows, (x, images), t0, t1, (field, cond, vectors), ode=ode)


def _density_rows(t: Array, state: Any, args: Any) -> Any:
    return jax.vmap(augmented_dynamics, in_axes=(None, 0, (None, 0, 0)))(t, state, args)


def _point_rows(t: Array, x: Array, args: Any) -> Array:
    field, cond = args
    return jax.vmap(evaluate, in_axes=(None, None, 0, 0))(field, t, x, cond)


def _product_rows(t: Array, state: Any, args: Any) -> Any:
    field, cond, vectors = args
    return jax.vmap(products, in_axes=(None, None, 0, 0, 0))(field, t, state[0], vectors, cond)
