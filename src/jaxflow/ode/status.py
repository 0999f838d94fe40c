"""The outcome of a solve: its counts, its status, and the error raised if it failed."""

from enum import IntEnum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree


class Status(IntEnum):
    """How a solve ended.

    Attributes:
        SUCCESS: it reached `t1`.
        MAX_STEPS: it took `max_steps` steps before it reached `t1`.
        STEP_TOO_SMALL: the step size fell to the rounding limit.
        NON_FINITE: the state or `f` became NaN or infinite.
        DRIFTED: the backward solve of the adjoint did not return to the initial state.
        INACCURATE: a log-density missed its target accuracy in nats.
        NO_DENSITY: the base's `log_prob` is NaN at the end of the trajectory.
        OUTSIDE: the row lies outside the flow's support, so its log-density is -inf. This is
            not a failure.

    Example:
        ```python
        from jaxflow import ODE, Status, odeint

        ode = ODE(max_steps=3, throw=False)
        y1, stats = odeint(lambda t, y, args: -y, 1.0, 0.0, 50.0, ode=ode)
        assert stats.status == Status.MAX_STEPS
        ```
    """

    SUCCESS = 0
    MAX_STEPS = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3
    DRIFTED = 4
    INACCURATE = 5
    NO_DENSITY = 6
    OUTSIDE = 7


MESSAGES = {
    Status.SUCCESS: "the solve succeeded",
    Status.MAX_STEPS: (
        "max_steps was reached before t1: the ODE is stiff or the tolerance too tight; "
        "raise max_steps, loosen rtol and atol, or solve in float64"
    ),
    Status.STEP_TOO_SMALL: (
        "the step size fell to the rounding limit: the solution is singular or f is "
        "discontinuous there; check f at that time, loosen rtol and atol, or solve in float64"
    ),
    Status.NON_FINITE: (
        "the state or f became NaN or infinite; check y0, args and f at that time, or take "
        "smaller steps"
    ),
    Status.DRIFTED: (
        "the backward solve did not come back to the initial state, so its gradient would be "
        "wrong: the field contracts too fast to be solved backwards; write "
        "ODE(gradient=Adjoint(checkpoints=8)), tighten the tolerance of `backward`, or use "
        "gradient='checkpointed'"
    ),
    Status.INACCURATE: (
        "the target accuracy is out of reach in this precision or in max_steps; solve in "
        'float64, jax.config.update("jax_enable_x64", True), or loosen the target'
    ),
    Status.NO_DENSITY: (
        "the base's log_prob is NaN at the end of the trajectory: evaluate base.log_prob there; a "
        "fitted flow as base fails wherever its own log_prob does"
    ),
    Status.OUTSIDE: "the row lies outside the support of the flow: its log-density is -inf",
}


class SolveError(RuntimeError):
    """Raised when a solve fails; the message says how, at what time, and what to try.

    Example:
        ```python
        from jaxflow import SolveError, odeint

        try:
            odeint(lambda t, y, args: y**2, 1.0, 0.0, 2.0)
        except SolveError as error:
            print(error)
        ```
    """


class Stats(eqx.Module):
    """Counts of one solve, or of many with one entry for each.

    Attributes:
        num_evals: evaluations of `f`.
        num_accepted: accepted steps.
        num_rejected: rejected steps.
        status: a `Status`.
        t: the time that the solve reached; `t1` if it succeeded.
        rounding: estimated rounding error, like the state; None unless `odeint_many` measured it.

    Example:
        ```python
        from jaxflow import odeint

        y1, stats = odeint(lambda t, y, args: -y, 1.0, 0.0, 2.0)
        print(int(stats.num_evals), float(stats.t))
        ```
    """

    num_evals: Int[Array, "*many"]
    num_accepted: Int[Array, "*many"]
    num_rejected: Int[Array, "*many"]
    status: Int[Array, "*many"]
    t: Float[Array, "*many"]
    rounding: Any = None

    def then(self, later: "Stats") -> "Stats":
        """Counts of this solve and a later one; status and time of the first that failed."""
        return jax.tree.map(lambda *both: jnp.stack(both), self, later).in_turn()

    def in_turn(self) -> "Stats":
        """Total counts of consecutive solves along the leading axis.

        Status and time are those of the first solve that failed, or else of the last one.
        """
        wrong = self.status != Status.SUCCESS
        at = jnp.where(jnp.any(wrong, axis=0), jnp.argmax(wrong, axis=0), len(wrong) - 1)

        def pick(leaf: Array) -> Array:
            return jnp.take_along_axis(leaf, at[None], axis=0)[0]

        return Stats(
            jnp.sum(self.num_evals, axis=0),
            jnp.sum(self.num_accepted, axis=0),
            jnp.sum(self.num_rejected, axis=0),
            pick(self.status),
            pick(self.t),
        )


def failed(status: Int[Array, "*many"], *, partial: bool = False) -> Bool[Array, "*many"]:
    """Whether a solve has no result; with `partial`, running out of steps leaves one."""
    wrong = (status != Status.SUCCESS) & (status != Status.OUTSIDE)
    return wrong & (status != Status.MAX_STEPS) if partial else wrong


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all entries of all arrays are finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def poison(tree: PyTree[Array], status: Int[Array, ""], *, partial: bool = False) -> PyTree[Array]:
    """The tree, with NaN in every leaf and every gradient through it if the solve failed."""
    factor = jnp.where(failed(status, partial=partial), jnp.nan, 1.0)
    return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), tree)


def raise_if_failed(
    tree: Any, stats: Stats, name: str = "odeint", *, partial: bool = False
) -> Any:
    """The tree itself, or `SolveError` if a solve failed.

    Outside a jax transformation the error names the time. Inside one it names the status alone.
    """
    wrong = failed(stats.status, partial=partial)
    if not isinstance(wrong, Tracer):
        wrong = np.asarray(wrong)
        if wrong.any():
            first = np.unravel_index(np.argmax(wrong), wrong.shape)
            status, time = Status(int(stats.status[first])), float(stats.t[first])
            where = f" in row {first[-1]}" if wrong.ndim else ""
            where += f" (and {wrong.sum() - 1} more)" if wrong.sum() > 1 else ""
            raise SolveError(f"{name} failed{where} at t = {time:.6g}: {MESSAGES[status]}")
        return tree
    messages = [f"{name} failed: {MESSAGES[status]}" for status in Status]
    worst = jnp.max(jnp.where(wrong, stats.status, int(Status.SUCCESS)))
    return eqx.branched_error_if(tree, worst != Status.SUCCESS, worst, messages)
