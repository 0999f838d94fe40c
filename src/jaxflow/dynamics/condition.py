"""Encode conditions before a network sees them, for example in standard units."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxflow.dynamics.wrapper import AbstractWrapper, Run
from jaxflow.runtime.checks import constant_columns
from jaxflow.runtime.shapes import ArrayInput


class ConditionScaling(eqx.Module):
    """`(cond - mean) / scale`: conditions of order one, whatever their units.

    Mean and scale describe the data: they are not trained (`jaxflow.trainable`).

    ```python
    import jax.numpy as jnp
    from jaxflow.dynamics import ConditionScaling

    scaling = ConditionScaling.fit(jnp.asarray([[1e4, 0.1], [3e4, 0.2], [2e4, 0.3]]))
    scaled = scaling(jnp.asarray([2e4, 0.2]))  # (0, 0)
    ```
    """

    mean: Float[Array, " entries"]
    scale: Float[Array, " entries"]

    def __init__(self, mean: ArrayInput, scale: ArrayInput) -> None:
        """Make a scaling from its parameters.

        Args:
            mean: mean of each entry, (entries,).
            scale: standard deviation of each entry, (entries,).

        Raises:
            ValueError: the lengths differ, or a scale is not positive.
        """
        mean, scale = jnp.asarray(mean), jnp.asarray(scale)
        is_positive = isinstance(scale, Tracer) or bool(jnp.all(scale > 0))
        if mean.ndim != 1 or mean.shape != scale.shape or not is_positive:
            raise ValueError(
                f"mean={mean} and scale={scale} must be of one length, and every scale positive"
            )
        self.mean, self.scale = (part.astype(jnp.result_type(part, 0.0)) for part in (mean, scale))

    @classmethod
    def fit(cls, cond: ArrayInput) -> "ConditionScaling":
        """Estimate mean and standard deviation, in float64.

        Args:
            cond: conditions, (rows, *condition).

        Returns:
            The scaling, stored in the dtype of `cond`. An entry that is constant to the rounding
            of this dtype has scale 1.
        """
        dtype = jnp.result_type(jnp.asarray(cond), 0.0)
        values = np.asarray(cond, np.float64)
        values = values.reshape(len(values), -1)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        scale = np.where(constant_columns(values, float(jnp.finfo(dtype).eps)), 1.0, scale)
        return cls(jnp.asarray(mean, dtype), jnp.asarray(scale, dtype))

    @classmethod
    def upgrade_fields(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of this version, from those of a file: 0.1 stored tuples of numbers."""
        return {
            name: jnp.asarray(value, float) if isinstance(value, tuple) else value
            for name, value in fields.items()
        }

    def __call__(self, cond: Array | None) -> Array:
        """Standardise one condition.

        Args:
            cond: a condition of any shape.

        Returns:
            `(cond - mean) / scale`, of the same shape.

        Raises:
            ValueError: `cond` is None or has another number of entries.
        """
        if cond is None or cond.size != self.mean.size:
            shape = None if cond is None else cond.shape
            raise ValueError(
                f"cond has shape {shape}; this flow was made for conditions of "
                f"{self.mean.size} entries"
            )
        mean, scale = (
            part.astype(cond.dtype).reshape(cond.shape) for part in (self.mean, self.scale)
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

    Attributes:
        field: a field or function `f(t, x, cond)`.
        scaling: maps conditions to standard units.

    Raises:
        TypeError: `field` is not callable.
    """

    field: Any
    scaling: ConditionScaling

    def apply(self, run: Run, t: Array, x: Array, cond: Array | None = None) -> Any:
        """The field's value (and trace) at the standardised condition."""
        return run(self.field, t, x, self.scaling(cond))


class EncodedCondition(AbstractWrapper):
    """`f(t, x, encoder(cond))`: a field that sees encoded conditions.

    If this is the outermost field of a flow, each row's condition is encoded once a solve, not at
    each evaluation.

    ```python
    import jax
    from jaxflow.dynamics import MLP, EncodedCondition

    network = MLP(2, cond_dim=4, key=jax.random.key(0))
    field = EncodedCondition(network, lambda series: series.reshape(4, 25).mean(axis=1))
    ```

    Attributes:
        field: a field or function `f(t, x, cond)`.
        encoder: a function or module that maps one condition to the one that `field` sees.

    Raises:
        TypeError: `field` or `encoder` is not callable.
    """

    field: Any
    encoder: Any

    def __check_init__(self) -> None:
        if not callable(self.encoder):
            raise TypeError(f"encoder={self.encoder!r} must be a function of one condition")

    def encode(self, cond: Array | None) -> Array:
        """Encode one condition.

        Raises:
            ValueError: `cond` is None.
        """
        if cond is None:
            raise ValueError("cond is None; this flow needs conditions: give cond=...")
        return self.encoder(cond)

    def apply(self, run: Run, t: Array, x: Array, cond: Array | None = None) -> Any:
        """The field's value (and trace) at the encoded condition."""
        return run(self.field, t, x, self.encode(cond))
