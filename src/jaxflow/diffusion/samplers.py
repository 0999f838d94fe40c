"""`draw`: samples of a diffusion model by any rule of `jaxflow.diffusion.steppers`."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import sample_rows
from jaxflow.diffusion.denoiser import AbstractDenoiser
from jaxflow.diffusion.probability_flow import denoiser_of
from jaxflow.diffusion.schedule import times_of
from jaxflow.diffusion.schedules import Betas
from jaxflow.diffusion.steppers import DPMSolver, Move, Rule
from jaxflow.flows.data_space import to_data_space
from jaxflow.flows.flow import map_rows
from jaxflow.runtime.arguments import as_cond_rows, batch_shape, promote_dtypes
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.precision import full_precision, sample_dtype

# Times are padded to this many, above it to a power of two: few compilations for all `num_steps`.
PADDED_TIMES = 1024


def draw(
    flow: Any,
    key: PRNGKeyArray,
    shape: tuple[int, ...] | int = (),
    cond: ArrayLike | None = None,
    *,
    sampler: Any = DPMSolver(),
    num_steps: int = 25,
    spacing: str | None = None,
    denoise: bool = True,
    progress: bool | None = False,
) -> Float[Array, "..."]:
    """Draw samples of a diffusion model, in data units.

    Only `flow.sample`, which solves the ODE to a tolerance, draws from the density of
    `flow.log_prob` exactly.

    ```python
    import jax
    from jaxflow.diffusion import Ancestral, Denoiser, VariancePreserving, as_flow, draw
    from jaxflow.dynamics import MLP
    flow = as_flow(Denoiser(MLP(2, key=jax.random.key(0)), VariancePreserving()), 2)
    x = draw(flow, jax.random.key(1), 10, sampler=Ancestral(), num_steps=200)
    ```

    Args:
        flow: a flow of `as_flow`.
        key: random key. Each sample depends on the key and its own index alone.
        shape: batch shape, or the number of samples.
        cond: conditions, (*shape, *condition), or one vector for all samples.
        sampler: a rule of `jaxflow.diffusion.steppers`, see `SAMPLERS`.
        num_steps: T, the number of noise levels: T - 1 steps of `sampler.evals` evaluations each,
            then one evaluation that removes the remaining noise. Levels whose times round to the
            same number count once.
        spacing: spacing of the times, see `times_of`. Default: `"time"` for `Betas(T)` and
            `num_steps=T`, which are then the steps of DDPM's chain; else the sampler's.
        denoise: whether to take the last step, without noise, to the predicted data.
        progress: whether to show a progress bar. None shows it on a terminal only.

    Returns:
        Samples, (*shape, *event).

    Raises:
        TypeError: `flow` is not a diffusion model, or `sampler` not a rule.
        ValueError: `num_steps`, `shape`, `spacing` or `cond` is not valid.
    """
    if not isinstance(sampler, Rule):
        raise TypeError(f"sampler={sampler!r} must be a Rule: write DPMSolver() or Ancestral()")
    check_count("num_steps", num_steps, 1 if denoise else 2)
    schedule = denoiser_of(flow).schedule
    if spacing is None:
        on_ladder = isinstance(schedule, Betas) and schedule.num_steps == num_steps
        spacing = "time" if on_ladder else sampler.spacing
    grid = times_of(schedule, max(num_steps - 1, 1), spacing)[:num_steps]
    # A step between times that round to the same number would divide 0 by 0.
    dtype = sample_dtype(flow, as_cond_rows(cond, batch_shape(shape)))
    grid = np.unique(grid.astype(dtype))[::-1]
    padded = np.full(max(PADDED_TIMES, 1 << num_steps.bit_length()), grid[-1])
    padded[: len(grid)] = grid
    times, count = jnp.asarray(padded), jnp.asarray(len(grid) - 1)
    draw_chunk = partial(_run_rule, grid=times, num_steps=count, rule=sampler, denoise=denoise)
    return draw_batch(flow, key, shape, cond, draw_chunk, progress)


def draw_batch(
    flow: Any,
    key: PRNGKeyArray,
    shape: tuple[int, ...] | int,
    cond: ArrayLike | None,
    draw_chunk: Callable[[Any, Array, Array | None], Array],
    progress: bool | None,
) -> Float[Array, "..."]:
    """Samples of any batch shape from `draw_chunk(flow, keys, cond)`, one sample for each key."""
    batch = batch_shape(shape)
    flow, cond = promote_dtypes(flow, as_cond_rows(cond, batch))
    keys = jax.random.split(key, math.prod(batch))
    x = map_rows(
        flow, lambda keys, cond, _: draw_chunk(flow, keys, cond), (keys, cond), None, progress
    )
    return x.reshape(*batch, *flow.event_shape)


def draw_rows(
    flow: Any,
    keys: Array,
    cond: Array | None,
    walk: Callable[[Array, Array | None, PRNGKeyArray], Array],
) -> Float[Array, "rows *event"]:
    """Rows in data units from `walk(x, cond, key)`, which moves one sample `x` of the base."""
    streams = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    axes = (0, None if cond is None else 0, 0)
    z = sample_rows(flow.base, keys, sample_dtype(flow, cond))
    u = jax.vmap(walk, axes)(z, cond, streams)
    return to_data_space(flow.transform, u)[0]


@eqx.filter_jit
@full_precision
def _run_rule(
    flow: Any,
    keys: Array,
    cond: Array | None,
    grid: Array,
    num_steps: Array,
    rule: Rule,
    denoise: bool,
) -> Array:
    denoiser: AbstractDenoiser = flow.field.denoiser.prepare()
    schedule = denoiser.schedule

    def walk(x: Array, cond: Array | None, key: PRNGKeyArray) -> Array:
        times = grid.astype(x.dtype)

        def noise(s: Array, x: Array) -> Array:
            return denoiser.noise(s, x, cond)

        def step(i: Array, carry: Any) -> Any:
            move = Move(noise, schedule, times[i], times[i + 1], jax.random.fold_in(key, i))
            return rule.step(move, *carry)

        x, _ = jax.lax.fori_loop(0, num_steps, step, (x, rule.start(x)))
        end = times[-1]
        return denoiser.data(end, x, cond) if denoise else x / schedule.alpha(end)

    return draw_rows(flow, keys, cond, walk)
