"""Manifolds: where directions, angles, rotations and positions on Earth live.

A `Manifold` has geodesics (`exp`, `log`), a volume and a way in which fields see its points. On it
the field of a flow is `jaxflow.dynamics.OnManifold(network, manifold)`, the base
`jaxflow.bases.UniformOn(manifold)` or `WrappedNormal`, and log-densities are with respect to its
surface measure. `jaxflow.transforms.LatLon` and `Angles` are charts of it.
"""

from jaxflow.manifolds.euclidean import Euclidean
from jaxflow.manifolds.hyperbolic import Hyperbolic
from jaxflow.manifolds.manifold import Manifold
from jaxflow.manifolds.product import Product
from jaxflow.manifolds.projective import SO3, Projective
from jaxflow.manifolds.quadrature import quadrature
from jaxflow.manifolds.sphere import Sphere
from jaxflow.manifolds.torus import Torus

__all__ = [
    "SO3",
    "Euclidean",
    "Hyperbolic",
    "Manifold",
    "Product",
    "Projective",
    "Sphere",
    "Torus",
    "quadrature",
]
