"""A small U-Net: a field for images that sees near and far."""

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
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.runtime.shapes import Event, Scalar

# Largest number of groups of channels that are normalised together.
GROUPS = 8
# Added to a variance before its square root is divided by.
EPSILON = 1e-5


class GroupNorm(eqx.Module):
    """Normalise each group of channels over the image, then multiply by `scale`, add `shift`.

    Wu and He 2018, "Group Normalization", arXiv 1803.08494. Mean and variance are float32 at
    least.

    Attributes:
        scale: (channels,).
        shift: (channels,).
    """

    scale: Float[Array, " channels"]
    shift: Float[Array, " channels"]

    def __call__(self, h: Image) -> Image:
        """The layer's value."""
        wide = h.astype(accumulation_dtype(h.dtype))
        wide = wide.reshape(*h.shape[:-1], math.gcd(GROUPS, h.shape[-1]), -1)
        mean = jnp.mean(wide, axis=(0, 1, 3), keepdims=True)
        variance = jnp.mean((wide - mean) ** 2, axis=(0, 1, 3), keepdims=True)
        normal = ((wide - mean) * jax.lax.rsqrt(variance + EPSILON)).reshape(h.shape)
        return normal.astype(h.dtype) * self.scale[None, None] + self.shift[None, None]


def group_norm(channels: int) -> GroupNorm:
    """A `GroupNorm` with scale 1 and shift 0."""
    return GroupNorm(jnp.ones(channels), jnp.zeros(channels))


class ConvolutionBlock(eqx.Module):
    """`skip(h) + W2 * s((1 + a) norm(W1 * s(norm(h))) + b)`, `a, b` affine in the embedding.

    Attributes:
        first: normalisation and convolution, to the block's channels.
        modulate: (embedding, 2 channels).
        second: normalisation and convolution; the convolution is 0 at the start.
        skip: a 1 x 1 convolution where the number of channels changes, else None.
    """

    first: tuple[GroupNorm, Convolution]
    modulate: ContextLinear
    second: tuple[GroupNorm, Convolution]
    skip: Convolution | None

    def __call__(self, h: Image, embedding: Float[Array, " width"]) -> Image:
        """The block's value."""
        (norm, enter), (then, leave) = self.first, self.second
        scale, shift = jnp.split(self.modulate(embedding)[None, None], 2, axis=-1)
        inner = (1 + scale) * then(enter(jax.nn.swish(norm(h)))) + shift
        return (h if self.skip is None else self.skip(h)) + leave(jax.nn.swish(inner))


class Attention(eqx.Module):
    """`h + W o`, with one attention head of all channels: every pixel attends to all others.

    Vaswani et al. 2017, "Attention is all you need", arXiv 1706.03762, eq. 1.

    Attributes:
        norm: before the projections.
        project: 1 x 1, to queries, keys and values.
        leave: 1 x 1, 0 at the start.
    """

    norm: GroupNorm
    project: Convolution
    leave: Convolution

    def __call__(self, h: Image) -> Image:
        """The layer's value."""
        channels = h.shape[-1]
        projected = self.project(self.norm(h)).reshape(-1, 3 * channels)
        q, k, v = jnp.split(projected, 3, axis=-1)
        weights = jax.nn.softmax(q @ k.T / channels**0.5, axis=-1)
        return h + self.leave((weights @ v).reshape(h.shape))


class UNet(eqx.Module):
    """A U-Net for images: blocks at falling resolution and back, with skips between the two.

    Time enters by sines and cosines, the condition (such as a class, one-hot) joins them, and
    both scale and shift each block. At the lowest resolution every pixel attends to all others.
    The field is 0 at the start. Ronneberger et al. 2015, "U-Net", arXiv 1505.04597; the blocks
    are those of Dhariwal and Nichol 2021, arXiv 2105.05233, appendix B.

    `Rounded(UNet(...))` computes in bfloat16 and keeps the statistics of the normalisation, and
    the sums of log-densities, in float32.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import UNet

    field = UNet((8, 8, 1), width=16, cond_dim=10, key=jax.random.key(0))
    flow = CNF(field, StandardNormal((8, 8, 1)))
    ```

    Attributes:
        embed: the two layers of the embedding of time and condition.
        enter: first convolution.
        down: a block for each level, from fine to coarse.
        middle: block, attention and block at the lowest resolution.
        up: a block for each level, from coarse to fine.
        leave: normalisation and last convolution, 0 at the start.
    """

    embed: tuple[ContextLinear, ContextLinear]
    enter: Convolution
    down: tuple[ConvolutionBlock, ...]
    middle: tuple[ConvolutionBlock, Attention, ConvolutionBlock]
    up: tuple[ConvolutionBlock, ...]
    leave: tuple[GroupNorm, Convolution]
    shape: tuple[int, int, int] = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[SupportsIndex, ...],
        *,
        width: SupportsIndex = 32,
        multipliers: tuple[SupportsIndex, ...] = (1, 2),
        cond_dim: SupportsIndex = 0,
        key: PRNGKeyArray,
    ) -> None:
        """Make a field with random weights.

        Args:
            shape: shape of an image, (height, width, channels).
            width: channels at the full resolution.
            multipliers: channels of each level as multiples of `width`; the resolution halves
                from one level to the next.
            cond_dim: number of entries of a condition; 0 for none.
            key: for the weights.

        Raises:
            ValueError: a size is out of range, the layout is wrong, or a side of the image is
                not divisible by `2^(levels - 1)`.
        """
        self.shape = check_image_shape(shape)
        width = check_count("width", width)
        self.cond_dim = check_count("cond_dim", cond_dim, 0)
        sizes = [width * check_count("multipliers", each) for each in multipliers]
        halvings = 2 ** (len(sizes) - 1)
        if not sizes or any(side % halvings for side in self.shape[:2]):
            raise ValueError(
                f"multipliers={multipliers} has {len(sizes)} levels, and the sides of "
                f"shape={self.shape} must be multiples of 2^(levels - 1): give fewer levels, or "
                "pad the images"
            )
        keys = iter(jax.random.split(key, 5 * len(sizes) + 8))
        size = 4 * width

        def block(inputs: int, outputs: int) -> ConvolutionBlock:
            one, two, three, four = jax.random.split(next(keys), 4)
            return ConvolutionBlock(
                (group_norm(inputs), convolution(inputs, outputs, one)),
                plain_linear(size, 2 * outputs, two),
                (group_norm(outputs), convolution(outputs, outputs, three, scale=0.0)),
                None if inputs == outputs else convolution(inputs, outputs, four, window=1),
            )

        self.embed = time_embedding(self.cond_dim, size, next(keys), next(keys))
        self.enter = convolution(self.shape[2], width, next(keys))
        self.down = tuple(map(block, [width, *sizes[:-1]], sizes))
        last = sizes[-1]
        attention = Attention(
            group_norm(last),
            convolution(last, 3 * last, next(keys), window=1),
            convolution(last, last, next(keys), window=1, scale=0.0),
        )
        self.middle = block(last, last), attention, block(last, last)
        coarser = [last, *sizes[:0:-1]]
        self.up = tuple(
            block(below + own, own) for below, own in zip(coarser, sizes[::-1], strict=True)
        )
        self.leave = group_norm(sizes[0]), convolution(sizes[0], self.shape[2], key, scale=0.0)

    @property
    def dim(self) -> int:
        """Number of entries of an image."""
        return math.prod(self.shape)

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """`dx/dt` of one image."""
        check_image(x, self.shape)
        c = flatten_cond(cond, self.cond_dim)
        embedding = embed_time(self.embed, jnp.asarray(t, x.dtype), c, jax.nn.swish)
        h, skips = self.enter(x), []
        for i, block in enumerate(self.down):
            h = block(_halved(h) if i else h, embedding)
            skips.append(h)
        first, attend, second = self.middle
        h = second(attend(first(h, embedding)), embedding)
        for i, (block, skip) in enumerate(zip(self.up, skips[::-1], strict=True)):
            h = block(jnp.concatenate([_doubled(h) if i else h, skip], axis=-1), embedding)
        norm, leave = self.leave
        return leave(jax.nn.swish(norm(h)))


def _halved(h: Image) -> Image:
    """Means of 2 x 2 pixels."""
    height, width, channels = h.shape
    return jnp.mean(h.reshape(height // 2, 2, width // 2, 2, channels), axis=(1, 3))


def _doubled(h: Image) -> Image:
    """Each pixel four times."""
    return jnp.repeat(jnp.repeat(h, 2, axis=0), 2, axis=1)
