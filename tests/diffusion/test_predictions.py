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
PAIRS = list(itertools.product(PREDICTIONS, repeat=2))


@each_schedule
def test_every_conversion_is_the_true_combination(schedule):
    @jax.jit
    def conversions(data, noise):
        x = schedule.alpha(S) * data + schedule.sigma(S) * noise
        values = {}
        for name in PREDICTIONS:
            p, q = shares(name, schedule, S)
            values[name] = p * data + q * noise
        pairs = [convert(values[a], x, S, schedule, given=a, to=b) for a, b in PAIRS]
        return values, pairs

    values, pairs = conversions(jnp.asarray([0.3, -1.0]), jnp.asarray([0.7, 0.2]))
    for (_, to), found in zip(PAIRS, pairs, strict=True):
        np.testing.assert_allclose(found, values[to], rtol=1e-9, atol=1e-12)


@each_schedule
def test_gaussian_data_in_closed_form(schedule):
    mixture = GaussianMixture(np.ones(1), np.full((1, 2), MEAN), STD * np.eye(2)[None])

    @eqx.filter_jit
    def predictions(by_mixture, x):
        known = Known(schedule)
        found = known.score(S, x), known.noise(S, x), known.data(S, x)
        found += known.predict("velocity", S, x), by_mixture.noise(S, x)
        return moments(schedule, S), found

    results = predictions(KnownDenoiser(mixture, schedule), X)
    (alpha, sigma, std), found = jax.tree.map(np.asarray, results)
    x = np.asarray(X)
    score = -(x - alpha * MEAN) / std**2
    data = MEAN + alpha * STD**2 / std**2 * (x - alpha * MEAN)
    velocity = (alpha * -sigma * score - sigma * data) / np.hypot(alpha, sigma)
    expected = score, -sigma * score, data, velocity, -sigma * score
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_only_ratios_of_weights_count():
    schedule, means, factors = SCHEDULES["straight"], 2 * jnp.eye(2), jnp.stack([jnp.eye(2)] * 2)
    one, other = (
        KnownDenoiser(GaussianMixture(jnp.full(2, each), means, factors), schedule)
        for each in (0.5, 1.0)
    )
    log_prob = eqx.filter_jit(lambda denoiser: denoiser.log_prob(S, X))
    np.testing.assert_allclose(log_prob(other), log_prob(one), rtol=1e-12)


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

    @eqx.filter_jit
    def outputs(denoiser, x):
        alpha, sigma = schedule.alpha(S), schedule.sigma(S)
        raw = denoiser.network(jnp.log(sigma / alpha) / 4, x / jnp.hypot(alpha, sigma))
        exact = denoiser.noise(S, x), jnp.trace(jax.jacfwd(lambda x: denoiser.noise(S, x))(x))
        closed = denoiser.prepare().noise_with_trace(S, x)
        return denoiser.predict(prediction, S, x), raw, closed, exact

    found, raw, closed, exact = outputs(Denoiser(network, schedule, prediction=prediction), X)
    np.testing.assert_allclose(found, raw, rtol=1e-9)
    # The closed form of its trace is the trace of what it is.
    np.testing.assert_allclose(closed[0], exact[0], rtol=1e-12)
    np.testing.assert_allclose(closed[1], exact[1], rtol=1e-9)


def test_times_beyond_the_span_are_its_ends():
    denoiser = Known(SCHEDULES["variance preserving"])
    score = jax.jit(lambda s: denoiser.score(s, X))
    for outside, end in ((0.0, 1e-3), (1.2, 1.0)):
        found = score(jnp.asarray(outside))
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, score(jnp.asarray(end)))


def test_a_flow_matching_field_is_a_denoiser():
    # The exact field of Gaussian data along straight lines, E[x_1 - x_0 | x_t].
    def field(t, x, cond=None):
        variance = t**2 * STD**2 + (1 - t) ** 2
        slope = (t * STD**2 - (1 - t)) / variance
        return MEAN + slope * (x - t * MEAN)

    flow = CNF(field, StandardNormal((2,)))
    schedule = SCHEDULES["straight"]
    read = denoiser_of(from_flow(flow))
    scores = jax.jit(lambda x: (read.score(S, x), Known(schedule).score(S, x)))(X)
    np.testing.assert_allclose(*scores, rtol=1e-9)
    # And back: the probability flow is the field, on the schedule's span.
    back = from_flow(flow).field
    t = 0.63
    s = schedule.end + t * (schedule.start - schedule.end)
    span = schedule.end - schedule.start
    there = jax.jit(back)(jnp.asarray(t), X)
    np.testing.assert_allclose(there, span * field(1 - s, np.asarray(X)), rtol=1e-9)
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
