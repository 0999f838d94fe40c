"""A transformer on patches: a field for images in which each patch sees all others."""

import math
from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.convolutional import (
    Convolution,
    check_image,
    check_image_shape,
    convolution,
)
from jaxflow.dynamics.convolve import Image
from jaxflow.dynamics.layers import ContextLinear, flatten_cond, plain_linear
from jaxflow.dynamics.time_embedding import embed_time, time_embedding
from jaxflow.dynamics.unet import EPSILON
from jaxflow.dynamics.weights import normal_weights
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.runtime.shapes import Event, Scalar

# Units of the hidden layer of a block, as a multiple of its width.
HIDDEN = 4


class TransformerBlock(eqx.Module):
    """`h + g1 attention((1 + a1) norm(h) + b1)`, then `h + g2 network((1 + a2) norm(h) + b2)`.

    `a, b, g` are affine in the embedding and 0 at the start, so the block starts as the identity:
    "adaLN-Zero".

    Attributes:
        modulate: (width, 6 width), 0 at the start.
        project: 1 x 1, to queries, keys and values.
        mix: 1 x 1, of the heads.
        network: two 1 x 1 layers.
        heads: number of heads.
    """

    modulate: ContextLinear
    project: Convolution
    mix: Convolution
    network: tuple[Convolution, Convolution]
    heads: int = eqx.field(static=True)

    def __call__(self, h: Image, embedding: Float[Array, " width"]) -> Image:
        """The block's value."""
        modulation = jnp.split(self.modulate(embedding)[None, None], 6, axis=-1)
        a1, b1, g1, a2, b2, g2 = modulation
        h = h + g1 * self._attention((1 + a1) * normalise(h) + b1)
        grow, shrink = self.network
        return h + g2 * shrink(jax.nn.gelu(grow((1 + a2) * normalise(h) + b2)))

    def _attention(self, h: Image) -> Image:
        size = h.shape[-1] // self.heads
        parts = self.project(h).reshape(-1, 3, self.heads, size)
        q, k, v = (parts[:, i] for i in range(3))
        weights = jax.nn.softmax(jnp.einsum("ihc,jhc->hij", q, k) / size**0.5, axis=-1)
        return self.mix(jnp.einsum("hij,jhc->ihc", weights, v).reshape(h.shape))


class DiT(eqx.Module):
    """A transformer on the patches of an image, scaled and shifted by time and condition.

    Peebles and Xie 2023, "Scalable Diffusion Models with Transformers", arXiv 2212.09748: the
    image is cut into patches, each a vector plus a learned vector of its position; blocks let
    every patch attend to all others; a last layer turns each vector into its patch of `dx/dt`. The
    field is 0 at the start.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import DiT

    field = DiT((8, 8, 1), width=32, depth=2, cond_dim=10, key=jax.random.key(0))
    flow = CNF(field, StandardNormal((8, 8, 1)))
    ```

    Attributes:
        embed: the two layers of the embedding of time and condition.
        enter: from a patch to `width` entries.
        places: a vector for each patch, (height / patch, width / patch, width).
        blocks: `depth` blocks.
        modulate: scale and shift of the last normalisation, 0 at the start.
        leave: from `width` entries to a patch, 0 at the start.
    """

    embed: tuple[ContextLinear, ContextLinear]
    enter: Convolution
    places: Float[Array, "rows columns width"]
    blocks: tuple[TransformerBlock, ...]
    modulate: ContextLinear
    leave: Convolution
    shape: tuple[int, int, int] = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[SupportsIndex, ...],
        *,
        patch: SupportsIndex = 2,
        width: SupportsIndex = 64,
        depth: SupportsIndex = 4,
        heads: SupportsIndex = 4,
        cond_dim: SupportsIndex = 0,
        key: PRNGKeyArray,
    ) -> None:
        """Make a field with random weights.

        Args:
            shape: shape of an image, (height, width, channels).
            patch: side of a patch. The cost of attention falls with its fourth power.
            width: entries of the vector of a patch.
            depth: number of blocks.
            heads: heads of each attention.
            cond_dim: number of entries of a condition; 0 for none.
            key: for the weights.

        Raises:
            ValueError: a size is out of range, the layout is wrong, a side of the image is not a
                multiple of `patch`, or `width` is not a multiple of `heads`.
        """
        self.shape = check_image_shape(shape)
        self.patch, width = check_count("patch", patch), check_count("width", width)
        depth, heads = check_count("depth", depth), check_count("heads", heads)
        self.cond_dim = check_count("cond_dim", cond_dim, 0)
        if any(side % self.patch for side in self.shape[:2]):
            raise ValueError(
                f"the sides of shape={self.shape} must be multiples of patch={self.patch}: give "
                "another patch, or pad the images"
            )
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        keys = jax.random.split(key, depth + 4)
        entries = self.patch**2 * self.shape[2]
        self.embed = time_embedding(self.cond_dim, width, keys[0], keys[1])
        self.enter = convolution(entries, width, keys[2], window=1)
        sides = (side // self.patch for side in self.shape[:2])
        self.places = normal_weights(keys[3], (*sides, width), 0.02)

        def block(key: PRNGKeyArray) -> TransformerBlock:
            one, two, three, four, five = jax.random.split(key, 5)
            return TransformerBlock(
                plain_linear(width, 6 * width, one, 0.0),
                convolution(width, 3 * width, two, window=1),
                convolution(width, width, three, window=1),
                (
                    convolution(width, HIDDEN * width, four, window=1),
                    convolution(HIDDEN * width, width, five, window=1),
                ),
                heads,
            )

        self.blocks = tuple(map(block, keys[4:]))
        self.modulate = plain_linear(width, 2 * width, key, 0.0)
        self.leave = convolution(width, entries, key, window=1, scale=0.0)

    @property
    def dim(self) -> int:
        """Number of entries of an image."""
        return math.prod(self.shape)

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """`dx/dt` of one image."""
        check_image(x, self.shape)
        c = flatten_cond(cond, self.cond_dim)
        embedding = embed_time(self.embed, jnp.asarray(t, x.dtype), c, jax.nn.swish)
        h = self.enter(cut(x, self.patch)) + self.places
        for block in self.blocks:
            h = block(h, embedding)
        scale, shift = jnp.split(self.modulate(embedding)[None, None], 2, axis=-1)
        return paste(self.leave((1 + scale) * normalise(h) + shift), self.patch)


def normalise(h: Image) -> Image:
    """Shift and scale each patch to mean 0 and variance 1, in float32 at least."""
    wide = h.astype(accumulation_dtype(h.dtype))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + EPSILON)).astype(h.dtype)


def cut(x: Image, patch: int) -> Image:
    """Cut an image into patches: (height / patch, width / patch, patch^2 channels)."""
    height, width, channels = x.shape
    rows, columns = height // patch, width // patch
    parts = x.reshape(rows, patch, columns, patch, channels)
    return parts.transpose(0, 2, 1, 3, 4).reshape(rows, columns, patch**2 * channels)


def paste(patches: Image, patch: int) -> Image:
    """Put patches together to an image: the inverse of `cut`."""
    rows, columns, entries = patches.shape
    parts = patches.reshape(rows, columns, patch, patch, entries // patch**2)
    return parts.transpose(0, 2, 1, 3, 4).reshape(rows * patch, columns * patch, -1)
