"""Flows of finitely many layers: what the continuous flow is the limit of.

With `z = g(x)` invertible and `z ~ p_z`, the change of variables is
`log p_x(x) = log p_z(g(x)) + log |det dg/dx|`. A dense Jacobian makes the determinant cost
O(d^3); a coupling layer has a triangular one, so that it costs O(d), and pays for it with its
form. A continuous flow needs only a trace, and no special form: `CNF`.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.bases import StandardNormal, check_base, log_prob_rows
from jaxflow.dynamics import ConditionScaling
from jaxflow.dynamics.layers import (
    ContextLinear,
    apply_network,
    check_sizes,
    flatten,
    flatten_cond,
    network_from_zero,
)
from jaxflow.flows.flow import Flow, check_arguments, to_data_space, to_flow_space
from jaxflow.ode import Stats
from jaxflow.runtime.checks import check_count

# A layer stretches a coordinate by a factor between exp(-2) and exp(2): layers can still
# compose to any scale, and no single one overflows or loses its inverse to rounding.
LOG_SCALE_BOUND = 2.0


def dense_log_det(
    g: Callable[[Float[Array, "*event"]], Float[Array, "*image"]], x: Float[Array, "*event"]
) -> tuple[Float[Array, "*image"], Float[Array, ""]]:
    """`g(x)` and `log |det dg/dx|` by the dense Jacobian, at one point.

    For any invertible `g` the change of variables holds,

    ```
    log p_x(x) = log p_z(g(x)) + log |det dg/dx|
    ```
    at the price of d Jacobian-vector products, a d x d matrix and its LU decomposition, O(d^3).
    Along a continuous flow `d log p / dt = -tr(df/dx)` stands in its place: O(d^2) for the trace
    by the same products without matrix or decomposition, O(d) for its estimate by probes.

    Args:
        g: a smooth map of one event to an image with as many entries.
        x: one event of any shape, d entries.

    Returns:
        `g(x)`, and the log-determinant in nats; -inf where the Jacobian is singular.

    Raises:
        ValueError: the image has not as many entries as `x`.
    """

    def value_twice(x: Array) -> tuple[Array, Array]:
        y = g(x)
        return y, y

    jacobian, y = jax.jacfwd(value_twice, has_aux=True)(x)
    if y.size != x.size:
        raise ValueError(
            f"g maps x of shape {x.shape} to shape {y.shape}: {x.size} entries to {y.size}, so "
            "dg/dx is not square and has no determinant; g must keep the number of entries"
        )
    return y, jnp.linalg.slogdet(jacobian.reshape(y.size, x.size))[1]


class AffineCoupling(eqx.Module):
    """One coupling layer: it moves some coordinates, by a function of the others.

    With `a = x[permutation[:k]]`, `b = x[permutation[k:]]`, `k = d // 2`, and a tanh network
    `(r, shift) = network(a, cond)`,

    ```
    a -> a,    b -> b * exp(s) + shift,    s = B tanh(r / B),    log |det| = sum(s)
    ```
    `s` is a smooth clamp of `r` to (-B, B), B = 2, of slope 1 at 0.

    Attributes:
        network: `depth + 1` affine layers; the first also sees the condition. The last is 0 at
            first, so the layer starts as the identity.
        permutation: which coordinates stay, then which move, (dim,); not trained.
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
    ) -> tuple[Float[Array, " dim"], Float[Array, ""]]:
        """The layer's value and log-determinant."""
        kept, moved = self._halves(x)
        s, shift = self._scale_and_shift(kept, cond)
        return self._join(kept, moved * jnp.exp(s) + shift), jnp.sum(s)

    def inverse(
        self, y: Float[Array, " dim"], cond: Array | None
    ) -> tuple[Float[Array, " dim"], Float[Array, ""]]:
        """The inverse of `forward`, and the inverse's log-determinant."""
        kept, moved = self._halves(y)
        s, shift = self._scale_and_shift(kept, cond)
        return self._join(kept, (moved - shift) * jnp.exp(-s)), -jnp.sum(s)

    def _halves(self, x: Array) -> tuple[Array, Array]:
        x, k = x[self.permutation], x.size // 2
        return x[:k], x[k:]

    def _join(self, kept: Array, moved: Array) -> Array:
        return jnp.concatenate([kept, moved])[jnp.argsort(self.permutation)]

    def _scale_and_shift(self, kept: Array, cond: Array | None) -> tuple[Array, Array]:
        raw, shift = jnp.split(apply_network(self.network, kept, cond), 2)
        return LOG_SCALE_BOUND * jnp.tanh(raw / LOG_SCALE_BOUND), shift


class CouplingFlow(Flow):
    """A flow of affine coupling layers (RealNVP), exact in both directions without a solve.

    `u = layer_L(... layer_1(z))` carries `z ~ base` to flow space, and
    `log p_u(u) = log p_z(z) - sum_l log |det d layer_l|`, each log-determinant a sum. Layers
    come in pairs: the second keeps coordinates that the first moved, so that a pair moves all.
    For `dim > 2` each pair has a random order of the coordinates, drawn once from the key.

    ```python
    flow = CouplingFlow(2, key=key)
    flow.log_prob(x)
    ```
    Dinh et al. (2017), "Density estimation using Real NVP", arXiv 1605.08803.

    Attributes:
        layers: all layers as one, their arrays stacked along a leading axis (num_layers, ...),
            from base to data.
        base: density of `z`: an object with `event_shape`, `log_prob` and `sample`.
        transform: fixed map from data to flow space, counted in the log-density; None for none.
        dim: number of entries of an event; events of any shape are flattened.
        cond_scaling: what brings conditions to standard units; `fit` sets it. None for nothing.
        cond_dim: number of entries of a condition.
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
            dim: number of entries of an event, at least 2.
            num_layers: coupling layers; fewer than 2 leave half of the coordinates alone.
            width: units of a hidden layer of each layer's network.
            depth: number of its hidden layers.
            cond_dim: number of entries of a condition, concatenated to the networks' inputs;
                0 for none.
            base: density of `z`; `StandardNormal((dim,))` by default.
            transform: fixed map from data to flow space.
            key: for the weights and the orders of the coordinates.

        Raises:
            ValueError: a size out of range, one dimension, a base of another size.
            TypeError: a base without the functions of one.
        """
        check_sizes(dim, width, depth, cond_dim)
        if dim == 1:
            raise ValueError(
                "dim=1: a coupling layer moves some coordinates by a function of the others, so "
                "dim must be at least 2; write CNF(MLP(1, key=key), base=StandardNormal((1,)))"
            )
        check_count("num_layers", num_layers)
        base = StandardNormal((dim,)) if base is None else base
        check_base(base)
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
        self, z: Float[Array, "*event"], cond: Float[Array, "*condition"] | None = None
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The point `u` of flow space of one `z` of the base, and `log |det du/dz|`."""
        return self._through(z, cond, inverse=False)

    def to_base(
        self, u: Float[Array, "*event"], cond: Float[Array, "*condition"] | None = None
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The point `z` of the base of one `u` of flow space, and `log |det dz/du|`."""
        return self._through(u, cond, inverse=True)

    def _through(self, x: Array, cond: Array | None, *, inverse: bool) -> tuple[Array, Array]:
        cond = cond if self.cond_scaling is None else self.cond_scaling(cond)
        c = flatten_cond(cond, self.cond_dim)

        def step(carry: tuple[Array, Array], layer: AffineCoupling) -> tuple[Any, None]:
            x, log_det = carry
            y, change = layer.inverse(x, c) if inverse else layer.forward(x, c)
            return (y, log_det + change), None

        # A scan, so that compile time does not grow with the number of layers.
        start = flatten(x, self.dim, "x"), jnp.zeros((), x.dtype)
        (y, log_det), _ = lax.scan(step, start, self.layers, reverse=inverse)
        return y.reshape(x.shape), log_det

    def density_rows(
        self,
        u: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool,
    ) -> tuple[Float[Array, " rows"], Stats | None]:
        """Log-density of rows in flow space; there is no solve, so no counts."""
        z, log_det = jax.vmap(self.to_base)(u, cond)
        return log_prob_rows(self.base, z) + log_det, None

    def sample_rows(
        self,
        z: Float[Array, "rows *event"],
        log_p: Float[Array, " rows"] | None,
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool = False,
    ) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"] | None, Stats | None]:
        """Rows of the base carried to flow space."""
        u, log_det = jax.vmap(self.from_base)(z, cond)
        return u, None if log_p is None else log_p - log_det, None

    def encode(self, x: Any, cond: Any = None) -> Float[Array, "..."]:
        """The base's point of data; (*batch, dim)."""
        flow, rows, cond, batch = check_arguments(self, x, cond, "x")
        return _to_base(flow, rows, cond).reshape(*batch, *self.event_shape)

    def decode(self, z: Any, cond: Any = None) -> Float[Array, "..."]:
        """The data of the base's point; (*batch, dim)."""
        flow, rows, cond, batch = check_arguments(self, z, cond, "z")
        return _from_base(flow, rows, cond).reshape(*batch, *self.event_shape)


@eqx.filter_jit
def _to_base(flow: CouplingFlow, x: Array, cond: Array | None) -> Array:
    return jax.vmap(flow.to_base)(to_flow_space(flow.transform, x)[0], cond)[0]


@eqx.filter_jit
def _from_base(flow: CouplingFlow, z: Array, cond: Array | None) -> Array:
    return to_data_space(flow.transform, jax.vmap(flow.from_base)(z, cond)[0])[0]


def _permutations(dim: int, num_layers: int, key: PRNGKeyArray) -> Int[Array, "layers dim"]:
    """Orders of the coordinates: each layer of even number has a new one, the next its reverse.

    A layer keeps the first `dim // 2` of its order, so of two layers that share an order, one
    reversed, each coordinate is moved by one at least.
    """
    pairs = (num_layers + 1) // 2
    if dim == 2:
        orders = jnp.tile(jnp.arange(2, dtype=jnp.int32), (pairs, 1))
    else:
        draw = jax.vmap(lambda key: jax.random.permutation(key, dim))
        orders = draw(jax.random.split(key, pairs)).astype(jnp.int32)
    return jnp.stack([orders, orders[:, ::-1]], axis=1).reshape(2 * pairs, dim)[:num_layers]
