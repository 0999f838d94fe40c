"""Flows of finitely many layers; a continuous flow is their limit.

With `z = g(x)` invertible and `z ~ p_z`, the change of variables is
`log p_x(x) = log p_z(g(x)) + log |det dg/dx|`. The determinant of a dense Jacobian costs O(d^3).
A coupling layer has a triangular Jacobian, whose determinant costs O(d), at the price of a
restricted form. A continuous flow (`CNF`) needs only a trace, and has no restriction.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.bases import StandardNormal, as_base
from jaxflow.dynamics import ConditionScaling
from jaxflow.dynamics.layers import (
    ContextLinear,
    apply_network,
    check_sizes,
    flatten,
    flatten_cond,
    network_from_zero,
)
from jaxflow.flows.map_flow import MapFlow
from jaxflow.flows.summary import words
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Event, Scalar

# A layer scales a coordinate by a factor between exp(-2) and exp(2). Layers still compose to any
# scale, and no layer overflows or loses its inverse to rounding.
LOG_SCALE_BOUND = 2.0


class AffineCoupling(eqx.Module):
    """A coupling layer: it moves half of the coordinates, by a function of the others.

    With `a = x[permutation[:k]]`, `b = x[permutation[k:]]`, `k = d // 2`, and a tanh network
    `(r, shift) = network(a, cond)`,

    ```
    a -> a,    b -> b * exp(s) + shift,    s = B tanh(r / B),    log |det| = sum(s)
    ```
    (Dinh et al. 2017, arXiv 1605.08803, eq. 4 and 5.) `s` is `r` clamped smoothly to (-B, B),
    with B = 2 and slope 1 at 0.

    Attributes:
        network: `depth + 1` affine layers; the first also sees the condition. The last starts
            at 0, so the coupling layer starts as the identity.
        permutation: indices of the coordinates that stay, then of those that move, (dim,); not
            trained.
    """

    network: tuple[ContextLinear, ...]
    permutation: Int[Array, " dim"]

    def __init__(
        self,
        permutation: Int[Array, " dim"],
        *,
        width: int,
        depth: int,
        cond_dim: int,
        key: PRNGKeyArray,
    ) -> None:
        dim = permutation.size
        outputs = 2 * (dim - dim // 2)
        self.network = network_from_zero(
            dim // 2, outputs, width=width, depth=depth, cond_dim=cond_dim, key=key
        )
        self.permutation = permutation

    def forward(
        self, x: Float[Array, " dim"], cond: Array | None
    ) -> tuple[Float[Array, " dim"], Scalar]:
        """The layer's value, and its log-determinant."""
        fixed, moved = self._split(x)
        s, shift = self._scale_and_shift(fixed, cond)
        return self._join(fixed, moved * jnp.exp(s) + shift), jnp.sum(s)

    def inverse(
        self, y: Float[Array, " dim"], cond: Array | None
    ) -> tuple[Float[Array, " dim"], Scalar]:
        """The inverse of `forward`, and the log-determinant of the inverse."""
        fixed, moved = self._split(y)
        s, shift = self._scale_and_shift(fixed, cond)
        return self._join(fixed, (moved - shift) * jnp.exp(-s)), -jnp.sum(s)

    def _split(self, x: Array) -> tuple[Array, Array]:
        ordered, k = x[self.permutation], x.size // 2
        return ordered[:k], ordered[k:]

    def _join(self, fixed: Array, moved: Array) -> Array:
        return jnp.concatenate([fixed, moved])[jnp.argsort(self.permutation)]

    def _scale_and_shift(self, fixed: Array, cond: Array | None) -> tuple[Array, Array]:
        raw, shift = jnp.split(apply_network(self.network, fixed, cond), 2)
        return LOG_SCALE_BOUND * jnp.tanh(raw / LOG_SCALE_BOUND), shift


class CouplingFlow(MapFlow):
    """A flow of affine coupling layers (RealNVP), exact in both directions without an ODE solve.

    `u = layer_L(... layer_1(z))` carries `z ~ base` to flow space, and
    `log p_u(u) = log p_z(z) - sum_l log |det d layer_l|`, where each log-determinant is a sum
    (Dinh et al. 2017, "Density estimation using Real NVP", arXiv 1605.08803). Layers come in
    pairs: the second moves the coordinates that the first one keeps. For `dim > 2` each pair has
    a random order of the coordinates, drawn once from the key.

    ```python
    import jax
    from jaxflow import CouplingFlow

    key = jax.random.key(0)
    flow = CouplingFlow(2, num_layers=4, width=16, key=key)
    x = flow.sample(key, 5)
    print(flow.log_prob(x))  # nats
    ```

    Attributes:
        layers: all layers, from base to data, their arrays stacked along a leading axis
            (num_layers, ...).
        cond_scaling: map of conditions to standard units, set by `fit`; None for none.
    """

    layers: AffineCoupling
    base: Any
    transform: Any
    cond_scaling: ConditionScaling | None
    dim: int = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        num_layers: int = 8,
        width: int = 128,
        depth: int = 2,
        cond_dim: int = 0,
        base: Any = None,
        transform: Any = None,
        key: PRNGKeyArray,
    ) -> None:
        """Make a flow that starts as the identity.

        Args:
            dim: number of entries of an event, at least 2; events of any shape are flattened.
            num_layers: number of coupling layers; a single one leaves half of the coordinates
                unchanged.
            width: hidden units in each hidden layer of a coupling layer's network.
            depth: number of hidden layers of that network.
            cond_dim: number of entries of a condition, an input of the networks; 0 for none.
            base: density of `z`; `StandardNormal((dim,))` by default.
            transform: fixed map from data to flow space, part of the log-density; none by default.
            key: random key for the weights and the orders of the coordinates.

        Raises:
            ValueError: a size is out of range, or the base's events do not have `dim` entries.
            TypeError: `base` lacks a method of a base.
        """
        check_sizes(dim, width, depth, cond_dim)
        # NumPy integers would be arrays in static fields.
        dim, cond_dim = int(dim), int(cond_dim)
        if dim == 1:
            raise ValueError(
                "dim=1 must be at least 2: a coupling layer moves some coordinates by a function "
                "of the others; write CNF(MLP(1, key=key), base=StandardNormal((1,)))"
            )
        check_count("num_layers", num_layers)
        base = StandardNormal((dim,)) if base is None else base
        base = as_base(base)
        if math.prod(base.event_shape) != dim:
            raise ValueError(
                f"base has events of shape {tuple(base.event_shape)}, but dim={dim}; give e.g. "
                f"jaxflow.StandardNormal(({dim},))"
            )
        order_key, weights_key = jax.random.split(key)
        self.layers = eqx.filter_vmap(
            lambda permutation, key: AffineCoupling(
                permutation, width=width, depth=depth, cond_dim=cond_dim, key=key
            )
        )(_permutations(dim, num_layers, order_key), jax.random.split(weights_key, num_layers))
        self.base, self.transform, self.cond_scaling = base, transform, None
        self.dim, self.cond_dim = dim, cond_dim

    def from_base(
        self, z: Event, cond: Float[Array, "*condition"] | None = None
    ) -> tuple[Event, Scalar]:
        """Map one base point to flow space: `u`, and `log |det du/dz|` in nats."""
        return self._apply(z, cond, inverse=False)

    def to_base(
        self, u: Event, cond: Float[Array, "*condition"] | None = None
    ) -> tuple[Event, Scalar]:
        """Map one point of flow space to the base: `z`, and `log |det dz/du|` in nats."""
        return self._apply(u, cond, inverse=True)

    def _apply(self, x: Array, cond: Array | None, *, inverse: bool) -> tuple[Array, Array]:
        cond = cond if self.cond_scaling is None else self.cond_scaling(cond)
        c = flatten_cond(cond, self.cond_dim)

        def step(carry: tuple[Array, Array], layer: AffineCoupling) -> tuple[Any, None]:
            x, log_det = carry
            y, change = layer.inverse(x, c) if inverse else layer.forward(x, c)
            return (y, log_det + change), None

        # A scan: compile time does not grow with the number of layers.
        start = flatten(x, self.dim, "x"), jnp.zeros((), x.dtype)
        (y, log_det), _ = lax.scan(step, start, self.layers, reverse=inverse)
        return y.reshape(x.shape), log_det

    def summary(self) -> dict[str, str]:
        """A text for each part, by its name; as `Flow.summary`."""
        layers = f"{len(self.layers.permutation)} x {words(self.layers)}"
        return super().summary() | {"layers": layers}


def _permutations(dim: int, num_layers: int, key: PRNGKeyArray) -> Int[Array, "layers dim"]:
    """Orders of the coordinates, one a layer: each pair of layers has one order and its reverse.

    A layer keeps the first `dim // 2` coordinates of its order, so each pair moves all of them.
    """
    pairs = (num_layers + 1) // 2
    if dim == 2:
        orders = jnp.tile(jnp.arange(2, dtype=jnp.int32), (pairs, 1))
    else:
        draw = jax.vmap(lambda key: jax.random.permutation(key, dim))
        orders = draw(jax.random.split(key, pairs)).astype(jnp.int32)
    return jnp.stack([orders, orders[:, ::-1]], axis=1).reshape(2 * pairs, dim)[:num_layers]
