"""Map columns with limits to the whole real line."""

from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxflow.runtime.checks import check_event
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.samples import (
    checked_rows,
    clip_inside,
    column_label,
    is_concrete,
    places,
)


@final
class Bounded(eqx.Module):
    r"""Logit or logarithm of each entry, according to its limits.

    ```
    a < x < b:  u = log((x - a) / (b - x))     log|du/dx| = log(b - a) - log(x - a) - log(b - x)
    a < x:      u = log(x - a)                 log|du/dx| = -log(x - a)
    x < b:      u = -log(b - x)                log|du/dx| = -log(b - x)
    no limit:   u = x                          0
    ```
    Samples stay strictly within the limits, and no probability mass lies beyond them.

    ```python
    import jax, jax.numpy as jnp
    from jaxflow.transforms import Bounded

    limits = Bounded([0.0, 0.0], [1.0, jnp.inf])  # a share, and a positive number
    u, log_det = limits.forward(jnp.asarray([0.25, 3.0]))
    ```
    """

    # Fields that may hold infinity in a file.
    infinite_fields: ClassVar[tuple[str, ...]] = ("lower", "upper")

    lower: Event
    upper: Event
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, lower: ArrayInput, upper: ArrayInput) -> None:
        """Make the transform from the limits.

        Args:
            lower: lower limits, (*event); -inf for none.
            upper: upper limits, (*event); inf for none.

        Raises:
            ValueError: the shapes differ, a lower limit is not less than the upper one, or
                rounding to jax's precision moves a limit by more than 1e-4 of their distance.
        """
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
                    f"lower must be less than upper, but at {places(wrong)} lower "
                    f"is {np.asarray(self.lower)[wrong].tolist()} and upper is "
                    f"{np.asarray(self.upper)[wrong].tolist()}"
                )
            _check_precision(self, lower, upper)
        self.event_shape = self.lower.shape

    def check(self, x: ArrayInput) -> None:
        """Check that all rows lie strictly within the limits.

        Args:
            x: rows, (rows, *event).

        Raises:
            ValueError: a value lies on a limit or beyond; the message names the column and the
                first row. Many values on a limit are an atom, which has no density.
        """
        values = checked_rows(x, self.event_shape)
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
                    "spread them within their rounding, or model them separately"
                    if atoms
                    else ""
                )
                raise ValueError(
                    f"column {column_label(column)} has {rows.size} values at or beyond "
                    f"{name}={limit:g}, first in row {rows[0]}{hint}"
                )

    def inside(self, x: Event) -> Bool[Array, ""]:
        """Whether one sample lies strictly within the limits; True for NaN."""
        check_event("x", x, self.event_shape, "transform.inside")
        lower, upper = self.lower, self.upper
        # From the gaps of `forward`, which are 0 for numbers below the normal range.
        return ~jnp.any((x - lower <= 0) | (upper - x <= 0))

    def forward(self, x: Event) -> tuple[Event, Scalar]:
        """Map one sample to flow space: `(u, log|det du/dx|)`; NaN on a limit and beyond."""
        check_event("x", x, self.event_shape, "transform.forward")
        lower, upper = self.lower, self.upper
        above, below = _gap(lower, x - lower), _gap(upper, upper - x)
        has_lower, has_upper = jnp.isfinite(lower), jnp.isfinite(upper)
        u = jnp.where(has_lower | has_upper, above - below, x)
        log_width = jnp.log(jnp.where(has_lower & has_upper, upper - lower, 1.0))
        return u, jnp.sum(log_width - above - below)

    def inverse(self, u: Event) -> tuple[Event, Scalar]:
        """Map one point of flow space to data space: `(x, log|det dx/du|)`.

        `x` is strictly within the limits: clipped by one float if rounding reaches a limit.
        """
        check_event("u", u, self.event_shape, "transform.inverse")
        lower, upper = self.lower, self.upper
        has_lower, has_upper = jnp.isfinite(lower), jnp.isfinite(upper)
        both = has_lower & has_upper
        a = jnp.where(has_lower, lower, 0.0)
        b = jnp.where(has_upper, upper, 0.0)
        # Computed from the nearer limit: the other one would lose all digits.
        near = jnp.where(u < 0, a + (b - a) * jax.nn.sigmoid(u), b - (b - a) * jax.nn.sigmoid(-u))
        x = jnp.where(has_lower, a + jnp.exp(u), jnp.where(has_upper, b - jnp.exp(-u), u))
        # Within the limits, which rounding could reach, and finite.
        x = jnp.where(both, near, x)
        x = jnp.where(has_lower | has_upper, clip_inside(x, lower, upper), x)
        log_width = jnp.log(jnp.where(both, b - a, 1.0))
        one_sided = jnp.where(has_lower, u, jnp.where(has_upper, -u, 0.0))
        each = jnp.where(
            both, log_width + jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u), one_sided
        )
        return x, jnp.sum(each)


def _gap(limit: Array, gap: Array) -> Array:
    """`log(gap)` of entries with a finite limit, 0 of others.

    NaN where the gap is not positive. The gradient there is 0, or NaN would spread to other rows.
    """
    has = jnp.isfinite(limit)
    positive = gap > 0
    log_gap = jnp.where(positive, jnp.log(jnp.where(has & positive, gap, 1.0)), jnp.nan)
    return jnp.where(has, log_gap, 0.0)


def _check_precision(transform: Bounded, *limits: Any) -> None:
    """Raise if rounding in the transform moves the limits too much."""
    lower, upper = exact = [np.asarray(limit, np.float64) for limit in limits]
    rounded = [np.asarray(limit, np.float64) for limit in (transform.lower, transform.upper)]
    # An infinite limit does not move.
    with np.errstate(invalid="ignore"):
        moved = np.fmax(*(np.abs(a - b) for a, b in zip(exact, rounded, strict=True)))
        wrong = moved > 1e-4 * (upper - lower)
    if wrong.any():
        raise ValueError(
            f"the limits at {places(wrong)}, {lower[wrong].tolist()} and "
            f"{upper[wrong].tolist()}, are too close for {transform.lower.dtype}: subtract an "
            'offset from data and limits, or set jax.config.update("jax_enable_x64", True)'
        )
