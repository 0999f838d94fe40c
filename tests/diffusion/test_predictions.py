"""Noise, data, score, velocity and flow: each follows from any other."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.diffusion.gaussian import MEAN, SCHEDULES, STD, Known, each_schedule, moments

from jaxflow.bases import DiagonalNormal, GaussianMixture, StandardNormal
from jaxflow.density.paths import Linear, interpolate
from jaxflow.diffusion import (
    PREDICTIONS,
    Denoiser,
    KnownDenoiser,
    convert,
    denoiser_of,
    from_flow,
    shares,
)
from jaxflow.dynamics import MLP
from jaxflow.flows.cnf import CNF

S = jnp.asarray(0.37)
X = jnp.asarray([0.3, -1.1])


@each_schedule
def test_every_conversion_is_the_true_combination(schedule):
    data, noise = jnp.asarray([0.3, -1.0]), jnp.asarray([0.7, 0.2])
    x = schedule.alpha(S) * data + schedule.sigma(S) * noise
    values = {}
    for name in PREDICTIONS:
        p, q = shares(name, schedule, S)
        values[name] = p * data + q * noise
    for given, to in itertools.product(PREDICTIONS, repeat=2):
        found = convert(values[given], x, S, schedule, given=given, to=to)
        np.testing.assert_allclose(found, values[to], rtol=1e-9, atol=1e-12)


@each_schedule
def test_gaussian_data_in_closed_form(schedule):
    alpha, sigma, std = moments(schedule, S)
    denoiser = Known(schedule)
    score = -(X - alpha * MEAN) / std**2
    np.testing.assert_allclose(denoiser.score(S, X), score, rtol=1e-9)
    np.testing.assert_allclose(denoiser.noise(S, X), -sigma * score, rtol=1e-9)
    data = MEAN + alpha * STD**2 / std**2 * (X - alpha * MEAN)
    np.testing.assert_allclose(denoiser.data(S, X), data, rtol=1e-9)
    r = jnp.hypot(alpha, sigma)
    velocity = (alpha * -sigma * score - sigma * data) / r
    mixture = GaussianMixture(jnp.ones(1), jnp.full((1, 2), MEAN), STD * jnp.eye(2)[None])
    by_mixture = eqx.filter_jit(KnownDenoiser(mixture, schedule).noise)
    np.testing.assert_allclose(by_mixture(S, X), -sigma * score, rtol=1e-9)
    np.testing.assert_allclose(denoiser.predict("velocity", S, X), velocity, rtol=1e-9)


def test_only_ratios_of_weights_count():
    schedule, means, factors = SCHEDULES["straight"], 2 * jnp.eye(2), jnp.stack([jnp.eye(2)] * 2)
    one, other = (
        KnownDenoiser(GaussianMixture(jnp.full(2, each), means, factors), schedule)
        for each in (0.5, 1.0)
    )
    np.testing.assert_allclose(other.log_prob(S, X), one.log_prob(S, X), rtol=1e-12)


def test_the_flow_prediction_is_the_target_of_flow_matching():
    # Its path counted backwards: dx/dt of t x_1 + (1 - t) x_0 is x_1 - x_0.
    data, noise, t = jnp.asarray([0.3, -1.0]), jnp.asarray([0.7, 0.2]), jnp.asarray(0.6)
    x, slope = interpolate(Linear(), t, noise, data, noise)
    schedule = SCHEDULES["straight"]
    np.testing.assert_allclose(x, schedule.alpha(1 - t) * data + schedule.sigma(1 - t) * noise)
    p, q = shares("flow", schedule, 1 - t)
    np.testing.assert_allclose(slope, p * data + q * noise, rtol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_outputs_its_prediction(prediction):
    schedule = SCHEDULES["variance preserving"]
    network = MLP(2, width=8, depth=1, key=jax.random.key(0))
    denoiser = Denoiser(network, schedule, prediction=prediction)
    alpha, sigma = schedule.alpha(S), schedule.sigma(S)
    raw = network(jnp.log(sigma / alpha) / 4, X / jnp.hypot(alpha, sigma))
    np.testing.assert_allclose(denoiser.predict(prediction, S, X), raw, rtol=1e-9)
    # The closed form of its trace is the trace of what it is.
    noise, trace = denoiser.prepare().noise_with_trace(S, X)
    np.testing.assert_allclose(noise, denoiser.noise(S, X), rtol=1e-12)
    exact = jnp.trace(jax.jacfwd(lambda x: denoiser.noise(S, x))(X))
    np.testing.assert_allclose(trace, exact, rtol=1e-9)


def test_times_beyond_the_span_are_its_ends():
    denoiser = Known(SCHEDULES["variance preserving"])
    for outside, end in ((0.0, 1e-3), (1.2, 1.0)):
        found = denoiser.score(jnp.asarray(outside), X)
        assert bool(jnp.all(jnp.isfinite(found)))
        np.testing.assert_array_equal(found, denoiser.score(jnp.asarray(end), X))


def test_a_flow_matching_field_is_a_denoiser():
    # The exact field of Gaussian data along straight lines, E[x_1 - x_0 | x_t].
    def field(t, x, cond=None):
        variance = t**2 * STD**2 + (1 - t) ** 2
        slope = (t * STD**2 - (1 - t)) / variance
        return MEAN + slope * (x - t * MEAN)

    flow = CNF(field, StandardNormal((2,)))
    schedule = SCHEDULES["straight"]
    read = denoiser_of(from_flow(flow))
    np.testing.assert_allclose(read.score(S, X), Known(schedule).score(S, X), rtol=1e-9)
    # And back: the probability flow is the field, on the schedule's span.
    back = from_flow(flow).field
    t = jnp.asarray(0.63)
    s = schedule.end + t * (schedule.start - schedule.end)
    span = schedule.end - schedule.start
    np.testing.assert_allclose(back(t, X), span * field(1 - s, X), rtol=1e-9)
    with pytest.raises(ValueError, match=r"must be StandardNormal\(\(2,\)\), the noise"):
        from_flow(CNF(field, DiagonalNormal(jnp.zeros(2), jnp.full(2, 2.0))))
    with pytest.raises(TypeError, match="flow=function must be a CNF"):
        from_flow(field)  # pyright: ignore[reportArgumentType]


def test_unknown_predictions_are_refused():
    network = MLP(2, width=8, depth=1, key=jax.random.key(0))
    schedule = SCHEDULES["cosine"]
    with pytest.raises(ValueError, match="prediction='epsilon' is unknown; choose one of"):
        Denoiser(network, schedule, prediction="epsilon")
    with pytest.raises(ValueError, match="prediction='eps' is unknown"):
        convert(X, X, S, schedule, given="noise", to="eps")
    with pytest.raises(TypeError, match="network=3 must be a field"):
        Denoiser(3, schedule)
