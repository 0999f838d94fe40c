"""The torus: columns that repeat, such as angles and times of day."""

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.manifolds.manifold import Manifold, Vector
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Scalar

# Periods to either side that the density of a wrapped normal counts.
IMAGES = 7


@final
class Torus(Manifold):
    """`dim` columns, each of which repeats after its period; a circle for `dim = 1`.

    The metric is that of the columns' own units, so the volume is the product of the periods.
    A field sees cosine and sine of each angle, `2 dim` entries, so it has no seam.

    ```python
    import jax.numpy as jnp
    from jaxflow.manifolds import Torus

    longitude = Torus(1, period=360.0, start=-180.0)
    print(longitude.distance(jnp.asarray([179.0]), jnp.asarray([-179.0])))  # 2.0
    ```

    Attributes:
        dim: number of columns.
        period: 2 pi for radians, 360 for degrees, 24 for hours; one for all columns, or one each.
        start: least value of a column, likewise; points lie in `[start, start + period]`.

    Raises:
        ValueError: a period is not positive, a start not finite, or there is one too many.
    """

    dim: int = eqx.field(static=True)
    period: tuple[float, ...] = eqx.field(static=True)
    start: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        dim: SupportsIndex,
        period: float | int | Sequence[float] = 2 * math.pi,
        start: float | int | Sequence[float] = 0.0,
    ) -> None:
        self.dim = check_count("dim", dim)
        self.period = _each("period", period, self.dim)
        self.start = _each("start", start, self.dim)
        if not all(0 < each < math.inf for each in self.period):
            raise ValueError(f"period={period} must be positive: 2 pi, 360, 24, ...")
        if not all(map(math.isfinite, self.start)):
            raise ValueError(f"start={start} must be finite: 0, or -180 for angles around 0")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point, (dim,)."""
        return (self.dim,)

    @property
    def ambient(self) -> int:
        """`2 dim`: a cosine and a sine for each column."""
        return 2 * self.dim

    @property
    def log_volume(self) -> float:
        """Sum of the logarithms of the periods."""
        return sum(map(math.log, self.period))

    @property
    def most_scale(self) -> float:
        """The least period: the density is uniform by then."""
        return min(self.period)

    def embed(self, x: Vector) -> Vector:
        """`(cos, sin)` of the angles, all cosines first."""
        angle = x * self._rate(x)
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])

    def project(self, x: Vector, v: Vector) -> Vector:
        """The rate at which each column moves if its point on the unit circle moves as `v`."""
        cos, sin = jnp.split(self.embed(x), 2)
        towards_cos, towards_sin = jnp.split(v, 2)
        return (cos * towards_sin - sin * towards_cos) / self._rate(x)

    @property
    def num_normals(self) -> int:
        """One for each column."""
        return self.dim

    def normals(self, p: Vector) -> Float[Array, "_ _"]:
        """The points of the unit circles, one by one."""
        return jnp.hstack([jnp.diag(part) for part in jnp.split(p, 2)])

    def curvature(self, p: Vector) -> Vector:
        """`p`, as each circle has the radius 1."""
        return p

    def retract(self, x: Vector) -> Vector:
        """The same point within the period."""
        period, start = self._lengths(x)
        wrapped = x - period * jnp.floor((x - start) / period)
        # A point just below the start is rounded to the end of the period, which is the start.
        return jnp.where(wrapped >= start + period, start, wrapped)

    def deviation(self, x: Vector) -> Scalar:
        """The largest distance by which a column lies outside its period, in periods."""
        period, start = self._lengths(x)
        turns = (x - start) / period
        return jnp.max(jnp.maximum(jnp.maximum(-turns, turns - 1), 0.0))

    @property
    def advice(self) -> str:
        """What to do about values outside the period."""
        ends = zip(self.start, self.period, strict=True)
        ranges = dict.fromkeys(f"[{start:g}, {start + period:g}]" for start, period in ends)
        return (
            f"Values lie in {', '.join(ranges)}: give the period and start of these data, or wrap "
            "them: jax.vmap(manifold.retract)(x)"
        )

    def exp(self, x: Vector, v: Vector) -> Vector:
        """`x + v` within the period."""
        return self.retract(x + v)

    def log(self, x: Vector, y: Vector) -> Vector:
        """`y - x` by the shorter way round."""
        period, _ = self._lengths(x)
        away = y - x
        return away - period * jnp.round(away / period)

    def separations(self, x: Vector, y: Vector) -> Vector:
        """The distances in each column: their kernels are positive definite on circles."""
        return jnp.abs(self.log(x, y))

    def frame(self, x: Vector) -> Float[Array, "_ _"]:
        """The unit vectors."""
        return jnp.eye(self.dim, dtype=x.dtype)

    def log_normal(self, loc: Vector, x: Vector, scale: Any) -> Scalar:
        """The wrapped normal density: the sum of a normal one over all periods."""
        period, _ = self._lengths(x)
        scale = jnp.asarray(scale, x.dtype)
        turns = jnp.arange(-IMAGES, IMAGES + 1, dtype=x.dtype)
        away = (self.log(loc, x)[None] + jnp.outer(turns, period)) / scale
        each = jax.nn.logsumexp(-0.5 * away**2, axis=0)
        return jnp.sum(each) - self.dim * (jnp.log(scale) + 0.5 * math.log(2 * math.pi))

    def uniform(self, key: PRNGKeyArray) -> Vector:
        """A point from the uniform density."""
        period, start = self._lengths(jnp.zeros(self.dim))
        return start + period * jax.random.uniform(key, (self.dim,))

    def _lengths(self, x: Vector) -> tuple[Vector, Vector]:
        return jnp.asarray(self.period, x.dtype), jnp.asarray(self.start, x.dtype)

    def _rate(self, x: Vector) -> Vector:
        """Radians for each unit of a column."""
        return 2 * math.pi / self._lengths(x)[0]


def _each(name: str, value: Any, dim: int) -> tuple[float, ...]:
    values = np.asarray(value, float)
    if values.shape not in ((), (dim,)):
        raise ValueError(f"{name}={value} must be one number, or one for each of {dim} columns")
    return tuple(np.broadcast_to(values, (dim,)).tolist())
