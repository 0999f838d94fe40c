"""The two loops over steps, fixed and adaptive; they know nothing of gradients.

Both run in normalised time: `s` goes from 0 to 1 and `t = (1 - s) t0 + s t1`. So a solve backwards
in time is no special case, `t1` is hit exactly, `t0 == t1` returns `y0` unchanged, and gradients
in `t0` and `t1` follow from the chain rule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxflow.ode.controller import error_norm, first_step, next_step
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, Status, all_finite
from jaxflow.ode.step import RightSide, State, rk_step
from jaxflow.runtime.precision import widest_dtype

VectorField = Callable[[Float[Array, ""], State, Any], State]


def lerp(t0: Float[Array, ""], t1: Float[Array, ""], s: Float[Array, ""]) -> Float[Array, ""]:
    """The time `t` at normalised time `s`: exactly `t0` at 0 and `t1` at 1."""
    return (1.0 - s) * t0 + s * t1


def normalise(
    f: Callable[[Float[Array, ""], State], tuple[State, State]],
    t0: Float[Array, ""],
    t1: Float[Array, ""],
) -> RightSide:
    """The right side in normalised time, `d/ds = (t1 - t0) d/dt`."""

    def g(s: Float[Array, ""], y: State) -> tuple[State, State]:
        return jax.tree.map(lambda k: (t1 - t0).astype(k.dtype) * k, f(lerp(t0, t1, s), y))

    return g


def right_side(f: VectorField, t0: Float[Array, ""], t1: Float[Array, ""], args: Any) -> RightSide:
    """`f(t, y, args)` in normalised time, without a quadrature."""
    return normalise(lambda t, y: (f(t, y, args), None), t0, t1)


def add(q: State, dq: State) -> State:
    """`q + dq`, leaf by leaf."""
    return jax.tree.map(lambda q, dq: q + dq, q, dq)


def integrate(
    g: RightSide, y0: State, q0: State, ode: ODE, *, remember: bool
) -> tuple[State, State, Stats]:
    """The state and quadrature at `s = 1`, by fixed or adaptive steps; arguments as below."""
    if ode.adaptive:
        return adaptive(g, y0, q0, ode)[:3]
    return fixed(g, y0, q0, ode, remember=remember)


def fixed(
    g: RightSide, y0: State, q0: State, ode: ODE, *, remember: bool
) -> tuple[State, State, Stats]:
    """Equal steps; unless `remember`, reverse mode recomputes each step's stages."""
    num_steps, dtype = ode.num_steps, widest_dtype(y0)
    assert num_steps is not None  # `with_num_steps` has replaced `dt`
    # An array, which XLA does not fold: h is exactly 1 / num_steps in every dtype.
    h = jnp.asarray(1.0 / num_steps, dtype)

    def body(carry: tuple[State, State], i: Int[Array, ""]) -> tuple[Any, None]:
        y, q = carry
        step = rk_step(ode.tableau, g, i.astype(dtype) / num_steps, h, y, with_error=False)
        return (step.y, add(q, step.dq)), None

    if not remember:
        body = jax.checkpoint(body, prevent_cse=False)
    (y1, q1), _ = lax.scan(body, (y0, q0), jnp.arange(num_steps))
    stats = Stats(
        num_evals=jnp.asarray(num_steps * ode.tableau.evals_per_step),
        num_accepted=jnp.asarray(num_steps),
        num_rejected=jnp.asarray(0),
        status=jnp.where(all_finite((y1, q1)), int(Status.SUCCESS), int(Status.NON_FINITE)),
        t=jnp.ones((), dtype),
    )
    return y1, q1, stats


class Loop(NamedTuple):
    """State of an adaptive solve between two attempts.

    Attributes:
        s: normalised time.
        h: size of the next step.
        y: state.
        q: quadrature.
        first: right side at `(s, y)` if the method is first-same-as-last, else None.
        previous: error norm of the last accepted step.
        accepted: number of accepted steps.
        rejected: number of rejected steps.
        status: a `Status`.
        record: anything the caller stores along the way.
    """

    s: Float[Array, ""]
    h: Float[Array, ""]
    y: State
    q: State
    first: tuple[State, State] | None
    previous: Float[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    status: Int[Array, ""]
    record: Any


def adaptive(
    g: RightSide,
    y0: State,
    q0: State,
    ode: ODE,
    *,
    record: Any = None,
    write: Callable[[Any, Loop], Any] | None = None,
) -> tuple[State, State, Stats, Any]:
    """Steps chosen by the embedded error and a PI controller, until `s = 1` or a failure.

    `g` is in normalised time; the error norm ignores the quadrature `q0`. `write(record, loop)`
    returns the new record. It is called before every attempt, and again with the same
    `loop.accepted` after a rejected one.
    """

    def body(loop: Loop) -> Loop:
        if write is not None:
            loop = loop._replace(record=write(loop.record, loop))
        return attempt(g, loop, ode)

    start = begin(g, y0, q0, ode)._replace(record=record)
    end = lax.while_loop(lambda loop: unfinished(loop, ode), body, start)
    return end.y, end.q, counts(end, ode), end.record


def begin(g: RightSide, y0: State, q0: State, ode: ODE) -> Loop:
    """An adaptive solve before its first attempt; two evaluations choose its first step."""
    zero = jnp.zeros((), widest_dtype(y0))
    first = g(zero, y0)
    # Step sizes are constants for differentiation: gradients are those of the steps taken.
    h0 = lax.stop_gradient(first_step(g, zero, y0, first[0], ode))
    return at_start(h0, y0, q0, first if ode.tableau.fsal else None)


def at_start(h0: Array, y0: State, q0: State, first: tuple[State, State] | None) -> Loop:
    """An adaptive solve before its first attempt, which has the step `h0`."""
    zero, count = jnp.zeros_like(h0), jnp.zeros((), int)
    return Loop(zero, h0, y0, q0, first, jnp.ones_like(h0), count, count, count, None)


def unfinished(loop: Loop, ode: ODE) -> Bool[Array, ""]:
    """Whether the solve needs another attempt and is allowed one."""
    attempts = loop.accepted + loop.rejected
    return (loop.status == Status.SUCCESS) & (loop.s < 1.0) & (attempts < ode.max_steps)


def attempt(g: RightSide, loop: Loop, ode: ODE) -> Loop:
    """One step, accepted or rejected."""
    dtype = loop.s.dtype
    one = jnp.ones((), dtype)
    rest = one - loop.s
    # A step that would leave a sliver of the interval is stretched over it.
    final = loop.h >= 0.99 * rest
    h = jnp.where(final, rest, loop.h)
    step = rk_step(ode.tableau, g, loop.s, h, loop.y, loop.first, with_error=True)
    error = lax.stop_gradient(error_norm(step.error, loop.y, step.y, ode)).astype(dtype)
    new_h, accept = next_step(h, error, loop.previous, ode)
    # The smallest step that still moves s.
    stuck = ~accept & (new_h < 4.0 * float(jnp.finfo(dtype).eps))
    failure = jnp.where(jnp.isfinite(error), Status.STEP_TOO_SMALL, Status.NON_FINITE)

    def choose(new: State, old: State) -> State:
        return jax.tree.map(lambda new, old: jnp.where(accept, new, old), new, old)

    return Loop(
        s=jnp.where(accept, jnp.where(final, one, loop.s + h), loop.s),
        h=new_h,
        y=choose(step.y, loop.y),
        q=choose(add(loop.q, step.dq), loop.q),
        first=choose(step.last, loop.first) if ode.tableau.fsal else None,
        previous=jnp.where(accept, jnp.maximum(error, 1e-4), loop.previous),
        accepted=loop.accepted + accept.astype(int),
        rejected=loop.rejected + (~accept).astype(int),
        status=jnp.where(stuck, failure, loop.status),
        record=loop.record,
    )


def counts(loop: Loop, ode: ODE) -> Stats:
    """The counts of a finished solve, its time still normalised."""
    short = (loop.status == Status.SUCCESS) & (loop.s < 1.0)
    return Stats(
        num_evals=2 + ode.tableau.evals_per_step * (loop.accepted + loop.rejected),
        num_accepted=loop.accepted,
        num_rejected=loop.rejected,
        status=jnp.where(short, int(Status.MAX_STEPS), loop.status),
        t=loop.s,
    )
