"""A residual network with Fourier features of time and FiLM, for denoisers and fields."""

import math
from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.activations import Activation, activation_function, check_activation
from jaxflow.dynamics.layers import ContextLinear, check_sizes, context_linear, read_inputs
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Event, Scalar

# Frequencies of the Fourier features of time, in turns: 1/8 to 2, equal ratios.
FREQUENCIES = tuple(2.0 ** (-3 + 4 * i / 7) for i in range(8))


class ResidualBlock(eqx.Module):
    """`h + W2 s((1 + a) * (W1 s(h) + b1) + b)`, with `a, b` affine in the embedding.

    `modulate` gives `a, b`: FiLM (Perez et al. 2018, arXiv 1709.07871). `W2` is 0 at the start, so
    the block starts as the identity.
    """

    first: ContextLinear
    modulate: ContextLinear
    second: ContextLinear

    def __call__(
        self, h: Float[Array, " width"], embedding: Float[Array, " width"], s: Activation
    ) -> Float[Array, " width"]:
        """The block's value."""
        zero = jnp.zeros((), h.dtype)
        scale, shift = jnp.split(self.modulate(embedding, zero, None), 2)
        inner = (1 + scale) * self.first(s(h), zero, None) + shift
        return h + self.second(s(inner), zero, None)


class Residual(eqx.Module):
    """Residual blocks on `x`, each scaled and shifted by an embedding of time and condition.

    Time enters through sines and cosines, so the field may change fast in it; the condition joins
    them. The trace has no closed form.

    ```python
    import jax
    from jaxflow.diffusion import Denoiser, VariancePreserving
    from jaxflow.dynamics import Residual

    network = Residual(64, width=256, depth=4, key=jax.random.key(0))
    denoiser = Denoiser(network, VariancePreserving())
    ```

    Attributes:
        enter: (dim, width).
        embed: the two layers of the embedding.
        blocks: `depth` blocks.
        leave: (width, outputs), 0 at the start.
    """

    enter: ContextLinear
    embed: tuple[ContextLinear, ContextLinear]
    blocks: tuple[ResidualBlock, ...]
    leave: ContextLinear
    dim: int = eqx.field(static=True)
    outputs: int | None = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)
    activation: str | Activation = eqx.field(static=True)

    def __init__(
        self,
        dim: SupportsIndex,
        *,
        width: SupportsIndex = 128,
        depth: SupportsIndex = 3,
        cond_dim: SupportsIndex = 0,
        outputs: SupportsIndex | None = None,
        activation: str | Activation = "swish",
        key: PRNGKeyArray,
    ) -> None:
        """Make a network with random weights. Its value is 0 at the start.

        Args:
            dim: number of entries of an event; events of any shape are flattened.
            width: units of the blocks and of the embedding.
            depth: number of blocks.
            cond_dim: number of entries of a condition; 0 for none.
            outputs: number of entries of the value, for example of a classifier; None for a field,
                whose value has the shape of the event.
            activation: a name in `jaxflow.dynamics.ACTIVATIONS`, or an elementwise function with
                a continuous derivative.
            key: for the weights.

        Raises:
            ValueError: a size is out of range, or the activation is unknown or has a kink.
        """
        dim, width, depth, cond_dim = check_sizes(dim, width, depth, cond_dim)
        enter_key, embed_key, then_key, *keys = jax.random.split(key, 3 + depth)

        def layer(
            inputs: int, outputs: int, key: PRNGKeyArray, scale: float = 1.0
        ) -> ContextLinear:
            return context_linear(inputs, outputs, 0, key, time=False, scale=scale)

        def block(key: PRNGKeyArray) -> ResidualBlock:
            first, modulate = jax.random.split(key)
            return ResidualBlock(
                layer(width, width, first),
                layer(width, 2 * width, modulate),
                layer(width, width, key, 0.0),
            )

        self.enter = layer(dim, width, enter_key)
        features = 2 * len(FREQUENCIES) + cond_dim
        self.embed = layer(features, width, embed_key), layer(width, width, then_key)
        self.blocks = tuple(map(block, keys))
        self.outputs = None if outputs is None else check_count("outputs", outputs)
        self.leave = layer(width, self.outputs or dim, key, 0.0)
        self.dim, self.cond_dim = dim, cond_dim
        self.activation = check_activation(activation)

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Float[Array, "..."]:
        """The network's value at one point."""
        s = activation_function(self.activation)
        t, flat, c = read_inputs(t, x, cond, dim=self.dim, cond_dim=self.cond_dim)
        zero = jnp.zeros((), flat.dtype)
        turns = 2 * math.pi * jnp.asarray(FREQUENCIES, flat.dtype) * t
        features = [jnp.sin(turns), jnp.cos(turns), *(() if c is None else (c,))]
        first, then = self.embed
        embedding = s(then(s(first(jnp.concatenate(features), zero, None)), zero, None))
        h = self.enter(flat, zero, None)
        for block in self.blocks:
            h = block(h, embedding, s)
        out = self.leave(s(h), zero, None)
        return out.reshape(x.shape) if self.outputs is None else out
