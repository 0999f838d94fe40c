"""Bases on manifolds, with respect to the surface measure."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PRNGKeyArray

from jaxflow.manifolds import Manifold
from jaxflow.runtime.checks import check_event
from jaxflow.runtime.precision import as_floats
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar


class UniformOn(eqx.Module):
    """The uniform density of a manifold of finite volume, such as a sphere or a torus.

    ```python
    import jax
    from jaxflow.bases import UniformOn
    from jaxflow.manifolds import Sphere

    base = UniformOn(Sphere(2))
    x = base.sample(jax.random.key(0))
    print(base.log_prob(x))  # -log(4 pi) = -2.531
    ```

    Attributes:
        manifold: a `jaxflow.manifolds.Manifold`, where the points lie.

    Raises:
        TypeError: `manifold` is not a manifold.
        ValueError: its volume is infinite.
    """

    manifold: Any

    def __init__(self, manifold: Any) -> None:
        self.manifold = _check_manifold(manifold)
        if not math.isfinite(manifold.log_volume):
            raise ValueError(
                f"manifold={manifold} has no uniform density, since its volume is infinite: write "
                "WrappedNormal(manifold, loc, scale), or Independent((UniformOn(...), "
                "StandardNormal(d))) for a product"
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return self.manifold.event_shape

    def log_prob(self, x: Event) -> Scalar:
        """`-log(volume)`, in nats."""
        check_event("x", x, self.event_shape, "base.log_prob")
        # `0 * x` keeps NaN.
        return jnp.sum(0 * x) - self.manifold.log_volume

    def sample(self, key: PRNGKeyArray) -> Event:
        """Draw one point."""
        return self.manifold.uniform(key)


class WrappedNormal(eqx.Module):
    """The end of a geodesic from `loc` whose velocity is normal, of standard deviation `scale`.

    On the torus the density is the sum of a normal one over all periods; in flat space it is
    normal. On spheres and their axes, the few velocities that lead beyond the furthest points are
    replaced by uniform points. On spheres the density has a weak pole opposite `loc`, so `scale`
    is at most 1.

    ```python
    import jax.numpy as jnp
    from jaxflow.bases import WrappedNormal
    from jaxflow.manifolds import Torus

    base = WrappedNormal(Torus(2), loc=jnp.asarray([0.0, 3.0]), scale=0.5)
    log_p = base.log_prob(jnp.asarray([6.2, 3.1]))  # 0.08 from loc in the first column
    ```

    Attributes:
        manifold: a `jaxflow.manifolds.Manifold`, where the points lie.
        loc: centre, a point of the manifold, (n,).
        scale: standard deviation in the units of the manifold's distances, (), positive; at most
            a period of a torus, and 1 on spheres.

    Raises:
        TypeError: `manifold` is not a manifold.
        ValueError: `loc` is not a point of it, or `scale` is out of range.
    """

    manifold: Any
    loc: Event
    scale: Scalar

    def __init__(self, manifold: Any, loc: ArrayInput, scale: ArrayInput) -> None:
        self.manifold = _check_manifold(manifold)
        self.loc, self.scale = as_floats(loc), as_floats(scale)
        if isinstance(self.loc, Tracer) or isinstance(self.scale, Tracer):
            return
        if self.loc.shape != manifold.event_shape:
            raise ValueError(f"loc has shape {self.loc.shape}: give {manifold.event_shape}")
        manifold.check(self.loc[None])
        most = getattr(manifold, "most_scale", math.inf)
        if self.scale.shape or not 0 < float(self.scale) <= most:
            raise ValueError(
                f"scale={np.asarray(self.scale).tolist()} must be one number above 0 and at most "
                f"{most:g} on {manifold}"
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return self.manifold.event_shape

    def log_prob(self, x: Event) -> Scalar:
        """Log-density with respect to the surface measure, in nats."""
        check_event("x", x, self.event_shape, "base.log_prob")
        manifold = self.manifold
        return manifold.log_normal(manifold.retract(self.loc), manifold.retract(x), self.scale)

    def sample(self, key: PRNGKeyArray) -> Event:
        """Draw one point."""
        return self.manifold.normal(key, self.manifold.retract(self.loc), self.scale)


def _check_manifold(manifold: Any) -> Any:
    if not isinstance(manifold, Manifold):
        raise TypeError(f"manifold={manifold!r} must be one of jaxflow.manifolds: Sphere(2)")
    return manifold
