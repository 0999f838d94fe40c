"""A residual network with Fourier features of time and FiLM, for denoisers and fields."""

from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.activations import Activation, activation_function, check_activation
from jaxflow.dynamics.layers import ContextLinear, check_sizes, plain_linear, read_inputs
from jaxflow.dynamics.time_embedding import embed_time, time_embedding
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Event, Scalar


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
        scale, shift = jnp.split(self.modulate(embedding), 2)
        inner = (1 + scale) * self.first(s(h)) + shift
        return h + self.second(s(inner))


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

        def block(key: PRNGKeyArray) -> ResidualBlock:
            first, modulate = jax.random.split(key)
            return ResidualBlock(
                plain_linear(width, width, first),
                plain_linear(width, 2 * width, modulate),
                plain_linear(width, width, key, 0.0),
            )

        self.enter = plain_linear(dim, width, enter_key)
        self.embed = time_embedding(cond_dim, width, embed_key, then_key)
        self.blocks = tuple(map(block, keys))
        self.outputs = None if outputs is None else check_count("outputs", outputs)
        self.leave = plain_linear(width, self.outputs or dim, key, 0.0)
        self.dim, self.cond_dim = dim, cond_dim
        self.activation = check_activation(activation)

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Float[Array, "..."]:
        """The network's value at one point."""
        s = activation_function(self.activation)
        t, flat, c = read_inputs(t, x, cond, dim=self.dim, cond_dim=self.cond_dim)
        embedding = embed_time(self.embed, t, c, s)
        h = self.enter(flat)
        for block in self.blocks:
            h = block(h, embedding, s)
        out = self.leave(s(h))
        return out.reshape(x.shape) if self.outputs is None else out
