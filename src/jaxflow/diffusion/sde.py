"""`draw_sde`: samples by the reverse stochastic process, solved with diffrax."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diffusion.denoiser import AbstractDenoiser
from jaxflow.diffusion.probability_flow import denoiser_of
from jaxflow.diffusion.samplers import draw_batch, draw_rows
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.precision import full_precision


def draw_sde(
    flow: Any,
    key: PRNGKeyArray,
    shape: tuple[int, ...] | int = (),
    cond: ArrayLike | None = None,
    *,
    num_steps: int = 200,
    solver: Any = None,
    progress: bool | None = False,
) -> Float[Array, "..."]:
    """Draw samples of a diffusion model by its reverse process, in data units.

        dx = (f x - g^2 score) ds + g dw,    from noise to data

    (Anderson 1982; Song et al. 2021, arXiv 2011.13456, eq. 6.) Steps are even in time. The noise
    is additive.

    ```python
    import jax
    from jaxflow.diffusion import Denoiser, VariancePreserving, as_flow, draw_sde
    from jaxflow.dynamics import MLP
    flow = as_flow(Denoiser(MLP(2, key=jax.random.key(0)), VariancePreserving()), 2)
    x = draw_sde(flow, jax.random.key(1), 10, num_steps=100)
    ```

    Args:
        flow: a flow of `as_flow`.
        key: random key, as for `draw`.
        shape: batch shape, or the number of samples.
        cond: conditions, as for `draw`.
        num_steps: number of steps.
        solver: a diffrax solver for Ito processes, e.g. `diffrax.ShARK()`. Default:
            `diffrax.Euler()`, the Euler-Maruyama method.
        progress: whether to show a progress bar. None shows it on a terminal only.

    Returns:
        Samples, (*shape, *event).

    Raises:
        TypeError: `flow` is not a diffusion model.
        ValueError: `num_steps`, `shape` or `cond` is not valid.
    """
    import diffrax

    denoiser_of(flow)
    check_count("num_steps", num_steps)
    solver = diffrax.Euler() if solver is None else solver
    draw_chunk = partial(_solve_backwards, num_steps=num_steps, solver=solver)
    return draw_batch(flow, key, shape, cond, draw_chunk, progress)


@eqx.filter_jit
@full_precision
def _solve_backwards(
    flow: Any, keys: Array, cond: Array | None, num_steps: int, solver: Any
) -> Array:
    import diffrax

    denoiser: AbstractDenoiser = flow.field.denoiser.prepare()
    schedule = denoiser.schedule
    # diffrax's time runs forward: tau = end - s.
    span = schedule.end - schedule.start

    def walk(x: Array, cond: Array | None, key: PRNGKeyArray) -> Array:
        def drift(tau: Any, x: Array, args: Any) -> Array:
            s = schedule.end - jnp.asarray(tau, x.dtype)
            pull = schedule.diffusion_squared(s) * denoiser.score(s, x, cond)
            return pull - schedule.drift(s) * x

        def diffusion(tau: Any, x: Array, args: Any) -> Any:
            import lineax

            g = jnp.sqrt(schedule.diffusion_squared(schedule.end - jnp.asarray(tau, x.dtype)))
            return lineax.DiagonalLinearOperator(jnp.broadcast_to(g, x.shape))

        # The cheapest description of a Brownian step that the solver accepts.
        needed = getattr(solver, "minimal_levy_area", diffrax.AbstractBrownianIncrement)
        by_cost = (
            diffrax.BrownianIncrement,
            diffrax.SpaceTimeLevyArea,
            diffrax.SpaceTimeTimeLevyArea,
        )
        noise = diffrax.VirtualBrownianTree(
            0.0,
            span,
            tol=span / num_steps / 2,
            shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
            key=key,
            levy_area=next(area for area in by_cost if issubclass(area, needed)),
        )
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, noise))
        with jax.numpy_dtype_promotion("standard"):
            solution = diffrax.diffeqsolve(
                terms, solver, 0.0, span, span / num_steps, x, max_steps=num_steps + 2
            )
        assert solution.ys is not None
        return denoiser.data(jnp.asarray(schedule.start, x.dtype), solution.ys[-1], cond)

    return draw_rows(flow, keys, cond, walk)
