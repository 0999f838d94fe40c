"""Log-density along trajectories: the continuity equation.

If `x(0)` has density `p_0` and `dx/dt = f(t, x)`, the density `p_t` of `x(t)` obeys
`dp/dt + div(p f) = 0`, and along a trajectory

```
d log p_t(x(t)) / dt = -tr(df/dx)
```

(Chen et al. 2018, "Neural Ordinary Differential Equations", arXiv 1806.07366, eq. 8). A discrete
flow pays for `log |det|`, O(d^3); here a trace is enough, O(d^2), or O(d) by probes.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.probes import Change, as_integrals, draw_probes
from jaxflow.dynamics import EncodedCondition
from jaxflow.dynamics.protocol import evaluate
from jaxflow.ode import ODE, Stats, odeint_many, odeint_together
from jaxflow.ode.checks import check_save_at
from jaxflow.ode.derivatives import explain_forward_mode
from jaxflow.ode.odeint import with_num_steps
from jaxflow.runtime.lanes import per_row
from jaxflow.runtime.precision import full_precision
from jaxflow.trace import Estimator, Exact, XTrace, exact_trace, prepare
from jaxflow.trace.hutchinson import probe_traces
from jaxflow.trace.products import products

# `odeint_many` gives each row steps of its own, `odeint_together` all rows the same steps.
Solver = Callable[..., tuple[Any, Stats]]
# Columns of an integrated Jacobian that one solve computes.
CHUNK = 64


def augmented_dynamics(
    t: Float[Array, ""],
    state: tuple[Float[Array, "*event"], Float[Array, "..."]],
    args: tuple[Any, Array | None, Array | None],
) -> tuple[Float[Array, "*event"], Float[Array, "..."]]:
    """Time derivative of a point and its log-density, `d/dt (x, log p) = (f, -tr(df/dx))`.

    ```python
    import jax.numpy as jnp
    from jaxflow import augmented_dynamics, odeint

    field = lambda t, x: -x
    state = jnp.ones(2), jnp.asarray(0.0)
    (x, log_p), _ = odeint(augmented_dynamics, state, 0.0, 1.0, (field, None, None))
    # x = exp(-1), log_p = 2
    ```
    Chen et al. 2018, arXiv 1806.07366, eq. 8; with probes FFJORD's estimate, Grathwohl et al.
    2019, arXiv 1810.01367, eq. 8.

    Args:
        t: time.
        state: `(x, log p)` of one sample, x (*event); log p is (), or (k,) for k probes.
        args: `(field, cond, probes)`. Without probes the trace is exact; probes (*event) or
            (k, *event) give Hutchinson's estimate, one for each entry of log p (or their mean),
            and stay fixed through a solve.

    Returns:
        `(dx/dt, dlog p/dt)`, shaped like the state.
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
    """Move points from time `t0` to `t1`, each row by steps of its own.

    With `save_at` the points at each of these times, along a new leading axis.
    """
    field, cond = _encoded(field, cond)
    if save_at is None:
        return odeint_many(_point, x, t0, t1, field, (cond,), ode=ode)
    times = check_save_at(save_at, t0, t1, x.dtype)
    ode = with_num_steps(ode, t0, t1, times)

    def segment(carry: tuple[Array, Array], tb: Array) -> tuple[Any, Any]:
        x, ta = carry
        x, stats = odeint_many(_point, x, ta, tb, field, (cond,), ode=ode)
        return (x, tb), (x, stats)

    return lax.scan(segment, (x, jnp.asarray(t0, x.dtype)), jnp.asarray(times))[1]


def density_change(
    trace: Exact | Estimator | XTrace,
    field: Any,
    x: Float[Array, "batch *event"],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None,
    key: PRNGKeyArray | None,
    *,
    ode: ODE,
    solver: Solver = odeint_many,
) -> Change:
    """Move points from `t0` to `t1` and integrate the change of their log-density.

    With k probes the divergence of each is integrated separately along one trajectory, so the
    standard error needs no second solve. Returns the points at `t1`; `log p(t1) - log p(t0)`; its
    standard error (0 for an exact trace, None for too few probes); and the counts of the solve.
    `solver` is `odeint_many` or `odeint_together`. A stochastic trace without a key raises
    ValueError.
    """
    if isinstance(trace, XTrace):
        return _xtrace_change(trace, field, x, t0, t1, cond, key, ode=ode, solver=solver)
    grouped = solver is not odeint_together
    start, probes, read = as_integrals(trace, key, x, t0, t1, grouped=grouped)
    (x, integrals), stats = solve_density(solver, field, x, start, t0, t1, cond, probes, ode=ode)
    return x, *read(integrals), stats


def solve_density(
    solver: Solver,
    field: Any,
    x: Float[Array, "batch *event"],
    log_p: Float[Array, "batch ..."],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None,
    probes: Float[Array, "batch k *event"] | None,
    *,
    ode: ODE,
) -> tuple[Any, Stats]:
    """Solve `augmented_dynamics` for rows, `log_p` (batch,) or (batch, k) for k probes."""
    field, cond = _encoded(field, cond, grouped=solver is not odeint_together)
    field = field if probes is not None else prepare(field)
    return solver(_density, (x, log_p), t0, t1, field, (cond, probes), ode=ode)


def _xtrace_change(
    trace: XTrace,
    field: Any,
    x: Array,
    t0: Any,
    t1: Any,
    cond: Array | None,
    key: PRNGKeyArray | None,
    *,
    ode: ODE,
    solver: Solver,
) -> Change:
    """XTrace needs the integrated Jacobian times the probes, then times their images' basis."""
    grouped = solver is not odeint_together
    probes = draw_probes(trace, key, x, grouped=grouped)
    multiply = partial(_times_jacobian, solver, field, x, t0, t1, cond, ode=ode)
    (end, images), first = multiply(probes)
    basis = per_row(trace.basis, images, grouped=grouped)
    (_, basis_images), second = multiply(basis)
    value, error = per_row(trace.estimate, probes, images, basis, basis_images, grouped=grouped)
    return end, -value, error, first.then(second)


@explain_forward_mode()
@eqx.filter_jit
@full_precision
def integrated_jacobian(
    field: Any,
    x: Float[Array, "batch *event"],
    cond: Float[Array, "batch ..."] | None,
    *,
    ode: ODE,
) -> tuple[Float[Array, "..."], Stats]:
    """`int_0^1 df/dx dt` along the trajectories that end in `x` at `t = 1`.

    Shape (batch, *event, *event), entry [..., i, j] the derivative of `f_i` in `x_j`. Columns are
    computed `CHUNK` at a time.
    """
    shape = x.shape[1:]
    size = math.prod(shape)
    chunk = min(CHUNK, size)
    multiply = partial(_times_jacobian, odeint_many, field, x, 1.0, 0.0, cond, ode=ode)

    def columns(start: Array) -> tuple[Array, Stats]:
        basis = jax.nn.one_hot(start + jnp.arange(chunk), size, dtype=x.dtype)
        basis = jnp.broadcast_to(basis.reshape(chunk, *shape), (len(x), chunk, *shape))
        (_, images), stats = multiply(basis)
        return -images, stats

    images, each = lax.map(columns, jnp.arange(0, size, chunk))
    # (chunks, batch, chunk, *event): the first and the third axis number the columns.
    padded = len(images) * chunk
    images = jnp.moveaxis(images, 0, 1).reshape(len(x), padded, *shape)[:, :size]
    images = jnp.moveaxis(images, 1, -1)
    return images.reshape(len(x), *shape, *shape), each.in_turn()


def _times_jacobian(
    solver: Solver,
    field: Any,
    x: Array,
    t0: Any,
    t1: Any,
    cond: Array | None,
    vectors: Float[Array, "batch k *event"],
    *,
    ode: ODE,
) -> tuple[Any, Stats]:
    """Points at `t1`, and the Jacobian integrated from `t0` to `t1` times each vector."""
    field, cond = _encoded(field, cond, grouped=solver is not odeint_together)
    start = x, jnp.zeros(vectors.shape, vectors.dtype)
    return solver(_products, start, t0, t1, field, (cond, vectors), ode=ode)


def _encoded(field: Any, cond: Array | None, *, grouped: bool = True) -> tuple[Any, Array | None]:
    """The inner field, and the conditions of all rows encoded before the solve."""
    if not isinstance(field, EncodedCondition) or cond is None:
        return field, cond
    return field.field, per_row(field.encode, cond, grouped=grouped)


# Right sides for one row. Without conditions and probes the solver passes no row.


def _point(t: Array, x: Array, field: Any, row: Any = (None,)) -> Array:
    return evaluate(field, t, x, row[0])


def _density(t: Array, state: Any, field: Any, row: Any = (None, None)) -> Any:
    return augmented_dynamics(t, state, (field, *row))


def _products(t: Array, state: Any, field: Any, row: Any) -> Any:
    cond, vectors = row
    return products(field, t, state[0], vectors, cond)
