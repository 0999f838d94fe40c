"""Hyperbolic space, as a sheet of the hyperboloid in Minkowski space."""

import math
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.manifolds.euclidean import log_normal
from jaxflow.manifolds.manifold import Manifold, Vector, dimension, even, norm, ratio, root
from jaxflow.runtime.shapes import Scalar


@final
class Hyperbolic(Manifold):
    """Points with `<x, x> = -1` and `x_0 > 0`, where `<x, y> = -x_0 y_0 + x_1 y_1 + ...`.

    Its curvature is -1: for trees and hierarchies. Off the sheet a field is continued as
    `s f(x / s)` with `s^2 = -<x, x>`, as on the sphere.

    ```python
    import jax
    from jaxflow import CNF
    from jaxflow.bases import WrappedNormal
    from jaxflow.dynamics import MLP, OnManifold
    from jaxflow.manifolds import Hyperbolic

    plane = Hyperbolic(2)
    field = OnManifold(MLP(plane.ambient, key=jax.random.key(0)), plane)
    flow = CNF(field, WrappedNormal(plane, loc=[1.0, 0.0, 0.0], scale=1.0))
    x = flow.sample(jax.random.key(1), 5)
    ```

    Attributes:
        dim: dimension; points have one entry more.
    """

    dim: int = eqx.field(static=True, converter=dimension)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point, (dim + 1,)."""
        return (self.dim + 1,)

    @property
    def ambient(self) -> int:
        """`dim`: a field sees the velocity at the vertex that leads to the point."""
        return self.dim

    @property
    def log_volume(self) -> float:
        """Infinite."""
        return math.inf

    def embed(self, x: Vector) -> Vector:
        """The velocity at the vertex whose geodesic ends in `x / s`; no larger than its length."""
        rest = _scaled(x)[1:]
        return ratio(jnp.arcsinh(norm(rest)), norm(rest)) * rest

    def project(self, x: Vector, v: Vector) -> Vector:
        """`s sum_i v_i e_i(x / s)` with the frame `e`, so the speed is `|v|`."""
        return _size(x) * (v @ self.frame(_scaled(x)))

    def retract(self, x: Vector) -> Vector:
        """The point with the same `x_1, x_2, ...`, which is accurate far out."""
        # NaN stays NaN.
        return x.at[0].set(0 * x[0] + jnp.sqrt(1 + jnp.sum(x[1:] ** 2)))

    def deviation(self, x: Vector) -> Scalar:
        """`|<x, x> + 1| / x_0^2`, since `x_0` is large far out; 1 on the other sheet."""
        off = jnp.abs(minkowski(x, x) + 1) / jnp.maximum(x[0] ** 2, 1.0)
        return jnp.where(x[0] <= 0, 1.0, off)

    def exp(self, x: Vector, v: Vector) -> Vector:
        """`cosh(r) x + sinh(r) v / r` with `r^2 = <v, v>`."""
        square = self.squared_norm(v)
        across = even(lambda r: jnp.sinh(r) / r, 1 / 6, square)
        return self.retract(even(jnp.cosh, 1 / 2, square) * x + across * v)

    def log(self, x: Vector, y: Vector) -> Vector:
        """`r u / |u|` with `u = y + <x, y> x` and the distance `r`."""
        away = y - x
        r = 2 * jnp.arcsinh(root(minkowski(away, away)) / 2)
        along = away + minkowski(x, away) * x
        return ratio(r, root(minkowski(along, along))) * along

    def separations(self, x: Vector, y: Vector) -> Float[Array, "1"]:
        """The distance: its kernels are positive definite on hyperbolic space."""
        return self.distance(x, y)[None]

    def squared_norm(self, v: Vector) -> Scalar:
        """`<v, v>`, which is positive for tangent vectors."""
        return minkowski(v, v)

    def frame(self, x: Vector) -> Float[Array, "_ _"]:
        """The boost that takes the vertex to `x` takes the other unit vectors to these."""
        rest = jnp.eye(len(x), dtype=x.dtype)[1:]
        moved = x.at[0].add(1)
        return rest + jnp.outer(x[1:], moved) / (1 + x[0])

    def log_normal(self, loc: Vector, x: Vector, scale: Any) -> Scalar:
        """The wrapped normal density: `exp` stretches volumes by `(sinh(r) / r)^(d - 1)`."""
        r = self.distance(loc, x)
        stretch = jnp.log(ratio(jnp.sinh(r), r))
        return log_normal(r**2, self.dim, scale) - (self.dim - 1) * stretch


def minkowski(x: Vector, y: Vector) -> Scalar:
    """`-x_0 y_0 + x_1 y_1 + ...`."""
    return jnp.dot(x[1:], y[1:]) - x[0] * y[0]


def _size(x: Vector) -> Scalar:
    return root(-minkowski(x, x))


def _scaled(x: Vector) -> Vector:
    size = _size(x)
    # NaN stays NaN.
    return x / jnp.where(size <= 0, 1.0, size)
