"""Distributions of the training times, as quantile functions."""

from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, PRNGKeyArray


def uniform(u: Float[Array, " rows"]) -> Float[Array, " rows"]:
    """Draw all times equally often: `t = u`."""
    return u


@final
@dataclass(frozen=True)
class LogitNormal:
    """Draw `logit(t) ~ N(mean, std^2)`: more times in the middle.

    Esser et al. 2024, arXiv 2403.03206.

    ```python
    from jaxflow.objectives import FlowMatching, LogitNormal

    objective = FlowMatching(time=LogitNormal(mean=0.5))
    ```

    Attributes:
        mean: mean of the logit; above 0 for more times near the data.
        std: standard deviation of the logit.

    Raises:
        ValueError: `std` is not positive.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std={self.std} must be positive")

    def __call__(self, u: Float[Array, " rows"]) -> Float[Array, " rows"]:
        """Map uniform numbers in (0, 1) to times in (0, 1)."""
        return jax.nn.sigmoid(self.mean + self.std * ndtri(u))


@final
@dataclass(frozen=True)
class Power:
    """Draw times from `p(t) = (1 + exponent) t^exponent`.

    ```python
    from jaxflow.objectives import FlowMatching, Power

    objective = FlowMatching(time=Power(2.0))
    ```

    Attributes:
        exponent: above -1; positive for more times near the data.

    Raises:
        ValueError: `exponent` is not above -1.
    """

    exponent: float = 1.0

    def __post_init__(self) -> None:
        if not self.exponent > -1:
            raise ValueError(f"exponent={self.exponent} must be above -1")

    def __call__(self, u: Float[Array, " rows"]) -> Float[Array, " rows"]:
        """Map uniform numbers in (0, 1) to times in (0, 1)."""
        return u ** (1 / (1 + self.exponent))


def stratified(key: PRNGKeyArray, rows: int, dtype: Any) -> Float[Array, " rows"]:
    """Evenly spaced numbers in [0, 1) with one random offset.

    Modulo 1, so that the number of each row is uniform whatever the order of the rows.
    """
    offset = jax.random.uniform(key, (), dtype)
    return (offset + jnp.arange(rows, dtype=dtype) / rows) % 1
