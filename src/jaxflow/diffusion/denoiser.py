"""Denoisers: the predicted noise in a point, learned or in closed form."""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxflow.bases import GaussianMixture
from jaxflow.diffusion.predictions import PREDICTIONS, convert, noise_shares
from jaxflow.diffusion.schedule import Schedule, check_schedule
from jaxflow.dynamics.protocol import (
    Field,
    check_field,
    evaluate,
    evaluate_with_trace,
    has_closed_form,
    prepare,
)
from jaxflow.runtime.checks import check_choice
from jaxflow.runtime.shapes import Event, Scalar


class AbstractDenoiser(eqx.Module):
    """The interface of a denoiser: `E[e | x]` for `x = alpha(s) x_0 + sigma(s) e`.

    A subclass has a `schedule` and a method `noise`. All methods take one sample `x` of any event
    shape and the diffusion's time `s`, which is clipped to the schedule's [`start`, `end`].

    ```python
    import equinox as eqx, jax.numpy as jnp
    from jaxflow.diffusion import AbstractDenoiser, Schedule, VariancePreserving
    class OfNormalData(AbstractDenoiser):
        schedule: Schedule = eqx.field(static=True)

        def noise(self, s, x, cond=None):
            return self.schedule.sigma(s) * x  # for data of N(0, I)

    print(OfNormalData(VariancePreserving()).score(jnp.asarray(0.5), jnp.ones(2)))
    ```
    """

    schedule: eqx.AbstractVar[Schedule]

    @abc.abstractmethod
    def noise(self, s: Scalar, x: Event, cond: Array | None = None) -> Event:
        """Return the predicted noise `E[e | x, cond]`."""

    def predict(self, what: str, s: Scalar, x: Event, cond: Array | None = None) -> Event:
        """Return any prediction, `what` being one of `jaxflow.diffusion.PREDICTIONS`."""
        s = clip_time(self.schedule, s, x)
        value = self.noise(s, x, cond)
        return convert(value, x, s, self.schedule, given="noise", to=what)

    def score(self, s: Scalar, x: Event, cond: Array | None = None) -> Event:
        """Return the score `grad log p_s(x) = -E[e | x] / sigma`."""
        return self.predict("score", s, x, cond)

    def data(self, s: Scalar, x: Event, cond: Array | None = None) -> Event:
        """Return the posterior mean `E[x_0 | x]`."""
        return self.predict("data", s, x, cond)

    def prepare(self) -> "AbstractDenoiser":
        """Return an equivalent denoiser that holds the products its trace needs."""
        return self

    @property
    def noise_with_trace(self) -> Any:
        """`(s, x, cond) -> (e, tr(de/dx))`, or None if the trace has no closed form."""
        return None


class Denoiser(AbstractDenoiser):
    """A denoiser from a network.

    The network's inputs look alike for all schedules: `x / sqrt(alpha^2 + sigma^2)` and, in place
    of the time, `log(sigma / alpha) / 4` (Karras et al. 2022, "Elucidating the Design Space",
    arXiv 2206.00364, table 1, for data of standard deviation 1).

    ```python
    import jax
    from jaxflow.diffusion import Denoiser, VariancePreserving
    from jaxflow.dynamics import MLP
    denoiser = Denoiser(MLP(2, key=jax.random.key(0)), VariancePreserving())
    ```

    Attributes:
        network: `f(t, x, cond=None)`, a field of `jaxflow.dynamics` or any function.
        schedule: noise schedule.
        prediction: meaning of the network's output, one of `jaxflow.diffusion.PREDICTIONS`. The
            default, the velocity, has scale 1 at every noise level, and its error is about that
            of a sample.
        scaled: whether to scale the network's inputs as above. False passes `x` and jaxflow's
            time `t = 1 - s`, like the field of a flow.
    """

    network: Field
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
        check_choice("prediction", prediction, PREDICTIONS)
        self.network, self.schedule = network, schedule
        self.prediction, self.scaled = prediction, scaled

    def noise(self, s: Scalar, x: Event, cond: Array | None = None) -> Event:
        """Return the predicted noise `E[e | x, cond]`."""
        scale, time, a, b = self._factors(s, x)
        return a * x + b * evaluate(self.network, time, scale * x, cond)

    def prepare(self) -> "Denoiser":
        """Return the denoiser with its network prepared."""
        return eqx.tree_at(lambda d: d.network, self, prepare(self.network))

    @property
    def noise_with_trace(self) -> Any:
        """`(s, x, cond) -> (e, tr(de/dx))`, or None if the network has no closed form."""
        return self._noise_with_trace if has_closed_form(self.network) else None

    def _noise_with_trace(
        self, s: Array, x: Array, cond: Array | None = None
    ) -> tuple[Array, Array]:
        scale, time, a, b = self._factors(s, x)
        value, trace = evaluate_with_trace(self.network, time, scale * x, cond)
        wide = trace.dtype
        return a * x + b * value, (a * x.size).astype(wide) + (b * scale).astype(wide) * trace

    def _factors(self, s: Scalar, x: Array) -> tuple[Array, Array, Array, Array]:
        """The factor of the network's input, its time, and `noise_shares`."""
        s = clip_time(self.schedule, s, x)
        inputs = network_inputs(self.schedule, s) if self.scaled else (jnp.ones_like(s), 1 - s)
        return *inputs, *noise_shares(self.prediction, self.schedule, s)


class KnownDenoiser(AbstractDenoiser):
    """The exact denoiser of a Gaussian mixture.

    Noisy points follow a mixture too, `p_s = sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I)`,
    whose covariances keep their principal axes.

    ```python
    import jax.numpy as jnp
    from jaxflow.bases import GaussianMixture
    from jaxflow.diffusion import KnownDenoiser, VariancePreserving
    modes = GaussianMixture(jnp.ones(2) / 2, 2 * jnp.eye(2), jnp.stack([0.3 * jnp.eye(2)] * 2))
    denoiser = KnownDenoiser(modes, VariancePreserving())
    ```

    Attributes:
        weights: (components,); only their ratios count.
        means: (components, dim).
        axes: principal axes of each covariance, as columns, (components, dim, dim).
        variances: variances along these axes, (components, dim).
        schedule: noise schedule.
    """

    weights: Float[Array, " components"]
    means: Float[Array, "components dim"]
    axes: Float[Array, "components dim dim"]
    variances: Float[Array, "components dim"]
    schedule: Schedule = eqx.field(static=True)

    def __init__(self, data_density: Any, schedule: Any) -> None:
        """Take the density of the data, a `GaussianMixture`, and a noise schedule."""
        if not isinstance(data_density, GaussianMixture):
            raise TypeError(f"data_density={data_density!r} must be a GaussianMixture")
        check_schedule(schedule)
        self.weights, self.means = data_density.weights, data_density.means
        self.axes, singular, _ = jnp.linalg.svd(data_density.factors)
        self.variances, self.schedule = singular**2, schedule

    def noise(
        self, s: Scalar, x: Float[Array, " dim"], cond: Array | None = None
    ) -> Float[Array, " dim"]:
        """Return `E[e | x] = -sigma grad log p_s(x)`; `cond` must be None."""
        if cond is not None:
            raise ValueError("a KnownDenoiser has no conditions: leave cond out")
        s = clip_time(self.schedule, s, x)
        logs, pulls = self._components(s, x)
        pull = jnp.sum(jax.nn.softmax(logs)[:, None] * pulls, axis=0)
        return self.schedule.sigma(s) * pull

    def log_prob(self, s: Scalar, x: Float[Array, " dim"]) -> Scalar:
        """Return `log p_s(x)`, the log-density of noisy points, in nats."""
        return jax.nn.logsumexp(self._components(clip_time(self.schedule, s, x), x)[0])

    def _components(self, s: Array, x: Array) -> tuple[Array, Array]:
        """`log(w_k / sum w) + log p_k(x)` and `-grad log p_k(x)` of each component."""
        alpha, sigma = self.schedule.alpha(s), self.schedule.sigma(s)
        variances = alpha**2 * self.variances + sigma**2
        gaps = x[None] - alpha * self.means
        along = jnp.einsum("kij,ki->kj", self.axes, gaps, precision="highest")
        logs = -0.5 * jnp.sum(along**2 / variances + jnp.log(2 * math.pi * variances), axis=1)
        pulls = jnp.einsum("kij,kj->ki", self.axes, along / variances, precision="highest")
        return logs + jnp.log(self.weights) - jnp.log(jnp.sum(self.weights)), pulls


def network_inputs(schedule: Schedule, s: Scalar) -> tuple[Array, Array]:
    """Return the inputs of a `Denoiser`'s network: a factor for `x`, and a time.

    The factor is `1 / sqrt(alpha^2 + sigma^2)`, the time `log(sigma / alpha) / 4`.
    """
    alpha, sigma = schedule.alpha(s), schedule.sigma(s)
    return 1 / jnp.hypot(alpha, sigma), -0.125 * schedule.log_snr(s)


def clip_time(schedule: Schedule, s: ArrayLike, x: Array) -> Scalar:
    """The time in the dtype of `x`, clipped to the schedule's [`start`, `end`]."""
    return jnp.clip(jnp.asarray(s, x.dtype), schedule.start, schedule.end)
