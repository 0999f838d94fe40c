"""FFJORD's concatsquash network, with its exact trace up to two hidden layers."""

from collections.abc import Callable
from typing import SupportsIndex

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.activations import Activation, check_activation, value_and_slope
from jaxflow.dynamics.closed_form import contract, has_trace_weights, trace_weights
from jaxflow.dynamics.layers import (
    ContextLinear,
    check_sizes,
    context_linear,
    plain_linear,
    read_inputs,
)
from jaxflow.runtime.shapes import Event, Scalar


class SquashLayer(eqx.Module):
    """`h -> (h W + b) * sigmoid(gate(t, c)) + shift(t, c)`, with gate and shift affine."""

    affine: ContextLinear
    gate: ContextLinear
    shift: ContextLinear

    def __call__(
        self, h: Float[Array, " inputs"], t: Scalar, cond: Array | None
    ) -> tuple[Float[Array, " outputs"], Float[Array, " outputs"]]:
        """The layer's value and its gate."""
        gate = jax.nn.sigmoid(self.gate.context(t, cond))
        return self.affine(h) * gate + self.shift.context(t, cond), gate


class ConcatSquash(eqx.Module):
    """The field of FFJORD: layers whose outputs are gated and shifted by time.

    ```
    h_l = s(a_l),    a_l = (h_{l-1} W_l + b_l) * sigmoid(t w_l + v_l) + t u_l
    ```
    A condition enters gates and shifts in the same way as time, except for the output's gate,
    which depends on time only: so the exact trace needs one h x h product per time, not per row.
    With more than two hidden layers `with_trace` is None.

    Grathwohl et al. (2019), "FFJORD", arXiv 1810.01367.

    ```python
    import jax
    from jaxflow.dynamics import ConcatSquash

    field = ConcatSquash(2, width=64, depth=2, key=jax.random.key(0))
    ```

    Attributes:
        layers: the `depth + 1` gated layers.
    """

    layers: tuple[SquashLayer, ...]
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
            key: for the weights.

        Raises:
            ValueError: a size is out of range, or the activation is unknown or has a kink.
        """
        dim, width, depth, cond_dim = check_sizes(dim, width, depth, cond_dim)
        sizes = [dim] + [width] * depth + [dim]
        layers = []
        for i, layer_key in enumerate(jax.random.split(key, depth + 1)):
            ka, kg, ks = jax.random.split(layer_key, 3)
            outputs, is_last = sizes[i + 1], i == depth
            scale = 0.1 if is_last else 1.0
            # A gate starts near 1/2; the factor 2 makes up for it.
            affine = plain_linear(sizes[i], outputs, ka, 2 * scale)
            gate = context_linear(0, outputs, 0 if is_last else cond_dim, kg)
            shift = context_linear(0, outputs, cond_dim, ks, bias=False, scale=scale)
            layers.append(SquashLayer(affine, gate, shift))
        self.layers = tuple(layers)
        self.dim, self.cond_dim = dim, cond_dim
        self.activation = check_activation(activation)

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """`dx/dt` at one point."""
        return self._evaluate(t, x, cond)[0]

    def _evaluate(
        self, t: Scalar, x: Event, cond: Array | None
    ) -> tuple[Array, tuple[Array, ...], Array]:
        """Value, slopes of the hidden units with their gates, and the output's gate."""
        t, h, c = read_inputs(t, x, cond, dim=self.dim, cond_dim=self.cond_dim)
        *hidden, last = self.layers
        slopes = []
        for layer in hidden:
            a, gate = layer(h, t, c)
            h, slope = value_and_slope(self.activation, a)
            slopes.append(slope * gate)
        out, gate = last(h, t, c)
        return out.reshape(x.shape), tuple(slopes), gate

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond=None) -> (f, tr(df/dx))`; None with more than two hidden layers."""
        return self._with_trace if has_trace_weights(self.layers) else None

    def _with_trace(self, t: Scalar, x: Event, cond: Array | None = None) -> tuple[Array, Array]:
        out, slopes, gate = self._evaluate(t, x, cond)
        weights = tuple(layer.affine.weight for layer in self.layers)
        return out, contract(trace_weights(weights, gate), slopes)
