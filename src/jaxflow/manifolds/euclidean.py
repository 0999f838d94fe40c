"""Flat space, as a factor of products."""

import math
from typing import Any, SupportsIndex, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.manifolds.manifold import Manifold, Vector
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Scalar


@final
class Euclidean(Manifold):
    """Vectors of `dim` real numbers.

    ```python
    from jaxflow.manifolds import Euclidean, Product, Sphere

    position_and_size = Product(Sphere(2), Euclidean(1))
    ```
    """

    dim: int = eqx.field(static=True)

    def __init__(self, dim: SupportsIndex) -> None:
        """Make the space.

        Args:
            dim: number of entries, at least 1.
        """
        self.dim = check_count("dim", dim)

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

    def squared_norm(self, v: Vector) -> Scalar:
        """`|v|^2`."""
        return jnp.sum(v**2)

    def frame(self, x: Vector) -> Float[Array, "_ _"]:
        """The unit vectors."""
        return jnp.eye(self.dim, dtype=x.dtype)

    def log_normal(self, loc: Vector, x: Vector, scale: Any) -> Scalar:
        """The normal density."""
        return log_normal(self.squared_norm(x - loc), self.dim, scale)

    def divergence(self, p: Vector, value: Vector, trace: Scalar, along: Vector) -> Scalar:
        """The trace."""
        return trace


def log_normal(square: Scalar, dim: int, scale: Any) -> Scalar:
    """Log-density of a normal vector of `dim` entries and squared length `square`."""
    scale = jnp.asarray(scale, square.dtype)
    return -0.5 * square / scale**2 - dim * (jnp.log(scale) + 0.5 * math.log(2 * math.pi))
