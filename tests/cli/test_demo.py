"""`jaxflow demo` with few training steps: every file, and figures that can be computed anew."""

import json

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from jaxflow.cli.demo import FILES, demo, gaussian_log_density
from jaxflow.data import EightGaussians
from jaxflow.transforms import Standardise


@pytest.mark.slow
def test_quick_demo_writes_every_file(tmp_path, capsys):
    out = tmp_path / "demo"
    demo(out=out, overwrite=False, seed=0, quick=True)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    record = json.loads((out / "results.json").read_text())
    assert (record["quick"], record["seed"]) == (True, 0)
    assert {"jax", "numpy"} <= set(record["versions"])
    gaussians, digits = record["results"]
    assert (gaussians["rows"], gaussians["columns"], gaussians["test_rows"]) == (20_000, 2, 20_000)
    assert (digits["rows"], digits["columns"], digits["test_rows"]) == (1437, 64, 180)
    # The true density is better, by a divergence far above its standard error here.
    divergence, error = gaussians["difference"]
    assert divergence < -10 * error < 0
    truth, error = gaussians["reference_log_density"]
    assert abs(truth + EightGaussians().entropy()) < 5 * error
    text, printed = (out / "results.md").read_text(), capsys.readouterr().out
    for result in record["results"]:
        for name in ("log_density", "reference_log_density", "difference"):
            mean, error = result[name]
            assert f"{mean:.3f} +- {error:.3f}" in text
            assert f"{mean:.3f} +- {error:.3f}" in printed
    for name in ("eight_gaussians.png", "digits.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert f"![]({name})" in text


def test_the_gaussian_counts_the_transform():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(2, 50, 3)) @ rng.normal(size=(3, 3)) * [1.0, 10.0, 0.1] + 5
    transform = Standardise.fit(train)
    u, v = (np.asarray(jax.vmap(transform.forward)(x)[0]) for x in (train, test))
    normal = multivariate_normal(u.mean(axis=0), ledoit_wolf(u)[0])
    np.testing.assert_allclose(
        gaussian_log_density(transform, train, test),
        normal.logpdf(v) - np.log(np.asarray(transform.scale)).sum(),
        rtol=1e-9,
    )


def test_nothing_is_overwritten(jaxflow, tmp_path):
    (tmp_path / "results.md").write_text("mine")
    for options, said in (
        (("--out", tmp_path), "holds results.md; add --overwrite"),
        (("--out", tmp_path / "results.md", "--overwrite"), "is a file; --out must name a folder"),
    ):
        result = jaxflow("demo", *options, "--quick")
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
    assert (tmp_path / "results.md").read_text() == "mine"
