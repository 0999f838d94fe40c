"""Make columns on a grid, such as integers or rounded numbers, continuous."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxflow.runtime.checks import check_event
from jaxflow.runtime.precision import as_floats
from jaxflow.runtime.shapes import ArrayInput, Event, Rows, Scalar
from jaxflow.transforms.chain import Chain
from jaxflow.transforms.noise import CellNoise, TruncatedNormal
from jaxflow.transforms.samples import (
    checked_rows,
    clip_inside,
    column_label,
    is_concrete,
    stored_dtype,
)

# Largest distance from the grid, in steps: the rounding of decimals in float32.
OFF_GRID = 0.01
# Largest rounding of a value, in steps, that leaves room for noise within a cell.
COARSE = 1 / 16


@final
class Dequantise(eqx.Module):
    r"""Values on a grid of spacing `step`, spread over their cells while training.

    Training adds noise `v ~ U(-1/2, 1/2)`: `x + step v` has a density. The probability of a value
    is the integral of the density over its cell, so training maximises a lower bound of it:

    ```
    log P(x) >= E_v[log p(x + step v)] + sum log step
    ```
    (Theis et al. 2016, "A note on the evaluation of generative models", arXiv 1511.01844).
    `forward` returns the value unchanged with log-determinant `sum log step`, so `log_prob` is
    `log P(x)` by the midpoint rule, which may be far too high where the density varies within a
    cell, as for small counts; `jaxflow.log_mass` avoids that rule's error. `inverse`
    rounds to the grid, so samples lie on it. `jaxflow.fit_noise` learns noise with a tighter
    bound.

    Values between grid points have probability 0, but `log_prob` gives them the density there
    times the step: training needs it for values with noise. `check(x)` refuses such rows.

    ```python
    import jax.numpy as jnp
    from jaxflow.transforms import Dequantise

    grid = Dequantise([1.0, 0.0])  # integers, and a continuous column
    x, _ = grid.inverse(jnp.asarray([2.7, 0.3]))  # (3, 0.3)
    ```
    """

    step: Event
    origin: Event
    noise: CellNoise | TruncatedNormal | None
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        step: ArrayInput,
        origin: ArrayInput | None = None,
        noise: CellNoise | TruncatedNormal | None = None,
    ) -> None:
        """Make the transform from the grids.

        Args:
            step: spacing of each entry's grid, (*event); 0 for a continuous entry.
            origin: a point of each grid, (*event); None for 0.
            noise: distribution of the noise; None for uniform noise.

        Raises:
            ValueError: the shapes differ, or a step is negative or not finite.
        """
        self.noise = noise
        self.step = as_floats(step)
        self.origin = jnp.zeros_like(self.step) if origin is None else as_floats(origin)
        if self.origin.shape != self.step.shape:
            raise ValueError(
                f"step has shape {self.step.shape} and origin has shape {self.origin.shape}; "
                "both must have the shape of one sample"
            )
        if is_concrete(self.step, self.origin):
            steps = np.asarray(self.step)
            if not (np.isfinite(steps) & (steps >= 0)).all():
                raise ValueError(f"step={steps} must be positive, or 0 for a continuous entry")
        self.event_shape = self.step.shape

    def with_noise(self, noise: CellNoise | TruncatedNormal | None) -> "Dequantise":
        """The same grid with another distribution of the noise; None for uniform noise."""
        return Dequantise(self.step, self.origin, noise)

    def check(self, x: ArrayInput) -> None:
        """Check that all rows lie on the grid.

        Args:
            x: rows, (rows, *event).

        Raises:
            ValueError: a value is off the grid, or its precision is too coarse for noise within a
                step; the message names the column.
        """
        values = checked_rows(x, self.event_shape)
        dtype = np.promote_types(stored_dtype(x), self.step.dtype)
        steps, origin = np.asarray(self.step, float), np.asarray(self.origin, float)
        for column in map(tuple, np.argwhere(steps > 0).tolist()):
            entries = values[(slice(None), *column)]
            largest = np.abs(entries).max()
            if largest * float(jnp.finfo(dtype).eps) > COARSE * steps[column]:
                raise ValueError(
                    f"column {column_label(column)} has values up to {largest:g}, which {dtype} "
                    f"rounds too coarsely for noise within steps of {steps[column]:g}: write x - "
                    f"{entries.min():g} (in NumPy float64), or give float64 rows after "
                    'jax.config.update("jax_enable_x64", True)'
                )
            cells = (entries - origin[column]) / steps[column]
            rows = np.flatnonzero(np.abs(cells - np.round(cells)) > OFF_GRID)
            if rows.size:
                raise ValueError(
                    f"column {column_label(column)} has {rows.size} values off the grid of step "
                    f"{steps[column]:g}, first in row {rows[0]}: {values[(rows[0], *column)]}; "
                    "give step=0 for a continuous column"
                )

    def spread(self, x: Array, key: PRNGKeyArray) -> Event:
        """`x + step v` with random noise `v`, within the cell of `x`; `quantise` inverts it."""
        return self.spread_with_log_prob(x, key)[0]

    def spread_with_log_prob(self, x: Array, key: PRNGKeyArray) -> tuple[Event, Scalar]:
        """`x + step v` with random noise `v`, and its log-density.

        Args:
            x: one value.
            key: for the noise.

        Returns:
            The value with noise, and `log q(v | x)`, which is 0 for uniform noise.
        """
        x = as_floats(x)
        step = self.step.astype(x.dtype)
        if self.noise is None:
            v = jax.random.uniform(key, x.shape, x.dtype, minval=-0.5, maxval=0.5)
            log_q = jnp.zeros_like(x)
        else:
            v, log_q = self.noise.draw(x, key)
        moved = clip_inside(x + step * v, x - step / 2, x + step / 2)
        # NaN where rounding would undo the noise.
        is_coarse = jnp.abs(x) * jnp.finfo(x.dtype).eps > COARSE * step
        moved = jnp.where(step > 0, jnp.where(is_coarse, jnp.nan, moved), x)
        return moved, jnp.sum(jnp.where(step > 0, log_q, 0.0))

    def quantise(self, x: Event) -> Event:
        """The nearest point of the grid; continuous entries do not change."""
        step, origin = self.step, self.origin
        wide = jnp.where(step > 0, step, 1.0)
        return jnp.where(step > 0, origin + wide * jnp.round((x - origin) / wide), x)

    def forward(self, x: Event) -> tuple[Event, Scalar]:
        """`(x, sum log step)`."""
        check_event("x", x, self.event_shape, "transform.forward")
        return x, self._log_volume()

    def inverse(self, u: Event) -> tuple[Event, Scalar]:
        """`(quantise(u), -sum log step)`."""
        check_event("u", u, self.event_shape, "transform.inverse")
        return self.quantise(u), -self._log_volume()

    def _log_volume(self) -> Scalar:
        return jnp.sum(jnp.log(jnp.where(self.step > 0, self.step, 1.0)))


def noise_of(transform: Any) -> Dequantise | None:
    """The `Dequantise` at the start of a transform or `Chain`, or None."""
    first = transform.parts[0] if isinstance(transform, Chain) else transform
    return first if isinstance(first, Dequantise) else None


def without_noise(transform: Any) -> Any:
    """The transform without the `Dequantise` at its start, or None if nothing is left.

    Its density is that of the values with noise, not a probability.
    """
    if noise_of(transform) is None:
        return transform
    rest = transform.parts[1:] if isinstance(transform, Chain) else ()
    return Chain(rest) if rest else None


def spread_rows(transform: Any, x: Any, key: PRNGKeyArray) -> Any:
    """Add noise to rows if the transform starts with a `Dequantise`."""
    return x if noise_of(transform) is None else spread_with_log_prob(transform, x, key)[0]


@eqx.filter_jit
def spread_with_log_prob(transform: Any, x: Rows, key: PRNGKeyArray) -> tuple[Rows, Array]:
    """Rows with noise within their cells, and its log-density `log q(v | x)`, (rows,)."""
    noise = noise_of(transform)
    assert noise is not None
    return jax.vmap(noise.spread_with_log_prob)(x, jax.random.split(key, len(x)))
