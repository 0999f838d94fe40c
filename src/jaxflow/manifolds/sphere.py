"""The sphere, and what the metrics of spheres share."""

import abc
import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.manifolds.euclidean import log_normal
from jaxflow.manifolds.manifold import Manifold, Vector, dimension, even, norm, ratio
from jaxflow.runtime.shapes import Scalar

# Vectors of fewer units of rounding have no direction.
LOST = 16


class UnitVectors(Manifold):
    """What spheres and projective spaces share: vectors of length 1, and great circles."""

    dim: int = eqx.field(static=True, converter=dimension)

    most_scale = 1.0

    @property
    @abc.abstractmethod
    def reach(self) -> float:
        """Distance of the points that lie furthest from a point."""

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

    def log_normal(self, loc: Vector, x: Vector, scale: Any) -> Scalar:
        """Log-density of `normal`: `exp` shrinks volumes by `(sin(r) / r)^(d - 1)`."""
        angle = self.distance(loc, x)
        stretch = jnp.log(ratio(angle, jnp.abs(jnp.sin(angle))))
        within = log_normal(angle**2, self.dim, scale) + (self.dim - 1) * stretch
        beyond = log_beyond(self.reach / jnp.asarray(scale, angle.dtype), self.dim)
        return jnp.logaddexp(within, beyond - self.log_volume)

    def normal(self, key: PRNGKeyArray, loc: Vector, scale: Any) -> Vector:
        """`exp(loc, v)` for a normal velocity `v`; a uniform point if `v` leads beyond `reach`.

        Geodesics that go on to come close to `loc` again, where all of them meet: their ends have
        an infinite density there.
        """
        v = scale * (jax.random.normal(key, (self.dim,), loc.dtype) @ self.frame(loc))
        anywhere = self.uniform(jax.random.fold_in(key, 1)).astype(loc.dtype)
        return jnp.where(norm(v) <= self.reach, self.exp(loc, v), anywhere)

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
    def reach(self) -> float:
        """Half a turn."""
        return math.pi

    @property
    def ambient(self) -> int:
        """A field sees the unit vector: `dim + 1` entries."""
        return self.dim + 1

    @property
    def log_volume(self) -> float:
        """`log(2 pi^((d + 1) / 2) / Gamma((d + 1) / 2))`: `log(4 pi)` for `d = 2`."""
        return math.log(2) + log_half_volume(self.dim)

    def embed(self, x: Vector) -> Vector:
        """`x / |x|`."""
        return unit(x)

    def project(self, x: Vector, v: Vector) -> Vector:
        """`|x| (v - (v . p) p)` with `p = x / |x|`."""
        return norm(x) * tangent(unit(x), v)

    def log(self, x: Vector, y: Vector) -> Vector:
        """Towards `y` along a great circle; to the antipode by a fixed one."""
        return towards(x, y)

    def distance(self, x: Vector, y: Vector) -> Scalar:
        """The angle between the points."""
        return angle_between(x, y)

    def separations(self, x: Vector, y: Vector) -> Float[Array, "1"]:
        """The angle: its kernels are positive definite on spheres."""
        return self.distance(x, y)[None]

    @property
    def num_normals(self) -> int:
        """1."""
        return 1

    def normals(self, p: Vector) -> Float[Array, "1 _"]:
        """`p` itself."""
        return p[None]

    def curvature(self, p: Vector) -> Vector:
        """`d p`."""
        return self.dim * p


def log_half_volume(dim: int) -> float:
    """Logarithm of half of the volume of the sphere of `dim` dimensions."""
    half = (dim + 1) / 2
    return half * math.log(math.pi) - math.lgamma(half)


def unit(x: Vector) -> Vector:
    """`x / |x|`; a fixed unit vector for 0."""
    size = norm(x)
    first = jnp.zeros_like(x).at[0].set(1)
    return jnp.where(size == 0, first, x / nonzero(size))


def tangent(p: Vector, v: Vector) -> Vector:
    """`v - (v . p) p`."""
    return v - jnp.dot(v, p) * p


def towards(x: Vector, y: Vector) -> Vector:
    """The velocity at `x` of the great circle that reaches `y` at time 1."""
    angle = angle_between(x, y)
    along = tangent(x, y - x)
    # The antipode lies in every direction: up to rounding, any one is right.
    lost = (norm(along) <= LOST * jnp.finfo(x.dtype).eps) & (angle > 1)
    along = jnp.where(lost, reflected_frame(x)[0], along)
    # Near the antipode rounding has a large share in a short vector, and its length must be right.
    direction = tangent(x, along / nonzero(norm(along)))
    return angle * direction / nonzero(norm(direction))


def nonzero(size: Scalar) -> Scalar:
    """The size, and 1 for 0, to divide by."""
    return jnp.where(size == 0, 1.0, size)


def angle_between(x: Vector, y: Vector) -> Scalar:
    """The angle of two unit vectors; accurate if small or large, unlike the arc cosine."""
    return 2 * jnp.arctan2(norm(y - x), norm(y + x))


def reflected_frame(x: Vector) -> Float[Array, "_ _"]:
    """Orthonormal vectors orthogonal to the unit vector `x`."""
    first = jnp.where(x[0] < 0, -1.0, 1.0).astype(x.dtype)
    mirror = x.at[0].add(first)
    return jnp.eye(len(x), dtype=x.dtype)[1:] - jnp.outer(mirror[1:], mirror) / (1 + jnp.abs(x[0]))


def log_beyond(length: Scalar, dim: int) -> Scalar:
    """Logarithm of the probability that a standard normal vector is longer.

    With `h = length^2 / 2` it is `exp(-h) sum_a h^a / Gamma(a + 1)`, over `a = dim / 2 - 1`,
    `dim / 2 - 2`, ... down to 0, or to 1 / 2 and then plus `erfc(sqrt(h))`.
    """
    half, powers = length**2 / 2, [dim / 2 - 1 - k for k in range(dim // 2)]
    terms = [a * jnp.log(half) - half - math.lgamma(a + 1) for a in powers]
    if dim % 2:
        terms.append(math.log(2) + log_ndtr(-length))
    return logsumexp(jnp.stack(terms))
