"""The variational bound of a diffusion model on the log-density of data."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import DiagonalNormal, StandardNormal
from jaxflow.diffusion.ddpm import step_loss
from jaxflow.diffusion.denoiser import AbstractDenoiser
from jaxflow.diffusion.probability_flow import denoiser_of
from jaxflow.diffusion.times import times_of
from jaxflow.flows.flow import check_arguments, to_flow_space
from jaxflow.ode.many import lanes_for
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.chunking import map_chunks
from jaxflow.runtime.precision import full_precision
from jaxflow.transforms import spread_rows


class Bound(NamedTuple):
    """`-log p(x) <= L_0 + sum_t L_t + L_T`, in nats and the data's own units, one a row.

    Attributes:
        value: the bound on `log p(x)`, from below.
        first: `L_0`, of the data given the first noisy point.
        steps: the sum of all `L_t`.
        last: `L_T`, what the prior misses.
        se: standard error of the mean of `value` over rows; NaN for one row.
    """

    value: Float[Array, " rows"]
    first: Float[Array, " rows"]
    steps: Float[Array, " rows"]
    last: Float[Array, " rows"]
    se: Float[Array, ""]

    def bits_per_dim(self, size: int, bin_width: float = 1.0) -> float:
        """The mean as bits an entry, see `bits_per_dim`."""
        return bits_per_dim(self.value, size, bin_width)


def bits_per_dim(log_p: Float[Array, " rows"], size: int, bin_width: float = 1.0) -> float:
    """Mean log-density as bits an entry: `-mean / (size log 2) - log2(bin_width)`.

    Args:
        log_p: log-densities, nats.
        size: entries of an event.
        bin_width: of the grid that the data were dequantised on, in their own units; 1 where
            the flow's own transform dequantises, whose values are log-probabilities already.
    """
    return -float(jnp.mean(log_p)) / (size * math.log(2)) - math.log2(bin_width)


def elbo(
    flow: Any,
    x: Any,
    cond: Any = None,
    *,
    key: PRNGKeyArray,
    num_steps: int = 1000,
    num_draws: int = 1,
    spacing: str = "log_snr",
    progress: bool | None = False,
) -> Bound:
    """The variational bound of a diffusion model's ancestral chain of `num_steps` steps.

    With data `x_0`, noisy points at `s_1 = start, ..., s_T = end` and a decoder
    `p(x_0 | x_1) = N(E[x_0 | x_1], (sigma_1 / alpha_1)^2)`

        L_0 = -E log p(x_0 | x_1)      L_T = KL(q(x_T | x_0) || base)

    Every `L_t` is computed, each with its own noise, as `step_loss` has it. Where the transform
    dequantises, fresh noise is drawn for that too.

    Args:
        flow: a flow by `as_flow`, fitted or not.
        x: rows, (n, *event).
        cond: their conditions, (n, *condition).
        key: for the noise.
        num_steps: T.
        num_draws: draws of the noise a row, averaged.
        spacing: of the times, as `times_of` has it; `"time"` is DDPM's chain, whose bound is
            looser at the same number of steps.
        progress: whether to show a bar; None shows one on a terminal only.

    Raises:
        TypeError: the flow is no diffusion model, or its base no normal density.
        ValueError: rows or numbers out of range.
    """
    for name, value, least in (("num_steps", num_steps, 2), ("num_draws", num_draws, 1)):
        check_count(name, value, least)
    schedule = denoiser_of(flow).schedule
    _check_base(flow.base)
    flow, rows, cond, _ = check_arguments(flow, x, cond, "x")
    if not len(rows):
        raise ValueError("x has no rows to take a bound of")
    times = jnp.asarray(times_of(schedule, num_steps - 1, spacing)[::-1], rows.dtype)
    # A key a row, so that its bound does not depend on the others.
    keys = jax.vmap(lambda key: jax.random.split(key, num_draws))(jax.random.split(key, len(rows)))

    def compute(part: Array | slice, _: PRNGKeyArray | None) -> Any:
        given = None if cond is None else cond[part]
        draws = [_elbo(flow, rows[part], given, keys[part, i], times) for i in range(num_draws)]
        return jax.tree.map(lambda *a: jnp.mean(jnp.stack(a), axis=0), *draws)

    first, steps, last = map_chunks(
        len(rows), rows.shape[1:], None, compute, lanes=lanes_for(rows[:1].size), progress=progress
    )
    value = -(first + steps + last)
    se = (
        jnp.std(value, ddof=1) / math.sqrt(len(value)) if len(value) > 1 else jnp.asarray(math.nan)
    )
    return Bound(value, first, steps, last, se)


@eqx.filter_jit
@full_precision
def _elbo(
    flow: Any, x: Array, cond: Array | None, keys: Array, times: Array
) -> tuple[Array, Array, Array]:
    denoiser: AbstractDenoiser = flow.field.denoiser.prepare()
    schedule = denoiser.schedule

    def terms(x: Array, cond: Array | None, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        spread_key, key = jax.random.split(key)
        (u,), (log_det,) = to_flow_space(
            flow.transform, spread_rows(flow.transform, x[None], spread_key)
        )

        def noised(s: Array, i: Array | int) -> tuple[Array, Array, Array]:
            noise = jax.random.normal(jax.random.fold_in(key, i), u.shape, u.dtype)
            noisy = schedule.noised(s, u, noise)
            return noisy, noise, denoiser.noise(s, noisy, cond)

        def add(i: Array, total: Array) -> Array:
            s, later = times[i], times[i + 1]
            return total + step_loss(schedule, s, later, *noised(later, i + 1))

        zero = jnp.zeros((), u.dtype)
        steps = jax.lax.fori_loop(0, len(times) - 1, add, zero)
        # L_0: the decoder's error is (sigma / alpha)(e - predicted).
        _, noise, predicted = noised(times[0], 0)
        blur = schedule.sigma(times[0]) / schedule.alpha(times[0])
        first = 0.5 * jnp.sum((noise - predicted) ** 2)
        first = first + u.size * (jnp.log(blur) + 0.5 * math.log(2 * math.pi))
        # L_T, between two normals.
        end = times[-1]
        last = _beyond_base(schedule.alpha(end) * u, schedule.variance(end), flow.base)
        return first - log_det, steps, last

    return jax.vmap(terms, (0, None if cond is None else 0, 0))(x, cond, keys)


def prior_gap(flow: Any, x: Any) -> float:
    """What a diffusion model misses by starting from its base, nats a row: `KL(q(x_end) || base)`.

    Columns are taken as independent and normal, with the data's means and deviations in flow
    space. A variance-exploding process ends around the data's mean, not around 0.

    Args:
        flow: a flow by `as_flow`, fitted or not.
        x: data, (n, *event).

    Raises:
        TypeError: the flow is no diffusion model, or its base no normal density.
    """
    schedule = denoiser_of(flow).schedule
    _check_base(flow.base)
    flow, rows, _, _ = check_arguments(flow, x, None, "x")
    u, _ = to_flow_space(flow.transform, rows)
    alpha, sigma = schedule.alpha(schedule.end), schedule.sigma(schedule.end)
    variance = alpha**2 * jnp.var(u, axis=0) + sigma**2
    return float(_beyond_base(alpha * jnp.mean(u, axis=0), variance, flow.base))


def _check_base(base: Any) -> None:
    if not isinstance(base, StandardNormal | DiagonalNormal):
        raise TypeError(f"the bound is for a normal base, and base={base!r} is another")


def _beyond_base(mean: Array, variance: Array, base: Any) -> Array:
    """`KL(N(mean, variance) || base)` of independent entries, nats."""
    base_mean, scale = _moments(base, mean.dtype)
    ratio = variance / scale**2
    square = ((mean - base_mean) / scale) ** 2
    return 0.5 * jnp.sum(square + ratio - 1 - jnp.log(ratio))


def _moments(base: Any, dtype: Any) -> tuple[Array, Array]:
    """Mean and standard deviation of every entry of the base."""
    if isinstance(base, DiagonalNormal):
        return base.mean, base.scale
    return jnp.zeros(base.event_shape, dtype), jnp.ones(base.event_shape, dtype)
