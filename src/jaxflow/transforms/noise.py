"""Noise within the cells of a grid: learned, or of a truncated normal distribution."""

import math
from typing import SupportsIndex, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxflow.dynamics import ConditionScaling
from jaxflow.dynamics.layers import ContextLinear, apply_network, check_sizes, network_from_zero
from jaxflow.runtime.shapes import Event, Rows


@final
class CellNoise(eqx.Module):
    r"""`v = sigmoid(a + s logit(w)) - 1/2` with `w ~ U(0, 1)` and `a, log s = network(x)`.

    ```
    log q(v | x) = sum_i -log s_i - log(y_i (1 - y_i)) + log(w_i (1 - w_i)),    y = v + 1/2
    ```
    At the start `a = 0` and `s = 1`, so `v ~ U(-1/2, 1/2)`. Training tightens the bound of
    `log P(x)` (Ho et al. 2019, "Flow++", arXiv 1902.00275, section 3.1, with a flow as noise).
    `jaxflow.fit_noise` trains it.

    ```python
    import jax, jax.numpy as jnp
    from jaxflow.transforms import CellNoise, Dequantise

    x = jnp.arange(10.0)[:, None]
    grid = Dequantise([1.0], noise=CellNoise(x, width=8, key=jax.random.key(0)))
    spread = grid.spread(x[3], jax.random.key(1))
    ```

    Attributes:
        network: tanh layers; the last is 0 at the start.
        scaling: standardises a value for the network.
        event_shape: shape of one value.
    """

    network: tuple[ContextLinear, ...]
    scaling: ConditionScaling
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self, x: Rows, *, width: SupportsIndex = 64, depth: SupportsIndex = 2, key: PRNGKeyArray
    ) -> None:
        """Make noise that is uniform before training.

        Args:
            x: values, (rows, *event), for the scaling.
            width: units of a hidden layer.
            depth: number of hidden layers.
            key: for the weights.

        Raises:
            ValueError: a size is out of range.
        """
        self.event_shape = x.shape[1:]
        size = math.prod(self.event_shape)
        size, width, depth, _ = check_sizes(size, width, depth, 0)
        self.scaling = ConditionScaling.fit(x)
        self.network = network_from_zero(size, 2 * size, width=width, depth=depth, key=key)

    def draw(self, x: Event, key: PRNGKeyArray) -> tuple[Event, Event]:
        """Draw noise for one value.

        Args:
            x: the value, (*event).
            key: for the noise.

        Returns:
            `v` in (-1/2, 1/2) and each entry's term of `log q(v | x)`, both (*event).
        """
        raw = apply_network(self.network, self.scaling(x).ravel())
        shift, log_scale = (part.reshape(x.shape) for part in jnp.split(raw, 2))
        logit_w = jax.random.logistic(key, x.shape, x.dtype)
        logit_y = shift + jnp.exp(log_scale) * logit_w
        return jax.nn.sigmoid(logit_y) - 0.5, _log_slope(logit_w) - _log_slope(logit_y) - log_scale


@final
class TruncatedNormal(eqx.Module):
    r"""`v ~ N(0, scale^2)` within (-1/2, 1/2): noise that a smooth density can follow.

    ```
    log q(v) = -(v / scale)^2 / 2 - log(scale sqrt(2 pi)) - log erf(1 / (2 sqrt(2) scale))
    ```
    The density of uniform noise jumps at the walls of a cell. A smooth flow cannot follow it, and
    wastes bits on entries of few levels, such as the dark margin of an image. The bound holds for
    any scale and needs no training (Zheng et al. 2023, "Improved Techniques for Maximum Likelihood
    Estimation for Diffusion ODEs", arXiv 2305.03935, section 4.2).

    ```python
    import jax
    import jax.numpy as jnp
    from jaxflow.transforms import Dequantise, TruncatedNormal

    grid = Dequantise(jnp.ones((8, 8, 1)), noise=TruncatedNormal(0.25))
    spread = grid.spread(jnp.zeros((8, 8, 1)), jax.random.key(0))
    ```

    Attributes:
        scale: standard deviation before truncation, in steps of the grid.

    Raises:
        ValueError: `scale` is not positive.
    """

    scale: float = eqx.field(static=True)

    def __check_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale={self.scale} must be a positive number, in steps of the grid")

    def draw(self, x: Event, key: PRNGKeyArray) -> tuple[Event, Event]:
        """Draw noise for one value; as `CellNoise.draw`."""
        limit = 0.5 / self.scale
        z = jax.random.truncated_normal(key, -limit, limit, x.shape, x.dtype)
        log_mass = math.log(self.scale * (2 * math.pi) ** 0.5 * math.erf(limit / 2**0.5))
        return self.scale * z, -0.5 * z**2 - log_mass


def _log_slope(logit: Array) -> Array:
    """`log(y (1 - y))` for `y = sigmoid(logit)`."""
    return -jax.nn.softplus(logit) - jax.nn.softplus(-logit)
