"""Noise within the cells of a grid whose law is learned."""

import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics import ConditionScaling
from jaxflow.dynamics.layers import ContextLinear, apply_network, check_sizes, network_from_zero


@final
class CellNoise(eqx.Module):
    r"""`v = sigmoid(a + s logit(w)) - 1/2` with `w ~ U(0, 1)`; `a, s = network(x)` an entry each.

    ```
    log q(v | x) = sum_i -log s_i - log(y_i (1 - y_i)) + log(w_i (1 - w_i)),    y = v + 1/2
    ```
    At first `a = 0` and `s = 1`, so that `v ~ U(-1/2, 1/2)`: the uniform noise, from which
    training departs where a bound of `log P(x)` gains by it (Ho et al. 2019, "Flow++", arXiv
    1902.00275, section 3.1, whose noise is a flow).

    Attributes:
        network: tanh layers; the last is 0 at first.
        scaling: what brings a value to standard units for the network.
        event_shape: the shape of one value.
    """

    network: tuple[ContextLinear, ...]
    scaling: ConditionScaling
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        x: Float[Array, "rows *event"],
        *,
        width: int = 64,
        depth: int = 2,
        key: PRNGKeyArray,
    ) -> None:
        """Make uniform noise for values like `x`.

        Raises:
            ValueError: a size out of range.
        """
        self.event_shape = x.shape[1:]
        size = math.prod(self.event_shape)
        check_sizes(size, width, depth, 0)
        self.scaling = ConditionScaling.fit(x)
        self.network = network_from_zero(size, 2 * size, width=width, depth=depth, key=key)

    def draw(
        self, x: Float[Array, "*event"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "*event"], Float[Array, "*event"]]:
        """Noise of one value in (-1/2, 1/2), and each entry's part of `log q(v | x)`."""
        still = lax.stop_gradient(x)
        raw = apply_network(self.network, self.scaling(still).ravel(), None)
        shift, log_scale = (part.reshape(x.shape) for part in jnp.split(raw, 2))
        logit_w = jax.random.logistic(key, x.shape, x.dtype)
        logit_y = shift + jnp.exp(log_scale) * logit_w
        return jax.nn.sigmoid(logit_y) - 0.5, _log_slope(logit_w) - _log_slope(logit_y) - log_scale


def _log_slope(logit: Array) -> Any:
    """`log(y (1 - y))` of `y = sigmoid(logit)`."""
    return -jax.nn.softplus(logit) - jax.nn.softplus(-logit)
