"""The variational bound of a diffusion model on the log-density of data."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import DiagonalNormal, StandardNormal
from jaxflow.diffusion.ddpm import step_loss
from jaxflow.diffusion.denoiser import AbstractDenoiser
from jaxflow.diffusion.probability_flow import denoiser_of
from jaxflow.diffusion.schedule import times_of
from jaxflow.flows.data_space import check_arguments, to_flow_space
from jaxflow.flows.flow import map_rows
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.precision import full_precision
from jaxflow.runtime.shapes import Scalar
from jaxflow.transforms import spread_rows


class Bound(NamedTuple):
    """The terms of `-log p(x) <= L_0 + sum_t L_t + L_T` for each row, in nats and data units.

    Attributes:
        value: lower bound of `log p(x)`.
        first: `L_0`, the reconstruction of the data from the first noisy point.
        steps: the sum of all `L_t`.
        last: `L_T = KL(q(x_T | x_0) || base)`.
        se: standard error of the mean of `value` over rows. NaN for one row.
    """

    value: Float[Array, " rows"]
    first: Float[Array, " rows"]
    steps: Float[Array, " rows"]
    last: Float[Array, " rows"]
    se: Scalar

    def bits_per_dim(self, size: int, bin_width: float = 1.0) -> float:
        """Return the mean bound in bits per entry, see `jaxflow.diffusion.bits_per_dim`."""
        return bits_per_dim(self.value, size, bin_width)


def bits_per_dim(log_p: Float[Array, " rows"], size: int, bin_width: float = 1.0) -> float:
    """Convert log-densities to bits per entry: `-mean / (size log 2) - log2(bin_width)`.

    ```python
    import jax.numpy as jnp
    from jaxflow.diffusion import bits_per_dim
    print(bits_per_dim(jnp.asarray([-300.0, -320.0]), size=64, bin_width=1 / 256))
    ```

    Args:
        log_p: log-densities in nats, (rows,).
        size: entries of an event.
        bin_width: width of the grid on which the data were dequantised, in data units. Use 1 if
            the flow's transform dequantises: its values are log-probabilities already.
    """
    return -float(jnp.mean(log_p)) / (size * math.log(2)) - math.log2(bin_width)


def elbo(
    flow: Any,
    x: ArrayLike,
    cond: ArrayLike | None = None,
    *,
    key: PRNGKeyArray,
    num_steps: int = 1000,
    num_draws: int = 1,
    spacing: str = "log_snr",
    progress: bool | None = False,
) -> Bound:
    """Estimate the variational bound of the ancestral chain with `num_steps` steps.

    With data `x_0`, noisy points at `s_1 = start, ..., s_T = end`, and the decoder
    `p(x_0 | x_1) = N(E[x_0 | x_1], (sigma_1 / alpha_1)^2)`

        L_0 = -E log p(x_0 | x_1)      L_t = step_loss      L_T = KL(q(x_T | x_0) || base)

    (Ho et al. 2020, arXiv 2006.11239, eq. 5.) Every `L_t` is evaluated, with its own noise. A
    transform that dequantises also draws fresh noise.

    ```python
    import jax
    from jaxflow.diffusion import Denoiser, VariancePreserving, as_flow, elbo
    from jaxflow.dynamics import MLP
    key = jax.random.key(0)
    flow = as_flow(Denoiser(MLP(2, width=8, depth=1, key=key), VariancePreserving()), 2)
    bound = elbo(flow, jax.random.normal(key, (8, 2)), key=key, num_steps=50)
    print(bound.value.mean(), bound.se)
    ```

    Args:
        flow: a flow of `as_flow`, trained or not.
        x: data, (n, *event).
        cond: conditions, (n, *condition).
        key: random key of the noise.
        num_steps: T, at least 2.
        num_draws: noise draws per row, averaged.
        spacing: spacing of the times, see `times_of`. `"time"` is DDPM's chain, whose bound is
            looser at equal `num_steps`.
        progress: whether to show a progress bar. None shows it on a terminal only.

    Returns:
        The bound and its terms, for each row.

    Raises:
        TypeError: `flow` is not a diffusion model, or its base not normal.
        ValueError: rows or numbers out of range.
    """
    for name, value, least in (("num_steps", num_steps, 2), ("num_draws", num_draws, 1)):
        check_count(name, value, least)
    schedule = denoiser_of(flow).schedule
    _check_base(flow.base)
    flow, rows, cond, _ = check_arguments(flow, x, cond, "x")
    if not len(rows):
        raise ValueError(f"x has shape {rows.shape}; give at least one row")
    times = jnp.asarray(times_of(schedule, num_steps - 1, spacing)[::-1], rows.dtype)
    # One key per row: its bound does not depend on the other rows.
    keys = jax.vmap(lambda key: jax.random.split(key, num_draws))(jax.random.split(key, len(rows)))

    def mean_terms(x: Array, cond: Array | None, keys: Array, _: None) -> Any:
        draws = [_terms(flow, x, cond, keys[:, i], times) for i in range(num_draws)]
        return jax.tree.map(lambda *a: jnp.mean(jnp.stack(a), axis=0), *draws)

    first, steps, last = map_rows(flow, mean_terms, (rows, cond, keys), None, progress)
    value = -(first + steps + last)
    se = (
        jnp.std(value, ddof=1) / math.sqrt(len(value)) if len(value) > 1 else jnp.asarray(math.nan)
    )
    return Bound(value, first, steps, last, se)


@eqx.filter_jit
@full_precision
def _terms(
    flow: Any, x: Array, cond: Array | None, keys: Array, times: Array
) -> tuple[Array, Array, Array]:
    """`L_0`, `sum_t L_t` and `L_T` of each row."""
    denoiser: AbstractDenoiser = flow.field.denoiser.prepare()
    schedule = denoiser.schedule

    def terms(x: Array, cond: Array | None, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        spread_key, key = jax.random.split(key)
        spread = spread_rows(flow.transform, x[None], spread_key)
        (u,), (log_det,) = to_flow_space(flow.transform, spread, grouped=False)

        def noised(s: Array, i: Array | int) -> tuple[Array, Array, Array]:
            noise = jax.random.normal(jax.random.fold_in(key, i), u.shape, u.dtype)
            noisy = schedule.noised(s, u, noise)
            return noisy, noise, denoiser.noise(s, noisy, cond)

        def add(i: Array, total: Array) -> Array:
            s, later = times[i], times[i + 1]
            return total + step_loss(schedule, s, later, *noised(later, i + 1))

        zero = jnp.zeros((), u.dtype)
        steps = jax.lax.fori_loop(0, len(times) - 1, add, zero)
        # The decoder's error is (sigma_1 / alpha_1)(e - predicted).
        _, noise, predicted = noised(times[0], 0)
        blur = schedule.sigma(times[0]) / schedule.alpha(times[0])
        first = 0.5 * jnp.sum((noise - predicted) ** 2)
        first = first + u.size * (jnp.log(blur) + 0.5 * math.log(2 * math.pi))
        end = times[-1]
        last = _kl_to_base(schedule.alpha(end) * u, schedule.variance(end), flow.base)
        return first - log_det, steps, last

    return jax.vmap(terms, (0, None if cond is None else 0, 0))(x, cond, keys)


def prior_gap(flow: Any, x: ArrayLike) -> float:
    """Estimate `KL(q(x_end) || base)`, the loss from starting at the base, in nats per row.

    Columns count as independent and normal, with the data's means and variances in flow space. A
    variance-exploding process ends around the data's mean, while the base is around 0.

    ```python
    import jax
    from jaxflow.diffusion import Denoiser, VarianceExploding, as_flow, prior_gap
    from jaxflow.dynamics import MLP
    flow = as_flow(Denoiser(MLP(2, key=jax.random.key(0)), VarianceExploding()), 2)
    print(prior_gap(flow, 1 + jax.random.normal(jax.random.key(1), (100, 2))))
    ```

    Args:
        flow: a flow of `as_flow`, trained or not.
        x: data, (n, *event).

    Raises:
        TypeError: `flow` is not a diffusion model, or its base not normal.
    """
    schedule = denoiser_of(flow).schedule
    _check_base(flow.base)
    flow, rows, _, _ = check_arguments(flow, x, None, "x")
    u, _ = to_flow_space(flow.transform, rows)
    alpha, sigma = schedule.alpha(schedule.end), schedule.sigma(schedule.end)
    variance = alpha**2 * jnp.var(u, axis=0) + sigma**2
    return float(_kl_to_base(alpha * jnp.mean(u, axis=0), variance, flow.base))


def _check_base(base: Any) -> None:
    if not isinstance(base, StandardNormal | DiagonalNormal):
        raise TypeError(f"base={base!r} must be a StandardNormal or DiagonalNormal")


def _kl_to_base(mean: Array, variance: Array, base: StandardNormal | DiagonalNormal) -> Array:
    """`KL(N(mean, variance) || base)` for independent entries, in nats."""
    if isinstance(base, DiagonalNormal):
        base_mean, scale = base.mean, base.scale
    else:
        base_mean, scale = jnp.zeros_like(mean), jnp.ones_like(mean)
    ratio = variance / scale**2
    square = ((mean - base_mean) / scale) ** 2
    return 0.5 * jnp.sum(square + ratio - 1 - jnp.log(ratio))
