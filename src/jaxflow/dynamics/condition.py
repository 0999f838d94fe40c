"""Conditions brought to mean 0 and standard deviation 1 before a network sees them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.dynamics.protocol import check_field, evaluate_with_trace, has_closed_form, prepare


class ConditionScaling(eqx.Module):
    """`(cond - mean) / scale`: numbers of order one, in whatever units the conditions come.

    Attributes:
        mean: of each entry of a condition, flattened; not trained.
        scale: its standard deviation; not trained.
    """

    mean: tuple[float, ...] = eqx.field(static=True)
    scale: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, mean: tuple[float, ...], scale: tuple[float, ...]) -> None:
        """Make a scaling.

        Raises:
            ValueError: lengths that differ, or a scale that is not positive.
        """
        if len(mean) != len(scale) or not all(s > 0 for s in scale):
            raise ValueError(
                f"mean={mean} and scale={scale} must be of one length, and every scale positive"
            )
        self.mean, self.scale = tuple(mean), tuple(scale)

    @classmethod
    def fit(cls, cond: Float[Array, "rows *condition"]) -> "ConditionScaling":
        """Take mean and standard deviation of conditions, in float64; 1 for a constant entry."""
        values = np.asarray(cond, np.float64).reshape(len(cond), -1)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        # What rounding leaves of a constant is no scale.
        constant = scale <= 1e-6 * np.abs(mean)
        scale = np.where(constant, 1.0, scale)
        return cls(tuple(mean.tolist()), tuple(scale.tolist()))

    def __call__(self, cond: Array | None) -> Array:
        """The condition in standard units.

        Raises:
            ValueError: no condition, or one of another size.
        """
        if cond is None or cond.size != len(self.mean):
            shape = None if cond is None else cond.shape
            raise ValueError(
                f"cond has shape {shape}; this flow was made for conditions of "
                f"{len(self.mean)} entries"
            )
        mean, scale = (
            jnp.asarray(part, cond.dtype).reshape(cond.shape) for part in (self.mean, self.scale)
        )
        return (cond - mean) / scale


class StandardisedCondition(eqx.Module):
    """`f(t, x, scaling(cond))`, trace as the field's.

    Attributes:
        field: a field or a function `f(t, x, cond)`.
        scaling: what brings conditions to standard units.
    """

    field: Any
    scaling: ConditionScaling

    def __init__(self, field: Any, scaling: ConditionScaling) -> None:
        """Make a field for conditions of such a mean and scale.

        Raises:
            TypeError: a field that is not callable.
        """
        check_field(field, "field")
        self.field, self.scaling = field, scaling

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`dx/dt` at one point."""
        return self.field(t, x, self.scaling(cond))

    def prepare(self) -> "StandardisedCondition":
        """With the field prepared."""
        return StandardisedCondition(prepare(self.field), self.scaling)

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond) -> (f, tr(df/dx))`; None if the field has no closed form."""
        return self._with_trace if has_closed_form(self.field) else None

    def _with_trace(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Array, Array]:
        return evaluate_with_trace(self.field, t, x, self.scaling(cond))
