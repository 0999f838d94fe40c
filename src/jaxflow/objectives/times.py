"""Laws of the times that training looks at, as quantile functions."""

from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, PRNGKeyArray


def uniform(u: Float[Array, " rows"]) -> Float[Array, " rows"]:
    """Every time as often as any other."""
    return u


@final
@dataclass(frozen=True)
class LogitNormal:
    """`logit(t) ~ N(mean, std^2)`: more times in the middle (Esser et al. 2024, arXiv 2403.03206).

    Attributes:
        mean: above 0 for more times near the data.
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
        """The quantile function."""
        return jax.nn.sigmoid(self.mean + self.std * ndtri(u))


@final
@dataclass(frozen=True)
class Power:
    """`p(t) = (1 + exponent) t^exponent`: more times near the data for positive exponents.

    Attributes:
        exponent: above -1.

    Raises:
        ValueError: `exponent` is not above -1.
    """

    exponent: float = 1.0

    def __post_init__(self) -> None:
        if not self.exponent > -1:
            raise ValueError(f"exponent={self.exponent} must be above -1")

    def __call__(self, u: Float[Array, " rows"]) -> Float[Array, " rows"]:
        """The quantile function."""
        return u ** (1 / (1 + self.exponent))


def stratified(key: PRNGKeyArray, rows: int, dtype: Any) -> Float[Array, " rows"]:
    """Uniform numbers in [0, 1), spread evenly over the rows at a random offset.

    Modulo 1, so that every row's own number is uniform whatever the rows' order.
    """
    offset = jax.random.uniform(key, (), dtype)
    return (offset + jnp.arange(rows, dtype=dtype) / rows) % 1
