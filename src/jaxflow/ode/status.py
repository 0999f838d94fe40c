"""What became of a solve: counts, a status, and the error that a failure raises."""

from enum import IntEnum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree


class Status(IntEnum):
    """How a solve ended."""

    SUCCESS = 0
    MAX_STEPS = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3
    DRIFTED = 4
    INACCURATE = 5
    NO_DENSITY = 6


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
        "the backward solve did not come back to where the forward one began, so its gradient "
        "would be wrong: the field contracts too fast to be followed back; write "
        "ODE(gradient='adjoint', checkpoints=8), tighten the tolerance of `backward`, or use "
        "gradient='checkpointed'"
    ),
    Status.INACCURATE: (
        "the tolerance asked for is out of reach in this precision or in max_steps; solve in "
        'float64, jax.config.update("jax_enable_x64", True), or ask for less'
    ),
    Status.NO_DENSITY: (
        "the base's log_prob is NaN where the trajectory ends: evaluate base.log_prob there; a "
        "fitted flow as base fails where its own log_prob does"
    ),
}


class SolveError(RuntimeError):
    """A solve failed; the message says how, at what time, and what to try."""


class Stats(eqx.Module):
    """Counts of one solve.

    Attributes:
        num_evals: evaluations of `f`.
        num_accepted: accepted steps.
        num_rejected: rejected steps.
        status: a `Status`.
        t: the time that was reached; `t1` where the solve succeeded.
    """

    num_evals: Int[Array, "*many"]
    num_accepted: Int[Array, "*many"]
    num_rejected: Int[Array, "*many"]
    status: Int[Array, "*many"]
    t: Float[Array, "*many"]

    def then(self, later: "Stats") -> "Stats":
        """Counts of this solve and a later one; the status and time of the first that failed."""
        failed = self.status != Status.SUCCESS
        return Stats(
            self.num_evals + later.num_evals,
            self.num_accepted + later.num_accepted,
            self.num_rejected + later.num_rejected,
            jnp.where(failed, self.status, later.status),
            jnp.where(failed, self.t, later.t),
        )

    def in_turn(self) -> "Stats":
        """Counts of solves that followed one another along the leading axis, as of one."""
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
    """Where a solve has no result; with `partial` one that ran out of steps has."""
    wrong = status != Status.SUCCESS
    return wrong & (status != Status.MAX_STEPS) if partial else wrong


def poison(tree: PyTree[Array], status: Int[Array, ""], *, partial: bool = False) -> PyTree[Array]:
    """NaN in every leaf, and in every gradient through it, where the solve failed."""
    factor = jnp.where(failed(status, partial=partial), jnp.nan, 1.0)
    return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), tree)


def raise_if_failed(
    tree: Any, stats: Stats, what: str = "odeint", *, partial: bool = False
) -> Any:
    """The tree itself, or `SolveError` where the solve failed.

    Outside a jax transformation the error names the time reached. Under one the time is not
    known on the host, so the error raised at run time names the status alone.
    """
    wrong = failed(stats.status, partial=partial)
    if not isinstance(wrong, Tracer):
        wrong = np.asarray(wrong)
        if wrong.any():
            first = np.unravel_index(np.argmax(wrong), wrong.shape)
            status, time = Status(int(stats.status[first])), float(stats.t[first])
            where = f" in row {first[-1]}" if wrong.ndim else ""
            where += f" (and {wrong.sum() - 1} more)" if wrong.sum() > 1 else ""
            raise SolveError(f"{what} failed{where} at t = {time:.6g}: {MESSAGES[status]}")
        return tree
    messages = [f"{what} failed: {MESSAGES[status]}" for status in Status]
    worst = jnp.max(jnp.where(wrong, stats.status, int(Status.SUCCESS)))
    return eqx.branched_error_if(tree, worst != Status.SUCCESS, worst, messages)
