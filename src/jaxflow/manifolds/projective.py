"""Unit vectors up to sign: axes, and the rotations of space as quaternions."""

import math
from typing import final

import jax.numpy as jnp

from jaxflow.manifolds.manifold import Vector, norm
from jaxflow.manifolds.sphere import (
    UnitVectors,
    angle_between,
    log_half_volume,
    tangent,
    towards,
    unit,
)
from jaxflow.runtime.shapes import Scalar


@final
class Projective(UnitVectors):
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

    Attributes:
        dim: dimension; points have one entry more.
    """

    @property
    def ambient(self) -> int:
        """`(dim + 1)^2`: a field sees `x x^T`."""
        return (self.dim + 1) ** 2

    @property
    def log_volume(self) -> float:
        """Half of the sphere's: `log(pi^2)` for `dim = 3`."""
        return log_half_volume(self.dim)

    def embed(self, x: Vector) -> Vector:
        """`p p^T` with `p = x / |x|`, row by row."""
        p = unit(x)
        return jnp.outer(p, p).ravel()

    def project(self, x: Vector, v: Vector) -> Vector:
        """`|x| (V p - (p . V p) p)`, with `v` as a matrix `V`: odd in `x`."""
        p = unit(x)
        return norm(x) * tangent(p, v.reshape(len(x), len(x)) @ p)

    def log(self, x: Vector, y: Vector) -> Vector:
        """Towards the nearer one of `y` and `-y`; `y` if both are a right angle away."""
        return towards(x, nearer(x, y))

    def distance(self, x: Vector, y: Vector) -> Scalar:
        """The angle between the axes, at most a right one."""
        return angle_between(x, nearer(x, y))

    @property
    def reach(self) -> float:
        """A right angle."""
        return math.pi / 2


def nearer(x: Vector, y: Vector) -> Vector:
    """The one of `y` and `-y` nearer to `x`; `y` if both are a right angle away."""
    return jnp.where(jnp.dot(x, y) < 0, -y, y)


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
