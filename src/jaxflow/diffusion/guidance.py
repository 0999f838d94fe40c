"""Guidance: denoisers bent towards a class, a measurement, or whatever has a likelihood.

A guided denoiser is a denoiser: samplers take it, and `as_flow` gives the density of what its
probability-flow ODE makes. That is the guided model's own density; for scales other than 1 it is
no conditional density of anything (Du et al. 2023, arXiv 2302.11552).
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxflow.diffusion.denoiser import AbstractDenoiser, network_inputs, within
from jaxflow.diffusion.schedule import Schedule

Guide = Callable[[Float[Array, ""], Float[Array, "*event"], Any], Float[Array, ""]]


class Guided(AbstractDenoiser):
    """`e(x) - gamma sigma grad_x guide(s, x, cond)`: the score gains `gamma grad guide`.

    With `guide = log p(y | x_s)` this is classifier guidance (Dhariwal and Nichol 2021,
    "Diffusion Models Beat GANs", arXiv 2105.05233, algorithm 2); see `classifier_guide` and
    `measurement_guide` for two guides, and write your own for others.

    Attributes:
        denoiser: the denoiser that is guided.
        guide: `(s, x, cond) -> ` number, a log-likelihood in nats, which jax can differentiate.
        scale: gamma; 0 for no guidance.
        shared_condition: whether the denoiser sees the condition too; by default it does where
            the guide says that it makes no use of it, by `takes_condition = False`.

    Raises:
        TypeError: parts that are not what they should be.
        ValueError: a scale that is not finite.
    """

    denoiser: AbstractDenoiser
    guide: Any
    scale: Float[Array, ""]
    shared_condition: bool = eqx.field(static=True)

    def __init__(
        self,
        denoiser: Any,
        guide: Any,
        scale: float = 1.0,
        *,
        shared_condition: bool | None = None,
    ) -> None:
        _check_denoiser(denoiser)
        if not callable(guide):
            raise TypeError(f"guide={guide!r} must be a function (s, x, cond) -> log-likelihood")
        self.denoiser, self.guide, self.scale = denoiser, guide, _scale(scale)
        if shared_condition is None:
            shared_condition = not getattr(guide, "takes_condition", True)
        self.shared_condition = shared_condition

    @property
    def schedule(self) -> Schedule:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The denoiser's."""
        return self.denoiser.schedule

    def noise(
        self, s: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`E[e | x]` less the guide's push."""
        s = within(self.schedule, s, x)
        push = jax.grad(lambda x: self.guide(s, x, cond))(x)
        own = self.denoiser.noise(s, x, cond if self.shared_condition else None)
        return own - self.scale.astype(x.dtype) * self.schedule.sigma(s) * push


class ClassifierFree(AbstractDenoiser):
    """`gamma e(x, cond) + (1 - gamma) e(x)`: one model, with and without its condition.

    The model must know what no condition is: make its network
    `jaxflow.dynamics.OptionalCondition` and train it by `Denoising(drop=0.1)` (Ho and Salimans
    2022, "Classifier-Free Diffusion Guidance", arXiv 2207.12598).

    Attributes:
        denoiser: a denoiser for both.
        scale: gamma; 0 leaves the condition out, 1 takes it as it was learned, more insists.

    Raises:
        TypeError: no denoiser.
        ValueError: a scale that is not finite.
    """

    denoiser: AbstractDenoiser
    scale: Float[Array, ""]

    def __init__(self, denoiser: Any, scale: float = 2.0) -> None:
        _check_denoiser(denoiser)
        self.denoiser, self.scale = denoiser, _scale(scale)

    @property
    def schedule(self) -> Schedule:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The denoiser's."""
        return self.denoiser.schedule

    def noise(
        self, s: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """The two predictions, mixed.

        Raises:
            ValueError: no condition.
        """
        cond = self._needed(cond)
        scale = self.scale.astype(x.dtype)
        return scale * self.denoiser.noise(s, x, cond) + (1 - scale) * self.denoiser.noise(s, x)

    def prepare(self) -> "ClassifierFree":
        """With the denoiser prepared."""
        return eqx.tree_at(lambda guided: guided.denoiser, self, self.denoiser.prepare())

    @property
    def noise_with_trace(self) -> Any:
        """`(s, x, cond) -> (e, tr(de/dx))`; None if the denoiser has no closed form."""
        return None if self.denoiser.noise_with_trace is None else self._noise_with_trace

    def _noise_with_trace(
        self, s: Array, x: Array, cond: Array | None = None
    ) -> tuple[Array, Array]:
        cond, denoiser = self._needed(cond), self.denoiser
        with_cond, trace_with = denoiser.noise_with_trace(s, x, cond)
        without, trace_without = denoiser.noise_with_trace(s, x)
        scale, wide = self.scale.astype(x.dtype), self.scale.astype(trace_with.dtype)
        trace = wide * trace_with + (1 - wide) * trace_without
        return scale * with_cond + (1 - scale) * without, trace

    def _needed(self, cond: Array | None) -> Array:
        if cond is None:
            raise ValueError(
                "guidance needs a condition: pass cond of shape (*batch, c), or sample the "
                "unguided model"
            )
        return cond


class _ClassifierGuide(eqx.Module):
    classifier: Any
    schedule: Schedule = eqx.field(static=True)
    takes_condition: ClassVar[bool] = True

    def __call__(self, s: Array, x: Array, cond: Array | None) -> Array:
        if cond is None:
            raise ValueError(
                "classifier guidance needs a class: pass cond, one-hot, (*batch, classes)"
            )
        scale, time = network_inputs(self.schedule, s)
        logits = self.classifier(time, scale * x)
        if logits.shape != cond.shape:
            raise ValueError(
                f"cond has shape {cond.shape} and the classifier tells {logits.shape[0]} classes: "
                f"give one-hot vectors ({logits.shape[0]},)"
            )
        return jnp.sum(cond * jax.nn.log_softmax(logits))


class _MeasurementGuide(eqx.Module):
    denoiser: AbstractDenoiser
    operator: Any
    measured: Array
    noise: float = eqx.field(static=True)
    takes_condition: ClassVar[bool] = False

    def __call__(self, s: Array, x: Array, cond: Array | None) -> Array:
        expected = self.operator(self.denoiser.data(s, x, cond))
        if expected.shape != self.measured.shape:
            raise ValueError(
                f"measured has shape {self.measured.shape} and the operator gives {expected.shape}"
            )
        gap = self.measured.astype(x.dtype) - expected
        schedule = self.denoiser.schedule
        alpha, variance = schedule.alpha(s), schedule.variance(s)
        spread = self.noise**2 + variance / (alpha**2 + variance)
        return -0.5 * jnp.sum(gap**2) / spread


def classifier_guide(classifier: Any, schedule: Schedule) -> Guide:
    """A guide `log p(y | x)` by a classifier of noisy points.

    Args:
        classifier: `f(t, x) -> logits`, such as `Residual(dim, outputs=classes, key=key)` after
            `jaxflow.training.fit_classifier`; it gets the time `log(sigma / alpha) / 4` and
            points of scale 1, as the network of a `Denoiser` does.
        schedule: that of its training.

    Returns:
        A guide whose condition is one-hot, (classes,).
    """
    return _ClassifierGuide(classifier, schedule)


def measurement_guide(denoiser: Any, operator: Any, measured: Any, noise: float) -> Guide:
    """A guide towards `measured = operator(x_0) + noise`, for inpainting, deblurring and the like.

    The likelihood at noisy points is taken at the posterior mean and widened by what that leaves
    open, `N(measured; operator(E[x_0 | x]), noise^2 + sigma^2 / (alpha^2 + sigma^2))` (Song et
    al. 2023, "Pseudoinverse-Guided Diffusion Models", and Chung et al. 2023, arXiv 2209.14687):
    an approximation, so that samples are near the posterior and not of it.

    Args:
        denoiser: gives the posterior mean.
        operator: linear function of an event, such as `lambda x: x[:2]`, whose rows are
            orthonormal; scale others to length 1.
        measured: what was seen, of the operator's shape.
        noise: standard deviation of the measurement.

    Raises:
        TypeError: no denoiser, an operator that is no function.
        ValueError: noise that is negative, a measurement that is not finite.
    """
    _check_denoiser(denoiser)
    if not callable(operator):
        raise TypeError(f"operator={operator!r} must be a function of one event")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise} must be 0 or a positive number")
    measured = jnp.asarray(measured, float)
    if not bool(jnp.all(jnp.isfinite(measured))):
        raise ValueError(f"measured={measured} must be finite")
    return _MeasurementGuide(denoiser, operator, measured, noise)


def _scale(scale: Any) -> Array:
    array = jnp.asarray(scale, float)
    if array.shape != () or not (isinstance(array, Tracer) or bool(jnp.isfinite(array))):
        raise ValueError(f"scale={scale} must be a finite number")
    return array


def _check_denoiser(denoiser: Any) -> None:
    if not isinstance(denoiser, AbstractDenoiser):
        raise TypeError(f"denoiser={denoiser!r} must be a Denoiser, or guided already")
