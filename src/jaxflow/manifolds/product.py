"""Products: a position, an angle and a number in one row."""

import math
from collections.abc import Iterator
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.manifolds.manifold import Manifold, Vector, norm
from jaxflow.runtime.shapes import Scalar, split


@final
class Product(Manifold):
    """Rows whose first columns are a point of the first manifold, the next one of the second, ...

    ```python
    from jaxflow.manifolds import Euclidean, Product, Sphere, Torus

    # Position as a unit vector, hour of the day, depth and magnitude.
    quakes = Product(Sphere(2), Torus(1, period=24.0), Euclidean(2))
    print(quakes.event_shape)  # (6,)
    ```

    Attributes:
        factors: the manifolds.
    """

    factors: tuple[Manifold, ...]
    dim: int = eqx.field(static=True)

    def __init__(self, *factors: Any) -> None:
        """Make the product.

        Args:
            *factors: the manifolds, in the order of the columns.

        Raises:
            TypeError: one is not a manifold, or there is none.
        """
        if not factors or not all(isinstance(factor, Manifold) for factor in factors):
            raise TypeError(f"factors={factors!r} must be manifolds: Product(Sphere(2), Torus(1))")
        self.factors = factors
        self.dim = sum(factor.dim for factor in factors)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point: the sum of the factors' entries."""
        return (sum(factor.event_shape[0] for factor in self.factors),)

    @property
    def ambient(self) -> int:
        """A field sees what the factors show."""
        return sum(factor.ambient for factor in self.factors)

    @property
    def log_volume(self) -> float:
        """Sum of the factors' own."""
        return math.fsum(factor.log_volume for factor in self.factors)

    @property
    def most_scale(self) -> float:
        """The least of the factors' own."""
        return min(getattr(factor, "most_scale", math.inf) for factor in self.factors)

    def embed(self, x: Vector) -> Vector:
        """What the factors show, one after the other."""
        return jnp.concatenate([m.embed(x) for m, x in self._each(x)])

    def project(self, x: Vector, v: Vector) -> Vector:
        """The factors' velocities."""
        each = zip(self._each(x), self._seen(v), strict=True)
        return jnp.concatenate([m.project(x, v) for (m, x), v in each])

    @property
    def num_normals(self) -> int | None:
        """Sum of the factors' own; None if a factor has no normals."""
        counts = [factor.num_normals for factor in self.factors]
        return None if None in counts else sum(count or 0 for count in counts)

    def normals(self, p: Vector) -> Float[Array, "_ _"]:
        """The factors' vectors, 0 in the other factors' entries."""
        return jax.scipy.linalg.block_diag(*(m.normals(p) for m, p in self._each_seen(p)))

    def curvature(self, p: Vector) -> Vector:
        """The factors' vectors."""
        return jnp.concatenate([m.curvature(p) for m, p in self._each_seen(p)])

    def retract(self, x: Vector) -> Vector:
        """By the factors."""
        return jnp.concatenate([m.retract(x) for m, x in self._each(x)])

    def deviation(self, x: Vector) -> Scalar:
        """The largest of the factors' own."""
        return jnp.max(jnp.stack([m.deviation(x) for m, x in self._each(x)]))

    def exp(self, x: Vector, v: Vector) -> Vector:
        """By the factors."""
        return jnp.concatenate([m.exp(x, v) for m, x, v in self._each(x, v)])

    def log(self, x: Vector, y: Vector) -> Vector:
        """By the factors."""
        return jnp.concatenate([m.log(x, y) for m, x, y in self._each(x, y)])

    def squared_norm(self, v: Vector) -> Scalar:
        """Sum of the factors' own."""
        return jnp.sum(jnp.stack([m.squared_norm(v) for m, v in self._each(v)]))

    def distance(self, x: Vector, y: Vector) -> Scalar:
        """The root of the sum of squares of the factors' own."""
        each = [m.distance(x, y) for m, x, y in self._each(x, y)]
        return norm(jnp.stack(each))

    def separations(self, x: Vector, y: Vector) -> Float[Array, " _"]:
        """The factors' distances."""
        return jnp.concatenate([m.separations(x, y) for m, x, y in self._each(x, y)])

    def frame(self, x: Vector) -> Float[Array, "_ _"]:
        """The factors' vectors, 0 in the other factors' columns."""
        return jax.scipy.linalg.block_diag(*(m.frame(x) for m, x in self._each(x)))

    def log_normal(self, loc: Vector, x: Vector, scale: Any) -> Scalar:
        """Sum of the factors' own."""
        each = [m.log_normal(loc, x, scale) for m, loc, x in self._each(loc, x)]
        return jnp.sum(jnp.stack(each))

    def normal(self, key: PRNGKeyArray, loc: Vector, scale: Any) -> Vector:
        """By the factors."""
        keys = jax.random.split(key, len(self.factors))
        each = zip(self._each(loc), keys, strict=True)
        return jnp.concatenate([m.normal(key, loc, scale) for (m, loc), key in each])

    def uniform(self, key: PRNGKeyArray) -> Vector:
        """A point from the uniform density, if the volume is finite."""
        keys = jax.random.split(key, len(self.factors))
        factors: Any = self.factors
        return jnp.concatenate([m.uniform(key) for m, key in zip(factors, keys, strict=True)])

    def _seen(self, p: Vector) -> list[Any]:
        """What a field sees or returns, by factor."""
        return split(p, [factor.ambient for factor in self.factors])

    def _each_seen(self, p: Vector) -> Iterator[tuple[Any, Vector]]:
        return zip(self.factors, self._seen(p), strict=True)

    def _each(self, *vectors: Vector) -> Iterator[tuple[Any, ...]]:
        """Each factor with its columns of the vectors."""
        sizes = [factor.event_shape[0] for factor in self.factors]
        return zip(self.factors, *(split(v, sizes) for v in vectors), strict=True)
