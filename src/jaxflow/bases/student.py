"""Student's t: a base with heavy tails."""

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import betainc, gammaln, ndtr
from jaxtyping import PRNGKeyArray

from jaxflow.runtime.checks import check_event, check_event_shape
from jaxflow.runtime.precision import as_floats, in_float64
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar

# Degrees of freedom from which the series of `_log_peak` is exact to rounding in float64.
LARGE_DF = 40.0
# Distance, in units of sqrt(df), from which `log(1 + x^2 / df)` is computed from `log|x|`.
FAR = 1e4
# Degrees of freedom from which the normal deviate of Hill gives the distribution function to
# rounding in float32 and in float64; the incomplete beta function loses digits there.
HILL_DF = {"float32": 8.0, "float64": 100.0}


class StudentT(eqx.Module):
    """Independent Student's t coordinates on events of any shape.

    A Lipschitz field cannot turn light tails into heavy ones (Jaini et al. 2020, "Tails of
    Lipschitz Triangular Flows", arXiv 1907.04481), so heavy-tailed data need a heavy-tailed base.

    ```python
    import jax.numpy as jnp
    from jaxflow import StudentT

    base = StudentT(4.0, event_shape=2)
    log_p = base.log_prob(jnp.asarray([0.5, -20.0]))
    ```
    """

    df: Event

    def __init__(
        self,
        df: ArrayInput,
        event_shape: Sequence[SupportsIndex] | SupportsIndex | None = None,
    ) -> None:
        """Make the density.

        Args:
            df: degrees of freedom of each coordinate, (*event), finite, at least 0.366 in float32
                and 0.102 in float64. The tail of `x_i` decays as `|x_i|^-(df_i + 1)`.
            event_shape: shape to which `df` is broadcast; None for the shape of `df`.

        Raises:
            ValueError: a number of degrees of freedom is not finite, or so small that samples
                overflow; or a size is less than 1.
        """
        df = as_floats(df)
        if event_shape is not None:
            df = jnp.broadcast_to(df, check_event_shape(event_shape))
        if not isinstance(df, Tracer):
            _check_df(np.asarray(df))
        self.df = df

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.df.shape

    def log_prob(self, x: Event) -> Scalar:
        """`sum_i log t(x_i; df_i)`, in nats."""
        check_event("x", x, self.event_shape, "base.log_prob")
        df = self.df
        peak = in_float64(_log_peak, df.dtype, df)
        return jnp.sum(peak - (df + 1) / 2 * _log1p_square(x, df))

    def sample(self, key: PRNGKeyArray) -> Event:
        """Draw one event; finite."""
        x = jax.random.t(key, self.df, self.df.shape, self.df.dtype)
        # Training may make `df` smaller than `least_df`.
        largest = float(jnp.finfo(x.dtype).max)
        return jnp.clip(x, -largest, largest)

    def cdf(self, x: Event) -> Event:
        """Distribution function of each coordinate.

        By the incomplete beta function, and for many degrees of freedom by a normal deviate (Hill
        1970, "Algorithm 395: Student's t-distribution").
        """
        half = jnp.asarray(0.5, x.dtype)
        many = self.df >= HILL_DF.get(str(x.dtype), 100.0)
        df = jnp.where(many, 1.0, self.df)
        share = x**2 / (df + x**2)
        from_0 = half * betainc(half, df / 2, share)
        tail = half * betainc(df / 2, half, 1 / (1 + x**2 / df))
        # Near 0 `tail` loses its digits, far from 0 `from_0` does.
        tail = jnp.where(share < half, half - from_0, tail)
        by_beta = jnp.where(x < 0, tail, 1 - tail)
        return jnp.where(many, ndtr(_normal_deviate(x, jnp.where(many, self.df, 100.0))), by_beta)


def least_df(dtype: Any) -> float:
    """The fewest degrees of freedom, to three decimals, whose samples overflow rarely.

    A sample divides by the root of a gamma variable of shape `df / 2`. This is below the smallest
    normal number, and the sample infinite, with a probability of about `tiny^(df / 2)`, here at
    most `eps`.
    """
    info = jnp.finfo(dtype)
    return math.ceil(2000 * math.log(float(info.eps)) / math.log(float(info.tiny))) / 1000


def _check_df(df: np.ndarray) -> None:
    if not np.all((df > 0) & np.isfinite(df)):
        raise ValueError(f"df={df} must be positive and finite; write StandardNormal for inf")
    least = least_df(df.dtype)
    if np.any(df < least):
        raise ValueError(
            f"df={df} must be at least {least:g} in {df.dtype}, where samples with heavier tails "
            f"overflow: write StudentT({least:g}), or for {least_df(np.float64):g} and more set "
            'jax.config.update("jax_enable_x64", True)'
        )


def _log_peak(df: Event) -> Event:
    """`log t(0; df)`, the logarithm of `Gamma(z + 1/2) / Gamma(z) / sqrt(2 pi z)`, `z = df / 2`.

    For large `z` by its asymptotic series: the two log-gammas, about `z log z`, would cancel.
    In float32 they are off by up to 1e-6.
    """
    few = df < LARGE_DF
    small = jnp.where(few, df, 1.0)
    exact = gammaln((small + 1) / 2) - gammaln(small / 2) - 0.5 * jnp.log(small * jnp.pi)
    w = 2 / jnp.where(few, LARGE_DF, df)
    series = w * (-1 / 8 + w**2 * (1 / 192 + w**2 * (-1 / 640 + w**2 * 17 / 14336)))
    return jnp.where(few, exact, series - 0.5 * math.log(2 * math.pi))


def _normal_deviate(x: Event, df: Event) -> Event:
    """The number whose normal distribution function is that of t at `x` (Hill 1970)."""
    a = df - 0.5
    b = 48 * a**2
    # A hundred standard deviations away, where the tail is 0, so that squares stay finite.
    y = jnp.minimum(a * _log1p_square(x, df), 1e4)
    series = (((-0.4 * y - 3.3) * y - 24) * y - 85.5) / (0.8 * y**2 + 100 + b)
    return jnp.sign(x) * jnp.sqrt(y) * ((series + y + 3) / b + 1)


def _log1p_square(x: Event, df: Event) -> Event:
    """`log(1 + x^2 / df)`, without the square where that could overflow."""
    size = jnp.abs(x)
    is_far = size > FAR * jnp.sqrt(df)
    far = jnp.where(is_far, size, 1.0)
    near = jnp.where(is_far, 0.0, x)
    beyond = 2 * jnp.log(far) - jnp.log(df) + jnp.log1p((jnp.sqrt(df) / far) ** 2)
    return jnp.where(is_far, beyond, jnp.log1p(near**2 / df))
