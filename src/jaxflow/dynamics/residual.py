"""A residual network told the time by Fourier features and FiLM, for denoisers and fields."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.activations import Activation, check_activation, function
from jaxflow.dynamics.layers import (
    ContextLinear,
    check_sizes,
    context_linear,
    flatten,
    flatten_cond,
)
from jaxflow.runtime.checks import check_count

# Fourier features of time: frequencies from 1/8 to 2 turns, evenly spaced in their logarithm.
FREQUENCIES = tuple(2.0 ** (-3 + 4 * i / 7) for i in range(8))


class ResidualBlock(eqx.Module):
    """`h + W2 s((1 + a) * (W1 s(h) + b1) + b)`, where `a, b` are linear in time and condition.

    Attributes:
        first: (width, width).
        modulate: (embedding, 2 width), FiLM's (Perez et al. 2018, arXiv 1709.07871).
        second: (width, width), 0 at the start, so that the block is the identity.
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

    ```python
    denoiser = Denoiser(Residual(64, width=256, depth=4, key=key), VariancePreserving())
    ```
    Time enters by sines and cosines, so that a field may change fast in it, and the condition
    beside them. The trace has no closed form.

    Attributes:
        enter: (dim, width).
        embed: the embedding's two layers.
        blocks: `depth` blocks.
        leave: (width, outputs).
        dim: entries of an event; events of any shape are flattened.
        outputs: entries of the value; None for a value of the event's shape.
        cond_dim: entries of a condition.
        activation: a name of `jaxflow.dynamics.ACTIVATIONS`, or a smooth elementwise function.
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
        dim: int,
        *,
        width: int = 128,
        depth: int = 3,
        cond_dim: int = 0,
        outputs: int | None = None,
        activation: str | Activation = "swish",
        key: PRNGKeyArray,
    ) -> None:
        """Make a network with random weights; its value is 0 at first.

        Args:
            dim: entries of an event.
            width: of blocks and embedding.
            depth: blocks.
            cond_dim: entries of a condition; 0 for none.
            outputs: entries of the value, for a classifier say; None for `dim`, as a field has.
            activation: elementwise nonlinearity, with a continuous derivative.
            key: for the weights.

        Raises:
            ValueError: a size out of range, an unknown or kinked activation.
        """
        check_sizes(dim, width, depth, cond_dim)
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
        if outputs is not None:
            check_count("outputs", outputs)
        self.outputs = outputs
        self.leave = layer(width, outputs or dim, key, 0.0)
        self.dim, self.cond_dim = dim, cond_dim
        self.activation = check_activation(activation)

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "..."]:
        """The network's value at one point."""
        s = function(self.activation)
        flat, c = flatten(x, self.dim, "x"), flatten_cond(cond, self.cond_dim)
        zero = jnp.zeros((), flat.dtype)
        turns = 2 * math.pi * jnp.asarray(FREQUENCIES, flat.dtype) * jnp.asarray(t, flat.dtype)
        features = [jnp.sin(turns), jnp.cos(turns), *(() if c is None else (c,))]
        first, then = self.embed
        embedding = s(then(s(first(jnp.concatenate(features), zero, None)), zero, None))
        h = self.enter(flat, zero, None)
        for block in self.blocks:
            h = block(h, embedding, s)
        out = self.leave(s(h), zero, None)
        return out.reshape(x.shape) if self.outputs is None else out
