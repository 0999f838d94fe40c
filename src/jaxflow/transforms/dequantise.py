"""Columns of whole numbers, or of rounded ones, made continuous."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.transforms.chain import Chain
from jaxflow.transforms.noise import CellNoise
from jaxflow.transforms.samples import check_sample, host_samples, is_concrete

# By how much of a step a value may miss the grid: the rounding of decimals in float32.
OFF_GRID = 0.01


@final
class Dequantise(eqx.Module):
    r"""Values on a grid of spacing `step`, each spread evenly over its cell while training.

    With noise `v ~ U(-1/2, 1/2)` a flow is fitted to `x + step v`, which has a density. The
    probability of a value is the integral of that density over its cell, and

    ```
    log P(x) >= E_v[log p(x + step v)] + sum log step
    ```
    so that training by likelihood raises a bound of it (Theis et al. 2016, "A note on the
    evaluation of generative models", arXiv 1511.01844). As a transform, `forward` takes a value
    as it is and counts `sum log step`: `log_prob` is then `log P(x)` by the midpoint rule, and
    `jaxflow.log_mass` is without that rule's error. `inverse` rounds to the grid, so that
    samples lie on it. `jaxflow.fit_noise` learns noise that makes the bound tighter.

    Attributes:
        step: spacing of each entry's grid, 0 where it is continuous already, shape
            `event_shape`.
        origin: a point of each grid, same shape.
        noise: the law of the noise given the value; None for even noise.
        event_shape: the shape of one sample.

    Raises:
        ValueError: shapes that differ, a step that is negative or not finite.
    """

    step: Float[Array, "*event"]
    origin: Float[Array, "*event"]
    noise: CellNoise | None
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, step: Any, origin: Any = None, noise: CellNoise | None = None) -> None:
        self.noise = noise
        self.step = jnp.asarray(step, float)
        self.origin = jnp.zeros_like(self.step) if origin is None else jnp.asarray(origin, float)
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

    def with_noise(self, noise: CellNoise | None) -> "Dequantise":
        """The same grid with another law of the noise."""
        return Dequantise(self.step, self.origin, noise)

    def check(self, x: Any) -> None:
        """Refuse samples (n, *event) that lie off the grid.

        Raises:
            ValueError: names the columns and rows.
        """
        values, _ = host_samples(x)
        steps, origin = np.asarray(self.step, float), np.asarray(self.origin, float)
        for column in np.argwhere(steps > 0):
            place = tuple(column)
            cells = (values[(slice(None), *place)] - origin[place]) / steps[place]
            rows = np.flatnonzero(np.abs(cells - np.round(cells)) > OFF_GRID)
            if rows.size:
                raise ValueError(
                    f"column {place[0] if len(place) == 1 else place} has {rows.size} values off "
                    f"the grid of step {steps[place]:g}, first in row {rows[0]}: "
                    f"{values[(rows[0], *place)]}; give step=0 for a continuous column"
                )

    def spread(self, x: Float[Array, "*event"], key: PRNGKeyArray) -> Float[Array, "*event"]:
        """`x + step v` with fresh noise; `quantise` takes it back."""
        return self.spread_with_log_prob(x, key)[0]

    def spread_with_log_prob(
        self, x: Float[Array, "*event"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """`x + step v` with fresh noise, and `log q(v | x)`: 0 where the noise is even."""
        step = jax.lax.stop_gradient(self.step).astype(x.dtype)
        if self.noise is None:
            v = jax.random.uniform(key, x.shape, x.dtype, minval=-0.5, maxval=0.5)
            return x + step * v, jnp.zeros((), x.dtype)
        v, log_q = self.noise.draw(x, key)
        return x + step * v, jnp.sum(jnp.where(step > 0, log_q, 0.0))

    def quantise(self, x: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """The nearest point of the grid."""
        step, origin = jax.lax.stop_gradient((self.step, self.origin))
        wide = jnp.where(step > 0, step, 1.0)
        return jnp.where(step > 0, origin + wide * jnp.round((x - origin) / wide), x)

    def forward(
        self, x: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """`(x, sum log step)`."""
        check_sample("x", x, self.event_shape)
        return x, self._log_volume()

    def inverse(
        self, u: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """`(quantise(u), -sum log step)`."""
        check_sample("u", u, self.event_shape)
        return self.quantise(u), -self._log_volume()

    def _log_volume(self) -> Float[Array, ""]:
        step = jax.lax.stop_gradient(self.step)
        return jnp.sum(jnp.where(step > 0, jnp.log(jnp.where(step > 0, step, 1.0)), 0.0))


def noise_of(transform: Any) -> Dequantise | None:
    """What spreads values before a transform: itself, or the first part of a chain."""
    first = transform.parts[0] if isinstance(transform, Chain) else transform
    return first if isinstance(first, Dequantise) else None


def without_noise(transform: Any) -> Any:
    """What follows the noise: the transform of spread values, whose density is no probability."""
    if noise_of(transform) is None:
        return transform
    rest = transform.parts[1:] if isinstance(transform, Chain) else ()
    return Chain(rest) if rest else None


def spread_rows(
    transform: Any, x: Float[Array, "rows *event"], key: PRNGKeyArray
) -> Float[Array, "rows *event"]:
    """Rows with fresh noise where the transform begins with a `Dequantise`; else as they are."""
    noise = noise_of(transform)
    return x if noise is None else jax.vmap(noise.spread)(x, jax.random.split(key, len(x)))


def log_mass(
    flow: Any, x: Any, key: PRNGKeyArray, cond: Any = None, *, num_draws: int = 64
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """`log P(x)` of rows on a grid: the density integrated over each row's cell, in nats.

    The integral is the mean over noise `v ~ q(v | x)`, even or learned (`jaxflow.fit_noise`), of
    `p(x + step v) step / q(v | x)`, where `log_prob` takes the middle of the cell for all of it.
    Entries that are on no grid stay densities.

    Args:
        flow: a flow whose transform begins with a `Dequantise`.
        x: rows, (rows, *event).
        key: for the noise.
        cond: conditions, (rows, *condition), or one vector for all.
        num_draws: points of each cell.

    Returns:
        `log P(x)`, and its standard error by the draws.

    Raises:
        ValueError: a flow without grids, values off them, `num_draws` under 2.
    """
    noise = noise_of(flow.transform)
    if noise is None:
        raise ValueError(
            f"transform={flow.transform} has no grid to integrate over: log_prob is a density; "
            "begin the transform with a Dequantise"
        )
    if num_draws < 2:
        raise ValueError(f"num_draws={num_draws} must be at least 2")
    noise.check(x)
    x = jnp.asarray(x)
    noise_key, trace_key = jax.random.split(key)
    each = []
    for draw in jax.random.split(noise_key, num_draws):
        inside, log_q = _spread(noise, x, jax.random.split(draw, len(x)))
        log_p = flow.log_prob(inside, cond, trace_key)
        each.append(np.asarray(log_p, float) - np.asarray(log_q, float))
    values = np.stack(each, axis=1)
    top = values.max(axis=1)
    share = np.exp(values - top[:, None])
    error = share.std(axis=1, ddof=1) / (share.mean(axis=1) * np.sqrt(num_draws))
    return top + np.log(share.mean(axis=1)), error


@eqx.filter_jit
def _spread(noise: Dequantise, x: Array, keys: Array) -> tuple[Array, Array]:
    return jax.vmap(noise.spread_with_log_prob)(x, keys)
