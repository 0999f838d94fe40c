"""Denoisers: networks that tell the noise in a point, learned or known."""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.bases import GaussianMixture
from jaxflow.diffusion.predictions import PREDICTIONS, convert, noise_shares
from jaxflow.diffusion.schedule import Schedule, check_schedule
from jaxflow.dynamics.protocol import (
    check_field,
    evaluate,
    evaluate_with_trace,
    has_closed_form,
    prepare,
)


class AbstractDenoiser(eqx.Module):
    """`E[e | x]` for `x = alpha(s) x_0 + sigma(s) e`, and what follows from it.

    All methods take one sample `x` of any event shape and the diffusion's time `s` of its noise,
    which is kept within the schedule's span.
    """

    schedule: eqx.AbstractVar[Schedule]

    @abc.abstractmethod
    def noise(
        self, s: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`E[e | x, cond]`."""

    def predict(
        self,
        what: str,
        s: Float[Array, ""],
        x: Float[Array, "*event"],
        cond: Array | None = None,
    ) -> Float[Array, "*event"]:
        """A prediction by name, one of `jaxflow.diffusion.PREDICTIONS`."""
        s = within(self.schedule, s, x)
        value = self.noise(s, x, cond)
        return convert(value, x, s, self.schedule, given="noise", to=what)

    def score(
        self, s: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`grad log p_s(x)`, which is `-E[e | x] / sigma`."""
        return self.predict("score", s, x, cond)

    def data(
        self, s: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """The posterior mean `E[x_0 | x]`."""
        return self.predict("data", s, x, cond)

    def prepare(self) -> "AbstractDenoiser":
        """The denoiser with what its trace needs computed, once a solve."""
        return self

    @property
    def noise_with_trace(self) -> Any:
        """`(s, x, cond) -> (e, tr(de/dx))`; None where the trace has no closed form."""
        return None


class Denoiser(AbstractDenoiser):
    """A network read as a denoiser.

    The network sees `x / sqrt(alpha^2 + sigma^2)` and, as its time, `log(sigma / alpha) / 4`
    (Karras et al. 2022, "Elucidating the Design Space", arXiv 2206.00364, for data of standard
    deviation 1), so that all schedules look alike to it. Its value is what `prediction` says.

    ```python
    denoiser = Denoiser(MLP(2, key=key), VariancePreserving())
    flow, _ = jaxflow.fit(as_flow(denoiser, (2,)), x, key=key, objective=Denoising())
    ```

    Attributes:
        network: `f(t, x, cond=None)`, one of `jaxflow.dynamics` or any function.
        schedule: noise schedule.
        prediction: what the network's value is, one of `jaxflow.diffusion.PREDICTIONS`; the
            velocity's scale is 1 at every noise, and an error in it is one of the same size in
            what is drawn.
        scaled: whether the network sees scaled points and log-noise; else it sees `x` and
            jaxflow's time `t = 1 - s`, as the field of a flow does.

    Raises:
        TypeError: a network that is not callable, a schedule that is none.
        ValueError: an unknown prediction, a schedule whose noise does not win.
    """

    network: Any
    schedule: Schedule = eqx.field(static=True)
    prediction: str = eqx.field(static=True)
    scaled: bool = eqx.field(static=True)

    def __init__(
        self,
        network: Any,
        schedule: Any,
        *,
        prediction: str = "velocity",
        scaled: bool = True,
    ) -> None:
        check_field(network, "network")
        check_schedule(schedule)
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction={prediction!r} is unknown; choose one of {PREDICTIONS}")
        self.network, self.schedule = network, schedule
        self.prediction, self.scaled = prediction, scaled

    def noise(
        self, s: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`E[e | x, cond]` as the network has it."""
        s = within(self.schedule, s, x)
        scale, time = self._inputs(s)
        a, b = noise_shares(self.prediction, self.schedule, s)
        return a * x + b * evaluate(self.network, time, scale * x, cond)

    def prepare(self) -> "Denoiser":
        """The denoiser with its network prepared."""
        return eqx.tree_at(lambda d: d.network, self, prepare(self.network))

    @property
    def noise_with_trace(self) -> Any:
        """`(s, x, cond) -> (e, tr(de/dx))`; None if the network has no closed form."""
        return self._noise_with_trace if has_closed_form(self.network) else None

    def _noise_with_trace(
        self, s: Array, x: Array, cond: Array | None = None
    ) -> tuple[Array, Array]:
        s = within(self.schedule, s, x)
        scale, time = self._inputs(s)
        a, b = noise_shares(self.prediction, self.schedule, s)
        value, trace = evaluate_with_trace(self.network, time, scale * x, cond)
        wide = trace.dtype
        return a * x + b * value, (a * x.size).astype(wide) + (b * scale).astype(wide) * trace

    def _inputs(self, s: Array) -> tuple[Array, Array]:
        """By what the network's input is multiplied, and its time."""
        if not self.scaled:
            return jnp.ones_like(s), 1 - s
        return network_inputs(self.schedule, s)


class KnownDenoiser(AbstractDenoiser):
    """The denoiser of a Gaussian mixture, in closed form.

    Noise turns a mixture into a mixture, `p_s = sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I)`,
    whose covariances keep their principal axes.

    Attributes:
        weights: (components,).
        means: (components, dim).
        axes: principal axes of each covariance, as columns, (components, dim, dim).
        variances: along them, (components, dim).
        schedule: noise schedule.

    Raises:
        TypeError: another density, a schedule that is none.
        ValueError: a schedule whose noise does not win.
    """

    weights: Float[Array, " components"]
    means: Float[Array, "components dim"]
    axes: Float[Array, "components dim dim"]
    variances: Float[Array, "components dim"]
    schedule: Schedule = eqx.field(static=True)

    def __init__(self, data_density: Any, schedule: Any) -> None:
        """Make the denoiser of a `GaussianMixture`, the density of the data."""
        if not isinstance(data_density, GaussianMixture):
            raise TypeError(f"data_density={data_density!r} must be a GaussianMixture")
        check_schedule(schedule)
        self.weights, self.means = data_density.weights, data_density.means
        self.axes, singular, _ = jnp.linalg.svd(data_density.factors)
        self.variances, self.schedule = singular**2, schedule

    def noise(
        self, s: Float[Array, ""], x: Float[Array, " dim"], cond: Array | None = None
    ) -> Float[Array, " dim"]:
        """`-sigma grad log p_s(x)`."""
        if cond is not None:
            raise ValueError("the mixture of a KnownDenoiser has no conditions: leave cond out")
        s = within(self.schedule, s, x)
        logs, pulls = self._components(s, x)
        pull = jnp.sum(jax.nn.softmax(logs)[:, None] * pulls, axis=0)
        return self.schedule.sigma(s) * pull

    def log_prob(self, s: Float[Array, ""], x: Float[Array, " dim"]) -> Float[Array, ""]:
        """`log p_s(x)`, the density of noisy points, nats."""
        return jax.nn.logsumexp(self._components(within(self.schedule, s, x), x)[0])

    def _components(self, s: Array, x: Array) -> tuple[Array, Array]:
        """Log-density of each component with its weight, and minus its gradient."""
        alpha, sigma = self.schedule.alpha(s), self.schedule.sigma(s)
        variances = alpha**2 * self.variances + sigma**2
        gaps = x[None] - alpha * self.means
        along = jnp.einsum("kij,ki->kj", self.axes, gaps, precision="highest")
        logs = -0.5 * jnp.sum(along**2 / variances + jnp.log(2 * math.pi * variances), axis=1)
        pulls = jnp.einsum("kij,kj->ki", self.axes, along / variances, precision="highest")
        return logs + jnp.log(self.weights), pulls


def network_inputs(schedule: Schedule, s: Float[Array, ""]) -> tuple[Array, Array]:
    """By what a network's input is multiplied, for scale 1; its time, `log(sigma / alpha) / 4`."""
    alpha, sigma = schedule.alpha(s), schedule.sigma(s)
    return 1 / jnp.hypot(alpha, sigma), -0.125 * schedule.log_snr(s)


def within(schedule: Schedule, s: Any, x: Array) -> Float[Array, ""]:
    """The time as an array of the point's dtype, kept within the schedule's span."""
    return jnp.clip(jnp.asarray(s, x.dtype), schedule.start, schedule.end)
