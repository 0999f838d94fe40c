"""Solve many rows by the same steps."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.ode.checks import Time
from jaxflow.ode.odeint import odeint
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, Status, raise_if_failed
from jaxflow.ode.step import State
from jaxflow.runtime.mesh import shard_map_rows


def odeint_together(
    f: Callable[..., State], y0: State, t0: Time, t1: Time, args: Any, row_args: Any, *, ode: ODE
) -> tuple[State, Stats]:
    """Solve `dy/dt = f(t, y, args, row_args)` for many rows, all by the same steps.

    Adaptive steps are as small as the worst row needs. With fixed steps on a mesh, each device
    solves its own rows, and the gradient in `args` is summed among devices once a solve instead
    of once a stage.

    Args:
        f: the field of one row.
        y0: initial states, rows along the leading axis of each leaf.
        t0: initial time.
        t1: final time.
        args: any pytree, shared by all rows.
        row_args: any pytree of arrays, rows along the leading axis.
        ode: settings.

    Returns:
        The states at `t1`, and the counts of one solve.

    Raises:
        SolveError: the solve failed and `ode.throw` is set.

    Example:
        ```python
        import jax.numpy as jnp
        from jaxflow import ODE
        from jaxflow.ode import odeint_together

        rates = jnp.linspace(0.1, 1.0, 5)
        y0 = jnp.ones((5, 2))
        y1, stats = odeint_together(
            lambda t, y, args, rate: -rate * y, y0, 0.0, 2.0, None, rates, ode=ODE()
        )
        ```
    """

    def batch(t: Array, y: State, args: Any) -> State:
        return jax.vmap(f, in_axes=(None, 0, None, 0))(t, y, *args)

    if ode.adaptive or ode.by_diffrax:
        return odeint(batch, y0, t0, t1, (args, row_args), ode=ode)

    def part(rows: Any, shared: Any) -> tuple[State, Stats]:
        y0, row_args = rows
        args, t0, t1 = shared
        y1, stats = odeint(batch, y0, t0, t1, (args, row_args), ode=replace(ode, throw=False))
        num = len(jax.tree.leaves(y0)[0])
        return y1, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, num), stats)

    y1, each = shard_map_rows(part, (y0, row_args), (args, t0, t1), gather=False)
    worst = jnp.argmax(each.status != Status.SUCCESS)
    stats = jax.tree.map(lambda leaf: leaf[worst], each)
    return (raise_if_failed(y1, stats, partial=ode.partial) if ode.throw else y1), stats
