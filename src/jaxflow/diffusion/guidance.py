"""Guidance: steer a denoiser towards a class, a measurement, or any other likelihood.

A guided denoiser is a denoiser: samplers take it, and `as_flow` gives the density of its
probability-flow ODE. For scales other than 1 this is the guided model's own density, not the
conditional density of the data (Du et al. 2023, arXiv 2302.11552).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxflow.diffusion.denoiser import AbstractDenoiser, clip_time, network_inputs
from jaxflow.diffusion.schedule import Schedule
from jaxflow.runtime.precision import as_floats, widest_dtype
from jaxflow.runtime.shapes import Event, Scalar

Guide = Callable[[Scalar, Event, Any], Scalar]


class _Guiding(AbstractDenoiser):
    """A denoiser that guides another one, at its noise levels."""

    denoiser: AbstractDenoiser

    @property
    def schedule(self) -> Schedule:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The denoiser's schedule."""
        return self.denoiser.schedule


class Guided(_Guiding):
    """Guidance by a likelihood: `e(x) - scale sigma grad_x guide(s, x, cond)`.

    With `guide = log p(y | x_s)` this is classifier guidance (Dhariwal and Nichol 2021,
    "Diffusion Models Beat GANs", arXiv 2105.05233, algorithm 2). See also `classifier_guide` and
    `measurement_guide`.

    ```python
    import jax
    from jaxflow.diffusion import Denoiser, Guided, VariancePreserving
    from jaxflow.dynamics import MLP
    denoiser = Denoiser(MLP(2, key=jax.random.key(0)), VariancePreserving())
    guided = Guided(denoiser, lambda s, x, cond: -0.5 * (x[0] - 3) ** 2)
    ```

    Attributes:
        denoiser: the denoiser to guide.
        guide: `(s, x, cond) -> scalar`, a log-likelihood in nats that jax can differentiate.
        scale: strength of the guidance; 0 turns it off.
        shared_condition: whether the denoiser receives `cond` too. Default: only if the guide has
            the attribute `takes_condition = False`, that is, does not use it.
    """

    guide: Any
    scale: Scalar
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
        self.denoiser, self.guide, self.scale = denoiser, guide, _as_scale(scale, denoiser)
        if shared_condition is None:
            shared_condition = not getattr(guide, "takes_condition", True)
        self.shared_condition = shared_condition

    def noise(self, s: Scalar, x: Event, cond: Array | None = None) -> Event:
        """Return the guided prediction of the noise."""
        s = clip_time(self.schedule, s, x)
        push = jax.grad(lambda x: self.guide(s, x, cond))(x)
        unguided = self.denoiser.noise(s, x, cond if self.shared_condition else None)
        return unguided - self.scale.astype(x.dtype) * self.schedule.sigma(s) * push


class ClassifierFree(_Guiding):
    """Classifier-free guidance: `scale e(x, cond) + (1 - scale) e(x)`.

    The network must accept an empty condition too: wrap it in
    `jaxflow.dynamics.OptionalCondition` and train it with `Denoising(drop=0.1)` (Ho and Salimans
    2022, "Classifier-Free Diffusion Guidance", arXiv 2207.12598).

    ```python
    import jax
    from jaxflow.diffusion import ClassifierFree, Denoiser, VariancePreserving
    from jaxflow.dynamics import MLP, OptionalCondition
    network = OptionalCondition(MLP(2, cond_dim=4, key=jax.random.key(0)), 3)  # one-hot, 3 classes
    guided = ClassifierFree(Denoiser(network, VariancePreserving()), scale=2.0)
    ```

    Attributes:
        denoiser: a denoiser with and without condition.
        scale: 0 ignores the condition, 1 uses it as learned, larger values exaggerate it.
    """

    scale: Scalar

    def __init__(self, denoiser: Any, scale: float = 2.0) -> None:
        _check_denoiser(denoiser)
        self.denoiser, self.scale = denoiser, _as_scale(scale, denoiser)

    def noise(self, s: Scalar, x: Event, cond: Array | None = None) -> Event:
        """Return the guided prediction of the noise; `cond` is required."""
        return self._mix(self.denoiser.noise, s, x, cond)

    def prepare(self) -> "ClassifierFree":
        """Return the guided denoiser with its denoiser prepared."""
        return eqx.tree_at(lambda guided: guided.denoiser, self, self.denoiser.prepare())

    @property
    def noise_with_trace(self) -> Any:
        """`(s, x, cond) -> (e, tr(de/dx))`, or None if the denoiser has no closed form."""
        noise_with_trace = self.denoiser.noise_with_trace
        return None if noise_with_trace is None else partial(self._mix, noise_with_trace)

    def _mix(self, f: Callable[..., Any], s: Array, x: Array, cond: Array | None = None) -> Any:
        if cond is None:
            raise ValueError(
                "guidance needs a condition: pass cond of shape (*batch, c), or sample the "
                "unguided model"
            )

        def mix(conditional: Array, unconditional: Array) -> Array:
            scale = self.scale.astype(conditional.dtype)
            return scale * conditional + (1 - scale) * unconditional

        return jax.tree.map(mix, f(s, x, cond), f(s, x))


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
                f"cond has shape {cond.shape}, but the classifier has {logits.shape[0]} classes: "
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
                f"measured has shape {self.measured.shape}, but operator(x) has {expected.shape}"
            )
        gap = self.measured.astype(x.dtype) - expected
        schedule = self.denoiser.schedule
        alpha, variance = schedule.alpha(s), schedule.variance(s)
        spread = self.noise**2 + variance / (alpha**2 + variance)
        return -0.5 * jnp.sum(gap**2) / spread


def classifier_guide(classifier: Any, schedule: Schedule) -> Guide:
    """Make a guide `log p(y | x_s)` from a classifier of noisy points.

    ```python
    import jax
    from jaxflow.diffusion import Denoiser, Guided, VariancePreserving, classifier_guide
    from jaxflow.dynamics import MLP, Residual
    key, schedule = jax.random.key(0), VariancePreserving()
    classifier = Residual(2, outputs=3, key=key)  # train it: jaxflow.training.fit_classifier
    guide = classifier_guide(classifier, schedule)
    guided = Guided(Denoiser(MLP(2, key=key), schedule), guide, scale=2.0)
    ```

    Args:
        classifier: `f(t, x) -> logits`. Its inputs are those of a `Denoiser`'s network, see
            `network_inputs`.
        schedule: the schedule with which it was trained.

    Returns:
        A guide whose condition is a one-hot vector, (classes,).
    """
    return _ClassifierGuide(classifier, schedule)


def measurement_guide(denoiser: Any, operator: Any, measured: ArrayLike, noise: float) -> Guide:
    """Make a guide towards `measured = operator(x_0) + noise`: inpainting, deblurring and others.

    The likelihood of a noisy point is approximated by
    `N(measured; operator(E[x_0 | x]), noise^2 + sigma^2 / (alpha^2 + sigma^2))` (Song et al.
    2023, "Pseudoinverse-Guided Diffusion Models"; Chung et al. 2023, arXiv 2209.14687). Samples
    therefore follow the posterior approximately.

    ```python
    import jax, jax.numpy as jnp
    from jaxflow.diffusion import Denoiser, Guided, VariancePreserving, measurement_guide
    from jaxflow.dynamics import MLP
    denoiser = Denoiser(MLP(2, key=jax.random.key(0)), VariancePreserving())
    guide = measurement_guide(denoiser, lambda x: x[:1], jnp.asarray([1.0]), noise=0.1)
    guided = Guided(denoiser, guide)
    ```

    Args:
        denoiser: gives the posterior mean `E[x_0 | x]`.
        operator: linear function of one event with orthonormal rows, e.g. `lambda x: x[:2]`.
        measured: the measurement, of the shape of `operator(x)`.
        noise: standard deviation of the measurement's error.

    Raises:
        TypeError: `denoiser` is not a denoiser, or `operator` not a function.
        ValueError: negative `noise`, or a measurement that is not finite.
    """
    _check_denoiser(denoiser)
    if not callable(operator):
        raise TypeError(f"operator={operator!r} must be a function of one event")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise} must be non-negative and finite")
    measured = as_floats(measured)
    if not bool(jnp.all(jnp.isfinite(measured))):
        raise ValueError(f"measured={measured} must be finite")
    return _MeasurementGuide(denoiser, operator, measured, noise)


def _as_scale(scale: ArrayLike, denoiser: AbstractDenoiser) -> Array:
    """The scale in the denoiser's dtype."""
    array = jnp.asarray(scale, widest_dtype(denoiser))
    if array.shape != () or not (isinstance(array, Tracer) or bool(jnp.isfinite(array))):
        raise ValueError(f"scale={scale} must be a finite number")
    return array


def _check_denoiser(denoiser: Any) -> None:
    if not isinstance(denoiser, AbstractDenoiser):
        raise TypeError(f"denoiser={denoiser!r} must be a Denoiser or a guided denoiser")
