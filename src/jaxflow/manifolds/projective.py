"""Unit vectors up to sign: axes, and the rotations of space as quaternions."""

import math
from typing import Any, SupportsIndex, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.manifolds.manifold import Manifold, Vector, norm
from jaxflow.manifolds.sphere import (
    great_circle,
    log_wrapped_normal,
    reflected_frame,
    tangent,
    towards,
    unit,
)
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Scalar


@final
class Projective(Manifold):
    """Unit vectors of `dim + 1` entries, where `x` and `-x` are one point.

    `Projective(2)` are axes, such as normals of planes; `Projective(3)` are the rotations of
    space as unit quaternions, `SO3`. The metric is that of the sphere, so the volume is half of
    the sphere's. A field sees `x x^T`, `(dim + 1)^2` entries, which is equal for both signs.

    ```python
    import jax.numpy as jnp
    from jaxflow.manifolds import Projective

    axes = Projective(2)
    x = jnp.asarray([0.6, 0.0, 0.8])
    print(axes.distance(x, -x))  # 0.0
    ```
    """

    dim: int = eqx.field(static=True)

    most_scale = 1.0

    def __init__(self, dim: SupportsIndex) -> None:
        """Make the space.

        Args:
            dim: its dimension; points have one entry more.
        """
        self.dim = check_count("dim", dim)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point, (dim + 1,)."""
        return (self.dim + 1,)

    @property
    def ambient(self) -> int:
        """`(dim + 1)^2`: a field sees `x x^T`."""
        return (self.dim + 1) ** 2

    @property
    def log_volume(self) -> float:
        """Half of the sphere's: `log(pi^2)` for `dim = 3`."""
        half = (self.dim + 1) / 2
        return half * math.log(math.pi) - math.lgamma(half)

    def embed(self, x: Vector) -> Vector:
        """`p p^T` with `p = x / |x|`, row by row."""
        p = unit(x)
        return jnp.outer(p, p).ravel()

    def project(self, x: Vector, v: Vector) -> Vector:
        """`|x| (V p - (p . V p) p)`, with `v` as a matrix `V`: odd in `x`."""
        p = unit(x)
        return norm(x) * tangent(p, v.reshape(len(x), len(x)) @ p)

    def retract(self, x: Vector) -> Vector:
        """`x / |x|`."""
        return unit(x)

    def deviation(self, x: Vector) -> Scalar:
        """`| |x| - 1 |`."""
        return jnp.abs(norm(x) - 1)

    def exp(self, x: Vector, v: Vector) -> Vector:
        """Along the great circle that leaves `x` with velocity `v`."""
        return great_circle(x, v)

    def log(self, x: Vector, y: Vector) -> Vector:
        """Towards the nearer one of `y` and `-y`; `y` if both are a right angle away."""
        return towards(x, jnp.where(jnp.dot(x, y) < 0, -y, y))

    def squared_norm(self, v: Vector) -> Scalar:
        """`|v|^2`."""
        return jnp.sum(v**2)

    def frame(self, x: Vector) -> Float[Array, "_ _"]:
        """As on the sphere."""
        return reflected_frame(x)

    def log_normal(self, loc: Vector, x: Vector, scale: Any) -> Scalar:
        """The wrapped normal density, of vectors up to a turn and a half long."""
        return log_wrapped_normal(
            self.distance(loc, x), math.pi * jnp.arange(-2.0, 3.0), self.dim, scale
        )

    def uniform(self, key: PRNGKeyArray) -> Vector:
        """A point from the uniform density, with either sign."""
        return unit(jax.random.normal(key, self.event_shape))


def SO3() -> Projective:
    """The rotations of space: unit quaternions `(w, x, y, z)` up to sign.

    Distances are half the angle of the rotation between two, as on the sphere of quaternions;
    with this metric the volume is `pi^2`, so the uniform log-density is `-log(pi^2) = -2.289`.
    With respect to the measure in which distances are angles, subtract `3 log(2)`.

    ```python
    import jax.numpy as jnp
    from jaxflow.manifolds import SO3

    none, quarter_turn = jnp.asarray([1.0, 0, 0, 0]), jnp.asarray([0.5**0.5, 0, 0, 0.5**0.5])
    print(2 * SO3().distance(none, quarter_turn))  # pi / 2
    ```
    """
    return Projective(3)
