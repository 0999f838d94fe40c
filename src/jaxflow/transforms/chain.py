"""One transform after another."""

from typing import Any, final

import equinox as eqx
from jaxtyping import Array, Float


@final
class Chain(eqx.Module):
    """`u = T_n(... T_1(x))`; log-determinants add up.

    ```python
    limits = Bounded(lower, upper)
    u, _ = jax.vmap(limits.forward)(x)
    transform = Chain((limits, Standardise.fit(u)))
    ```

    Attributes:
        parts: the transforms, the first one of data first.

    Raises:
        ValueError: none, or parts of different event shapes.
    """

    parts: tuple[Any, ...]

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = tuple(parts)
        shapes = {part.event_shape for part in self.parts}
        if len(shapes) != 1:
            raise ValueError(f"parts={self.parts} have event shapes {shapes}; they need one")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.parts[0].event_shape

    def forward(
        self, x: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """Map one sample to flow space: `(u, log|det du/dx|)`."""
        x, total = self.parts[0].forward(x)
        for part in self.parts[1:]:
            x, log_det = part.forward(x)
            total = total + log_det
        return x, total

    def inverse(
        self, u: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """Map one sample to data space: `(x, log|det dx/du|)`."""
        u, total = self.parts[-1].inverse(u)
        for part in self.parts[-2::-1]:
            u, log_det = part.inverse(u)
            total = total + log_det
        return u, total
