"""The sphere, and what the metrics of spheres share."""

import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.manifolds.euclidean import log_normal
from jaxflow.manifolds.manifold import Manifold, Vector, dimension, even, norm
from jaxflow.runtime.shapes import Scalar


class UnitVectors(Manifold):
    """What spheres and projective spaces share: vectors of length 1, and great circles."""

    dim: int = eqx.field(static=True, converter=dimension)

    most_scale = 1.0

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point, (dim + 1,)."""
        return (self.dim + 1,)

    def retract(self, x: Vector) -> Vector:
        """`x / |x|`."""
        return unit(x)

    def deviation(self, x: Vector) -> Scalar:
        """`| |x| - 1 |`."""
        return jnp.abs(norm(x) - 1)

    def exp(self, x: Vector, v: Vector) -> Vector:
        """`cos(|v|) x + sin(|v|) v / |v|`, along a great circle."""
        square = jnp.sum(v**2)
        across = even(lambda r: jnp.sin(r) / r, -1 / 6, square)
        return unit(even(jnp.cos, -1 / 2, square) * x + across * v)

    def frame(self, x: Vector) -> Float[Array, "_ _"]:
        """The reflection that takes the first unit vector to `x` takes the others to these."""
        return reflected_frame(x)

    def uniform(self, key: PRNGKeyArray) -> Vector:
        """A point from the uniform density; of axes, with either sign."""
        return unit(jax.random.normal(key, self.event_shape))


@final
class Sphere(UnitVectors):
    """Unit vectors of `dim + 1` entries; `Sphere(2)` is that of directions and of the Earth.

    Off the sphere a field is continued as `|x| f(x / |x|)`, which has the same divergence at
    every distance: a solve that leaves the sphere by its error still moves the direction
    `x / |x|` as the field says, and errors of the length change no density.

    ```python
    import jax
    from jaxflow import CNF
    from jaxflow.bases import UniformOn
    from jaxflow.dynamics import MLP, OnManifold
    from jaxflow.manifolds import Sphere

    sphere = Sphere(2)
    field = OnManifold(MLP(sphere.ambient, key=jax.random.key(0)), sphere)
    flow = CNF(field, UniformOn(sphere))
    x = flow.sample(jax.random.key(1), 5)
    print(flow.log_prob(x))  # nats, with respect to the area of the sphere
    ```

    Attributes:
        dim: dimension of the surface; points have one entry more.
    """

    @property
    def ambient(self) -> int:
        """A field sees the unit vector: `dim + 1` entries."""
        return self.dim + 1

    @property
    def log_volume(self) -> float:
        """`log(2 pi^((d + 1) / 2) / Gamma((d + 1) / 2))`: `log(4 pi)` for `d = 2`."""
        half = (self.dim + 1) / 2
        return math.log(2) + half * math.log(math.pi) - math.lgamma(half)

    def embed(self, x: Vector) -> Vector:
        """`x / |x|`."""
        return unit(x)

    def project(self, x: Vector, v: Vector) -> Vector:
        """`|x| (v - (v . p) p)` with `p = x / |x|`."""
        return norm(x) * tangent(unit(x), v)

    def log(self, x: Vector, y: Vector) -> Vector:
        """Towards `y` along a great circle; to the antipode by a fixed one."""
        return towards(x, y)

    def log_normal(self, loc: Vector, x: Vector, scale: Any) -> Scalar:
        """The wrapped normal density, of vectors up to one turn and a half long."""
        angle = self.distance(loc, x)
        return log_wrapped_normal(angle, 2 * math.pi * jnp.arange(-1.0, 2.0), self.dim, scale)

    def divergence(self, p: Vector, value: Vector, trace: Scalar, along: Vector) -> Scalar:
        """`tr(J) - p . J p - d p . f`."""
        return trace - jnp.dot(p, along) - self.dim * jnp.dot(p, value)


def unit(x: Vector) -> Vector:
    """`x / |x|`; a fixed unit vector for 0."""
    size = norm(x)
    first = jnp.zeros_like(x).at[0].set(1)
    return jnp.where(size > 0, x / jnp.where(size > 0, size, 1.0), first)


def tangent(p: Vector, v: Vector) -> Vector:
    """`v - (v . p) p`."""
    return v - jnp.dot(v, p) * p


def towards(x: Vector, y: Vector) -> Vector:
    """The velocity at `x` of the great circle that reaches `y` at time 1."""
    # Accurate for small and for large angles, unlike the arc cosine of x . y.
    angle = 2 * jnp.arctan2(norm(y - x), norm(y + x))
    along = tangent(x, y - x)
    size = norm(along)
    # The antipode lies in every direction.
    any_way = reflected_frame(x)[0]
    lost = (size <= jnp.finfo(x.dtype).eps) & (angle > 1)
    direction = jnp.where(lost, any_way, along / jnp.where(size > 0, size, 1.0))
    return angle * direction


def reflected_frame(x: Vector) -> Float[Array, "_ _"]:
    """Orthonormal vectors orthogonal to the unit vector `x`."""
    first = jnp.where(x[0] < 0, -1.0, 1.0).astype(x.dtype)
    mirror = x.at[0].add(first)
    return jnp.eye(len(x), dtype=x.dtype)[1:] - jnp.outer(mirror[1:], mirror) / (1 + jnp.abs(x[0]))


def log_wrapped_normal(angle: Scalar, turns: Array, dim: int, scale: Any) -> Scalar:
    """Log-density of a wrapped normal at an angle from its centre, on a sphere.

    The vectors of length `r = |angle + turn|` end there, and the map from the tangent space
    stretches volumes by `(sin(angle) / r)^(dim - 1)`.
    """
    tiny = float(jnp.finfo(angle.dtype).eps)
    lengths = jnp.abs(angle + turns.astype(angle.dtype))
    sine = jnp.abs(jnp.sin(angle))
    near = (lengths < 1) & (sine < tiny)
    stretch = jnp.where(near, 0.0, jnp.log(jnp.maximum(lengths, tiny) / jnp.maximum(sine, tiny)))
    terms = jax.vmap(lambda square: log_normal(square, dim, scale))(lengths**2)
    return logsumexp(terms + (dim - 1) * stretch)
