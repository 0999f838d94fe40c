"""The reverse stochastic process, solved by diffrax."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diffusion.denoiser import AbstractDenoiser
from jaxflow.diffusion.probability_flow import denoiser_of
from jaxflow.diffusion.samplers import drawn, row_by_row
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.extras import import_extra
from jaxflow.runtime.precision import full_precision


def draw_sde(
    flow: Any,
    key: PRNGKeyArray,
    shape: tuple[int, ...] | int = (),
    cond: Any = None,
    *,
    num_steps: int = 200,
    solver: Any = None,
    progress: bool | None = False,
) -> Float[Array, "..."]:
    """Draw samples by the reverse process, `dx = (f x - g^2 score) ds + g dw` from noise to data.

    (Anderson 1982; Song et al. 2021, arXiv 2011.13456, eq. 6.) The steps are even in time, the
    noise is additive.

    Args:
        flow: a flow by `as_flow`.
        key: random key; a sample depends on it and its number alone.
        shape: batch shape, or a number of samples.
        cond: conditions, (*shape, *condition), or one vector for all.
        num_steps: steps.
        solver: a solver of diffrax for Ito processes, such as `diffrax.ShARK()`; None for
            `diffrax.Euler()`, Euler-Maruyama.
        progress: whether to show a bar; None shows one on a terminal only.

    Raises:
        ImportError: diffrax is not there.
        TypeError: the flow is no diffusion model.
        ValueError: numbers or conditions that do not fit.
    """
    need = "draw_sde needs diffrax (draw(flow, key) does not)"
    diffrax = import_extra("diffrax", "diffrax", need)
    denoiser_of(flow)
    check_count("num_steps", num_steps)
    solver = diffrax.Euler() if solver is None else solver

    def walk(flow: Any, keys: Array, cond: Array | None) -> Array:
        return _draw(flow, keys, cond, num_steps, solver)

    return drawn(flow, key, shape, cond, walk, progress)


@eqx.filter_jit
@full_precision
def _draw(flow: Any, keys: Array, cond: Array | None, num_steps: int, solver: Any) -> Array:
    import diffrax

    denoiser: AbstractDenoiser = flow.field.denoiser.prepare()
    schedule = denoiser.schedule
    # Time runs forward, from the schedule's end.
    span = schedule.end - schedule.start

    def move(x: Array, cond: Array | None, key: PRNGKeyArray) -> Array:
        def drift(tau: Any, x: Array, args: Any) -> Array:
            s = schedule.end - jnp.asarray(tau, x.dtype)
            pull = schedule.diffusion_squared(s) * denoiser.score(s, x, cond)
            return pull - schedule.drift(s) * x

        def spread(tau: Any, x: Array, args: Any) -> Any:
            import lineax

            g = jnp.sqrt(schedule.diffusion_squared(schedule.end - jnp.asarray(tau, x.dtype)))
            return lineax.DiagonalLinearOperator(jnp.broadcast_to(g, x.shape))

        noise = diffrax.VirtualBrownianTree(
            0.0,
            span,
            tol=span / num_steps / 2,
            shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
            key=key,
            levy_area=_levy_area(solver),
        )
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(spread, noise))
        with jax.numpy_dtype_promotion("standard"):
            found = diffrax.diffeqsolve(
                terms, solver, 0.0, span, span / num_steps, x, max_steps=num_steps + 2
            )
        assert found.ys is not None
        s = jnp.asarray(schedule.start, x.dtype)
        return denoiser.data(s, found.ys[-1], cond)

    return row_by_row(flow, keys, cond, move)


def _levy_area(solver: Any) -> Any:
    """The least that the solver wants to know of the Brownian motion in a step."""
    import diffrax

    wanted = getattr(solver, "minimal_levy_area", diffrax.AbstractBrownianIncrement)
    if issubclass(wanted, diffrax.AbstractSpaceTimeTimeLevyArea):
        return diffrax.SpaceTimeTimeLevyArea
    if issubclass(wanted, diffrax.AbstractSpaceTimeLevyArea):
        return diffrax.SpaceTimeLevyArea
    return diffrax.BrownianIncrement
