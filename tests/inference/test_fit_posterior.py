"""Fits of simulations: a linear Gaussian model, other units, failed simulations, encoders."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import jaxflow
from jaxflow.dynamics import ObservationEncoder, RobustScaling, SeriesEncoder, SetEncoder
from jaxflow.inference import (
    Posterior,
    Settings,
    as_prior,
    fit_likelihood,
    fit_posterior,
    fit_rounds,
)

KEY = jax.random.key(0)
SHORT: dict[str, Any] = {"width": 16, "steps": 60, "progress": False}
LONGER: dict[str, Any] = SHORT | {"width": 32, "steps": 400}
LONGEST: dict[str, Any] = LONGER | {"steps": 1500}
NOISE, SCALE = 0.5, 2.0**10


def pairs(n=1500):
    rng = np.random.default_rng(0)
    theta = rng.uniform(-3, 3, (n, 2))
    return theta, theta @ np.array([[1.0, 0.5], [0.0, 1.0]]) + NOISE * rng.normal(size=(n, 2))


@pytest.fixture(scope="module")
def fitted():
    theta, x = pairs()
    return fit_posterior(theta, x, prior=(-3.0, 3.0), key=KEY, names=["a", "b"], **LONGER)


@pytest.mark.slow
def test_a_linear_gaussian_model_has_its_posterior(fitted):
    x = np.array([0.2, -0.3])
    inverse = np.linalg.inv(np.array([[1.0, 0.5], [0.0, 1.0]]))
    draws = np.asarray(fitted.sample(KEY, 2000, x))
    assert_allclose(draws.mean(axis=0), x @ inverse, atol=0.12)
    assert_allclose(np.cov(draws.T), NOISE**2 * inverse.T @ inverse, atol=0.12)
    assert (np.abs(draws) < 3).all()


@pytest.mark.slow
def test_other_units_give_the_same_posterior(fitted):
    theta, x = pairs()
    scaled = fit_posterior(
        SCALE * theta, x / SCALE, prior=(-3.0 * SCALE, 3.0 * SCALE), key=KEY, **LONGER
    )
    rows = theta[:5]
    value = np.asarray(scaled.log_prob(SCALE * rows, x[0] / SCALE)) + 2 * np.log(SCALE)
    assert_allclose(value, np.asarray(fitted.log_prob(rows, x[0])), atol=1e-2)


def test_a_posterior_is_written_and_read(fitted, tmp_path):
    jaxflow.save(tmp_path / "a.safetensors", fitted.flow)
    read = Posterior(jaxflow.load(tmp_path / "a.safetensors"), as_prior((-3.0, 3.0), 2))
    rows = np.zeros((1, 2))
    assert_allclose(read.log_prob(rows, rows[0]), fitted.log_prob(rows, rows[0]), rtol=1e-12)


# ArviZ warns of its next version as it is imported.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.slow
def test_pictures_and_tables_of_draws(fitted):
    axes = fitted.corner(KEY, np.zeros(2), num=50)
    assert axes[1, 0].get_ylabel() == "b"
    data = fitted.to_arviz(KEY, 50, np.zeros(2))
    assert set(data.posterior.data_vars) == {"a", "b"}


@pytest.mark.slow
def test_failed_simulations_are_left_out_and_counted():
    theta, x = pairs(300)
    x[theta[:, 0] > 2.5] = np.nan
    posterior = fit_posterior(theta, x, key=KEY, **SHORT)
    assert posterior.left_out == (theta[:, 0] > 2.5).sum() > 0
    assert posterior.prior.log_density is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, x: (t, np.c_[x, np.ones(len(x))]), "constant in column 2: leave it out"),
        (lambda t, x: (t, x + 1e16), r"constant in columns 0, 1 to rounding; .* x - x.mean"),
        (
            lambda t, x: (t, np.c_[np.full(len(x), np.nan), x]),
            "NaN in all simulations in column 0",
        ),
        (lambda t, x: (t[:50], x), "give rows"),
        (lambda t, x: (2 * t, x), "outside the prior"),
        (lambda t, x: (t[:10], x[:10]), "at least 20"),
        (lambda t, x: (np.where(t > 2, np.nan, t), x), "theta has NaN"),
    ],
)
def test_bad_simulations_are_named(change, message):
    theta, x = change(*pairs(200))
    with pytest.raises(ValueError, match=message):
        fit_posterior(theta, x, prior=(-3.0, 3.0), key=KEY, **SHORT)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"weights must have shape \(200,\)"):
        fit_posterior(*pairs(200), weights=np.ones(5), key=KEY, **SHORT)
    with pytest.raises(ValueError, match="members=0"):
        Settings(members=0)
    theta, x = pairs(200)
    embed = SetEncoder(3, 2, key=KEY)
    with pytest.raises(ValueError, match="embed is for observations"):
        fit_posterior(theta, x, key=KEY, embed=embed, **SHORT)
    with pytest.raises(ValueError, match="not one for each"):
        fit_posterior(theta, x, key=KEY, names=["a"], **SHORT)


@pytest.mark.slow
def test_a_likelihood_is_fitted():
    theta, x = pairs(600)
    likelihood = fit_likelihood(x, theta, key=KEY, **SHORT)
    assert likelihood.num_parameters == 2
    draws = np.asarray(likelihood.sample(KEY, 500, [1.0, 0.0]))
    assert_allclose(draws.mean(axis=0), [1.0, 0.5], atol=0.2)
    assert_allclose(draws.std(axis=0), NOISE, rtol=0.3)


@pytest.mark.slow
def test_rounds_simulate_near_the_posterior():
    rng = np.random.default_rng(0)
    seen = []

    def simulate(theta):
        seen.append(theta)
        return theta + 0.1 * rng.normal(size=theta.shape)

    prior = (-3 * np.ones(1), 3 * np.ones(1))
    posterior = fit_rounds(
        simulate, prior, [0.5], key=KEY, rounds=2, simulations=400, mass=1e-2, **SHORT
    )
    first, second = seen
    assert len(first) == len(second) == 200
    assert np.abs(second - 0.5).max() < 1.5 < np.abs(first - 0.5).max()
    assert abs(float(np.asarray(posterior.sample(KEY, 500, [0.5])).mean()) - 0.5) < 0.1
    with pytest.raises(ValueError, match="simulate returned shape"):
        fit_rounds(lambda t: t[:3], prior, [0.5], key=KEY, simulations=80, **SHORT)


@pytest.mark.slow
def test_weights_undo_another_density_of_parameters():
    # theta ~ N(0, 1), x ~ N(theta, 1/4): N(4 x / 5, 1/5). Half of theta is drawn from N(1, 1/4),
    # which without weights moves the mean at 0 to 0.15.
    rng = np.random.default_rng(0)
    theta = np.concatenate([rng.normal(size=(1500, 1)), rng.normal(1, 0.5, (1500, 1))])
    x = theta + NOISE * rng.normal(size=theta.shape)
    density, other = stats.norm.pdf(theta[:, 0]), stats.norm.pdf(theta[:, 0], 1, 0.5)
    weights = 2 * density / (density + other)
    x[::10] = np.nan
    prior = stats.multivariate_normal(np.zeros(1))
    posterior = fit_posterior(theta, x, prior=prior, weights=weights, key=KEY, **LONGEST)
    draws = np.asarray(posterior.sample(KEY, 4000, [0.0]))
    assert_allclose(draws.mean(), 0, atol=0.05)
    assert_allclose(draws.std(), np.sqrt(0.2), rtol=0.08)
    kept = weights[~np.isnan(x[:, 0])]
    assert posterior.effective == pytest.approx(kept.sum() ** 2 / (kept**2).sum())


@pytest.mark.slow
def test_rounds_with_the_posterior_as_proposal_end_in_the_posterior():
    # Simulations fail more often far from 0: p(theta | x, not failed) ~ N(4 x / 6, 1/6).
    rng = np.random.default_rng(0)
    seen = []

    def simulate(theta):
        seen.append(theta)
        x = theta + NOISE * rng.normal(size=theta.shape)
        return np.where(rng.uniform(size=theta.shape) < np.exp(-(theta**2) / 2), x, np.nan)

    prior = stats.multivariate_normal(np.zeros(1))
    settings = LONGEST | {"simulations": 6000, "rounds": 3, "proposal": "posterior"}
    posterior = fit_rounds(simulate, prior, [1.2], key=KEY, **settings)
    draws = np.asarray(posterior.sample(KEY, 4000, [1.2]))
    assert_allclose(draws.mean(), 0.8, atol=0.06)
    assert_allclose(draws.std(), np.sqrt(1 / 6), rtol=0.1)
    assert_allclose([seen[1].mean(), seen[1].std()], [0.8, np.sqrt(1 / 6)], atol=0.1)
    used = 6000 - posterior.left_out
    assert 1000 < used < 6000
    assert used / 3 < (posterior.effective or 0) < used
    with pytest.raises(ValueError, match="proposal='prior' is unknown; choose one of 'truncated'"):
        fit_rounds(simulate, prior, [1.2], key=KEY, proposal="prior")


@pytest.mark.parametrize("prior", [(-1.0, 1.0), (np.float32(0), [[1.0]]), ()])
def test_rounds_need_the_number_of_parameters(prior):
    with pytest.raises(ValueError, match=r"number of parameters: write fit_rounds\(..., dim=2\)"):
        fit_rounds(lambda t: t, prior, [0.5], key=KEY, simulations=80, **SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("series", [False, True])
def test_sets_and_series_are_encoded(series):
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(200, 1))
    x = theta[:, None] + 0.3 * rng.normal(size=(200, 6, 1))
    make = SeriesEncoder if series else SetEncoder
    embed = make(6, 1, features=4, width=8, key=KEY)
    posterior = fit_posterior(theta, x, embed=embed, key=KEY, **SHORT)
    rows = theta[:3]
    one = np.asarray(posterior.log_prob(rows, x[0]))
    each = np.asarray(posterior.log_prob(rows, x[:3]))
    assert_allclose(each[0], one[0], rtol=1e-6)
    reordered = np.asarray(posterior.log_prob(rows, x[0, ::-1]))
    assert np.allclose(one, reordered, rtol=1e-6) != series
    weight = posterior.flow.field.encoder.embed.outer[0].weight
    assert not np.allclose(weight, embed.outer[0].weight)


def test_an_encoder_takes_one_shape():
    encoder = ObservationEncoder(1, RobustScaling.fit(np.eye(3)), (3,), key=KEY)
    with pytest.raises(ValueError, match="made for"):
        encoder(jnp.zeros(4))


def test_skewed_entries_get_logarithms_and_outliers_little_weight():
    rng = np.random.default_rng(0)
    x = np.stack([np.exp(2 * rng.normal(size=5000)), rng.normal(5, 2, 5000)], axis=1)
    counts = rng.poisson(np.exp(2 * rng.normal(size=5000))).astype(float)
    scaling = RobustScaling.fit(np.c_[x, counts])
    assert scaling.is_log.tolist() == [True, False, True]
    z = np.asarray(jax.jit(jax.vmap(scaling))(np.c_[x, counts]))
    assert np.isfinite(z).all()
    assert_allclose(z[:, :2].mean(axis=0), 0, atol=0.01)
    far = scaling(jnp.asarray([1.0, 1e6, 0.0]))
    assert float(far[1]) < 4 + np.log(1e6)
    assert np.isfinite(np.asarray(scaling(jnp.asarray([-1.0, 0.0, -1.0])))).all()
