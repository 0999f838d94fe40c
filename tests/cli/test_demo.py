"""The demo, with few steps: every file, every row; and the densities it compares with."""

import json

import numpy as np
import pytest
from scipy import integrate
from sklearn.covariance import shrunk_covariance
from sklearn.neighbors import KernelDensity

from jaxflow.cli import comparison
from jaxflow.cli.demo import FILES, demo
from jaxflow.transforms import Gaussianise, Standardise

MODELS = {
    "continuous flow",
    "coupling flow",
    "Gaussian mixture",
    "kernel density",
    "Gaussian, Gaussianise",
    "Gaussian, Standardise",
}


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 1))
    x = np.concatenate([a, np.exp(0.5 * a) + 0.3 * rng.normal(size=(300, 1))], axis=1)
    return comparison.split_rows(x, 0)


@pytest.mark.slow
def test_quick_demo_writes_every_row(tmp_path, capsys):
    out = tmp_path / "demo"
    demo(out=out, overwrite=False, seed=0, quick=True)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    record = json.loads((out / "results.json").read_text())
    assert record["quick"] is True
    assert {"jax", "numpy", "scikit-learn"} <= set(record["versions"])
    assert record["python"].startswith("3.")
    assert record["machine"]["cores"] >= 1
    eight = record["eight_gaussians"]
    # A divergence is not negative, and the standard error is far below its value here.
    assert eight["kl"] > 10 * eight["kl_se"] > 0
    assert eight["fresh_rows"] == 20_000
    assert [(t["table"], t["columns"]) for t in record["tables"]] == [
        ("breast cancer", 30),
        ("digits", 64),
    ]
    text, printed = (out / "results.md").read_text(), capsys.readouterr().out
    for table in record["tables"]:
        rows = table["rows"]
        assert sum(rows.values()) == {"breast cancer": 569, "digits": 1797}[table["table"]]
        assert {model["model"] for model in table["models"]} == MODELS
        for model in table["models"]:
            assert model["se"] > 0
            assert f"{model['log_density']:.2f} ± {model['se']:.2f}" in text
            assert f"{model['log_density']:.2f} ± {model['se']:.2f}" in printed
        by_name = {model["model"]: model["log_density"] for model in table["models"]}
        # Ten steps from the Gaussian lead nowhere yet.
        assert abs(by_name["continuous flow"] - by_name["Gaussian, Gaussianise"]) < 2
        trace = table["trace"]
        assert trace["row_sd"] > 0
        assert abs(trace["mean_error"]) < 5 * trace["mean_error_se"]
    for name in ("eight_gaussians.png", "digits.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "results.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds results.md; add --overwrite"):
        demo(out=tmp_path, overwrite=False, seed=0, quick=True)
    assert (tmp_path / "results.md").read_text() == "mine"
    with pytest.raises(ValueError, match="is a file; --out names a folder"):
        demo(out=tmp_path / "results.md", overwrite=True, seed=0, quick=True)
    with pytest.raises(ValueError, match="--seed -1 must lie between 0 and"):
        demo(out=tmp_path / "new", overwrite=False, seed=-1, quick=True)


def test_errors_are_one_line(jaxflow, tmp_path):
    (tmp_path / "digits.png").write_bytes(b"")
    result = jaxflow("demo", "--out", tmp_path, "--quick")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_split_is_the_permutation_cut_at_80_and_90_percent():
    x = np.arange(50.0)[:, None]
    parts = comparison.split_rows(x, 3)
    together = np.concatenate([parts.train, parts.validation, parts.test])
    np.testing.assert_array_equal(together[:, 0], np.random.default_rng(3).permutation(50))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (40, 5, 5)


@pytest.mark.parametrize("kind", [Standardise, Gaussianise])
def test_the_gaussian_in_the_tables_units_has_mass_one(parts, kind):
    fitted = comparison.Coordinates.fit(kind.fit(parts.train), parts)
    x, y = np.linspace(-7, 7, 301), np.linspace(-6, 16, 401)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    one = np.zeros((1, 2))
    on_grid = comparison.Coordinates(
        fitted.transform,
        fitted.mean,
        fitted.axes,
        fitted.spread,
        fitted.shrinkage,
        *forward(fitted, comparison.Parts(parts.train, one, grid)),
    )
    density = np.exp(on_grid.gaussian().test).reshape(len(x), len(y))
    mass = integrate.simpson(integrate.simpson(density, x=y), x=x)
    assert mass == pytest.approx(1.0, abs=2e-3)


def forward(fitted, parts):
    """The fitted coordinates of other rows, written out anew."""
    import jax

    def through(x):
        u, log_det = jax.vmap(fitted.transform.forward)(x)
        w = (np.asarray(u) - fitted.mean) @ fitted.axes / fitted.spread
        return w, np.asarray(log_det) - np.sum(np.log(fitted.spread))

    pairs = [through(x) for x in (parts.train, parts.validation, parts.test)]
    return comparison.Parts(*(w for w, _ in pairs)), comparison.Parts(*(d for _, d in pairs))


def test_coordinates_whiten_the_shrunken_covariance_and_go_back(parts):
    transform = Standardise.fit(parts.train)
    fitted = comparison.Coordinates.fit(transform, parts)
    u = (parts.train - np.asarray(transform.mean)) / np.asarray(transform.scale)
    model = fitted.axes * fitted.spread**2 @ fitted.axes.T
    np.testing.assert_allclose(model, shrunk_covariance(np.cov(u.T), fitted.shrinkage), rtol=1e-9)
    np.testing.assert_allclose(
        fitted.w.train @ np.diag(fitted.spread) @ fitted.axes.T, u - u.mean(0), atol=1e-12
    )
    np.testing.assert_allclose(fitted.inverse(fitted.w.test), parts.test, atol=1e-12)
    rows, log_det = fitted.stretched(0.5)
    np.testing.assert_allclose(rows.test, fitted.w.test * np.sqrt(fitted.spread), rtol=1e-14)
    change = 0.5 * np.sum(np.log(fitted.spread))
    np.testing.assert_allclose(log_det.test - fitted.log_det.test, change, rtol=1e-12)


def test_kernel_density_agrees_with_scikit_learn():
    train, x = np.split(np.random.default_rng(1).normal(size=(60, 3)), [40])
    ours = comparison.kernel_log_density(train, x, (0.3, 1.1))
    for h, values in zip((0.3, 1.1), ours, strict=True):
        theirs = KernelDensity(bandwidth=h, rtol=0, atol=0).fit(train).score_samples(x)
        np.testing.assert_allclose(values, theirs, rtol=1e-10)


def test_summary_takes_differences_row_by_row():
    ours = comparison.Result("continuous flow", np.asarray([1.0, 3.0, 2.0]), "", 0.0)
    peer = comparison.Result("peer", np.asarray([0.5, 2.5, 1.5]), "", 0.0)
    first, second = comparison.summary([ours, peer])
    assert (first["log_density"], first["against_cnf"]) == (2.0, 0.0)
    assert (second["against_cnf"], second["against_cnf_se"]) == (-0.5, 0.0)
    assert first["se"] == pytest.approx(1 / np.sqrt(3))
