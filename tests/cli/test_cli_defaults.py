"""`jaxflow fit` with nothing but a table: simple densities beside the flow."""

import json

import numpy as np
import pytest

import jaxflow as library
from jaxflow.io.checkpoint import load_extra


@pytest.fixture(scope="module")
def by_default(jaxflow, table, tmp_path_factory):
    """A run by the default settings, and what its fit printed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    result = jaxflow("fit", table, "--out", run, "--steps", 25)
    assert result.exit_code == 0, result.output
    return run, result.stdout


def test_a_fit_says_what_a_simple_density_gives(by_default):
    run, printed = by_default
    record = load_extra(run / "flow.safetensors")
    assert "200, all for training after the folds" in printed
    assert "higher is better, 200 rows, each held out once in 5 folds" in printed
    densities = record["comparison"]["densities"]
    assert {"flow", "Gaussian"} < set(densities)
    assert record["validation"] == -densities["flow"]["mean"]
    best = max(densities[name]["mean"] for name in densities if name != "flow")
    assert densities["flow"]["mean"] > best - 0.02
    assert record["comparison"]["verdict"] in printed
    assert printed.endswith(f"jaxflow sample {run} --out samples.csv\n")
    history = np.genfromtxt(run / "history.csv", delimiter=",", names=True)
    assert history["step"][0] == 0


def test_info_knows_the_run(jaxflow, by_default):
    run, _ = by_default
    info = jaxflow("info", run)
    assert "width by the rows" in info.stdout
    assert "each held out once in 5 folds" in info.stdout
    as_json = json.loads(jaxflow("--json", "info", run).stdout)
    assert as_json["comparison"]["rows"].startswith("200 rows")


@pytest.mark.slow
def test_its_own_table_is_a_kind_test(jaxflow, by_default, table, tmp_path):
    run, _ = by_default
    result = jaxflow("score", run, table, "--out", tmp_path / "scores.csv")
    assert result.exit_code == 0, result.output
    result = jaxflow("check", run, table, "--rows", 40)
    assert "fitted to all rows" in result.stderr
    assert "log-density in nats per row" in result.stdout


@pytest.mark.slow
def test_a_seed_gives_the_same_flow(jaxflow, by_default, table, tmp_path):
    assert jaxflow("fit", table, "--out", tmp_path / "run", "--steps", 25).exit_code == 0
    folders = tmp_path / "run", by_default[0]
    ours, theirs = (library.load(folder / "flow.safetensors") for folder in folders)
    x = np.zeros((3, 2))
    np.testing.assert_array_equal(ours.log_prob(x), theirs.log_prob(x))


def test_refusals(jaxflow, table, tmp_path):
    result = jaxflow("fit", table, "--out", tmp_path / "run", "--validation", 0.0)
    assert result.exit_code == 2
    assert "validation=0.0 must lie between 0 and 1" in result.stderr
    assert not (tmp_path / "run").exists()
