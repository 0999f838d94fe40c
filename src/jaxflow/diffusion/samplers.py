"""`draw`: samples of a diffusion model by any rule of `jaxflow.diffusion.steppers`."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import sample_rows
from jaxflow.diffusion.denoiser import AbstractDenoiser
from jaxflow.diffusion.probability_flow import denoiser_of
from jaxflow.diffusion.steppers import DPMSolver, Move, Rule
from jaxflow.diffusion.times import times_of
from jaxflow.flows.flow import to_data_space
from jaxflow.ode.many import lanes_for
from jaxflow.runtime.arguments import as_cond_rows, batch_shape, promote_dtypes
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.chunking import map_chunks, take_rows
from jaxflow.runtime.precision import full_precision

# Up to so many times share one compilation; above, powers of two.
FILLED = 1024


def draw(
    flow: Any,
    key: PRNGKeyArray,
    shape: tuple[int, ...] | int = (),
    cond: Any = None,
    *,
    sampler: Any = DPMSolver(),
    num_steps: int = 25,
    spacing: str | None = None,
    denoise: bool = True,
    progress: bool | None = False,
) -> Float[Array, "..."]:
    """Draw samples of a diffusion model, in data units, by one of its samplers.

    `flow.sample` is another way, the ODE to a tolerance, and the only one whose samples have
    the density of `flow.log_prob` exactly.

    ```python
    x = draw(flow, key, 1000, sampler=PredictorCorrector(), num_steps=100)
    ```

    Args:
        flow: a flow by `as_flow`.
        key: random key; a sample depends on it and its number alone.
        shape: batch shape, or a number of samples.
        cond: conditions, (*shape, *condition), or one vector for all.
        sampler: a rule of `jaxflow.diffusion.steppers`.
        num_steps: steps from noise to data, each of `sampler.evals` evaluations.
        spacing: of the times, see `times_of`; `"time"` is DDPM's, None what suits the sampler.
        denoise: whether a last evaluation takes the rest of the noise out.
        progress: whether to show a bar; None shows one on a terminal only.

    Raises:
        TypeError: the flow is no diffusion model, a sampler that is no rule.
        ValueError: numbers or conditions that do not fit.
    """
    if not isinstance(sampler, Rule):
        raise TypeError(f"sampler={sampler!r} is no rule: write DPMSolver(), Ancestral(), DDIM()")
    check_count("num_steps", num_steps)
    schedule = denoiser_of(flow).schedule
    # Filled up, so that numbers of steps share one compilation.
    padded = np.full(max(FILLED, 1 << num_steps.bit_length()), schedule.start)
    padded[: num_steps + 1] = times_of(schedule, num_steps, spacing or sampler.spacing)
    grid, count = jnp.asarray(padded), jnp.asarray(num_steps)

    def walk(flow: Any, keys: Array, cond: Array | None) -> Array:
        return _draw(flow, keys, cond, grid, count, sampler, denoise)

    return drawn(flow, key, shape, cond, walk, progress)


def drawn(
    flow: Any,
    key: PRNGKeyArray,
    shape: tuple[int, ...] | int,
    cond: Any,
    walk: Callable[[Any, Array, Array | None], Array],
    progress: bool | None,
) -> Float[Array, "..."]:
    """Samples of any shape, by a function of rows: `walk(flow, keys, cond)`."""
    batch = batch_shape(shape)
    flow, cond = promote_dtypes(flow, as_cond_rows(cond, batch))
    count = math.prod(batch)
    keys = jax.random.split(key, count)

    def compute(part: Array | slice, _: PRNGKeyArray | None) -> Any:
        return walk(flow, *take_rows(part, keys, cond))

    x = map_chunks(
        count,
        flow.event_shape,
        None,
        compute,
        lanes=lanes_for(math.prod(flow.event_shape)),
        progress=progress,
    )
    return x.reshape(*batch, *flow.event_shape)


def row_by_row(
    flow: Any,
    keys: Array,
    cond: Array | None,
    walk: Callable[[Array, Array | None, PRNGKeyArray], Array],
) -> Float[Array, "rows *event"]:
    """Data rows by `walk(x, cond, key)` from a point of the base, each row on its own noise."""
    streams = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    axes = (0, None if cond is None else 0, 0)
    u = jax.vmap(walk, axes)(sample_rows(flow.base, keys), cond, streams)
    return to_data_space(flow.transform, u)[0]


@eqx.filter_jit
@full_precision
def _draw(
    flow: Any,
    keys: Array,
    cond: Array | None,
    grid: Array,
    num_steps: Array,
    rule: Rule,
    last: bool,
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
        end = jnp.asarray(schedule.start, x.dtype)
        return denoiser.data(end, x, cond) if last else x / schedule.alpha(end)

    return row_by_row(flow, keys, cond, walk)
