"""`draw`: samples of a diffusion model by any rule of `jaxflow.diffusion.steppers`."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import sample_rows
from jaxflow.chunks import by_chunks, take
from jaxflow.diffusion.denoiser import AbstractDenoiser
from jaxflow.diffusion.probability_flow import denoiser_of
from jaxflow.diffusion.steppers import DPMSolver, Move, Rule
from jaxflow.diffusion.times import times_of
from jaxflow.model import into_data_space
from jaxflow.rows import cond_rows, promote


def draw(
    flow: Any,
    key: PRNGKeyArray,
    shape: tuple[int, ...] | int = (),
    cond: Any = None,
    *,
    sampler: Any = DPMSolver(),
    num_steps: int = 25,
    spacing: str = "karras",
    denoise: bool = True,
    progress: bool | None = False,
) -> Float[Array, "..."]:
    """Draw samples of a diffusion model, in data units, by one of its samplers.

    `flow.sample` is another way, the ODE to a tolerance, and the only one whose samples have
    the density of `flow.log_prob` exactly.

    ```python
    x = draw(flow, key, 1000, sampler=PredictorCorrector(), num_steps=100, spacing="time")
    ```

    Args:
        flow: a flow by `as_flow`.
        key: random key; a sample depends on it and its number alone.
        shape: batch shape, or a number of samples.
        cond: conditions, (*shape, *condition), or one vector for all.
        sampler: a rule of `jaxflow.diffusion.steppers`.
        num_steps: steps from noise to data, each of `sampler.evals` evaluations.
        spacing: of the times, see `times_of`; `"time"` is DDPM's.
        denoise: whether a last evaluation takes the rest of the noise out.
        progress: whether to show a bar; None shows one on a terminal only.

    Raises:
        TypeError: the flow is no diffusion model, a sampler that is no rule.
        ValueError: numbers or conditions that do not fit.
    """
    denoiser = denoiser_of(flow)
    if not isinstance(sampler, Rule):
        raise TypeError(f"sampler={sampler!r} is no rule: write DPMSolver(), Ancestral(), DDIM()")
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps={num_steps!r} must be a whole number of at least 1")
    batch = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(size < 0 for size in batch):
        raise ValueError(f"shape={shape} must not be negative")
    count = math.prod(batch)
    flow, cond = promote(flow, cond_rows(cond, batch))
    times = tuple(times_of(denoiser.schedule, num_steps, spacing).tolist())
    keys = jax.random.split(key, count)

    def compute(part: Array | slice, _: PRNGKeyArray | None) -> Any:
        return _draw(flow, *take(part, keys, cond), times, sampler, denoise)

    x = by_chunks(count, flow.event_shape, None, compute, progress=progress)
    return x.reshape(*batch, *flow.event_shape)


@eqx.filter_jit
def _draw(
    flow: Any, keys: Array, cond: Array | None, times: tuple[float, ...], rule: Rule, last: bool
) -> Array:
    """A sample for each key, each on its own randomness."""
    denoiser: AbstractDenoiser = flow.field.denoiser.prepare()
    schedule = denoiser.schedule
    x = sample_rows(flow.base, keys)
    grid = jnp.asarray(times, x.dtype)

    def steps(x: Array, cond: Array | None, key: PRNGKeyArray) -> Array:
        def noise(s: Array, x: Array) -> Array:
            return denoiser.noise(s, x, cond)

        def step(carry: Any, i: Array) -> tuple[Any, None]:
            x, memory = carry
            move = Move(noise, schedule, grid[i], grid[i + 1], jax.random.fold_in(key, i))
            return rule.step(move, x, memory), None

        carry = x, rule.start(x)
        (x, _), _ = jax.lax.scan(step, carry, jnp.arange(len(times) - 1))
        if last:
            return (x - schedule.sigma(grid[-1]) * noise(grid[-1], x)) / schedule.alpha(grid[-1])
        return x / schedule.alpha(grid[-1])

    # Each row's own stream, so that its sample does not depend on the others.
    streams = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    u = jax.vmap(steps, (0, None if cond is None else 0, 0))(x, cond, streams)
    return into_data_space(flow.transform, u)[0]
