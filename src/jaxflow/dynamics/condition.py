"""A field whose condition is brought to mean 0 and standard deviation 1 first."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.dynamics.combine import check_field
from jaxflow.dynamics.protocol import evaluate_with_trace, has_closed_form, prepare


class StandardisedCondition(eqx.Module):
    """`f(t, x, (cond - mean) / scale)`, trace as the field's.

    A network sees numbers of order one then, in whatever units the conditions come.

    Attributes:
        field: a field or a function `f(t, x, cond)`.
        mean: of each entry of a condition, flattened; not trained.
        scale: its standard deviation; not trained.
    """

    field: Any
    mean: tuple[float, ...] = eqx.field(static=True)
    scale: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, field: Any, mean: tuple[float, ...], scale: tuple[float, ...]) -> None:
        """Make a field for conditions of such a mean and scale.

        Raises:
            TypeError: a field that is not callable.
            ValueError: lengths that differ, or a scale that is not positive.
        """
        check_field(field, "field")
        if len(mean) != len(scale) or not all(s > 0 for s in scale):
            raise ValueError(
                f"mean={mean} and scale={scale} must be of one length, and every scale positive"
            )
        self.field, self.mean, self.scale = field, tuple(mean), tuple(scale)

    @classmethod
    def fit(cls, field: Any, cond: Float[Array, "rows *condition"]) -> "StandardisedCondition":
        """Take mean and standard deviation of conditions, in float64; 1 for a constant entry."""
        values = np.asarray(cond, np.float64).reshape(len(cond), -1)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        # What rounding leaves of a constant is no scale.
        constant = scale <= 1e-6 * np.abs(mean)
        scale = np.where(constant, 1.0, scale)
        return cls(field, tuple(mean.tolist()), tuple(scale.tolist()))

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`dx/dt` at one point."""
        return self.field(t, x, self.standardise(cond))

    def prepare(self) -> "StandardisedCondition":
        """With the field prepared."""
        return StandardisedCondition(prepare(self.field), self.mean, self.scale)

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond) -> (f, tr(df/dx))`; None if the field has no closed form."""
        return self._with_trace if has_closed_form(self.field) else None

    def _with_trace(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Array, Array]:
        return evaluate_with_trace(self.field, t, x, self.standardise(cond))

    def standardise(self, cond: Array | None) -> Array:
        """The condition as the field sees it.

        Raises:
            ValueError: no condition, or one of another size.
        """
        if cond is None or cond.size != len(self.mean):
            shape = None if cond is None else cond.shape
            raise ValueError(
                f"cond has shape {shape}; this field was made for conditions of "
                f"{len(self.mean)} entries"
            )
        mean, scale = (
            jnp.asarray(part, cond.dtype).reshape(cond.shape) for part in (self.mean, self.scale)
        )
        return (cond - mean) / scale
