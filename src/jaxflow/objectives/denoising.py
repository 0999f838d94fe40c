"""Denoising: train a diffusion model by regression on the noise; solves no ODE."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diffusion import AbstractDenoiser, Schedule, denoiser_of
from jaxflow.dynamics import OptionalCondition
from jaxflow.objectives.matching import check_drop, squared_norms, without_some
from jaxflow.objectives.protocol import Loss, Weights, check_function
from jaxflow.objectives.times import stratified, uniform
from jaxflow.objectives.units import to_field
from jaxflow.objectives.weights import weighted_mean
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Rows

Weighting = Callable[[Schedule, Float[Array, ""]], Float[Array, ""]]


def simple(schedule: Schedule, s: Float[Array, ""]) -> Float[Array, ""]:
    """Weight 1: `L_simple` of DDPM, and the loss of NCSN with its weight `sigma^2`."""
    return jnp.ones_like(s)


def balanced(schedule: Schedule, s: Float[Array, ""]) -> Float[Array, ""]:
    """Weight `(alpha^2 + sigma^2) / alpha^2`: the loss is the error of the velocity.

    Errors at high noise then count as much in the ODE as errors at low noise, which `simple`
    neglects (Salimans and Ho 2022, arXiv 2202.00512; Karras et al. 2022, arXiv 2206.00364, eq. 8).
    """
    return 1 + jnp.exp(-schedule.log_snr(s))


def likelihood_weight(schedule: Schedule, s: Float[Array, ""]) -> Float[Array, ""]:
    """Weight `-(d log SNR / ds) / 2`: the loss is the bound on the likelihood.

    Kingma et al. 2021, arXiv 2107.00630, eq. 17.
    """
    return -0.5 * jax.jvp(schedule.log_snr, (s,), (jnp.ones_like(s),))[1]


@final
@dataclass(frozen=True, kw_only=True)
class Denoising:
    """Minimise `mean_i weight(s_i) |e_i - denoiser.noise(s_i, alpha x_i + sigma e_i)|^2`.

    This is the loss of DDPM on a variance-preserving schedule (Ho et al. 2020, arXiv 2006.11239,
    eq. 14), and of NCSN on a variance-exploding one (Song and Ermon 2019, arXiv 1907.05600, eq. 5
    with the weight `sigma^2`). The loss is in units of the noise for all predictions of the
    network. `jaxflow.diffusion.score_matching` shows that the minimiser is the score.

    ```python
    import jax
    from jaxflow.diffusion import Denoiser, VariancePreserving, as_flow
    from jaxflow.dynamics import MLP
    from jaxflow.objectives import Denoising

    key = jax.random.key(0)
    flow = as_flow(Denoiser(MLP(2, key=key), VariancePreserving()), 2)
    x = jax.random.normal(key, (256, 2))
    loss, metrics = Denoising()(flow, x, None, key)  # or jaxflow.fit(..., objective=Denoising())
    ```
    Conditions are passed to the network unchanged: scale them first.

    Attributes:
        weight: `balanced`, `simple`, `likelihood_weight`, or a function `(schedule, s) -> weight`.
        time: quantile function of jaxflow's time, where 0 is most noise and 1 is the data:
            `uniform`, `LogitNormal()`, `Power()`, or a function of uniform numbers.
        num_steps: T: train at T evenly spaced times only, as DDPM and NCSN do; None for all times.
        first_step: with `num_steps=T`, draw the step from U{first_step, T}, where step 1 has least
            noise. DDPM's `L_simple` has 1; 2 leaves out the step to the data, whose term `L_0` is
            not a divergence of two normals.
        drop: share of the rows that are trained without their condition, for classifier-free
            guidance.

    Raises:
        TypeError: `weight` or `time` is not a function.
        ValueError: a number is out of range.
    """

    weight: Weighting = balanced
    time: Callable[[Array], Array] = uniform
    num_steps: int | None = None
    first_step: int = 1
    drop: float = 0.0
    # Training needs no solve of the ODE.
    simulation_free: ClassVar[bool] = True
    # Samplers expect the denoiser directly under the flow, without a layer that scales conditions.
    raw_conditions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_function("weight", self.weight, "balanced or simple")
        check_function("time", self.time, "uniform")
        if self.num_steps is not None:
            check_count("num_steps", self.num_steps, 2)
        check_count("first_step", self.first_step)
        if self.first_step > 1 and not self.first_step < (self.num_steps or 0):
            raise ValueError(
                f"first_step={self.first_step} must be below num_steps={self.num_steps}: write "
                f"Denoising(num_steps=T, first_step={self.first_step}) with T the schedule's steps"
            )
        check_drop(self.drop)

    def check(self, flow: Any) -> None:
        """Check that this objective can train the flow.

        Raises:
            TypeError: the flow is not a diffusion model.
            ValueError: `drop` is positive, but the network needs a condition.
        """
        network = getattr(denoiser_of(flow), "network", None)
        if self.drop and not isinstance(network, OptionalCondition):
            raise ValueError(
                f"drop={self.drop} leaves conditions out, and the network needs them: write "
                "Denoiser(OptionalCondition(network, cond_dim), ...), the network for cond_dim + 1"
            )

    def __call__(
        self, flow: Any, x: Rows, cond: Array | None, key: PRNGKeyArray, weights: Weights = None
    ) -> Loss:
        """Compute the loss of a batch; arguments as in `jaxflow.objectives.protocol`.

        Returns:
            The loss, and the metric `noise`: the mean squared error without the weighting.
        """
        self.check(flow)
        x, key = to_field(flow, x, key)
        denoiser = denoiser_of(flow)
        schedule = denoiser.schedule
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        cond = without_some(cond, self.drop, drop_key)
        t = self.time(stratified(time_key, len(x), x.dtype))
        if self.num_steps is not None:
            drawn = self.num_steps - self.first_step + 1
            t = jnp.minimum(jnp.floor(t * drawn), drawn - 1) / (self.num_steps - 1)
        s = schedule.diffusion_time(t)
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        errors = noise_errors(denoiser, s, x, noise, cond)
        weighted = jax.vmap(self.weight, (None, 0))(schedule, s) * errors
        return weighted_mean(weighted, weights), {"noise": weighted_mean(errors, weights)}


def noise_errors(
    denoiser: AbstractDenoiser,
    s: Float[Array, " rows"],
    x: Rows,
    noise: Rows,
    cond: Array | None = None,
) -> Float[Array, " rows"]:
    """`|e_i - denoiser.noise(s_i, alpha x_i + sigma e_i, c_i)|^2` of each row."""
    noisy = jax.vmap(denoiser.schedule.noised)(s, x, noise)
    return squared_norms(noise - jax.vmap(denoiser.noise)(s, noisy, cond))
