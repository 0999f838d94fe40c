"""Standardise conditions before a network sees them."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxflow.dynamics.protocol import Field, check_field
from jaxflow.dynamics.wrapper import AbstractWrapper, Run
from jaxflow.runtime.shapes import ArrayInput


class ConditionScaling(eqx.Module):
    """`(cond - mean) / scale`: conditions of order one, whatever their units.

    ```python
    import jax.numpy as jnp
    from jaxflow.dynamics import ConditionScaling

    scaling = ConditionScaling.fit(jnp.asarray([[1e4, 0.1], [3e4, 0.2], [2e4, 0.3]]))
    scaled = scaling(jnp.asarray([2e4, 0.2]))  # (0, 0)
    ```
    """

    mean: tuple[float, ...] = eqx.field(static=True)
    scale: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, mean: tuple[float, ...], scale: tuple[float, ...]) -> None:
        """Make a scaling from its parameters.

        Args:
            mean: mean of each entry.
            scale: standard deviation of each entry.

        Raises:
            ValueError: the lengths differ, or a scale is not positive.
        """
        if len(mean) != len(scale) or not all(s > 0 for s in scale):
            raise ValueError(
                f"mean={mean} and scale={scale} must be of one length, and every scale positive"
            )
        self.mean, self.scale = tuple(mean), tuple(scale)

    @classmethod
    def fit(cls, cond: ArrayInput) -> "ConditionScaling":
        """Estimate mean and standard deviation, in float64.

        Args:
            cond: conditions, (rows, *condition).

        Returns:
            The scaling. An entry that is constant to rounding has scale 1.
        """
        values = np.asarray(cond, np.float64)
        values = values.reshape(len(values), -1)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        constant = scale <= 1e-6 * np.abs(mean)
        scale = np.where(constant, 1.0, scale)
        return cls(tuple(mean.tolist()), tuple(scale.tolist()))

    def __call__(self, cond: Array | None) -> Array:
        """Standardise one condition.

        Args:
            cond: a condition of any shape.

        Returns:
            `(cond - mean) / scale`, of the same shape.

        Raises:
            ValueError: `cond` is None or has another number of entries.
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


class StandardisedCondition(AbstractWrapper):
    """`f(t, x, scaling(cond))`: a field that sees standardised conditions.

    ```python
    import jax
    from jaxflow.dynamics import MLP, ConditionScaling, StandardisedCondition

    cond = 1e4 + 1e3 * jax.random.normal(jax.random.key(0), (100, 3))
    network = MLP(2, cond_dim=3, key=jax.random.key(1))
    field = StandardisedCondition(network, ConditionScaling.fit(cond))
    ```
    """

    field: Field
    scaling: ConditionScaling

    def __init__(self, field: Any, scaling: ConditionScaling) -> None:
        """Put a scaling before a field.

        Args:
            field: a field or function `f(t, x, cond)`.
            scaling: maps conditions to standard units.

        Raises:
            TypeError: `field` is not callable.
        """
        check_field(field, "field")
        self.field, self.scaling = field, scaling

    def parts(self) -> tuple[Field, ...]:
        """The inner field."""
        return (self.field,)

    def apply(self, run: Run, t: Array, x: Array, cond: Array | None = None) -> Any:
        """The field's value (and trace) at the standardised condition."""
        return run(self.field, t, x, self.scaling(cond))
