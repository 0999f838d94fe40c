"""The coordinates and figures of `benchmarks/tables.py`."""

import sys
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.covariance import shrunk_covariance

from jaxflow.transforms import Gaussianise, Standardise

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
tables = import_module("tables")


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 1))
    x = np.concatenate([a, np.exp(0.5 * a) + 0.3 * rng.normal(size=(300, 1))], axis=1)
    return tables.split_rows(x, 0)


def test_split_is_the_permutation_cut_at_80_and_90_percent():
    parts = tables.split_rows(np.arange(50.0)[:, None], 3)
    order = np.random.default_rng(3).permutation(50)
    np.testing.assert_array_equal(np.concatenate(parts)[:, 0], order)
    assert [len(part) for part in parts] == [40, 5, 5]


@pytest.mark.parametrize("kind", [Standardise, Gaussianise])
def test_the_gaussian_in_the_tables_units_has_mass_one(parts, kind):
    fitted = tables.Coordinates.fit(kind.fit(parts.train), parts)
    x, y = np.linspace(-7, 7, 301), np.linspace(-6, 16, 401)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    u, log_det = jax.vmap(fitted.transform.forward)(grid)
    w = (np.asarray(u) - fitted.mean) @ fitted.axes / fitted.spread
    log_p = -0.5 * np.sum(w**2 + np.log(2 * np.pi), axis=1)
    density = np.exp(log_p + np.asarray(log_det) - np.sum(np.log(fitted.spread)))
    mass = integrate.simpson(integrate.simpson(density.reshape(301, 401), x=y), x=x)
    assert mass == pytest.approx(1.0, abs=2e-3)


def test_coordinates_whiten_the_shrunken_covariance(parts):
    transform = Standardise.fit(parts.train)
    fitted = tables.Coordinates.fit(transform, parts)
    u = (parts.train - np.asarray(transform.mean)) / np.asarray(transform.scale)
    model = fitted.axes * fitted.spread**2 @ fitted.axes.T
    np.testing.assert_allclose(model, shrunk_covariance(np.cov(u.T), fitted.shrinkage), rtol=1e-9)
    np.testing.assert_allclose(
        fitted.w.train @ np.diag(fitted.spread) @ fitted.axes.T, u - u.mean(0), atol=1e-12
    )
    log_det = -np.log(np.asarray(transform.scale)).sum() - np.log(fitted.spread).sum()
    np.testing.assert_allclose(fitted.log_det.test, log_det, rtol=1e-12)
    gaussian = -0.5 * np.sum(fitted.w.test**2 + np.log(2 * np.pi), axis=1) + log_det
    np.testing.assert_allclose(fitted.gaussian().test, gaussian, rtol=1e-12)
    view = fitted.stretched(0.5)
    np.testing.assert_allclose(view.rows.test, fitted.w.test * np.sqrt(fitted.spread), rtol=1e-14)
    change = 0.5 * np.sum(np.log(fitted.spread))
    np.testing.assert_allclose(view.log_det.test - fitted.log_det.test, change, rtol=1e-12)


def test_kernels_are_the_mean_of_gaussians():
    train, x = np.split(np.random.default_rng(1).normal(size=(560, 30)), [40])
    kernels = tables.Kernels(0.7)
    kernels.fit(train)
    logs = [stats.norm.logpdf(x, row, 0.7).sum(axis=1) for row in train]
    expected = np.logaddexp.reduce(logs, axis=0) - np.log(len(train))
    np.testing.assert_allclose(kernels.score_samples(x), expected, rtol=1e-9)


def test_summary_takes_differences_row_by_row():
    ours = tables.Result(np.asarray([1.0, 3.0, 2.0]), "", 0.0)
    peer = tables.Result(np.asarray([0.5, 2.5, 1.5]), "", 0.0)
    first, second = tables.summary({"peer": peer, "continuous flow": ours}).values()
    assert (first["log_density"], first["against_cnf"]) == (2.0, 0.0)
    assert (second["against_cnf"], second["against_cnf_se"]) == (-0.5, 0.0)
    assert first["se"] == pytest.approx(1 / np.sqrt(3))
