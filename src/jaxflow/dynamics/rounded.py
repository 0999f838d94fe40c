"""A field computed in fewer bits than the states that it moves."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.dynamics.protocol import (
    check_field,
    evaluate,
    evaluate_with_trace,
    has_closed_form,
    prepare,
)

DTYPES = ("bfloat16", "float16", "float32")


class Rounded(eqx.Module):
    """`f` in fewer bits, which accelerators multiply faster.

    Weights stay as they are; at each use they are rounded, as activations are, so that small
    updates are not lost (Micikevicius et al. 2018, "Mixed Precision Training", arXiv 1710.03740).
    States and sums of log-densities keep their own precision. A bfloat16 has 8 significant bits:
    train with it, and state likelihoods of the field itself, `unrounded(flow)`.

    Attributes:
        field: the field, or a function `f(t, x, cond=None)`.
        dtype: `"bfloat16"`, `"float16"` or `"float32"`.

    Raises:
        TypeError: a field that is not callable.
        ValueError: another dtype.
    """

    field: Any
    dtype: str = eqx.field(static=True)

    def __init__(self, field: Any, dtype: str = "bfloat16") -> None:
        check_field(field, "field")
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
        self.field, self.dtype = field, dtype

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`dx/dt` at one point."""
        return evaluate(*self._rounded((self.field, t, x, cond))).astype(x.dtype)

    def prepare(self) -> "Rounded":
        """The field with its own preparation, whose products have full precision."""
        return Rounded(prepare(self.field), self.dtype)

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond=None) -> (f, tr(df/dx))`; None if the field has no closed form."""
        return self._with_trace if has_closed_form(self.field) else None

    def _with_trace(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        f, trace = evaluate_with_trace(*self._rounded((self.field, t, x, cond)))
        return f.astype(x.dtype), trace.astype(x.dtype)

    def _rounded(self, tree: Any) -> Any:
        def cast(leaf: Any) -> Any:
            return leaf.astype(jnp.dtype(self.dtype)) if eqx.is_inexact_array(leaf) else leaf

        return jax.tree.map(cast, tree)


def unrounded(tree: Any) -> Any:
    """A flow, or any tree, with the fields themselves where they are `Rounded`."""

    def is_rounded(leaf: Any) -> bool:
        return isinstance(leaf, Rounded)

    return jax.tree.map(
        lambda leaf: leaf.field if is_rounded(leaf) else leaf, tree, is_leaf=is_rounded
    )
