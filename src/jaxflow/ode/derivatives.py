"""Derivatives that a gradient written by hand does not have, refused by name.

A solve with a hand-written reverse mode has its own gradient, and the forward derivative of that
gradient (`jax.hessian`, `jax.jacfwd(jax.grad(f))`). Forward mode alone, and reverse mode twice,
would end in errors of jax that name neither the solve nor a way out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from equinox.internal import nondifferentiable_backward

_FORWARD = (
    "forward-mode derivatives (jax.jvp, jax.jacfwd) of this solve are not defined, since its "
    "gradient is one of reverse mode: write ODE(gradient=Direct()), for a flow "
    "ode_eval=ODE(gradient=Direct()), or take jax.grad first, as jax.hessian does"
)
_TWICE = (
    "reverse-mode derivatives of the gradient of this solve (jax.grad of jax.grad) are not "
    "defined: write jax.jacfwd(jax.grad(f)) or jax.hessian(f), or fix the steps, "
    "ODE(num_steps=...)"
)

_REVERSE = (
    "reverse-mode derivatives (jax.grad) of an adaptive solve by its own operations are not "
    "defined: leave out gradient=Direct(), or fix the steps, ODE(gradient=Direct(), num_steps=...)"
)


_STATED = (
    "reverse-mode derivatives (jax.grad) of log_prob_with_error are not defined, since its steps "
    "are chosen for the error: write log_prob, or in a loss train_log_prob"
)


def name_forward_mode(solve: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """`solve(...)`; jax's refusal of forward mode becomes one that names the call to write."""
    try:
        return solve(*args, **settings)
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(_FORWARD) from error


# The tree; raises RuntimeError where a second reverse mode passes through it.
once = partial(nondifferentiable_backward, msg=_TWICE)
# The tree of an adaptive solve by `Direct`; raises RuntimeError where reverse mode passes it.
forward_only = partial(nondifferentiable_backward, msg=_REVERSE)
# The tree; raises RuntimeError where reverse mode passes a log-density with its error.
value_only = partial(nondifferentiable_backward, msg=_STATED)
