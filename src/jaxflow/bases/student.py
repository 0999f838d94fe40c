"""Student's t: a base with heavy tails."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import betainc, gammaln
from jaxtyping import PRNGKeyArray

from jaxflow.runtime.shapes import ArrayInput, Event, Scalar


class StudentT(eqx.Module):
    """Independent Student's t coordinates on events of any shape; `df` is not trained.

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

    def __init__(self, df: ArrayInput, event_shape: Sequence[int] | int | None = None) -> None:
        """Make the density.

        Args:
            df: degrees of freedom of each coordinate, (*event), positive. The tail of `x_i`
                decays as `|x_i|^-(df_i + 1)`.
            event_shape: shape to which `df` is broadcast; None for the shape of `df`.

        Raises:
            ValueError: a number of degrees of freedom is not positive.
        """
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

    def log_prob(self, x: Event) -> Scalar:
        """`sum_i log t(x_i; df_i)`, in nats."""
        df = jax.lax.stop_gradient(self.df)
        peak = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * jnp.log(df * jnp.pi)
        return jnp.sum(peak - (df + 1) / 2 * jnp.log1p(x**2 / df))

    def sample(self, key: PRNGKeyArray) -> Event:
        """Draw one event."""
        df = jax.lax.stop_gradient(self.df)
        return jax.random.t(key, df, df.shape, df.dtype)

    def cdf(self, x: Event) -> Event:
        """Distribution function of each coordinate, by the incomplete beta function."""
        df = jax.lax.stop_gradient(self.df)
        tail = 0.5 * betainc(df / 2, jnp.asarray(0.5, x.dtype), df / (df + x**2))
        return jnp.where(x < 0, tail, 1 - tail)
