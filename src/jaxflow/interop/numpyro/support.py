"""Support of a flow whose transform has limits, and the bijection onto it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform, biject_to

from jaxflow.runtime.arguments import as_rows, promote_dtypes


class _OfTransform:
    """An object of NumPyro with one field, the transform of a flow."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, type(self)) and eqx.tree_equal(self.transform, other.transform)

    def tree_flatten(self) -> Any:
        return (self.transform,), (("transform",), {})


class DataSpace(_OfTransform, constraints.Constraint):
    """The points that a transform maps to finite ones."""

    def __repr__(self) -> str:
        return f"DataSpace({self.transform!r})"

    @property
    def event_dim(self) -> int:
        return len(self.transform.event_shape)

    def __call__(self, x: Any) -> Array:
        transform, x = promote_dtypes(self.transform, jnp.asarray(x, float))
        u, _ = _map_events(transform, "forward", x)
        return jnp.all(jnp.isfinite(u), axis=tuple(range(-self.event_dim, 0)))

    def feasible_like(self, prototype: Any) -> Array:
        return _map_events(self.transform, "inverse", jnp.zeros_like(prototype))[0]


class ToDataSpace(_OfTransform, Transform):
    """The inverse of a flow's transform, from the unconstrained space onto the support."""

    @property
    def domain(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.transform.event_shape))

    @property
    def codomain(self) -> constraints.Constraint:
        return DataSpace(self.transform)

    def __call__(self, x: Any) -> Array:
        return _map_events(self.transform, "inverse", x)[0]

    def _inverse(self, y: Any) -> Array:
        return _map_events(self.transform, "forward", y)[0]

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        return _map_events(self.transform, "inverse", x)[1]


@biject_to.register(DataSpace)
def _onto_data_space(constraint: DataSpace) -> ToDataSpace:
    return ToDataSpace(constraint.transform)


def _map_events(transform: Any, method: str, x: Any) -> tuple[Array, Array]:
    """Values and log-determinants of `transform.forward` or `.inverse` at every event."""
    rows, batch = as_rows(x, transform.event_shape, "value")
    y, log_det = jax.vmap(getattr(transform, method))(rows)
    return y.reshape(*batch, *transform.event_shape), log_det.reshape(batch)
