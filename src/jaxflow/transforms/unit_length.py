"""Unit vectors that were rounded, so that their lengths are not quite 1."""

from typing import final

import equinox as eqx
from jaxtyping import Array, Bool

from jaxflow.manifolds import Manifold
from jaxflow.runtime.checks import check_event
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.samples import checked_rows


@final
class UnitLength(eqx.Module):
    """Each row divided by its length, which may differ from 1 by `tolerance`.

    A manifold itself, which is a transform too, refuses rows further off than rounding in float32
    explains; columns rounded to two decimals are. Densities are with respect to the surface of the
    manifold; samples have length 1.

    ```python
    import jax.numpy as jnp
    from jaxflow.manifolds import Sphere
    from jaxflow.transforms import UnitLength

    transform = UnitLength(Sphere(2), tolerance=0.01)
    u, _ = transform.forward(jnp.asarray([0.58, 0.58, 0.58]))
    print(u)  # 0.577, three times
    ```

    Attributes:
        manifold: a `Sphere`, or a `Projective` for unit vectors up to sign.
        tolerance: largest difference of a length from 1, positive.

    Raises:
        ValueError: `tolerance` does not lie between 0 and 1.
    """

    manifold: Manifold
    tolerance: float = eqx.field(static=True, default=0.01)

    # Rows outside are mistakes, not points of density 0.
    strict = True

    def __check_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance} must lie between 0 and 1, such as 0.01")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.manifold.event_shape

    def check(self, x: ArrayInput) -> None:
        """Raise ValueError unless all rows `x`, (rows, n), have length 1 up to `tolerance`."""
        self.manifold.check(checked_rows(x, self.event_shape), self.tolerance)

    def inside(self, x: Event) -> Bool[Array, ""]:
        """Whether the length of a row is 1 up to `tolerance`; True for NaN."""
        check_event("x", x, self.event_shape, "transform.inside")
        return ~(self.manifold.deviation(x) > self.tolerance)

    def forward(self, x: Event) -> tuple[Event, Scalar]:
        """The row divided by its length, and 0: densities are those on the surface."""
        return self.manifold.forward(x)

    def inverse(self, u: Event) -> tuple[Event, Scalar]:
        """The point itself, and 0."""
        return self.manifold.inverse(u)
