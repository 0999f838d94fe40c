"""Scale observations to order one, robustly against outliers."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxflow.runtime.checks import check_unmasked
from jaxflow.runtime.shapes import ArrayInput

# Beyond this many standard deviations, values enter by their logarithm.
FAR = 4.0
# Non-negative entries get a logarithm if their skewness exceeds this, and it reduces skewness.
SKEWED = 1.0


class RobustScaling(eqx.Module):
    """Observations of order one: logarithms of skewed entries, then mean 0 and deviation 1.

    ```
    y = log(x + shift) where an entry is positive and skewed, else x;   z = (y - mean) / scale
    out = z for |z| <= 4,   sign(z) (4 + log(1 + |z| - 4)) beyond
    ```
    An outlier moves the value little, and counts are compared by their ratios. The scaling
    describes the data and is not trained (`jaxflow.trainable`).

    ```python
    import jax.numpy as jnp
    from jaxflow.dynamics import RobustScaling

    scaling = RobustScaling.fit(jnp.asarray([[1e4, 0.1], [3e4, 0.2], [2e4, 0.3]]))
    scaled = scaling(jnp.asarray([2e4, 0.2]))  # (0, 0)
    ```
    """

    is_log: Bool[Array, "..."]
    shift: Float[Array, "..."]
    mean: Float[Array, "..."]
    scale: Float[Array, "..."]

    @classmethod
    def fit(cls, x: ArrayInput, *, rows: int = 1) -> "RobustScaling":
        """Choose logarithms, means and deviations, in float64.

        Args:
            x: observations, (n, *observation); no entry is constant.
            rows: number of leading axes to average over; 2 for sets, whose members then share one
                scaling.

        Returns:
            The scaling.
        """
        check_unmasked("x", x)
        values = np.asarray(x, np.float64)
        values = values.reshape(-1, *values.shape[rows:])
        low = values.min(axis=0)
        least = np.where(values > 0, values, np.inf).min(axis=0)
        shift = np.where((low == 0) & np.isfinite(least), least, 0.0)
        logs = np.log(np.maximum(values, 0) + np.where(low < 0, 1.0, shift))
        skew = skewness(values)
        is_log = (low >= 0) & (skew > SKEWED) & (np.abs(skewness(logs)) < skew)
        y = np.where(is_log, logs, values)
        mean, scale = y.mean(axis=0), y.std(axis=0)
        parts = (shift, mean, np.where(scale > 0, scale, 1))
        return cls(jnp.asarray(is_log), *(jnp.asarray(each, float) for each in parts))

    def __call__(self, x: Array) -> Array:
        """Scale one observation; the shape does not change."""
        is_log = jnp.broadcast_to(self.is_log, x.shape)
        parts = (self.shift, self.mean, self.scale)
        shift, mean, scale = (jnp.broadcast_to(each, x.shape).astype(x.dtype) for each in parts)
        tiny = jnp.asarray(jnp.finfo(x.dtype).tiny, x.dtype)
        logs = jnp.log(jnp.maximum(jnp.where(is_log, x, 1) + shift, tiny))
        z = (jnp.where(is_log, logs, x) - mean) / scale
        size = jnp.abs(z)
        far = jnp.sign(z) * (FAR + jnp.log1p(jnp.maximum(size - FAR, 0)))
        return jnp.where(size > FAR, far, z)


def skewness(values: np.ndarray) -> np.ndarray | np.floating:
    """The skewness of each column; 0 of a constant one."""
    gap = values - values.mean(axis=0)
    spread = np.maximum(values.std(axis=0), np.finfo(float).tiny)
    return np.mean((gap / spread) ** 3, axis=0)
