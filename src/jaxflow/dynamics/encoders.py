"""Encoders of observations: of sets, of series, and the one that `jaxflow.inference` trains."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.layers import (
    ContextLinear,
    apply_network,
    network_from_zero,
    plain_linear,
)
from jaxflow.dynamics.robust_scaling import RobustScaling
from jaxflow.dynamics.weights import normal_weights
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import ArrayInput


class SetEncoder(eqx.Module):
    """`rho(mean_i phi(x_i))`: features of a set of rows, in any order (deep sets).

    Zaheer et al. 2017, "Deep Sets", arXiv 1703.06114. All sets must have the same number of rows:
    more rows make a posterior narrower, which a mean over the rows cannot show.

    ```python
    import jax
    from jaxflow.dynamics import SetEncoder

    encoder = SetEncoder(20, 2, features=16, key=jax.random.key(0))
    features = encoder(jax.random.normal(jax.random.key(1), (20, 2)))  # (16,)
    ```

    Attributes:
        shape: (rows, columns) of a set.
        features: number of features.
    """

    inner: tuple[ContextLinear, ...]
    outer: tuple[ContextLinear, ...]
    shape: tuple[int, int] = eqx.field(static=True)
    features: int = eqx.field(static=True)

    def __init__(
        self,
        rows: SupportsIndex,
        columns: SupportsIndex,
        *,
        features: SupportsIndex = 32,
        width: SupportsIndex = 64,
        key: PRNGKeyArray,
    ) -> None:
        """Make an encoder with random weights.

        Args:
            rows: number of rows of a set.
            columns: number of columns of a row.
            features: number of features.
            width: units of the hidden layers.
            key: for the weights.

        Raises:
            ValueError: a size is not positive.
        """
        sizes = [check_count("columns", columns), check_count("width", width)]
        self.shape = (check_count("rows", rows), sizes[0])
        self.features = check_count("features", features)
        one, two = jax.random.split(key)
        self.inner = _network([*sizes, sizes[1], sizes[1]], one)
        self.outer = _network([sizes[1], sizes[1], self.features], two)

    def __call__(self, x: Float[Array, "rows columns"]) -> Float[Array, " features"]:
        """Encode one set."""
        _check_shape(x, self.shape)
        members = jax.vmap(lambda row: apply_network(self.inner, row))(x)
        return apply_network(self.outer, members.mean(axis=0))


class SeriesEncoder(eqx.Module):
    """Features of a series, by convolutions that each halve its length.

    ```python
    import jax
    from jaxflow.dynamics import SeriesEncoder

    encoder = SeriesEncoder(100, 2, features=16, key=jax.random.key(0))
    features = encoder(jax.random.normal(jax.random.key(1), (100, 2)))  # (16,)
    ```

    Attributes:
        shape: (length, channels) of a series.
        features: number of features.
    """

    kernels: tuple[Float[Array, "_ _ _"], ...]
    biases: tuple[Float[Array, " _"], ...]
    outer: tuple[ContextLinear, ...]
    shape: tuple[int, int] = eqx.field(static=True)
    features: int = eqx.field(static=True)

    def __init__(
        self,
        length: SupportsIndex,
        channels: SupportsIndex = 1,
        *,
        features: SupportsIndex = 32,
        width: SupportsIndex = 32,
        layers: SupportsIndex = 3,
        key: PRNGKeyArray,
    ) -> None:
        """Make an encoder with random weights.

        Args:
            length: number of points in time of a series.
            channels: number of values at each of them.
            features: number of features.
            width: channels of the hidden layers.
            layers: number of convolutions, each over five points in time.
            key: for the weights.

        Raises:
            ValueError: a size is not positive.
        """
        self.shape = (check_count("length", length), check_count("channels", channels))
        self.features, width = check_count("features", features), check_count("width", width)
        layers = check_count("layers", layers)
        *keys, last = jax.random.split(key, layers + 1)
        inputs = [self.shape[1], *[width] * (layers - 1)]
        self.kernels = tuple(
            normal_weights(each, (5, size, width), (5 * size) ** -0.5)
            for size, each in zip(inputs, keys, strict=True)
        )
        self.biases = tuple(jnp.zeros(width) for _ in keys)
        steps_left = -(-self.shape[0] // 2**layers)
        self.outer = _network([steps_left * width, 2 * width, self.features], last)

    def __call__(self, x: Float[Array, "length channels"]) -> Float[Array, " features"]:
        """Encode one series."""
        _check_shape(x, self.shape)
        h = x[None]
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            h = jax.lax.conv_general_dilated(
                h, kernel.astype(h.dtype), (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
            )
            h = jnp.tanh(h + bias.astype(h.dtype)[None, None])
        return apply_network(self.outer, h.reshape(-1))


class ObservationEncoder(eqx.Module):
    """`x -> (features, location, log_scale)`: the encoder that `jaxflow.inference` trains.

    The features are `embed(scaling(x))`, or the entries of `scaling(x)`. The location of each
    entry of an event is a linear function of the features plus a network; the network also
    predicts the log-scale. `LocationScale` reads both. The network is 0 at the start.

    ```python
    import jax
    from jaxflow.dynamics import ObservationEncoder, RobustScaling

    x = jax.random.normal(jax.random.key(0), (100, 3))
    encoder = ObservationEncoder(2, RobustScaling.fit(x), (3,), key=jax.random.key(1))
    print(encoder(x[0]).shape)  # (7,)
    ```

    Attributes:
        line: `A features + b`, added to the location.
        layers: the network of location and log-scale.
    """

    scaling: RobustScaling
    embed: Any
    line: ContextLinear
    layers: tuple[ContextLinear, ...]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        dim: SupportsIndex,
        scaling: RobustScaling,
        shape: tuple[int, ...],
        embed: Any = None,
        *,
        line: tuple[ArrayInput, ArrayInput] | None = None,
        width: SupportsIndex = 64,
        key: PRNGKeyArray,
    ) -> None:
        """Make an encoder whose network has random weights.

        Args:
            dim: number of entries of an event.
            scaling: scales an observation to order one.
            shape: shape of one observation.
            embed: module that encodes a scaled observation in `embed.features` numbers; None for
                the entries of the observation.
            line: matrix (features, dim) and constant (dim,) of the linear function, for example by
                least squares; None for 0.
            width: units of the two hidden layers.
            key: for the weights.
        """
        self.scaling, self.embed, self.shape = scaling, embed, shape
        inputs = int(np.prod(shape)) if embed is None else embed.features
        width, dim = check_count("width", width), check_count("dim", dim)
        matrix, constant = (jnp.zeros((inputs, dim)), jnp.zeros(dim)) if line is None else line
        self.line = ContextLinear(jnp.asarray(matrix), jnp.asarray(constant), None, None)
        self.layers = network_from_zero(inputs, 2 * dim, width=width, depth=2, key=key)

    @property
    def num_outputs(self) -> int:
        """Number of entries of the encoded condition."""
        first, last = self.layers[0], self.layers[-1]
        return first.weight.shape[0] + last.weight.shape[1]

    def __call__(self, x: Array) -> Float[Array, " entries"]:
        """Encode one observation.

        Raises:
            ValueError: `x` has another shape than the encoder was made for.
        """
        _check_shape(x, self.shape)
        scaled = self.scaling(x)
        features = scaled.reshape(-1) if self.embed is None else self.embed(scaled)
        moments = apply_network(self.layers, features)
        location, log_scale = jnp.split(moments, 2)
        location = location + self.line(features)
        # A float32 flow resolves no spread below e^-7 of the prior's.
        return jnp.concatenate([features, location, jnp.clip(log_scale, -7.0, 2.0)])


def _network(sizes: Sequence[int], key: PRNGKeyArray) -> tuple[ContextLinear, ...]:
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(map(plain_linear, sizes[:-1], sizes[1:], keys))


def _check_shape(x: Array, shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        raise ValueError(f"an observation has shape {x.shape}; this encoder was made for {shape}")
