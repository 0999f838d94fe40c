"""Derivatives that a gradient written by hand does not have, refused by name.

A solve with a hand-written reverse mode has its own gradient, and the forward derivative of that
gradient (`jax.hessian`, `jax.jacfwd(jax.grad(f))`). Forward mode alone, and reverse mode twice,
would end in errors of jax that name neither the solve nor a way out.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_FORWARD = (
    "forward-mode derivatives (jax.jvp, jax.jacfwd) of this solve are not defined, since its "
    "gradient is one of reverse mode: write ODE(gradient=Direct()), or take jax.grad first, as "
    "jax.hessian does"
)
_TWICE = (
    "reverse-mode derivatives of the gradient of this solve (jax.grad of jax.grad) are not "
    "defined: write jax.jacfwd(jax.grad(f)) or jax.hessian(f), or fix the steps, "
    "ODE(num_steps=...)"
)


def name_forward_mode(solve: Callable[..., Any], *args: Any) -> Any:
    """`solve(*args)`; jax's refusal of forward mode becomes one that names the call to write."""
    try:
        return solve(*args)
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(_FORWARD) from error


def once(tree: Any) -> Any:
    """The tree; raises TypeError where reverse mode passes through it."""
    return jax.tree.map(
        lambda leaf: _once.bind(leaf) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def _refuse(*_: Any) -> Any:
    raise TypeError(_TWICE)


# The identity, linear, with a transpose that raises.
_once = Primitive("jaxflow_once")
_once.def_impl(lambda x: x)
_once.def_abstract_eval(lambda x: x)
ad.deflinear2(_once, _refuse)
batching.primitive_batchers[_once] = lambda args, axes: (_once.bind(*args), *axes)
mlir.register_lowering(_once, lambda _, x: [x])
