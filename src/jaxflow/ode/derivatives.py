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

_REVERSE = (
    "reverse-mode derivatives (jax.grad) of an adaptive solve by its own operations are not "
    "defined: leave out gradient=Direct(), or fix the steps, ODE(gradient=Direct(), num_steps=...)"
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
    """The tree; raises TypeError where a second reverse mode passes through it."""
    return _no_reverse_mode(tree, _TWICE)


def forward_only(tree: Any) -> Any:
    """The tree of an adaptive solve by `Direct`; raises TypeError where reverse mode passes it."""
    return _no_reverse_mode(tree, _REVERSE)


def _no_reverse_mode(tree: Any, words: str) -> Any:
    return jax.tree.map(
        lambda leaf: _refused.bind(leaf, words=words) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def _refuse(*_: Any, words: str) -> Any:
    raise TypeError(words)


# The identity, linear, with a transpose that raises.
_refused = Primitive("jaxflow_no_reverse_mode")
_refused.def_impl(lambda x, words: x)
_refused.def_abstract_eval(lambda x, words: x)
ad.deflinear2(_refused, _refuse)
batching.primitive_batchers[_refused] = lambda args, axes, words: (
    _refused.bind(*args, words=words),
    *axes,
)
mlir.register_lowering(_refused, lambda _, x, words: [x])
