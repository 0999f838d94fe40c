"""A diffusion model as a flow: the ODE whose densities are those of the noising process.

    dx/ds = f(s) x - g(s)^2 score(s, x) / 2

has the same marginal densities as the stochastic process (Song et al. 2021, "Score-Based
Generative Modeling through SDEs", arXiv 2011.13456, eq. 13). Counted in jaxflow's time it is a
field like any other, so that log-densities, their errors and exact samples come from `CNF`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.bases import DiagonalNormal, StandardNormal
from jaxflow.diffusion.denoiser import AbstractDenoiser, Denoiser, within
from jaxflow.diffusion.schedule import Schedule
from jaxflow.diffusion.schedules import Straight
from jaxflow.flows.cnf import CNF
from jaxflow.trace import Trace

# The prior is written as a standard normal where it is one but for rounding.
CLOSE = 1e-12


class ProbabilityFlow(eqx.Module):
    """`dx/dt` of the probability-flow ODE, from noise at `t = 0` to data at `t = 1`.

    With `s = end + t (start - end)` and the noise `e = denoiser.noise(s, x)` it is
    `(start - end) (f x + g^2 e / (2 sigma))`; the trace is closed where the network's is.

    Attributes:
        denoiser: an `AbstractDenoiser`.
    """

    denoiser: AbstractDenoiser

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`dx/dt` at one point."""
        s, on_x, on_noise = self._shares(t, x)
        return on_x * x + on_noise * self.denoiser.noise(s, x, cond)

    def prepare(self) -> "ProbabilityFlow":
        """With the denoiser prepared."""
        return ProbabilityFlow(self.denoiser.prepare())

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond) -> (f, tr(df/dx))`; None if the denoiser has no closed form."""
        return None if self.denoiser.noise_with_trace is None else self._with_trace

    def _with_trace(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Array, Array]:
        s, on_x, on_noise = self._shares(t, x)
        noise, trace = self.denoiser.noise_with_trace(s, x, cond)
        wide = trace.dtype
        trace = (on_x * x.size).astype(wide) + on_noise.astype(wide) * trace
        return on_x * x + on_noise * noise, trace

    def _shares(self, t: Array, x: Array) -> tuple[Array, Array, Array]:
        """The diffusion's time, and the factors of `x` and of the noise."""
        schedule = self.denoiser.schedule
        s = within(schedule, schedule.diffusion_time(jnp.asarray(t, x.dtype)), x)
        # ds/dt.
        rate = schedule.start - schedule.end
        return s, rate * schedule.drift(s), rate * schedule.noise_rate(s)


def as_flow(
    denoiser: Any,
    event_shape: tuple[int, ...] | int,
    *,
    data_std: float = 1.0,
    transform: Any = None,
    trace: Trace = "auto",
    **settings: Any,
) -> CNF:
    """The `CNF` of a denoiser's probability-flow ODE: samples, log-densities, their errors.

    Its density is that of the points which the ODE makes, at the schedule's `start`: data with a
    rest of noise, of standard deviation `schedule.blur()`, and scaled by `alpha(start)`. Its base
    is `N(0, prior_std(data_std)^2)`; `schedule.prior_mismatch` tells what that costs.

    ```python
    flow = as_flow(denoiser, (2,))
    flow.log_prob(x)
    ```

    Args:
        denoiser: learned, known, or guided.
        event_shape: shape of one sample.
        data_std: standard deviation of the data in flow space, which the base allows for; 0 for
            a base of the noise alone.
        transform: from data to flow space; None for none.
        trace: as for `CNF`.
        settings: `ode` and `ode_eval` of `CNF`.

    Raises:
        TypeError: no denoiser.
    """
    if not isinstance(denoiser, AbstractDenoiser):
        raise TypeError(
            f"denoiser={denoiser!r} must be a Denoiser: write Denoiser(network, schedule)"
        )
    base: Any = StandardNormal(event_shape)
    std = denoiser.schedule.prior_std(data_std)
    if abs(std - 1) > CLOSE:
        base = DiagonalNormal(jnp.zeros(base.event_shape), jnp.full(base.event_shape, std))
    return CNF(ProbabilityFlow(denoiser), base, transform=transform, trace=trace, **settings)


def denoiser_of(flow: Any) -> AbstractDenoiser:
    """The denoiser in the field of a flow that `as_flow` made.

    Raises:
        TypeError: another flow.
    """
    field = getattr(flow, "field", None)
    if not isinstance(field, ProbabilityFlow):
        raise TypeError(
            f"the field of this flow is {type(field).__name__}, no diffusion model: make it by "
            "as_flow(Denoiser(network, schedule), event_shape), or read a flow that flow "
            "matching trained by from_flow(flow)"
        )
    return field.denoiser


def from_flow(flow: Any, schedule: Schedule = Straight()) -> CNF:
    """A flow of flow matching read as a diffusion model, for its scores, guidance, samplers.

    Flow matching along `x_t = alpha x_1 + sigma x_0` with a standard normal base and independent
    pairs learns `E[alpha' x_1 + sigma' x_0 | x_t]`, which holds the score like any other
    prediction. (Pairs that were coupled by transport make another path, of other scores.)

    ```python
    flow, _ = jaxflow.fit(flow, x, key=key, objective=FlowMatching(coupling=independent))
    draw(from_flow(flow), key, 1000, num_steps=20)
    ```

    Args:
        flow: a `CNF` whose base is standard normal; its transform is kept.
        schedule: the path counted backwards; `Straight()` for `jaxflow.density.paths.Linear()`.

    Raises:
        TypeError: no `CNF`.
        ValueError: another base.
    """
    if not isinstance(flow, CNF):
        raise TypeError(f"flow={type(flow).__name__} has no field to read: give a CNF")
    if not isinstance(flow.base, StandardNormal):
        raise ValueError(f"the noise of a diffusion is standard normal, and base={flow.base!r}")
    denoiser = Denoiser(flow.field, schedule, prediction="flow", scaled=False)
    return as_flow(
        denoiser,
        flow.event_shape,
        transform=flow.transform,
        ode=flow.ode,
        ode_eval=flow.ode_eval,
    )
