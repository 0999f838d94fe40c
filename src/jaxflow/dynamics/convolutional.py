"""Convolutions that see time, FFJORD's field of them, and checks of the layout of images."""

import math
from typing import Any, SupportsIndex, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.activations import Activation, activation_function, check_activation
from jaxflow.dynamics.convolve import Padding, convolve
from jaxflow.dynamics.layers import flatten_cond
from jaxflow.dynamics.weights import normal_weights
from jaxflow.runtime.checks import check_choice, check_count, check_event_shape
from jaxflow.runtime.shapes import Event, Scalar

# More channels than this are a height in the wrong place.
MOST_CHANNELS = 4


class Convolution(eqx.Module):
    """A convolution with an odd window, of the size of its input: `W * h + b`.

    Under `jax.vmap` with shared weights it is one convolution of the whole batch.

    Attributes:
        weight: `W`, (window, window, inputs, outputs).
        bias: `b`, (outputs,).
    """

    weight: Float[Array, "window window inputs outputs"]
    bias: Float[Array, " outputs"]

    def __call__(
        self, h: Float[Array, "height width inputs"], padding: Padding = "zeros"
    ) -> Float[Array, "height width outputs"]:
        """The layer's value."""
        return convolve(h, self.weight, padding) + self.bias[None, None]


def convolution(
    inputs: int, outputs: int, key: PRNGKeyArray, *, window: int = 3, scale: float = 1.0
) -> Convolution:
    """A random convolution: weights of variance `scale^2 / fan-in` (LeCun), biases 0."""
    shape = (window, window, inputs, outputs)
    std = scale / (window * window * inputs) ** 0.5
    return Convolution(normal_weights(key, shape, std), jnp.zeros(outputs))


def check_image_shape(shape: Any) -> tuple[int, int, int]:
    """The shape of an image as (height, width, channels).

    Raises:
        ValueError: the number of axes is not 3, or the channels come first.
    """
    sizes = check_event_shape(shape)
    if len(sizes) != 3:
        raise ValueError(
            f"shape={shape} must be (height, width, channels): (28, 28, 1) for grey images of 28 "
            "x 28, whose rows are x[..., None]"
        )
    if sizes[0] <= MOST_CHANNELS < sizes[2]:
        raise ValueError(
            f"shape={shape} has the channels first: write shape={(*sizes[1:], sizes[0])}, and "
            "jnp.moveaxis(x, 1, -1) for the rows"
        )
    return sizes[0], sizes[1], sizes[2]


def check_image(x: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `x`, of jax or NumPy, is one image of this shape.

    The message names the expected layout, and how to get it.
    """
    if x.shape == shape:
        return
    channels_first = shape[-1:] + shape[:-1]
    hint = "make the model for this shape"
    if x.shape == channels_first and channels_first != shape:
        hint = "its channels come first: write jnp.moveaxis(x, -3, -1)"
    elif x.shape == shape[:2]:
        hint = "it has no axis of channels: write x[..., None]"
    elif x.shape[:2] == shape[:2]:
        hint = f"it has {x.shape[-1]} channels and not {shape[-1]}: grey against colour"
    raise ValueError(
        f"x has shape {x.shape}, and images have shape {shape} here, (height, width, channels): "
        f"{hint}"
    )


def stack_images(images: Any) -> np.ndarray:
    """Stack images in one array; raise ValueError unless they are numbers of one shape."""
    of_objects = isinstance(images, np.ndarray) and images.dtype == object and images.ndim > 0
    if of_objects or isinstance(images, list | tuple):
        images = [np.asarray(image) for image in images]
        for i, image in enumerate(images):
            if image.shape != images[0].shape:
                raise ValueError(
                    f"images[{i}] has shape {image.shape}, and images[0] has shape "
                    f"{images[0].shape}: all must be of one size, all grey or all in colour"
                )
    values = np.asarray(images)
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"images has shape {values.shape} and dtype {values.dtype}: numbers are needed, as "
            "jaxflow.data.read_images(path).images reads them from a file or a folder"
        )
    return values


class Convolutional(eqx.Module):
    """FFJORD's field for images: 3 x 3 convolutions with time as one more channel.

    ```
    h_l = s(W_l * [h_{l-1}, t] + b_l + c V_l)
    ```
    The last layer has no activation and is small, so the field starts near 0. Without hidden
    layers it is affine. Grathwohl et al. (2019), "FFJORD", arXiv 1810.01367, appendix B.1.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import Convolutional

    field = Convolutional((8, 8, 1), width=16, key=jax.random.key(0))
    flow = CNF(field, StandardNormal((8, 8, 1)))
    ```

    Attributes:
        layers: the `depth + 1` convolutions; the last of their inputs is time.
        conds: `V` of each layer, (conditions, outputs); empty without conditions.
    """

    layers: tuple[Convolution, ...]
    conds: tuple[Float[Array, "conditions outputs"], ...]
    shape: tuple[int, int, int] = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)
    activation: str | Activation = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[SupportsIndex, ...],
        *,
        width: SupportsIndex = 64,
        depth: SupportsIndex = 3,
        cond_dim: SupportsIndex = 0,
        activation: str | Activation = "softplus",
        padding: Padding = "zeros",
        key: PRNGKeyArray,
    ) -> None:
        """Make a field with random weights.

        Args:
            shape: shape of an image, (height, width, channels).
            width: channels of a hidden layer.
            depth: number of hidden layers.
            cond_dim: number of entries of a condition; 0 for none.
            activation: a name in `jaxflow.dynamics.ACTIVATIONS`, or an elementwise function with
                a continuous derivative.
            padding: what lies outside the image: `"zeros"`, or for a torus `"circular"`.
            key: for the weights.

        Raises:
            ValueError: a size is out of range, the layout is wrong, the activation is unknown or
                has a kink, or `padding` is unknown.
        """
        self.shape = check_image_shape(shape)
        width, depth = check_count("width", width), check_count("depth", depth, 0)
        self.cond_dim = check_count("cond_dim", cond_dim, 0)
        check_choice("padding", padding, get_args(Padding))
        sizes = [self.shape[2], *[width] * depth, self.shape[2]]
        keys = jax.random.split(key, depth + 1)
        self.layers = tuple(
            convolution(sizes[i] + 1, sizes[i + 1], keys[i], scale=0.1 if i == depth else 1.0)
            for i in range(depth + 1)
        )
        self.conds = tuple(
            normal_weights(jax.random.fold_in(k, 1), (self.cond_dim, size), self.cond_dim**-0.5)
            for k, size in zip(keys, sizes[1:], strict=True)
            if self.cond_dim
        )
        self.activation, self.padding = check_activation(activation), padding

    @property
    def dim(self) -> int:
        """Number of entries of an image."""
        return math.prod(self.shape)

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """`dx/dt` of one image."""
        check_image(x, self.shape)
        s, c = activation_function(self.activation), flatten_cond(cond, self.cond_dim)
        h, t = x, jnp.asarray(t, x.dtype)
        plane = jnp.ones((*x.shape[:2], 1), x.dtype)
        for i, layer in enumerate(self.layers):
            h = s(h) if i else h
            # The map of the channel of time is computed once for a batch.
            own, time = layer.weight[:, :, :-1], layer.weight[:, :, -1:]
            h = convolve(h, own, self.padding) + t * convolve(plane, time, self.padding)
            h = h + layer.bias[None, None]
            if c is not None:
                h = h + (c @ self.conds[i])[None, None]
        return h
