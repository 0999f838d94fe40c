"""Map the levels of images to normal scores through their frequencies."""

from typing import SupportsIndex, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float

from jaxflow.runtime.checks import check_count, check_event
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.samples import (
    checked_rows,
    clip_inside,
    column_label,
    host_samples,
    is_concrete,
)

# Images that the pooled frequencies count for, of which the likeliest is chosen.
STRENGTHS = 10.0 ** np.arange(-1, 5, 0.5)


@final
class LevelScores(eqx.Module):
    r"""Normal scores of entries that hold levels `0, ..., L - 1` with noise within their cells.

    Level `k` fills the cell from `k - 1/2` to `k + 1/2`, evenly. With the probability `p_k` of
    the level and the distribution function `F`, a straight line within each cell,

        u = Phi^-1(F(x)),        log|du/dx| = log p_k - log phi(u)

    so that a standard normal in `u` is the density of independent entries, each with its own
    frequencies of levels, and a flow has only their dependence to learn. No mass lies beyond the
    darkest and the brightest level.

    ```python
    import jax
    from jaxflow.transforms import LevelScores

    images = jax.random.randint(jax.random.key(0), (20, 4, 4, 1), 0, 16)
    transform = LevelScores.fit(images, 16)
    u, log_det = jax.vmap(transform.forward)(images.astype(float))  # middles of the cells
    ```
    """

    frequencies: Float[Array, "*event levels"]
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, frequencies: ArrayInput) -> None:
        """Make the transform from the probability of each level; `fit` estimates them.

        Args:
            frequencies: of each entry's levels, positive with sum 1, (*event, levels).

        Raises:
            ValueError: there are fewer than two levels, or an entry's numbers are not positive
                with sum 1 (to 1e-4).
        """
        self.frequencies = jnp.asarray(frequencies)
        if self.frequencies.ndim < 2 or self.frequencies.shape[-1] < 2:
            raise ValueError(
                f"frequencies has shape {self.frequencies.shape}; give (*event, levels) with two "
                "levels or more: LevelScores.fit(images, levels)"
            )
        if is_concrete(self.frequencies):
            values = np.asarray(self.frequencies, np.float64)
            wrong = ~((values > 0).all(axis=-1) & (np.abs(values.sum(axis=-1) - 1) < 1e-4))
            if wrong.any():
                place = tuple(np.argwhere(wrong)[0].tolist())
                raise ValueError(
                    f"frequencies of entry {column_label(place)} are {values[place]}; they must "
                    "be positive with sum 1: LevelScores.fit(images, levels)"
                )
        self.event_shape = self.frequencies.shape[:-1]

    @classmethod
    def fit(cls, images: ArrayInput, levels: SupportsIndex = 256) -> "LevelScores":
        """Count levels, entry by entry.

        The frequencies over all entries count for as many images more as makes each image
        likeliest given the others.

        Args:
            images: levels, (images, *event).
            levels: number of levels.

        Returns:
            The transform, in the dtype of `images`.

        Raises:
            ValueError: a value is no level; names the entry and the row.
        """
        levels = check_count("levels", levels, 2)
        values, dtype = host_samples(images)
        _check_levels(values, levels)
        shape = values.shape[1:]
        flat = values.reshape(len(values), -1).astype(np.int64)
        entries = flat.shape[1]
        counts = np.bincount(
            (flat + levels * np.arange(entries)).ravel(), minlength=entries * levels
        ).reshape(entries, levels)
        pooled = (counts.sum(axis=0) + 1) / (counts.sum() + levels)

        def left_one_out(strength: float) -> float:
            each = (counts - 1 + strength * pooled) / (len(values) - 1 + strength)
            return float(np.sum(counts * np.log(np.where(counts > 0, each, 1.0))))

        strength = max(STRENGTHS, key=left_one_out)
        frequencies = (counts + strength * pooled) / (len(values) + strength)
        return cls(jnp.asarray(frequencies.reshape(*shape, levels), dtype))

    def check(self, x: ArrayInput) -> None:
        """Check that all rows hold levels, with or without noise.

        Args:
            x: rows, (rows, *event).

        Raises:
            ValueError: a value lies beyond the cells of the levels; names the entry and the row.
        """
        _check_levels(np.round(checked_rows(x, self.event_shape)), self.frequencies.shape[-1])

    def inside(self, x: Event) -> Bool[Array, ""]:
        """Whether one sample lies strictly within the cells of the levels; True for NaN."""
        check_event("x", x, self.event_shape, "transform.inside")
        return ~jnp.any((x <= -0.5) | (x >= self.frequencies.shape[-1] - 0.5))

    def forward(self, x: Event) -> tuple[Event, Scalar]:
        """Map one sample to flow space: `(u, log|det du/dx|)`; NaN beyond the cells."""
        check_event("x", x, self.event_shape, "transform.forward")
        levels = self.frequencies.shape[-1]
        outside = (x <= -0.5) | (x >= levels - 0.5)
        level = jnp.clip(jnp.round(x), 0, levels - 1)
        share = jnp.clip(x - level + 0.5, 0.0, 1.0)
        below, p, above = (
            jnp.take_along_axis(a, level.astype(jnp.int32)[..., None], axis=-1)[..., 0]
            for a in self._masses()
        )
        # From the nearer end: the other one would lose all digits.
        low, high = below + p * share, above + p * (1 - share)
        tail = jnp.where(outside, jnp.nan, jnp.minimum(low, high))
        u = jnp.where(low < high, 1.0, -1.0).astype(tail.dtype) * ndtri(tail)
        return u, jnp.sum(jnp.log(p) - jax.scipy.stats.norm.logpdf(u))

    def inverse(self, u: Event) -> tuple[Event, Scalar]:
        """Map one point of flow space to data space: `(x, log|det dx/du|)`.

        `x` lies within the cells of the levels; only the rounding of floats moves it there.
        """
        check_event("u", u, self.event_shape, "transform.inverse")
        levels = self.frequencies.shape[-1]
        below, p, above = self._masses()
        low, high = (jax.scipy.special.ndtr(v)[..., None] for v in (u, -u))
        # Whether the point is beyond the first end of each cell, told from the nearer end.
        passed = jnp.where(u[..., None] < 0, below <= low, above + p > high)
        level = jnp.clip(jnp.sum(passed, axis=-1, dtype=jnp.int32) - 1, 0, levels - 1)
        below, p, above = (
            jnp.take_along_axis(a, level[..., None], axis=-1)[..., 0] for a in (below, p, above)
        )
        share = jnp.where(u < 0, (low[..., 0] - below) / p, 1 - (high[..., 0] - above) / p)
        middle = level.astype(u.dtype)
        x = clip_inside(middle + jnp.clip(share, 0.0, 1.0) - 0.5, middle - 0.5, middle + 0.5)
        return x, jnp.sum(jax.scipy.stats.norm.logpdf(u) - jnp.log(p))

    def _masses(self) -> tuple[Array, Array, Array]:
        """The probability of lower levels, of each level, and of higher levels."""
        # XLA would compute sums of a closed-over constant while it compiles, for seconds.
        p = jax.lax.optimization_barrier(self.frequencies)
        below = jnp.cumsum(p, axis=-1) - p
        above = jnp.flip(jnp.cumsum(jnp.flip(p, -1), axis=-1), -1) - p
        return below, p, above


def _check_levels(values: np.ndarray, levels: int) -> None:
    """Raise ValueError for the first entry that is no level."""
    wrong = (values < 0) | (values > levels - 1) | (values != np.round(values))
    if wrong.any():
        row, *place = np.argwhere(wrong)[0].tolist()
        raise ValueError(
            f"entry {column_label(tuple(place))} of row {row} is {values[(row, *place)]:g}; "
            f"levels={levels} allows whole numbers from 0 to {levels - 1}"
        )
