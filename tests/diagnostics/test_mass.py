"""The mass of densities whose integral is known, and no answer where there is none to give."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, CouplingFlow, StandardNormal
from jaxflow.diagnostics.mass import grid_mass, measure_mass, sampled_mass
from jaxflow.diagnostics.proposal import Proposal, _kernels


def rng(seed=0):
    return np.random.default_rng(seed)


def gaussian(dim, seed=0):
    """The log-density of a Gaussian of full covariance, and 800 draws from it."""
    root = rng(seed).normal(size=(dim, dim)) / math.sqrt(dim) + np.eye(dim)

    def log_density(u):
        z = np.linalg.solve(root, u.T).T
        log_norm = np.linalg.slogdet(root)[1] + dim / 2 * math.log(2 * math.pi)
        return -0.5 * np.sum(z**2, axis=1) - log_norm

    return log_density, rng(seed + 1).normal(size=(800, dim)) @ root.T


def clusters(dim, num=8, width=0.4):
    """A mixture of narrow Gaussians far from each other."""
    centres = 3 * rng(1).normal(size=(num, dim))
    draws = centres[rng(2).integers(num, size=800)] + width * rng(3).normal(size=(800, dim))
    return lambda u: _kernels(u, centres, width), draws


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_grid_integrates_within_its_error(dim, factor):
    log_density, draws = gaussian(dim)
    mass = grid_mass(lambda u: log_density(u) + math.log(factor), draws, 0.01)
    assert abs(mass.value - factor) <= mass.error < 2e-3
    assert mass.effective is None
    assert mass.findings()[0].grade == ("good" if factor == 1 else "bad")


def test_a_grid_that_is_too_coarse_says_so_by_its_error():
    # A fine grid of 257 points a side does not see what is a hundredth of one of its cells.
    draws = np.concatenate([1e-4 * rng().normal(size=(1000, 2)), [[-1.0, -1.0], [1.0, 1.0]]])
    mass = grid_mass(lambda u: _kernels(u, np.zeros((1, 2)), 1e-4), draws, 0.01)
    assert mass.error > 0.5 * mass.value


@pytest.mark.parametrize("dim", [1, 4, 20])
@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_importance_sampling_integrates_within_its_standard_error(dim, factor):
    log_density, draws = gaussian(dim)
    mass = sampled_mass(lambda u: log_density(u) + math.log(factor), draws, rng(5), 0.01)
    assert abs(mass.value - factor) < 3.5 * mass.error < 0.05
    assert mass.effective is not None
    assert mass.effective > 2000
    assert mass.findings()[0].grade == ("good" if factor == 1 else "bad")


def test_importance_sampling_measures_clusters_in_few_dimensions():
    log_density, draws = clusters(3)
    mass = sampled_mass(log_density, draws, rng(5), 0.01)
    assert abs(mass.value - 1) < 3.5 * mass.error < 0.05
    # In 30 dimensions no kernel comes near: no number, and no pass.
    log_density, draws = clusters(30)
    mass = sampled_mass(log_density, draws, rng(5), 0.01)
    assert math.isnan(mass.value)
    assert mass.effective is not None
    assert mass.effective < 100
    (finding,) = mass.findings()
    assert finding.grade == "unknown"
    assert "not measurable" in finding.text
    assert "it may be wrong" in finding.text


def test_an_infinite_mass_does_not_pass():
    log_density, draws = gaussian(2)
    for integrate in (
        lambda f: grid_mass(f, draws, 0.01),
        lambda f: sampled_mass(f, draws, rng(), 0.01),
    ):
        (finding,) = integrate(lambda u: log_density(u) + 2000).findings()
        assert finding.grade == "bad"
        assert finding.text.startswith("the density integrates to infinity")


def test_weights_with_a_heavy_tail_make_no_measurement():
    # Student's t of 3 degrees of freedom in 20 dimensions: by the standard error alone, several
    # of them off.
    dim, free = 20, 3.0
    draws = rng().normal(size=(800, dim)) / np.sqrt(rng(1).chisquare(free, size=(800, 1)) / free)

    def log_density(u):
        log_norm = math.lgamma(free / 2) - math.lgamma((free + dim) / 2)
        log_norm += dim / 2 * math.log(free * math.pi)
        return -(free + dim) / 2 * np.log1p(np.sum(u**2, axis=1) / free) - log_norm

    mass = sampled_mass(log_density, draws, rng(2), 0.01)
    assert math.isnan(mass.value)
    assert float(mass.how.split()[-1]) > 0.7


def test_failed_points_count_as_zero():
    log_density, draws = gaussian(2)
    half = lambda u: np.where(u[:, 0] > 0, np.nan, log_density(u))  # noqa: E731
    for mass in (grid_mass(half, draws, 0.01), sampled_mass(half, draws, rng(5), 0.01)):
        assert mass.value == pytest.approx(0.5, abs=0.05)
        assert mass.failed > 3000
        (finding,) = mass.findings()
        assert finding.grade == "bad"
        assert f"counting {mass.failed:,} points where the solve failed as 0" in finding.text


def test_a_proposal_is_a_density_and_draws_from_it():
    _, draws = clusters(1)
    proposal = Proposal.fit(draws, rng())
    assert proposal.width <= 0.1
    grid = np.linspace(-100, 100, 10_001)[:, None]
    assert np.sum(np.exp(proposal.log_prob(grid))) * 0.02 == pytest.approx(1, abs=1e-5)
    # E_q[f / q] = 1 for a density f that the draws cover.
    drawn = proposal.sample(20_000, rng(1))
    weights = np.exp(-0.5 * drawn[:, 0] ** 2) / math.sqrt(2 * math.pi)
    weights /= np.exp(proposal.log_prob(drawn))
    assert weights.mean() == pytest.approx(1, abs=4 * weights.std() / math.sqrt(20_000))
    # One Gaussian is one kernel.
    assert Proposal.fit(gaussian(5)[1], rng()).width == 0.99


class Shear(eqx.Module):
    """`u = (2 x_0, x_1 + x_0^2)`, with a log-determinant of log 2 and `off`."""

    off: float
    event_shape: tuple[int, ...] = (2,)

    def forward(self, x):
        u = jnp.stack([2 * x[0], x[1] + x[0] ** 2])
        return u, jnp.log(2.0) + self.off + jnp.zeros((), x.dtype)

    def inverse(self, u):
        x = jnp.stack([u[0] / 2, u[1] - u[0] ** 2 / 4])
        return x, -jnp.log(2.0) - self.off + jnp.zeros((), u.dtype)


@pytest.mark.parametrize("off", [0.0, 0.3])
def test_a_transform_that_states_a_wrong_determinant_shows(off, key):
    # At first a coupling flow is the identity, so u = transform(x) is standard normal.
    flow = CouplingFlow(
        2, num_layers=1, width=2, depth=1, base=StandardNormal(2), transform=Shear(off), key=key
    )
    u = rng().normal(size=(500, 2))
    x = jnp.asarray(np.stack([u[:, 0] / 2, u[:, 1] - u[:, 0] ** 2 / 4], axis=1))
    mass = measure_mass(flow, x, None, rng(1), allowed=0.01)
    assert not isinstance(mass, str)
    assert mass.value == pytest.approx(math.exp(off), abs=1e-3)


def test_reasons_for_no_measurement():
    for dim, num, said in (
        (70, 1000, "an event has 70 entries; up to 64 can be integrated"),
        (2, 7, "7 points are too few to locate the mass; 30 are needed"),
    ):
        flow = CNF(lambda t, x: x, StandardNormal(dim))
        assert measure_mass(flow, jnp.zeros((num, dim)), None, rng(), allowed=0.01) == said
