"""The exact gradient of the discrete solve, for steps that the solver chose itself.

The forward solve runs without derivatives and keeps the accepted steps `(s, h)` and every
K-th state. Going back, each stretch of K states is computed again from the kept one, and each
step is differentiated once (Zhuang et al. 2020, "Adaptive checkpoint adjoint method",
arXiv 2006.02493; here with O(sqrt(max_steps)) states). Step sizes count as constants.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxflow.ode.closure import refuse_closed_over_tracers
from jaxflow.ode.direct import steps
from jaxflow.ode.integrate import Loop, VectorField, adaptive, add, fixed, normalise
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, poison
from jaxflow.ode.step import State, rk_step


class Record(NamedTuple):
    """The accepted steps, and the state at the start of every `stride`-th one."""

    s: Float[Array, " steps"]
    states: State


def solve_checkpointed(
    f: VectorField, y0: State, t0: Array, t1: Array, args: Any, ode: ODE
) -> tuple[State, Stats]:
    """Solve from `t0` to `t1`; reverse mode gives the gradient of the steps that were taken."""
    if not ode.adaptive:
        g = normalise(lambda t, y: (f(t, y, args), None), t0, t1)
        y1, _, stats = fixed(g, y0, None, steps(ode), ode, remember=False)
        return y1, stats

    refuse_closed_over_tracers(f, t0, y0, args)
    theta, rest = eqx.partition(args, eqx.is_inexact_array)
    constants, static = eqx.partition(rest, eqx.is_array)
    stride = math.isqrt(ode.max_steps - 1) + 1
    slots = -(-ode.max_steps // stride)

    def right_side(t0: Array, t1: Array, theta: Any, constants: Any) -> Any:
        combined = eqx.combine(theta, constants, static)
        return normalise(lambda t, y: (f(t, y, combined), None), t0, t1)

    @jax.custom_vjp
    def solve(y0: State, t0: Array, t1: Array, theta: Any, constants: Any) -> tuple[State, Stats]:
        y1, _, stats, _ = adaptive(right_side(t0, t1, theta, constants), y0, None, ode)
        return y1, stats

    def forward(y0: State, t0: Array, t1: Array, theta: Any, constants: Any) -> Any:
        empty = Record(
            jnp.ones(ode.max_steps + 1, t0.dtype),
            jax.tree.map(lambda y: jnp.zeros((slots, *y.shape), y.dtype), y0),
        )

        def write(record: Record, loop: Loop) -> Record:
            slot, offset = loop.accepted // stride, loop.accepted % stride
            return Record(
                record.s.at[loop.accepted].set(loop.s),
                jax.tree.map(
                    lambda kept, y: kept.at[slot].set(jnp.where(offset == 0, y, kept[slot])),
                    record.states,
                    loop.y,
                ),
            )

        g = right_side(t0, t1, theta, constants)
        y1, _, stats, record = adaptive(g, y0, None, ode, record=empty, write=write)
        # The end of the last accepted step; the rest of the buffer is never read.
        record = record._replace(s=record.s.at[stats.num_accepted].set(stats.t))
        return (y1, stats), (record, stats, t0, t1, theta, constants)

    def backward(residuals: Any, cotangents: Any) -> Any:
        record, stats, t0, t1, theta, constants = residuals
        total = stats.num_accepted
        a1, _ = cotangents

        def one_step(i: Array, y: State, t0: Array, t1: Array, theta: Any) -> State:
            g = right_side(t0, t1, theta, constants)
            h = record.s[i + 1] - record.s[i]
            return rk_step(ode.tableau, g, record.s[i], h, y, with_error=False).y

        def stretch(carry: Any) -> Any:
            slot, gradients = carry
            start = slot * stride
            length = jnp.minimum(total - start, stride)
            y = jax.tree.map(lambda kept: kept[slot], record.states)
            memory = jax.tree.map(lambda y: jnp.zeros((stride, *y.shape), y.dtype), y)

            def recompute(k: Array, carry: Any) -> Any:
                y, memory = carry
                memory = jax.tree.map(lambda kept, y: kept.at[k].set(y), memory, y)
                return one_step(start + k, y, t0, t1, theta), memory

            # The last state of the stretch is remembered but not stepped from.
            y, memory = lax.fori_loop(0, length - 1, recompute, (y, memory))
            memory = jax.tree.map(lambda kept, y: kept.at[length - 1].set(y), memory, y)

            def pull_back(k: Array, gradients: Any) -> Any:
                i = length - 1 - k
                a, *others = gradients
                y = jax.tree.map(lambda kept: kept[i], memory)
                _, vjp = jax.vjp(lambda *inputs: one_step(start + i, *inputs), y, t0, t1, theta)
                a, *more = vjp(a)
                return (a, *add(tuple(others), tuple(more)))

            return slot - 1, lax.fori_loop(0, length, pull_back, gradients)

        zeros = jax.tree.map(jnp.zeros_like, (t0, t1, theta))
        last = (total - 1) // stride
        _, gradients = lax.while_loop(lambda carry: carry[0] >= 0, stretch, (last, (a1, *zeros)))
        # A failed solve may not have taken a step: no gradient then comes from the cotangent.
        return (*poison(gradients, stats.status, partial=ode.partial), None)

    solve.defvjp(forward, backward)
    return solve(y0, t0, t1, theta, constants)
