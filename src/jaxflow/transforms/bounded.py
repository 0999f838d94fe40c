"""Columns with limits, taken to the whole line."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.transforms.samples import check_sample, host_samples, is_concrete


@final
class Bounded(eqx.Module):
    r"""Elementwise, by the limits that a column has.

    ```
    a < x < b:  u = log((x - a) / (b - x))     log|du/dx| = log(b - a) - log(x - a) - log(b - x)
    a < x:      u = log(x - a)                 log|du/dx| = -log(x - a)
    x < b:      u = -log(b - x)                log|du/dx| = -log(b - x)
    neither:    u = x                          0
    ```
    So samples keep the limits, and no density is spent beyond them. Fit another transform
    behind it: `Chain((bounded, Standardise.fit(u)))`.

    Attributes:
        lower: the lower limit of each entry, -inf for none, shape `event_shape`.
        upper: the upper limit, inf for none, same shape.
        event_shape: the shape of one sample.

    Raises:
        ValueError: limits that differ in shape, or are not in order.
    """

    lower: Float[Array, "*event"]
    upper: Float[Array, "*event"]
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, lower: Any, upper: Any) -> None:
        self.lower, self.upper = jnp.asarray(lower), jnp.asarray(upper)
        if self.lower.shape != self.upper.shape:
            raise ValueError(
                f"lower has shape {self.lower.shape} and upper has shape {self.upper.shape}; both "
                "must have the shape of one sample"
            )
        if is_concrete(self.lower, self.upper):
            wrong = ~(np.asarray(self.lower) < np.asarray(self.upper))
            if wrong.any():
                raise ValueError(
                    f"lower must be less than upper, but at {np.argwhere(wrong).tolist()} lower "
                    f"is {np.asarray(self.lower)[wrong].tolist()} and upper is "
                    f"{np.asarray(self.upper)[wrong].tolist()}"
                )
        self.event_shape = self.lower.shape

    def check(self, x: Any) -> None:
        """Refuse samples (n, *event) that lie outside, or on a limit, where no density is.

        Raises:
            ValueError: names the columns and rows, and says of many equal values that they are
                atoms.
        """
        values, _ = host_samples(x)
        lower, upper = np.asarray(self.lower), np.asarray(self.upper)
        for column in np.ndindex(self.event_shape):
            entries = values[(slice(None), *column)]
            for name, limit, out in (
                ("lower", lower[column], entries <= lower[column]),
                ("upper", upper[column], entries >= upper[column]),
            ):
                rows = np.flatnonzero(out)
                if not rows.size:
                    continue
                atoms = int(np.sum(entries == limit))
                hint = (
                    f"; {atoms} lie on it, an atom that has no density: leave these rows out, "
                    "spread them within their rounding, or model them apart"
                    if atoms
                    else ""
                )
                raise ValueError(
                    f"column {column[0] if len(column) == 1 else column} has {rows.size} values "
                    f"at or beyond {name}={limit:g}, first in row {rows[0]}{hint}"
                )

    def forward(
        self, x: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """Map one sample to the whole line: `(u, log|det du/dx|)`; NaN beyond the limits."""
        check_sample("x", x, self.event_shape)
        lower, upper = jax.lax.stop_gradient((self.lower, self.upper))
        above, below = _gap(lower, x - lower), _gap(upper, upper - x)
        both = jnp.isfinite(lower) & jnp.isfinite(upper)
        u = jnp.where(jnp.isfinite(lower) | jnp.isfinite(upper), above - below, x)
        width = jnp.where(both, jnp.log(jnp.where(both, upper - lower, 1.0)), 0.0)
        return u, jnp.sum(width - above - below)

    def inverse(
        self, u: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """Map one point of the whole line back: `(x, log|det dx/du|)`."""
        check_sample("u", u, self.event_shape)
        lower, upper = jax.lax.stop_gradient((self.lower, self.upper))
        has_lower, has_upper = jnp.isfinite(lower), jnp.isfinite(upper)
        both = has_lower & has_upper
        a = jnp.where(has_lower, lower, 0.0)
        b = jnp.where(has_upper, upper, 0.0)
        # From the nearer limit, where the other one would cost all digits.
        near = jnp.where(u < 0, a + (b - a) * jax.nn.sigmoid(u), b - (b - a) * jax.nn.sigmoid(-u))
        x = jnp.where(has_lower, a + jnp.exp(u), jnp.where(has_upper, b - jnp.exp(-u), u))
        x = jnp.where(both, near, x)
        log_width = jnp.log(jnp.where(both, b - a, 1.0))
        one_sided = jnp.where(has_lower, u, jnp.where(has_upper, -u, 0.0))
        each = jnp.where(
            both, log_width + jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u), one_sided
        )
        return x, jnp.sum(each)


def _gap(limit: Array, gap: Array) -> Array:
    """`log(gap)` where there is a limit, else 0."""
    has = jnp.isfinite(limit)
    return jnp.where(has, jnp.log(jnp.where(has, gap, 1.0)), 0.0)
