"""Hollow networks: deep fields whose exact trace costs no more than their value."""

import functools
import itertools
from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxflow.dynamics.activations import Activation, check_activation, value_and_slope
from jaxflow.dynamics.closed_form import contract
from jaxflow.dynamics.layers import ContextLinear, check_sizes, context_linear, read_inputs
from jaxflow.dynamics.weights import normal_weights
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Event, Scalar


class Transformer(eqx.Module):
    """`f_i = sum_k o_ik s(a_ik) + b_i` with `a_ik = w_ik x_i + u_ik + (V^T h_i)_k + (t, c terms)`.

    One hidden layer for each entry of the event; `V` is shared by all entries. In these symbols
    `scale` is `w`, `shift` is `u`, `shared` is `V` with its terms of time and condition, `output`
    is `o` and `bias` is `b`.
    """

    scale: Float[Array, "dim units"]
    shift: Float[Array, "dim units"]
    shared: ContextLinear
    output: Float[Array, "dim units"]
    bias: Float[Array, " dim"]


class Hollow(eqx.Module):
    """A field with entries `f_i = tau_i(x_i, h_i, t)`, where `h_i` depends on the other entries.

    ```
    h_i = (c_i(x_{<i}, t), c'_i(x_{>i}, t)),    tr(df/dx) = sum_i d tau_i / d x_i
    ```
    The conditioner `h` is a pair of masked autoregressive networks of any depth, one over the
    entries below and its mirror image over those above. Its Jacobian is hollow (zero diagonal),
    so the exact trace is the slope of the small networks `tau_i` at fixed `h` and costs no more
    than the field. Time and condition enter every layer unmasked.

    Chen and Duvenaud (2019), "Neural Networks with Cheap Differential Operators",
    arXiv 1912.03579; masks as in Germain et al. (2015), "MADE: Masked Autoencoder for
    Distribution Estimation", arXiv 1502.03509.

    ```python
    import jax
    from jaxflow.dynamics import Hollow

    field = Hollow(10, width=32, depth=3, key=jax.random.key(0))
    ```

    Attributes:
        conditioner: `depth + 1` affine layers of both networks, stacked on a leading axis of 2.
        transformer: the networks `tau_i`.
    """

    conditioner: tuple[ContextLinear, ...]
    transformer: Transformer
    dim: int = eqx.field(static=True)
    features: int = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)
    activation: str | Activation = eqx.field(static=True)

    def __init__(
        self,
        dim: SupportsIndex,
        *,
        width: SupportsIndex = 128,
        depth: SupportsIndex = 2,
        features: SupportsIndex = 4,
        transformer_width: SupportsIndex = 12,
        cond_dim: SupportsIndex = 0,
        activation: str | Activation = "tanh",
        key: PRNGKeyArray,
    ) -> None:
        """Make a field with random weights. The last layer is small, so the field starts near 0.

        Args:
            dim: number of entries of an event; events of any shape are flattened.
            width: units of a hidden layer of each conditioner, at least `dim - 1`.
            depth: number of hidden layers of the conditioners.
            features: entries of each half of `h_i`.
            transformer_width: hidden units of `tau_i`.
            cond_dim: number of entries of a condition; 0 for none.
            activation: a name in `jaxflow.dynamics.ACTIVATIONS`, or an elementwise function with
                a continuous derivative.
            key: for the weights.

        Raises:
            ValueError: a size is out of range, or the activation is unknown or has a kink.
        """
        dim, width, depth, cond_dim = check_sizes(dim, width, depth, cond_dim)
        features = check_count("features", features)
        units = check_count("transformer_width", transformer_width)
        if width < dim - 1:
            raise ValueError(
                f"width={width} must be at least dim - 1 = {dim - 1}, or some entries of the "
                f"field would not depend on their neighbours: write width={dim - 1} or more"
            )
        self.dim, self.features, self.cond_dim = dim, features, cond_dim
        self.activation = check_activation(activation)
        kv, ks, ku, ko, *keys = jax.random.split(key, depth + 5)
        sizes = [dim] + [width] * depth + [dim * features]
        layers = []
        for i, mask in enumerate(conditioner_masks(dim, width, depth, features)):
            make_layer = functools.partial(context_linear, sizes[i], sizes[i + 1], cond_dim)
            pair = eqx.filter_vmap(make_layer)(jax.random.split(keys[i]))
            # LeCun's variance for the unmasked inputs of a unit.
            seen = np.maximum(mask.sum(axis=1, keepdims=True), 1) + 1 + cond_dim
            gain = ((sizes[i] + 1 + cond_dim) / seen) ** 0.5
            weight = pair.weight * jnp.asarray(gain, pair.weight.dtype)
            layers.append(eqx.tree_at(lambda layer: layer.weight, pair, weight))
        self.conditioner = tuple(layers)
        self.transformer = Transformer(
            scale=normal_weights(ks, (dim, units)),
            # Random, so that the units of an entry bend at different points.
            shift=normal_weights(ku, (dim, units)),
            shared=context_linear(2 * features, units, cond_dim, kv, bias=False),
            output=normal_weights(ko, (dim, units), 0.1 / units**0.5),
            bias=jnp.zeros(dim),
        )

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """`dx/dt` at one point."""
        return self.prepare()(t, x, cond)

    def with_trace(self, t: Scalar, x: Event, cond: Array | None = None) -> tuple[Event, Scalar]:
        """The field's value and `tr(df/dx)`."""
        return self.prepare().with_trace(t, x, cond)

    def prepare(self) -> "Masked":
        """The field with its masks applied to the weights."""
        width = self.conditioner[0].weight.shape[-1]
        masks = conditioner_masks(self.dim, width, len(self.conditioner) - 1, self.features)
        layers = [
            eqx.tree_at(lambda layer: layer.weight, layer, jnp.where(mask, layer.weight, 0))
            for layer, mask in zip(self.conditioner, masks, strict=True)
        ]
        return Masked(eqx.tree_at(lambda field: field.conditioner, self, tuple(layers)))


class Masked(eqx.Module):
    """A hollow field whose masked weights have been set to 0."""

    field: Hollow

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """The field's value."""
        return self.with_trace(t, x, cond)[0]

    def with_trace(self, t: Scalar, x: Event, cond: Array | None = None) -> tuple[Event, Scalar]:
        """The field's value and `tr(df/dx)`."""
        field, tau = self.field, self.field.transformer
        t, flat, c = read_inputs(t, x, cond, dim=field.dim, cond_dim=field.cond_dim)
        h = self.conditioner(t, flat, cond)
        context = tau.shift + tau.shared.context(t, c)[None, :]
        a = tau.scale * flat[:, None] + h @ tau.shared.weight + context
        value, slope = value_and_slope(field.activation, a)
        out = jnp.sum(tau.output * value, axis=1) + tau.bias
        trace = contract((tau.output * tau.scale).reshape(-1), (slope.reshape(-1),))
        return out.reshape(x.shape), trace

    def conditioner(
        self, t: Scalar, x: Event, cond: Array | None = None
    ) -> Float[Array, "dim features"]:
        """`h`, (dim, 2 * features): the other entries of `x` as `f_i` sees them."""
        field = self.field
        t, flat, c = read_inputs(t, x, cond, dim=field.dim, cond_dim=field.cond_dim)
        h = jnp.broadcast_to(flat, (2, field.dim))
        *hidden, last = field.conditioner
        apply = jax.vmap(lambda layer, h: layer(h, t, c))
        for layer in hidden:
            h, _ = value_and_slope(field.activation, apply(layer, h))
        h = apply(last, h).reshape(2, field.dim, field.features)
        return jnp.concatenate(tuple(h), axis=1)


def conditioner_masks(
    dim: int, width: int, depth: int, features: int
) -> list[Bool[np.ndarray, "2 inputs outputs"]]:
    """Masks of the unmasked weights of the two conditioners, layer by layer.

    A unit of degree m sees `x_1 ... x_m`; the features of `x_i` see the degrees below i. Degrees
    are spread evenly from 1 to `dim - 1`. The second network is the mirror image of the first.
    """
    entries = np.arange(1, dim + 1)
    units = 1 + np.arange(width) * max(1, dim - 1) // width
    degrees = [entries] + [units] * depth
    masks = [lower[:, None] <= upper[None, :] for lower, upper in itertools.pairwise(degrees)]
    masks.append(np.repeat(units[:, None] < entries[None, :], features, axis=1))
    first = masks[0]
    mirrored = [first[::-1], *masks[1:-1]]
    last = masks[-1].reshape(width, dim, features)[:, ::-1].reshape(width, dim * features)
    return [np.stack(pair) for pair in zip(masks, [*mirrored, last], strict=True)]
