"""Student's t: a base with heavy tails, for data that have them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, PRNGKeyArray


class StudentT(eqx.Module):
    """Independent `t_df` for each entry of events of any shape; `df` is not trained.

    A field that is Lipschitz cannot make heavy tails of light ones (Jaini et al. 2020, "Tails of
    Lipschitz Triangular Flows", arXiv 1907.04481), so data with heavy tails want a base with
    them.

    Attributes:
        df: degrees of freedom of each entry, (*event); the tail of `x_i` falls as
            `|x_i|^-(df_i + 1)`.

    Raises:
        ValueError: degrees of freedom that are not positive.
    """

    df: Float[Array, "*event"]

    def __init__(self, df: Any, event_shape: tuple[int, ...] | int | None = None) -> None:
        """Degrees of freedom of every entry; one number for all with `event_shape`."""
        df = jnp.asarray(df, float)
        if event_shape is not None:
            shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
            df = jnp.broadcast_to(df, shape)
        if not isinstance(df, Tracer) and not (np.asarray(df) > 0).all():
            raise ValueError(f"df={df} must be positive")
        self.df = df

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.df.shape

    def log_prob(self, x: Float[Array, "*event"]) -> Float[Array, ""]:
        """Log-density of one event, nats."""
        df = jax.lax.stop_gradient(self.df)
        peak = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * jnp.log(df * jnp.pi)
        return jnp.sum(peak - (df + 1) / 2 * jnp.log1p(x**2 / df))

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*event"]:
        """One event."""
        df = jax.lax.stop_gradient(self.df)
        return jax.random.t(key, df, df.shape, df.dtype)
