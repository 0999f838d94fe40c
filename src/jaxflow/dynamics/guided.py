"""Classifier-free guidance: a field that exaggerates its condition."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.dynamics.optional import accepts_none
from jaxflow.dynamics.protocol import Field
from jaxflow.dynamics.wrapper import AbstractWrapper, Run
from jaxflow.runtime.precision import widest_dtype
from jaxflow.runtime.shapes import Scalar


class GuidedField(AbstractWrapper):
    """`scale f(t, x, cond) + (1 - scale) f(t, x)`: a field that exaggerates its condition.

    Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv 2207.12598; for velocities
    Zheng et al. 2023, "Guided Flows", arXiv 2311.13443. Train the field with the conditions of
    some rows left out: `FlowMatching(drop=0.1)`. For scales other than 1 the guided flow does not
    have the density of the data given the condition.

    ```python
    import jax
    from jaxflow.dynamics import MLP, GuidedField, OptionalCondition

    field = OptionalCondition(MLP(2, cond_dim=10 + 1, key=jax.random.key(0)), 10)
    guided = GuidedField(field, 2.0)  # replace(flow, field=GuidedField(flow.field, 2.0))
    ```
    """

    field: Field
    scale: Scalar

    def __init__(self, field: Any, scale: float = 2.0) -> None:
        """Guide a field.

        Args:
            field: a field that is or contains an `OptionalCondition`.
            scale: 0 ignores the condition, 1 uses it as learned, larger values exaggerate it.

        Raises:
            ValueError: the field needs its condition, or `scale` is not finite.
        """
        if not accepts_none(field):
            raise ValueError(
                f"field={type(field).__name__} needs its condition, and guidance evaluates it "
                "without one too: write OptionalCondition(network, cond_dim), the network for "
                "cond_dim + 1, and train it by FlowMatching(drop=0.1)"
            )
        if not math.isfinite(scale):
            raise ValueError(f"scale={scale} must be a finite number")
        self.field, self.scale = field, jnp.asarray(scale, widest_dtype(field))

    def apply(self, run: Run, t: Array, x: Array, cond: Array | None = None) -> Any:
        """The guided value (and trace)."""
        if cond is None:
            raise ValueError("guidance needs a condition: give cond, or use the field without it")

        def mix(conditional: Array, unconditional: Array) -> Array:
            scale = self.scale.astype(conditional.dtype)
            return scale * conditional + (1 - scale) * unconditional

        none = jnp.full_like(cond, jnp.nan)
        return jax.tree.map(mix, run(self.field, t, x, cond), run(self.field, t, x, none))
