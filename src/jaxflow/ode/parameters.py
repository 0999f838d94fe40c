"""The parts of `args` that have a gradient, for gradients written by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array

from jaxflow.ode.step import State


class Inputs(NamedTuple):
    """Array inputs of a solve; `split_args` gives `theta` and `constants`."""

    y0: State
    t0: Array
    t1: Array
    theta: Any
    constants: Any


def split_args(args: Any) -> tuple[Any, Any, Any]:
    """`(theta, constants, static)`: differentiable arrays, other arrays, and everything else.

    `eqx.combine` of the three is `args`.
    """
    theta, rest = eqx.partition(args, eqx.is_inexact_array)
    return theta, *eqx.partition(rest, eqx.is_array)


def lift_closure(
    f: Callable[..., State], t: Array, y: State, args: Any, *row: Any
) -> tuple[Callable[..., State], Any]:
    """Make arguments of the traced values that `f(t, y, args, *row)` closes over.

    A hand-written gradient covers the arguments alone, so a parameter that `f` closes over, or a
    function in `args`, would silently get the gradient 0. So `f` is traced once, and its traced
    constants become a second part of `args`. Other constants stay constants. Returns `g` and
    `both` with `g(t, y, both, *row) = f(t, y, args, *row)`; `f` and `args` themselves where
    nothing traced is closed over.
    """
    dynamic, static = eqx.partition((t, y, args, *row), eqx.is_array)
    jaxpr, out = jax.make_jaxpr(
        lambda dynamic: f(*eqx.combine(dynamic, static)), return_shape=True
    )(dynamic)
    traced = [const for const in jaxpr.consts if isinstance(const, Tracer)]
    if not traced:
        return f, args
    rest = [None if isinstance(const, Tracer) else const for const in jaxpr.consts]

    def g(t: Array, y: State, both: Any, *row: Any) -> State:
        args, traced = both
        more = iter(traced)
        consts = [next(more) if const is None else const for const in rest]
        leaves = jax.tree.leaves(eqx.filter((t, y, args, *row), eqx.is_array))
        values = jaxpr_as_fun(ClosedJaxpr(jaxpr.jaxpr, consts))(*leaves)
        return jax.tree.unflatten(jax.tree.structure(out), values)

    return g, (args, traced)
