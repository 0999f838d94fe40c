"""Denoising: a diffusion model is regressed on the noise in its points, and nothing is solved."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diffusion import AbstractDenoiser, Schedule, denoiser_of
from jaxflow.dynamics import OptionalCondition
from jaxflow.objectives.matching import squared_norms
from jaxflow.objectives.times import stratified, uniform
from jaxflow.objectives.weights import weighted_mean
from jaxflow.runtime.checks import check_count

Weight = Callable[[Schedule, Float[Array, ""]], Float[Array, ""]]


def simple(schedule: Schedule, s: Float[Array, ""]) -> Float[Array, ""]:
    """1: DDPM's `L_simple`, and NCSN's loss with its weight `sigma^2`."""
    return jnp.ones_like(s)


def balanced(schedule: Schedule, s: Float[Array, ""]) -> Float[Array, ""]:
    """`(alpha^2 + sigma^2) / alpha^2`: the error of the velocity, of scale 1 at every noise.

    What the ODE makes of an error at much noise weighs as much as of one at little, which
    `simple` neglects (Salimans and Ho 2022, arXiv 2202.00512; Karras et al. 2022, eq. 8).
    """
    return 1 + jnp.exp(-schedule.log_snr(s))


def likelihood_weight(schedule: Schedule, s: Float[Array, ""]) -> Float[Array, ""]:
    """`-(d log SNR / ds) / 2`: the bound on the likelihood in continuous time.

    (Kingma et al. 2021, arXiv 2107.00630, eq. 17.)
    """
    return -0.5 * jax.jvp(schedule.log_snr, (s,), (jnp.ones_like(s),))[1]


@final
@dataclass(frozen=True, kw_only=True)
class Denoising:
    """`mean_i weight(s_i) |e_i - denoiser.noise(s_i, alpha x_i + sigma e_i)|^2` over rows.

    One loss for DDPM (variance preserving, Ho et al. 2020, eq. 14) and NCSN (variance exploding,
    Song and Ermon 2019, eq. 5 by `sigma^2`): the schedule makes the difference. Whatever the
    network predicts, the loss is in units of the noise. See `jaxflow.diffusion.score_matching`
    for why it is the score that is learned.

    ```python
    flow = as_flow(Denoiser(MLP(2, key=key), VariancePreserving()), (2,))
    flow, history = jaxflow.fit(flow, x, key=key, objective=Denoising())
    ```
    Conditions reach the network as they are given: scale them first.

    Attributes:
        weight: `balanced`, `simple`, `likelihood_weight`, or another function `(schedule, s)`.
        time: quantile function of jaxflow's time, from uniform numbers: 0 is the schedule's end,
            1 its start, near the data. `jaxflow.objectives.uniform`, `LogitNormal()`, `Power()`,
            or another function.
        num_steps: train at T times alone, evenly spaced, as on DDPM's and NCSN's ladders; None
            for all times.
        drop: part of the rows whose condition is left out, for classifier-free guidance.

    Raises:
        TypeError: a setting that is no function.
        ValueError: a number out of range.
    """

    weight: Weight = balanced
    time: Callable[[Array], Array] = uniform
    num_steps: int | None = None
    drop: float = 0.0
    # Training needs no solve of the ODE.
    simulation_free: ClassVar[bool] = True
    # Samplers look for the denoiser right under the flow, and classes need no scaling.
    raw_conditions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, advice in (("weight", "balanced or simple"), ("time", "uniform")):
            value = getattr(self, name)
            if not callable(value) or isinstance(value, type):
                raise TypeError(f"{name}={value!r} is no function: write {name}={advice}")
        if self.num_steps is not None:
            check_count("num_steps", self.num_steps, 2)
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop={self.drop} must lie in [0, 1)")

    def check(self, flow: Any) -> None:
        """Refuse a flow that cannot be trained so.

        Raises:
            TypeError: a flow whose field is no diffusion model.
            ValueError: conditions are to be left out of a network that needs them.
        """
        network = getattr(denoiser_of(flow), "network", None)
        if self.drop and not isinstance(network, OptionalCondition):
            raise ValueError(
                f"drop={self.drop} leaves conditions out, and the network needs them: write "
                "Denoiser(OptionalCondition(network, cond_dim), ...), the network for cond_dim + 1"
            )

    def __call__(
        self,
        flow: Any,
        x: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray,
        weights: Float[Array, " rows"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss of a batch in flow space.

        Args:
            flow: a flow by `as_flow`.
            x: data rows.
            cond: their conditions.
            key: for times, noise, and the conditions that are left out.
            weights: weights of the rows.

        Returns:
            The loss, and `noise`, the mean squared error of the noise, without the weight.
        """
        self.check(flow)
        if self.drop and cond is None:
            raise ValueError(f"drop={self.drop} leaves conditions out, and there are none")
        denoiser = denoiser_of(flow)
        schedule = denoiser.schedule
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        if cond is not None and self.drop > 0:
            gone = jax.random.bernoulli(drop_key, self.drop, (len(x),))
            cond = jnp.where(gone.reshape(-1, *[1] * (cond.ndim - 1)), jnp.nan, cond)
        share = self.time(stratified(time_key, len(x), x.dtype))
        if self.num_steps is not None:
            rungs = self.num_steps - 1
            share = jnp.minimum(jnp.floor(share * self.num_steps), rungs) / rungs
        s = schedule.diffusion_time(share)
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        errors = noise_errors(denoiser, s, x, noise, cond)
        weighted = jax.vmap(self.weight, (None, 0))(schedule, s) * errors
        return weighted_mean(weighted, weights), {"noise": weighted_mean(errors, weights)}


def noise_errors(
    denoiser: AbstractDenoiser,
    s: Float[Array, " rows"],
    x: Float[Array, "rows *event"],
    noise: Float[Array, "rows *event"],
    cond: Array | None = None,
) -> Float[Array, " rows"]:
    """`|e - denoiser.noise(s, alpha x + sigma e)|^2` of every row.

    Args:
        denoiser: a denoiser.
        s: times.
        x: clean rows.
        noise: the noise `e`.
        cond: conditions, (rows, *condition).
    """
    noisy = jax.vmap(denoiser.schedule.noised)(s, x, noise)
    axes = (0, 0, None if cond is None else 0)
    return squared_norms(noise - jax.vmap(denoiser.noise, axes)(s, noisy, cond))
