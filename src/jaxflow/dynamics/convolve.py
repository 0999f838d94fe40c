"""Convolutions of images, fast in the loops of solves and of training."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

# Height, width and channels.
Image = Float[Array, "_ _ _"]
Padding = Literal["zeros", "circular"]


def convolve(h: Image, weight: Float[Array, "..."], padding: Padding = "zeros") -> Image:
    """Convolve one image with a window; the image is padded by zeros, or periodically.

    On a CPU the gradient of the weights is by matrix products: within a loop, such as that of a
    solve or of training, XLA computes the gradients of its own convolution far more slowly
    (https://github.com/jax-ml/jax/issues/12868).
    """
    mode = "wrap" if padding == "circular" else "constant"
    h = _pad(h, len(weight) // 2, mode=mode)
    return _inside.bind(h, weight) if jax.default_backend() == "cpu" else _by_lax(h, weight)


def _pad(h: Array, edge: int, mode: str = "constant") -> Array:
    return jnp.pad(h, [(0, 0)] * (h.ndim - 3) + [(edge, edge), (edge, edge), (0, 0)], mode=mode)


def _by_lax(h: Array, weight: Array) -> Array:
    """The convolution where the window lies inside the image, (..., height, width, channels)."""
    layout = ("NHWC", "HWIO", "NHWC")
    images = h.reshape(-1, *h.shape[-3:])
    out = lax.conv_general_dilated(images, weight, (1, 1), "VALID", dimension_numbers=layout)
    return out.reshape(*h.shape[:-3], *out.shape[1:])


def _by_products(h: Array, weight: Array) -> Array:
    """`_by_lax` as a sum of matrix products, one for each column of the window."""
    window, _, _, outputs = weight.shape
    height, width = (side - window + 1 for side in h.shape[-3:-1])
    rows = jnp.concatenate([h[..., i : i + height, :, :] for i in range(window)], axis=-1)
    parts = [
        rows[..., j : j + width, :] @ weight[:, j].reshape(-1, outputs) for j in range(window)
    ]
    return sum(parts[1:], start=parts[0])


# The rules of the primitive, which is `_by_lax` with its own transposes.


def _shape_of(h: Any, weight: Any) -> ShapedArray:
    height, width = (side - weight.shape[0] + 1 for side in h.shape[-3:-1])
    return ShapedArray((*h.shape[:-3], height, width, weight.shape[-1]), h.dtype)


def _transpose_image(ct: Any, h: Any, weight: Array) -> Array:
    """The convolution with the window turned around."""
    del h
    turned = jnp.swapaxes(weight[::-1, ::-1], 2, 3)
    return _inside.bind(_pad(ct, len(weight) - 1), turned)


def _transpose_weight(ct: Any, h: Array, weight: Any) -> Array:
    return jax.linear_transpose(lambda w: _by_products(h, w), weight.aval)(ct)[0]


def _batch(args: tuple[Array, Array], axes: tuple[Any, Any]) -> tuple[Array, int]:
    if axes[1] is None:
        return _inside.bind(jnp.moveaxis(args[0], axes[0], 0), args[1]), 0
    return jax.vmap(_by_products, axes)(*args), 0


_inside = Primitive("convolve_inside")
_inside.def_impl(jax.jit(_by_lax))
_inside.def_abstract_eval(_shape_of)
mlir.register_lowering(_inside, mlir.lower_fun(_by_lax, multiple_results=False))
ad.defbilinear(_inside, _transpose_image, _transpose_weight)
batching.primitive_batchers[_inside] = _batch
