"""Errors for the derivatives that a solve does not have, with the call to write instead.

A solve with a hand-written gradient has reverse mode, and the forward derivative of that gradient
(`jax.hessian`, `jax.jacfwd(jax.grad(f))`). It has neither forward mode alone nor reverse mode
twice; jax's own errors name no way out.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

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


@contextlib.contextmanager
def explain_forward_mode() -> Iterator[None]:
    """Turn jax's error for forward mode into one that names the call to write.

    For a `with` block, or as a decorator, `@explain_forward_mode()`.
    """
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(_FORWARD) from error


# Each returns its tree, and raises RuntimeError where reverse mode passes through it: through a
# gradient once more, an adaptive solve by `Direct`, a log-density with its error.
once = partial(nondifferentiable_backward, msg=_TWICE)
forward_only = partial(nondifferentiable_backward, msg=_REVERSE)
value_only = partial(nondifferentiable_backward, msg=_STATED)
