"""A diffusion model as a continuous normalizing flow: the probability-flow ODE.

    dx/ds = f(s) x - g(s)^2 score(s, x) / 2

It has the marginal densities of the stochastic process (Song et al. 2021, "Score-Based Generative
Modeling through SDEs", arXiv 2011.13456, eq. 13).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.bases import DiagonalNormal, StandardNormal
from jaxflow.diffusion.denoiser import AbstractDenoiser, Denoiser, clip_time
from jaxflow.diffusion.schedule import Schedule
from jaxflow.diffusion.schedules import Straight
from jaxflow.flows.cnf import CNF
from jaxflow.runtime.precision import widest_dtype
from jaxflow.runtime.shapes import Event, Scalar
from jaxflow.trace import Trace
from jaxflow.transforms import Transform

# A prior whose standard deviation is this close to 1 becomes a StandardNormal.
ROUNDING = 1e-12


class ProbabilityFlow(eqx.Module):
    """The field `dx/dt` of the probability-flow ODE: noise at `t = 0`, data at `t = 1`.

    With `s = end + t (start - end)` and `e = denoiser.noise(s, x)`

        dx/dt = (start - end) (f x + g^2 e / (2 sigma))

    The trace has a closed form if the network's has one.

    ```python
    import jax
    from jaxflow.diffusion import Denoiser, ProbabilityFlow, VariancePreserving
    from jaxflow.dynamics import MLP
    field = ProbabilityFlow(Denoiser(MLP(2, key=jax.random.key(0)), VariancePreserving()))
    ```

    Attributes:
        denoiser: an `AbstractDenoiser`.
    """

    denoiser: AbstractDenoiser

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """Return `dx/dt` at one point."""
        s, on_x, on_noise = self._factors(t, x)
        return on_x * x + on_noise * self.denoiser.noise(s, x, cond)

    def prepare(self) -> "ProbabilityFlow":
        """Return the field with its denoiser prepared."""
        return ProbabilityFlow(self.denoiser.prepare())

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond) -> (f, tr(df/dx))`, or None if the denoiser has no closed form."""
        return None if self.denoiser.noise_with_trace is None else self._with_trace

    def _with_trace(self, t: Scalar, x: Event, cond: Array | None = None) -> tuple[Array, Array]:
        s, on_x, on_noise = self._factors(t, x)
        noise, trace = self.denoiser.noise_with_trace(s, x, cond)
        wide = trace.dtype
        trace = (on_x * x.size).astype(wide) + on_noise.astype(wide) * trace
        return on_x * x + on_noise * noise, trace

    def _factors(self, t: Array, x: Array) -> tuple[Array, Array, Array]:
        """The diffusion's time, and the factors of `x` and of the noise in `dx/dt`."""
        schedule = self.denoiser.schedule
        s = clip_time(schedule, schedule.diffusion_time(jnp.asarray(t, x.dtype)), x)
        # ds/dt.
        rate = schedule.start - schedule.end
        return s, rate * schedule.drift(s), rate * schedule.noise_rate(s)


def as_flow(
    denoiser: Any,
    event_shape: tuple[int, ...] | int,
    *,
    data_std: float = 1.0,
    transform: Transform | None = None,
    trace: Trace = "auto",
    **settings: Any,
) -> CNF:
    """Make a `CNF` from a denoiser: samples, log-densities, and their errors.

    Its density is that of points which follow the ODE to the schedule's `start`: data scaled by
    `alpha(start)`, with remaining noise of standard deviation `schedule.blur()`. Its base is
    `N(0, schedule.prior_std(data_std)^2)`; see `prior_gap` for the loss that this causes.

    ```python
    import jax
    from jaxflow.diffusion import Denoiser, VariancePreserving, as_flow
    from jaxflow.dynamics import MLP
    flow = as_flow(Denoiser(MLP(2, key=jax.random.key(0)), VariancePreserving()), 2)
    print(flow.log_prob(jax.random.normal(jax.random.key(1), (5, 2))))
    ```

    Args:
        denoiser: learned, known, or guided.
        event_shape: shape of one sample.
        data_std: standard deviation of the data in flow space; 0 for a base of the noise alone.
        transform: from data to flow space. Default: none.
        trace: as for `CNF`.
        **settings: `ode` and `ode_eval`, as for `CNF`.

    Raises:
        TypeError: `denoiser` is not a denoiser.
    """
    if not isinstance(denoiser, AbstractDenoiser):
        raise TypeError(
            f"denoiser={denoiser!r} must be a Denoiser: write Denoiser(network, schedule)"
        )
    base: Any = StandardNormal(event_shape)
    std = denoiser.schedule.prior_std(data_std)
    if abs(std - 1) > ROUNDING:
        mean = jnp.zeros(base.event_shape, widest_dtype(denoiser))
        base = DiagonalNormal(mean, jnp.full_like(mean, std))
    return CNF(ProbabilityFlow(denoiser), base, transform=transform, trace=trace, **settings)


def denoiser_of(flow: Any) -> AbstractDenoiser:
    """Return the denoiser of a flow that `as_flow` made.

    Raises:
        TypeError: the flow's field is not a `ProbabilityFlow`.
    """
    field = getattr(flow, "field", None)
    if not isinstance(field, ProbabilityFlow):
        raise TypeError(
            f"the field of this flow is {type(field).__name__}, not a diffusion model: write "
            "as_flow(Denoiser(network, schedule), event_shape), or from_flow(flow) for a flow "
            "trained by flow matching"
        )
    return field.denoiser


def from_flow(flow: Any, schedule: Schedule = Straight()) -> CNF:
    """Read a flow trained by flow matching as a diffusion model: scores, guidance, samplers.

    Flow matching on `x_t = alpha x_1 + sigma x_0` with a standard normal base and independent
    pairs learns `E[alpha' x_1 + sigma' x_0 | x_t]`, one of the predictions of a denoiser. Pairs
    coupled by optimal transport follow another path, with other scores.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.diffusion import draw, from_flow
    from jaxflow.dynamics import MLP
    key = jax.random.key(0)
    flow = CNF(MLP(2, key=key), StandardNormal(2))  # train it: FlowMatching(coupling=independent)
    x = draw(from_flow(flow), key, 10, num_steps=20)
    ```

    Args:
        flow: a `CNF` with a standard normal base.
        schedule: the path, with time reversed: `Straight()` for `jaxflow.density.paths.Linear()`.

    Returns:
        A flow of `as_flow` with the same transform and settings.

    Raises:
        TypeError: `flow` is not a `CNF`.
        ValueError: its base is not a `StandardNormal`.
    """
    if not isinstance(flow, CNF):
        raise TypeError(f"flow={type(flow).__name__} must be a CNF")
    if not isinstance(flow.base, StandardNormal):
        raise ValueError(
            f"base={flow.base!r} must be StandardNormal({tuple(flow.event_shape)}), the noise of "
            "a diffusion model"
        )
    denoiser = Denoiser(flow.field, schedule, prediction="flow", scaled=False)
    return as_flow(
        denoiser,
        flow.event_shape,
        transform=flow.transform,
        ode=flow.ode,
        ode_eval=flow.ode_eval,
    )
