"""The interface of a manifold, and what all manifolds share."""

import abc
from collections.abc import Callable
from typing import Any, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxflow.runtime.checks import check_count, check_event, check_rows
from jaxflow.runtime.shapes import ArrayInput, Scalar

# A point, a tangent vector, or what a field sees of a point.
Vector = Float[Array, " _"]
# Points further off are refused; nearer ones are rounded numbers, and are moved onto the manifold.
TOLERANCE = 1e-3


def dimension(dim: SupportsIndex) -> int:
    """The dimension of a manifold, which is at least 1."""
    return check_count("dim", dim)


class Manifold(eqx.Module):
    """A space of points with a metric: what fields, bases and paths on it need to know.

    The methods take one point, a vector of coordinates; vectorise them with `jax.vmap`. Densities
    are with respect to the surface measure of the metric. To add a manifold, write one file with
    the methods below; `jaxflow.manifolds.Hyperbolic` is an example.

    A field sees a point by `embed`, as a vector of `ambient` entries without seams, and answers
    with as many, which `project` turns into a velocity along the manifold. Off the manifold these
    two must continue the field such that its divergence in the coordinates is that on the
    manifold, as `|x| f(x / |x|)` does for a sphere: solves and densities then take place in the
    coordinates, by the same code as in flat space.

    A manifold is also a transform (`jaxflow.transforms.Transform`): it refuses points that lie
    off it, and moves samples, which a solve leaves near it, onto it.

    Optional methods:
        `normals(p)` and `curvature(p)`: for a closed form of the divergence, where fields see the
            manifold without distortion (up to a constant factor in each column). Unit vectors
            orthogonal to it at `p`, (k, ambient), for `k = num_normals`, and its mean curvature
            vector `h`, (ambient,): a field `g` with Jacobian `J` then has the divergence
            `tr(J) - sum_i n_i . J n_i - h . g` on the manifold.
        `most_scale`: the largest `scale` for which `log_normal` is right; inf by default.
        `uniform(key)`: a point from the uniform density, where `log_volume` is finite.

    Attributes:
        dim: the dimension of the manifold.
    """

    dim: eqx.AbstractVar[int]

    # Rows off the manifold are mistakes, not points of density 0.
    strict = True

    @property
    @abc.abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point, (n,)."""

    @property
    @abc.abstractmethod
    def ambient(self) -> int:
        """Number of entries that a field on the manifold sees and returns."""

    @property
    @abc.abstractmethod
    def log_volume(self) -> float:
        """Logarithm of the surface measure of the manifold; inf if it is infinite."""

    @property
    def num_normals(self) -> int | None:
        """Number of vectors of `normals`; None without this method."""
        return None

    @abc.abstractmethod
    def embed(self, x: Vector) -> Vector:
        """What a field sees of a point, (ambient,)."""

    @abc.abstractmethod
    def project(self, x: Vector, v: Vector) -> Vector:
        """The velocity at `x`, (n,), for what a field returned, (ambient,)."""

    @abc.abstractmethod
    def retract(self, x: Vector) -> Vector:
        """The point of the manifold near `x`."""

    @abc.abstractmethod
    def deviation(self, x: Vector) -> Scalar:
        """How far `x` lies off the manifold; 0 on it."""

    @abc.abstractmethod
    def exp(self, x: Vector, v: Vector) -> Vector:
        """The end of the geodesic that leaves `x` with velocity `v`, after time 1."""

    @abc.abstractmethod
    def log(self, x: Vector, y: Vector) -> Vector:
        """The velocity at `x` of a shortest geodesic to `y`: of several, always the same."""

    def squared_norm(self, v: Vector) -> Scalar:
        """Squared length of a tangent vector: `|v|^2`, if no other metric overrides it."""
        return jnp.sum(v**2)

    @abc.abstractmethod
    def frame(self, x: Vector) -> Float[Array, "_ _"]:
        """Orthonormal tangent vectors at `x`, (dim, n)."""

    @abc.abstractmethod
    def log_normal(self, loc: Vector, x: Vector, scale: Any) -> Scalar:
        """Log-density at `x` of `normal(key, loc, scale)`."""

    def normal(self, key: PRNGKeyArray, loc: Vector, scale: Any) -> Vector:
        """`exp(loc, v)` for a random normal velocity `v` of standard deviation `scale`."""
        steps = jax.random.normal(key, (self.dim,), loc.dtype)
        return self.exp(loc, scale * (steps @ self.frame(loc)))

    def __str__(self) -> str:
        """Its name and dimension, or its factors: in errors."""
        parts = getattr(self, "factors", (self.dim,))
        return f"{type(self).__name__}({', '.join(map(str, parts))})"

    def distance(self, x: Vector, y: Vector) -> Scalar:
        """Length of the shortest geodesic between two points."""
        return root(self.squared_norm(self.log(x, y)))

    def separations(self, x: Vector, y: Vector) -> Float[Array, " _"]:
        """Distances with a positive definite kernel `exp(-sum)`, one for each factor or column.

        By default the chord between the points as fields see them, since geodesics do not give
        such a kernel on every manifold (Feragen et al. 2015, "Geodesic exponential kernels: when
        curvature and linearity conflict", arXiv 1411.0296).
        """
        return norm(self.embed(x) - self.embed(y))[None]

    def geodesic(self, t: Scalar, x: Vector, y: Vector) -> tuple[Vector, Vector]:
        """The point a share `t` of the way from `x` to `y`, and its velocity `d/dt`."""
        v = self.log(x, y)
        return jax.jvp(lambda t: self.exp(x, t * v), (t,), (jnp.ones_like(t),))

    def check(self, x: ArrayInput, tolerance: float = TOLERANCE) -> None:
        """Check that all rows lie on the manifold.

        Args:
            x: rows, (rows, n).
            tolerance: largest deviation that counts as rounding.

        Raises:
            ValueError: a row does not; names the first one, and the call that moves it there.
        """
        rows = np.asarray(x, float) if np.asarray(x).dtype.kind in "iu" else np.asarray(x)
        if rows.shape[1:] != self.event_shape:
            raise ValueError(f"x has shape {rows.shape}; points of {self} have {self.event_shape}")
        check_rows(rows)
        off = np.asarray(_deviations(self, jnp.asarray(rows)))
        bad = np.flatnonzero(~(off <= tolerance))
        if bad.size:
            raise ValueError(
                f"x lies off {self} in {bad.size} of {len(rows)} rows, first row {bad[0]}: "
                f"{rows[bad[0]].tolist()}, by {off[bad[0]]:.3g}. {self.advice}"
            )

    @property
    def advice(self) -> str:
        """What to do about points that lie off the manifold."""
        return "If these are its points up to rounding, move them: jax.vmap(manifold.retract)(x)"

    def inside(self, x: Vector) -> Bool[Array, ""]:
        """Whether a point lies on the manifold, up to rounding; True for NaN."""
        check_event("x", x, self.event_shape, "manifold.inside")
        return ~(self.deviation(x) > TOLERANCE)

    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """The point moved onto the manifold, and 0: as a transform."""
        check_event("x", x, self.event_shape, "manifold.forward")
        return self.retract(x), jnp.zeros((), x.dtype)

    def inverse(self, u: Vector) -> tuple[Vector, Scalar]:
        """The point moved onto the manifold, and 0: as a transform."""
        return self.forward(u)


@eqx.filter_jit
def _deviations(manifold: Manifold, x: Float[Array, "rows _"]) -> Float[Array, " rows"]:
    return jax.vmap(manifold.deviation)(x)


def norm(v: Vector) -> Scalar:
    """`|v|`, with derivative 0 at 0."""
    return root(jnp.sum(v**2))


def root(square: Scalar) -> Scalar:
    """The square root, 0 with derivative 0 where it has none; NaN for NaN."""
    positive = ~(square <= 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def even(f: Callable[[Scalar], Scalar], slope: float, square: Scalar) -> Scalar:
    """`f(sqrt(square))` for `f(r) = 1 + slope r^2 + ...`, with two derivatives at 0."""
    small = square < 1e-8
    return jnp.where(small, 1 + slope * square, f(jnp.sqrt(jnp.where(small, 1.0, square))))


def ratio(top: Scalar, bottom: Scalar) -> Scalar:
    """`top / bottom`, and 1 where both are 0: `sin(r) / r` and its like; NaN for NaN."""
    known = bottom != 0
    return jnp.where(known, top / jnp.where(known, bottom, 1.0), 1.0)
