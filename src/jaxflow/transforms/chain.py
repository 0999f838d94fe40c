"""The composition of transforms."""

from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.protocol import check_strict, image_shape, inside, is_strict


@final
class Chain(eqx.Module):
    """`u = T_n(... T_1(x))`; the log-determinants add up.

    ```python
    import jax, jax.numpy as jnp
    from jaxflow.transforms import Bounded, Chain, Standardise

    x = jax.random.uniform(jax.random.key(0), (100, 2))
    limits = Bounded(jnp.zeros(2), jnp.ones(2))
    u, _ = jax.vmap(limits.forward)(x)
    transform = Chain((limits, Standardise.fit(u)))
    ```
    """

    parts: tuple[Any, ...]

    def __init__(self, parts: Sequence[Any]) -> None:
        """Compose transforms.

        Args:
            parts: one or more transforms, the first to apply to data first; each takes events of
                the shape that the one before it returns.

        Raises:
            ValueError: `parts` is empty, or the event shapes differ.
        """
        self.parts = tuple(parts)
        shapes = {part.event_shape for part in self.parts}
        ends = [image_shape(part) for part in self.parts[:-1]]
        if not shapes or ends != [tuple(part.event_shape) for part in self.parts[1:]]:
            raise ValueError(
                f"parts={self.parts} have event shapes {shapes}; give one or more transforms of "
                "one event shape"
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.parts[0].event_shape

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one point of flow space."""
        return image_shape(self.parts[-1])

    @property
    def strict(self) -> bool:
        """Whether rows outside the support of a part are mistakes."""
        return any(map(is_strict, self.parts))

    def check(self, x: ArrayInput) -> None:
        """Raise ValueError unless every part accepts the rows `x`, (rows, *event)."""
        for part in self.parts:
            part.check(x)
            x = jax.vmap(part.forward)(jnp.asarray(x))[0]

    def check_strict(self, x: ArrayInput) -> None:
        """Raise ValueError if a `strict` part refuses the rows `x`, (rows, *event)."""
        for i, part in enumerate(self.parts):
            check_strict(part, x)
            if not any(map(is_strict, self.parts[i + 1 :])):
                return
            x = jax.vmap(part.forward)(jnp.asarray(x))[0]

    def inside(self, x: Event) -> Bool[Array, ""]:
        """Whether a sample lies in the first part's support, its image in the next part's."""
        each = []
        for part in self.parts:
            each.append(inside(part, x))
            x, _ = part.forward(x)
        return jnp.all(jnp.stack(each))

    def forward(self, x: Event) -> tuple[Float[Array, "..."], Scalar]:
        """Map one sample to flow space: `(u, log|det du/dx|)`."""
        x, total = self.parts[0].forward(x)
        for part in self.parts[1:]:
            x, log_det = part.forward(x)
            total = total + log_det
        return x, total

    def inverse(self, u: Event) -> tuple[Float[Array, "..."], Scalar]:
        """Map one point of flow space to data space: `(x, log|det dx/du|)`."""
        u, total = self.parts[-1].inverse(u)
        for part in self.parts[-2::-1]:
            u, log_det = part.inverse(u)
            total = total + log_det
        return u, total
