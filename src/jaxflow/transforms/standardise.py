"""Shift and scale each coordinate to mean 0 and standard deviation 1."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.transforms.samples import check_sample, host_samples, is_concrete


@final
class Standardise(eqx.Module):
    r"""Elementwise `u = (x - mean) / scale`.

    The log-determinants are constants: `log|det du/dx| = -sum(log scale)`.

    Example:
        >>> transform = Standardise.fit(x)                       # x (n, *event)
        >>> u, log_det = jax.vmap(transform.forward)(x)          # (n, *event), (n,)

    Attributes:
        mean: the data's mean, in its units, shape `event_shape`.
        scale: the data's standard deviation, in its units, same shape, positive.
        event_shape: the shape of one sample.

    Raises:
        ValueError: `mean` and `scale` differ in shape, or `scale` is not positive and finite.
    """

    mean: Float[Array, "*event"]
    scale: Float[Array, "*event"]
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, mean: Float[Array, "..."], scale: Float[Array, "..."]) -> None:
        if mean.shape != scale.shape:
            raise ValueError(
                f"mean has shape {mean.shape} and scale has shape {scale.shape}; both must have "
                "the shape of one sample"
            )
        if is_concrete(mean, scale):
            wrong = ~(np.isfinite(scale) & (np.asarray(scale) > 0) & np.isfinite(mean))
            if wrong.any():
                raise ValueError(
                    f"mean and scale must be finite and scale positive, but at {_where(wrong)} "
                    f"mean is {np.asarray(mean)[wrong].tolist()} and scale is "
                    f"{np.asarray(scale)[wrong].tolist()}"
                )
        self.mean = mean
        self.scale = scale
        self.event_shape = mean.shape

    @classmethod
    def fit(cls, x: Any) -> "Standardise":
        """Take mean and standard deviation (divisor n) of the samples `x` (n, *event).

        Computed in float64 on the host, stored in the dtype of `x`.

        Raises:
            ValueError: a column is constant to rounding; `x` is not finite or has under 2 rows.
            TypeError: `x` does not hold real numbers.
        """
        values, dtype = host_samples(x)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        # A spread below the spacing of floating-point numbers at |x| is rounding, not data.
        rounding = float(jnp.finfo(dtype).eps) * np.abs(values).max(axis=0)
        constant = (np.ptp(values, axis=0) == 0) | (scale <= rounding)
        if constant.any():
            raise ValueError(
                f"x is constant (to rounding) in columns {_where(constant)}, which have no "
                "density; drop these columns"
            )
        return cls(jnp.asarray(mean.astype(dtype)), jnp.asarray(scale.astype(dtype)))

    def forward(
        self, x: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """Map one sample to flow space: `(u, log|det du/dx|)`.

        Raises:
            ValueError: `x` is not one sample.
        """
        check_sample("x", x, self.event_shape)
        mean, scale = jax.lax.stop_gradient((self.mean, self.scale))
        return (x - mean) / scale, -jnp.sum(jnp.log(scale))

    def inverse(
        self, u: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """Map one sample to data space: `(x, log|det dx/du|)`.

        Raises:
            ValueError: `u` is not one sample.
        """
        check_sample("u", u, self.event_shape)
        mean, scale = jax.lax.stop_gradient((self.mean, self.scale))
        return u * scale + mean, jnp.sum(jnp.log(scale))


def _where(mask: np.ndarray) -> list:
    """The positions of the true entries, as plain numbers where there is one axis."""
    places = np.argwhere(mask)
    return places[:, 0].tolist() if mask.ndim == 1 else [tuple(p) for p in places.tolist()]
