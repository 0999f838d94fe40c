"""The parts of `args` that have a gradient, for gradients written by hand."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax.core import Tracer
from jaxtyping import Array

from jaxflow.ode.integrate import VectorField
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


def check_closure(f: VectorField, t: Array, y: State, args: Any) -> None:
    """Raise if `f` uses a traced value that is not among its arguments.

    A hand-written gradient covers the arguments alone, so a parameter that `f` closes over would
    silently get the gradient 0.

    Raises:
        ValueError: names the shape of the first traced value.
    """
    dynamic, static = eqx.partition((t, y, args), eqx.is_array)
    jaxpr = jax.make_jaxpr(lambda dynamic: f(*eqx.combine(dynamic, static)))(dynamic)
    traced = [const for const in jaxpr.consts if isinstance(const, Tracer)]
    if traced:
        raise ValueError(
            f"f closes over a traced value of shape {traced[0].shape} and dtype "
            f"{traced[0].dtype}, whose gradient would be lost: pass it in args and write f as "
            "f(t, y, args), or use ODE(num_steps=..., gradient='direct')"
        )
