"""The exact gradient of the discrete solve, for steps that the solver chose itself.

The forward solve runs without derivatives and stores the accepted times `s` and every K-th state.
The backward pass recomputes the K states of a stretch from the stored one, then differentiates
each step once (Zhuang et al. 2020, "Adaptive checkpoint adjoint method", arXiv 2006.02493; here
with O(sqrt(max_steps)) states). Step sizes count as constants.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxflow.ode.derivatives import once
from jaxflow.ode.integrate import Loop, VectorField, adaptive, add, fixed, right_side
from jaxflow.ode.parameters import Inputs, lift_closure, split_args
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, poison
from jaxflow.ode.step import State, rk_step


class Record(NamedTuple):
    """The accepted times, and the state at the start of every `stride`-th step."""

    s: Float[Array, " steps"]
    states: State


def solve_checkpointed(
    f: VectorField, y0: State, t0: Array, t1: Array, args: Any, ode: ODE
) -> tuple[State, Stats]:
    """Solve from `t0` to `t1`; reverse mode differentiates the steps that were taken."""
    if not ode.adaptive:
        y1, _, stats = fixed(right_side(f, t0, t1, args), y0, None, ode, remember=False)
        return y1, stats
    f, args = lift_closure(f, t0, y0, args)
    theta, constants, static = split_args(args)
    return _solve(f, static, ode, Inputs(y0, t0, t1, theta, constants))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _solve(f: VectorField, static: Any, ode: ODE, inputs: Inputs) -> tuple[State, Stats]:
    y0, t0, t1, theta, constants = inputs
    g = right_side(f, t0, t1, eqx.combine(theta, constants, static))
    y1, _, stats, _ = adaptive(g, y0, None, ode)
    return y1, stats


def _forward(
    f: VectorField, static: Any, ode: ODE, inputs: Inputs
) -> tuple[tuple[State, Stats], Any]:
    y0, t0, t1, theta, constants = inputs
    stride = _stride(ode)
    slots = -(-ode.max_steps // stride)
    empty = Record(
        jnp.ones(ode.max_steps + 1, t0.dtype),
        jax.tree.map(lambda y: jnp.zeros((slots, *y.shape), y.dtype), y0),
    )

    def write(record: Record, loop: Loop) -> Record:
        slot, offset = loop.accepted // stride, loop.accepted % stride

        def store(states: Array, y: Array) -> Array:
            return states.at[slot].set(jnp.where(offset == 0, y, states[slot]))

        return Record(
            record.s.at[loop.accepted].set(loop.s), jax.tree.map(store, record.states, loop.y)
        )

    g = right_side(f, t0, t1, eqx.combine(theta, constants, static))
    y1, _, stats, record = adaptive(g, y0, None, ode, record=empty, write=write)
    # The end of the last accepted step; the rest of the buffer is never read.
    record = record._replace(s=record.s.at[stats.num_accepted].set(stats.t))
    return once((y1, stats)), (record, stats, inputs)


def _backward(
    f: VectorField, static: Any, ode: ODE, residuals: Any, cotangents: Any
) -> tuple[Inputs]:
    record, stats, (_, t0, t1, theta, constants) = residuals
    stride = _stride(ode)

    def step(i: Int[Array, ""], y: State, t0: Array, t1: Array, theta: Any) -> State:
        g = right_side(f, t0, t1, eqx.combine(theta, constants, static))
        h = record.s[i + 1] - record.s[i]
        return rk_step(ode.tableau, g, record.s[i], h, y, with_error=False).y

    def stretch(carry: Any) -> Any:
        slot, gradients = carry
        start = slot * stride
        length = jnp.minimum(stats.num_accepted - start, stride)
        y = jax.tree.map(lambda states: states[slot], record.states)
        memory = jax.tree.map(lambda y: jnp.zeros((stride, *y.shape), y.dtype), y)

        def recompute(k: Array, carry: Any) -> Any:
            y, memory = carry
            memory = jax.tree.map(lambda states, y: states.at[k].set(y), memory, y)
            return step(start + k, y, t0, t1, theta), memory

        # The last state of the stretch is stored but not stepped from.
        y, memory = lax.fori_loop(0, length - 1, recompute, (y, memory))
        memory = jax.tree.map(lambda states, y: states.at[length - 1].set(y), memory, y)

        def pull_back(k: Array, gradients: Any) -> Any:
            i = length - 1 - k
            a, *others = gradients
            y = jax.tree.map(lambda states: states[i], memory)
            _, vjp = jax.vjp(partial(step, start + i), y, t0, t1, theta)
            a, *more = vjp(a)
            return (a, *add(tuple(others), tuple(more)))

        return slot - 1, lax.fori_loop(0, length, pull_back, gradients)

    zeros = jax.tree.map(jnp.zeros_like, (t0, t1, theta))
    last = (stats.num_accepted - 1) // stride
    start = last, (cotangents[0], *zeros)
    _, gradients = lax.while_loop(lambda carry: carry[0] >= 0, stretch, start)
    # A failed solve may have taken no step; its gradient would be the cotangent itself.
    gradients = poison(gradients, stats.status, partial=ode.partial)
    return (Inputs(*once(gradients), constants=None),)


def _stride(ode: ODE) -> int:
    """Steps between two stored states."""
    return math.isqrt(ode.max_steps - 1) + 1


_solve.defvjp(_forward, _backward)
