"""Fields on manifolds: any network, projected on the tangent space."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.dynamics.protocol import (
    Field,
    check_field,
    evaluate,
    evaluate_with_trace,
    has_closed_form,
    prepare,
)
from jaxflow.dynamics.wrapper import AbstractWrapper
from jaxflow.manifolds import Manifold
from jaxflow.runtime.shapes import Event, Scalar

# Products with the Jacobian that a closed form may take even if they are most of the entries.
FEW_PRODUCTS = 4


class OnManifold(eqx.Module):
    """A field on a manifold: the tangent part of a field of the embedded points.

    On a sphere `f(x) = g(x) - (x . g(x)) x`; on a torus `g` sees cosines and sines. Where `g` has
    a closed-form trace, the divergence on spheres, and on their products with a few angles and any
    number of ordinary columns, has one too: `tr(J) - sum_i n_i . J n_i - h . g` with the normals
    `n_i` of the manifold as `g` sees it, one for each sphere and angle, and its mean curvature
    vector `h`. On a sphere that is `tr(J) - x . J x - d x . g`.

    ```python
    import jax
    from jaxflow.dynamics import MLP, OnManifold
    from jaxflow.manifolds import Torus

    torus = Torus(7)
    field = OnManifold(MLP(torus.ambient, width=64, key=jax.random.key(0)), torus)
    ```

    Attributes:
        field: `g(t, p, cond=None)`, with `p` and the value of `manifold.ambient` entries.
        manifold: a `jaxflow.manifolds.Manifold`, where the points lie.

    Raises:
        TypeError: `field` is not callable, or `manifold` is not a manifold.
        ValueError: the field was made for another number of entries.
    """

    field: Field
    manifold: Manifold

    def __init__(self, field: Any, manifold: Any) -> None:
        check_field(field, "field")
        if not isinstance(manifold, Manifold):
            raise TypeError(f"manifold={manifold!r} must be one of jaxflow.manifolds: Sphere(2)")
        dim = getattr(field, "dim", manifold.ambient)
        if dim != manifold.ambient:
            raise ValueError(
                f"field takes {dim} entries, and on {manifold} it sees {manifold.ambient}: write "
                f"{type(field).__name__}(manifold.ambient, ...)"
            )
        self.field, self.manifold = field, manifold

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """`dx/dt` at one point."""
        m = self.manifold
        return m.project(x, evaluate(self.field, t, m.embed(x), cond))

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond=None) -> (f, div f)`; None without a closed form.

        Where it takes about as many products with the Jacobian as there are entries, as on tori,
        those products in the angles themselves are as good.
        """
        m = self.manifold
        products = math.inf if m.num_normals is None else 1 + m.num_normals
        entries = m.event_shape[0]
        saves = products <= min(entries, max(FEW_PRODUCTS, entries // 2))
        return self._with_trace if saves and has_closed_form(self.field) else None

    def prepare(self) -> "OnManifold":
        """The same field with its inner field prepared, if the trace has a closed form."""
        return self if self.with_trace is None else OnManifold(prepare(self.field), self.manifold)

    def _with_trace(self, t: Scalar, x: Event, cond: Array | None = None) -> tuple[Array, Array]:
        m: Any = self.manifold
        p = m.embed(x)
        value, trace = evaluate_with_trace(self.field, t, p, cond)
        seen = partial(evaluate, self.field, t, cond=cond)
        normals = m.normals(p)
        along = normals
        if m.num_normals:
            along = jax.vmap(lambda n: jax.jvp(seen, (p,), (n,))[1])(normals)
        wide = trace.dtype
        across = jnp.sum(normals.astype(wide) * along.astype(wide))
        turning = jnp.dot(m.curvature(p).astype(wide), value.astype(wide))
        return m.project(x, value.astype(x.dtype)), trace - across - turning


def manifold_of(field: Any) -> Manifold | None:
    """The manifold of a field, or of the first field inside it that has one; None without one."""
    if isinstance(field, AbstractWrapper):
        return next(filter(None, map(manifold_of, field.parts())), None)
    return getattr(field, "manifold", None)
