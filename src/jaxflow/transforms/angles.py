"""A chart of the torus: columns with a period."""

import math
from collections.abc import Sequence
from typing import SupportsIndex, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxflow.manifolds import Torus
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.samples import checked_rows


@final
class Angles(eqx.Module):
    """Columns with a period, to radians from 0 to 2 pi: the angles of `Torus(dim)`.

    In radians the columns have equal weight in training, similar to that of standardised ones.
    Samples lie in `[start, start + period)`.

    ```python
    import jax
    from jaxflow import CNF
    from jaxflow.bases import UniformOn
    from jaxflow.dynamics import MLP, OnManifold
    from jaxflow.manifolds import Torus
    from jaxflow.transforms import Angles

    field = OnManifold(MLP(4, key=jax.random.key(0)), Torus(2))
    flow = CNF(field, UniformOn(Torus(2)), transform=Angles(2, period=360.0, start=-180.0))
    print(flow.log_prob([[-60.0, -45.0], [180.0, -180.0]]))  # per square degree
    ```

    Attributes:
        torus: the torus of the columns in their own units.
    """

    torus: Torus

    # Rows outside are mistakes, not points of density 0.
    strict = True

    def __init__(
        self,
        dim: SupportsIndex,
        period: float | int | Sequence[float] = 360.0,
        start: float | int | Sequence[float] = 0.0,
    ) -> None:
        """Make the chart; arguments as for `jaxflow.manifolds.Torus`."""
        self.torus = Torus(dim, period, start)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.torus.event_shape

    def check(self, x: ArrayInput) -> None:
        """Raise ValueError unless all values of the rows `x`, (rows, dim), lie in the period."""
        self.torus.check(checked_rows(x, self.event_shape))

    def inside(self, x: Event) -> Bool[Array, ""]:
        """Whether all values lie in the period; True for NaN."""
        return self.torus.inside(x)

    def forward(self, x: Event) -> tuple[Event, Scalar]:
        """`2 pi (x - start) / period`, and the logarithm of its slope."""
        x, _ = self.torus.forward(x)
        rate, start = self._scale(x)
        return rate * (x - start), jnp.sum(jnp.log(rate))

    def inverse(self, u: Event) -> tuple[Event, Scalar]:
        """The values within the period, and minus the logarithm of the slope."""
        rate, start = self._scale(u)
        return self.torus.retract(start + u / rate), -jnp.sum(jnp.log(rate))

    def _scale(self, x: Event) -> tuple[Event, Event]:
        period, start = (jnp.asarray(v, x.dtype) for v in (self.torus.period, self.torus.start))
        return 2 * math.pi / period, start
