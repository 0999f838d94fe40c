"""Guidance on mixtures whose classes are known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.diffusion.gaussian import MEAN, STD, Known

import jaxflow
from jaxflow.bases import GaussianMixture
from jaxflow.diffusion import (
    PREDICTIONS,
    AbstractDenoiser,
    ClassifierFree,
    Denoiser,
    Guided,
    KnownDenoiser,
    Schedule,
    VariancePreserving,
    as_flow,
    classifier_guide,
    draw,
    measurement_guide,
    network_inputs,
)
from jaxflow.diffusion.denoiser import clip_time
from jaxflow.dynamics import MLP, OptionalCondition

SCHEDULE = VariancePreserving()
MEANS = jnp.asarray([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
WEIGHTS, WIDTH = jnp.asarray([0.5, 0.3, 0.2]), 0.3
S, X = jnp.asarray(0.3), jnp.asarray([0.2, 0.4])
SECOND = jnp.asarray([0.0, 1.0, 0.0])


def log_joint(s, x):
    """log p(x_s, y) of every class y, up to a constant; and alpha, and the classes' variance."""
    alpha, sigma = SCHEDULE.alpha(s), SCHEDULE.sigma(s)
    variance = alpha**2 * WIDTH**2 + sigma**2
    gaps = jnp.sum((x[None] - alpha * MEANS) ** 2, axis=1)
    return jnp.log(WEIGHTS) - 0.5 * gaps / variance, alpha, variance


class Classes(AbstractDenoiser):
    """Denoiser of a mixture of three, or of one of its classes."""

    schedule: Schedule = eqx.field(static=True, default=SCHEDULE)

    def noise(self, s, x, cond=None):
        s = clip_time(SCHEDULE, s, x)
        logs, alpha, variance = log_joint(s, x)
        shares = jax.nn.softmax(logs) if cond is None else cond
        return SCHEDULE.sigma(s) * (x - alpha * shares @ MEANS) / variance


def class_log_prob(s, x, cond):
    """log p(y | x_s), exactly."""
    return jnp.sum(cond * jax.nn.log_softmax(log_joint(s, x)[0]))


def test_linear_between_without_and_with_the_condition_and_beyond():
    @eqx.filter_jit
    def predictions(denoiser, cond):
        return jnp.stack([denoiser.predict(what, S, X, cond) for what in PREDICTIONS])

    without, with_cond = (predictions(Classes(), c) for c in (None, SECOND))
    for gamma in (0.0, 1.0, 0.3, 2.5):
        wanted = gamma * with_cond + (1 - gamma) * without
        for guided in (ClassifierFree(Classes(), gamma), Guided(Classes(), class_log_prob, gamma)):
            # By Bayes both guidances are one, where denoiser and classifier are exact.
            found = predictions(guided, SECOND)
            np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)


def test_a_condition_is_needed():
    for guided in (ClassifierFree(Classes(), 2.0), Guided(Classes(), _guide(), 2.0)):
        with pytest.raises(ValueError, match=r"needs a c(ondition|lass): pass cond"):
            guided.noise(S, X)
    with pytest.raises(ValueError, match="scale=inf must be a finite number"):
        ClassifierFree(Classes(), float("inf"))
    with pytest.raises(TypeError, match="guide=3 must be a function"):
        Guided(Classes(), 3)
    with pytest.raises(TypeError, match="denoiser=4 must be a Denoiser"):
        ClassifierFree(4)  # pyright: ignore[reportArgumentType]
    mixture = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
    with pytest.raises(ValueError, match="KnownDenoiser has no conditions: leave cond out"):
        KnownDenoiser(mixture, SCHEDULE).noise(S, X, SECOND)


def _guide():
    return classifier_guide(lambda t, x: jnp.stack([x[0], x[1], x[0] * t]), SCHEDULE)


def test_a_classifier_gets_the_inputs_of_its_training():
    scale, time = network_inputs(SCHEDULE, S)
    logits = jnp.stack([scale * X[0], scale * X[1], scale * X[0] * time])
    np.testing.assert_allclose(_guide()(S, X, SECOND), jax.nn.log_softmax(logits)[1], rtol=1e-12)
    with pytest.raises(ValueError, match=r"cond has shape \(2,\), but the classifier has 3"):
        _guide()(S, X, SECOND[:2])


@pytest.mark.parametrize("guide", ["free", "classifier"])
def test_guided_samples_are_of_their_class(guide, key):
    free = guide == "free"
    guided = ClassifierFree(Classes(), 2.0) if free else Guided(Classes(), class_log_prob, 2.0)
    flow = as_flow(guided, 2)
    x = draw(flow, key, 1000, SECOND, num_steps=20)
    logs = jax.jit(jax.vmap(lambda x: log_joint(jnp.asarray(SCHEDULE.start), x)[0]))(x)
    assert np.mean(np.argmax(logs, axis=1) == 1) >= 0.99


@pytest.mark.slow
def test_the_guided_model_has_a_density_of_mass_1():
    # The density of the second class, pushed away from the others, on a grid around it.
    ode = jaxflow.ODE(rtol=1e-4, atol=1e-4)
    flow = as_flow(ClassifierFree(Classes(), 2.0), 2, ode_eval=ode)
    side = jnp.linspace(0.0, 3.0, 26)
    grid = jnp.stack(jnp.meshgrid(side, side - 2.0), axis=-1).reshape(-1, 2)
    mass = float(jnp.sum(jnp.exp(flow.log_prob(grid, SECOND)))) * float(side[1] - side[0]) ** 2
    assert mass == pytest.approx(1, abs=0.01)


def test_an_exact_posterior_by_a_guide_of_your_own(key):
    # Gaussian data seen with noise: log p(y | x_s) is known, so guidance of scale 1 is exact.
    prior, seen, noise = Known(SCHEDULE), 1.5, 0.3
    mean, variance = MEAN, STD**2

    def guide(s, x, cond):
        alpha, sigma = SCHEDULE.alpha(s), SCHEDULE.sigma(s)
        total = alpha**2 * variance + sigma**2
        centre = mean + alpha * variance / total * (x[0] - alpha * mean)
        spread = variance * sigma**2 / total + noise**2
        return -0.5 * (seen - centre) ** 2 / spread

    flow = as_flow(Guided(prior, guide, 1.0), 1)
    x = draw(flow, key, 4000, num_steps=40)
    precision = 1 / variance + 1 / noise**2
    wanted = (mean / variance + seen / noise**2) / precision
    assert float(x.mean()) == pytest.approx(wanted, abs=0.02)
    assert float(x.std()) == pytest.approx(precision**-0.5, abs=0.02)


def test_inpainting_meets_the_measurement(key):
    guide = measurement_guide(Classes(), lambda x: x[:1], jnp.asarray([1.0]), 0.05)
    x = draw(as_flow(Guided(Classes(), guide, 1.0), 2), key, 500, num_steps=60)
    x = np.asarray(x)
    assert np.abs(x[:, 0] - 1.0).mean() < 0.1
    # What was not measured is near its conditional, here the second class' spread.
    assert np.abs(x[:, 1]).mean() < 0.6
    with pytest.raises(ValueError, match=r"noise=-1.0"):
        measurement_guide(Classes(), lambda x: x[:1], jnp.asarray([1.0]), -1.0)
    with pytest.raises(TypeError, match="operator=2 must be a function"):
        measurement_guide(Classes(), 2, jnp.asarray([1.0]), 0.1)


def test_an_empty_condition_differs_from_zero():
    network = OptionalCondition(MLP(2, width=8, depth=1, cond_dim=4, key=jax.random.key(0)), 3)
    denoiser = Denoiser(network, SCHEDULE)
    absent = denoiser.noise(S, X, jnp.full(3, jnp.nan))
    np.testing.assert_array_equal(denoiser.noise(S, X), absent)
    zero = denoiser.noise(S, X, jnp.zeros(3))
    assert bool(jnp.any(jnp.abs(zero - absent) > 1e-6))
    with pytest.raises(ValueError, match=r"cond has shape \(2,\), .* but this model was made for"):
        network(S, X, SECOND[:2])
    with pytest.raises(ValueError, match="make the network with cond_dim=6"):
        OptionalCondition(network.network, 5)
