"""Refuse what a custom gradient would drop without a word: values that `f` closes over."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.core import Tracer


def refuse_closed_over_tracers(f: Callable[..., Any], *arguments: Any) -> None:
    """Raise if `f` uses a traced value that is not among its arguments.

    A hand-written gradient is computed for the arguments alone, so a parameter that `f` picks
    up from its surroundings would get the gradient 0.

    Raises:
        ValueError: naming the shape of the first such value.
    """
    dynamic, static = eqx.partition(arguments, eqx.is_array)
    jaxpr = jax.make_jaxpr(lambda dynamic: f(*eqx.combine(dynamic, static)))(dynamic)
    traced = [const for const in jaxpr.consts if isinstance(const, Tracer)]
    if traced:
        raise ValueError(
            f"f closes over a traced value of shape {traced[0].shape} and dtype "
            f"{traced[0].dtype}, whose gradient would be lost: pass it in args and write f as "
            "f(t, y, args), or use ODE(num_steps=..., gradient='direct')"
        )
