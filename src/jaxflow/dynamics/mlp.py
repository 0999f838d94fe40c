"""Multilayer perceptron on `(x, t)`, with its exact trace up to two hidden layers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.activations import Activation, check_activation, value_and_slope
from jaxflow.dynamics.closed_form import Prepared, has_trace_weights, trace_weights
from jaxflow.dynamics.layers import (
    ContextLinear,
    check_sizes,
    context_linear,
    plain_linear,
    read_inputs,
)
from jaxflow.runtime.checks import check_choice
from jaxflow.runtime.shapes import Event, Scalar


class MLP(eqx.Module):
    """`f(t, x) = s(... s([x, t, c] W1 + b1) ...) W + b`, with elementwise `s`.

    With one or two hidden layers the trace has a closed form that costs about one more hidden
    product (`jaxflow.dynamics.closed_form`). With more layers `with_trace` is None.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import MLP

    flow = CNF(MLP(2, width=64, depth=2, key=jax.random.key(0)), StandardNormal(2))
    ```

    Attributes:
        layers: the `depth + 1` affine layers.
    """

    layers: tuple[ContextLinear, ...]
    dim: int = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)
    activation: str | Activation = eqx.field(static=True)

    def __init__(
        self,
        dim: SupportsIndex,
        *,
        width: SupportsIndex = 128,
        depth: SupportsIndex = 2,
        cond_dim: SupportsIndex = 0,
        activation: str | Activation = "tanh",
        time: Literal["every", "first"] = "every",
        frequency: float = 1.0,
        key: PRNGKeyArray,
    ) -> None:
        """Make a field with random weights. The last layer is small, so the field starts near 0.

        Args:
            dim: number of entries of an event; events of any shape are flattened.
            width: units of a hidden layer.
            depth: number of hidden layers.
            cond_dim: number of entries of a condition; 0 for none.
            activation: a name in `jaxflow.dynamics.ACTIVATIONS`, or an elementwise function with
                a continuous derivative.
            time: layers that see time and condition: `"every"` one or only the `"first"`.
            frequency: factor on the first layer's initial weights of `x`. With
                `activation="sin"`, about 4 suits sharp or curled densities of few columns
                (Sitzmann et al. 2020, "Implicit Neural Representations with Periodic Activation
                Functions", arXiv 2006.09661); with few rows it fits noise.
            key: for the weights.

        Raises:
            ValueError: a size or the frequency is out of range, the activation is unknown or has
                a kink, or `time` is unknown.
        """
        if not 0 < frequency < float("inf"):
            raise ValueError(f"frequency={frequency} must be a positive number")
        dim, width, depth, cond_dim = check_sizes(dim, width, depth, cond_dim)
        check_choice("time", time, ("every", "first"))
        sizes = [dim] + [width] * depth + [dim]
        layers = []
        for i, layer_key in enumerate(jax.random.split(key, depth + 1)):
            scale = 0.1 if i == depth else 1.0
            if i == 0 or time == "every":
                layer = context_linear(sizes[i], sizes[i + 1], cond_dim, layer_key, scale=scale)
            else:
                layer = plain_linear(sizes[i], sizes[i + 1], layer_key, scale)
            layers.append(layer)
        layers[0] = replace(layers[0], weight=frequency * layers[0].weight)
        self.layers = tuple(layers)
        self.dim, self.cond_dim = dim, cond_dim
        self.activation = check_activation(activation)

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """`dx/dt` at one point."""
        return self.value_and_slopes(t, x, cond)[0]

    def value_and_slopes(
        self, t: Scalar, x: Event, cond: Array | None = None
    ) -> tuple[Event, tuple[Float[Array, " width"], ...]]:
        """The field's value, and `s'` at the units of each hidden layer."""
        t, h, c = read_inputs(t, x, cond, dim=self.dim, cond_dim=self.cond_dim)
        *hidden, last = self.layers
        slopes = []
        for layer in hidden:
            h, slope = value_and_slope(self.activation, layer(h, t, c))
            slopes.append(slope)
        return last(h, t, c).reshape(x.shape), tuple(slopes)

    def prepare(self) -> "Prepared | MLP":
        """The field with the weights of its trace computed; itself if it has no closed form."""
        return self._prepared() if has_trace_weights(self.layers) else self

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond=None) -> (f, tr(df/dx))`; None with more than two hidden layers."""
        return self._with_trace if has_trace_weights(self.layers) else None

    def _with_trace(self, t: Scalar, x: Event, cond: Array | None = None) -> tuple[Array, Array]:
        return self._prepared().with_trace(t, x, cond)

    def _prepared(self) -> Prepared:
        return Prepared(self, trace_weights(tuple(layer.weight for layer in self.layers)))


def zero_field(network: MLP) -> MLP:
    """The network with its last layer set to 0: a field of 0 whose gradient is not 0."""
    last = jax.tree.map(jnp.zeros_like, network.layers[-1])
    return eqx.tree_at(lambda network: network.layers[-1], network, last)
