"""Flat space, as a factor of products."""

import math
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.manifolds.manifold import Manifold, Vector, dimension
from jaxflow.runtime.shapes import Scalar


@final
class Euclidean(Manifold):
    """Vectors of `dim` real numbers.

    ```python
    from jaxflow.manifolds import Euclidean, Product, Sphere

    position_and_size = Product(Sphere(2), Euclidean(1))
    ```

    Attributes:
        dim: number of entries, at least 1.
    """

    dim: int = eqx.field(static=True, converter=dimension)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point, (dim,)."""
        return (self.dim,)

    @property
    def ambient(self) -> int:
        """A field sees the point as it is."""
        return self.dim

    @property
    def log_volume(self) -> float:
        """Infinite."""
        return math.inf

    def embed(self, x: Vector) -> Vector:
        """The point itself."""
        return x

    def project(self, x: Vector, v: Vector) -> Vector:
        """The velocity itself."""
        return v

    def retract(self, x: Vector) -> Vector:
        """The point itself."""
        return x

    def deviation(self, x: Vector) -> Scalar:
        """0: every vector is a point."""
        return jnp.zeros((), x.dtype)

    def exp(self, x: Vector, v: Vector) -> Vector:
        """`x + v`."""
        return x + v

    def log(self, x: Vector, y: Vector) -> Vector:
        """`y - x`."""
        return y - x

    def separations(self, x: Vector, y: Vector) -> Vector:
        """The distances in each column, whose units may differ."""
        return jnp.abs(x - y)

    def frame(self, x: Vector) -> Float[Array, "_ _"]:
        """The unit vectors."""
        return jnp.eye(self.dim, dtype=x.dtype)

    def log_normal(self, loc: Vector, x: Vector, scale: Any) -> Scalar:
        """The normal density."""
        return log_normal(self.squared_norm(x - loc), self.dim, scale)

    @property
    def num_normals(self) -> int:
        """0."""
        return 0

    def normals(self, p: Vector) -> Float[Array, "0 _"]:
        """None."""
        return jnp.zeros((0, self.dim), p.dtype)

    def curvature(self, p: Vector) -> Vector:
        """0."""
        return jnp.zeros_like(p)


def log_normal(square: Scalar, dim: int, scale: Any) -> Scalar:
    """Log-density of a normal vector of `dim` entries and squared length `square`."""
    scale = jnp.asarray(scale, square.dtype)
    return -0.5 * square / scale**2 - dim * (jnp.log(scale) + 0.5 * math.log(2 * math.pi))
