"""Multilayer perceptron on `(x, t)`, with its exact trace up to two hidden layers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.activations import Activation, check_activation, value_and_slope
from jaxflow.dynamics.closed_form import Prepared, trace_weights
from jaxflow.dynamics.layers import (
    ContextLinear,
    check_sizes,
    context_linear,
    flatten,
    flatten_cond,
)


class MLP(eqx.Module):
    """`f(t, x) = s(... s([x, t, c] W1 + b1) ...) W + b`, elementwise `s`.

    Time and condition are concatenated to the input of every layer, or of the first alone.
    With one or two hidden layers `with_trace` gives the exact trace for about the price of one
    more hidden product (see `jaxflow.dynamics.closed_form`); with more it is None.

    Attributes:
        layers: `depth + 1` affine layers.
        dim: number of entries of an event; events of any shape are flattened.
        cond_dim: number of entries of a condition.
        activation: a name of `jaxflow.dynamics.ACTIVATIONS`, or a smooth elementwise function.
    """

    layers: tuple[ContextLinear, ...]
    dim: int = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)
    activation: str | Activation = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        width: int = 128,
        depth: int = 2,
        cond_dim: int = 0,
        activation: str | Activation = "tanh",
        time: Literal["every", "first"] = "every",
        frequency: float = 1.0,
        key: PRNGKeyArray,
    ) -> None:
        """Make a field with random weights; the last layer is small, so the flow starts near 0.

        Args:
            dim: number of entries of an event.
            width: units of a hidden layer.
            depth: number of hidden layers.
            cond_dim: number of entries of a condition; 0 for none.
            activation: elementwise nonlinearity, with a continuous derivative.
            time: which layers see time and condition, `"every"` one or the `"first"`.
            frequency: what the first layer's weights on `x` are multiplied by at the start. With
                `activation="sin"` some 4 is right for sharp or curled densities of few columns
                (Sitzmann et al. 2020, "Implicit Neural Representations with Periodic Activation
                Functions", arXiv 2006.09661); it fits noise where rows are few.
            key: for the weights.

        Raises:
            ValueError: a size or frequency out of range, an unknown or kinked activation, an
                unknown `time`.
        """
        if not 0 < frequency < float("inf"):
            raise ValueError(f"frequency={frequency} must be a positive number")
        check_sizes(dim, width, depth, cond_dim)
        if time not in ("every", "first"):
            raise ValueError(f"time={time!r} is unknown; choose 'every' or 'first'")
        sizes = [dim] + [width] * depth + [dim]
        keys = jax.random.split(key, depth + 1)
        layers = []
        for i, layer_key in enumerate(keys):
            sees = i == 0 or time == "every"
            layers.append(
                context_linear(
                    sizes[i],
                    sizes[i + 1],
                    cond_dim if sees else 0,
                    layer_key,
                    time=sees,
                    scale=0.1 if i == depth else 1.0,
                )
            )
        first = replace(layers[0], weight=frequency * layers[0].weight)
        self.layers = (first, *layers[1:])
        self.dim, self.cond_dim = dim, cond_dim
        self.activation = check_activation(activation)

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`dx/dt` at one point."""
        return self.value_and_slopes(t, x, cond)[0]

    def value_and_slopes(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Float[Array, "*event"], tuple[Float[Array, " width"], ...]]:
        """The field's value and `s'` at each hidden unit."""
        h, c = flatten(x, self.dim, "x"), flatten_cond(cond, self.cond_dim)
        t = jnp.asarray(t, h.dtype)
        *hidden, last = self.layers
        slopes = []
        for layer in hidden:
            h, slope = value_and_slope(self.activation, layer(h, t, c))
            slopes.append(slope)
        return last(h, t, c).reshape(x.shape), tuple(slopes)

    def prepare(self) -> "Prepared | MLP":
        """The field with the weights of its trace computed, once a solve."""
        if len(self.layers) > 3:
            return self
        return Prepared(self, trace_weights(tuple(layer.weight for layer in self.layers)))

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond=None) -> (f, tr(df/dx))`; None with more than two hidden layers."""
        prepared = self.prepare()
        return prepared.with_trace if isinstance(prepared, Prepared) else None
