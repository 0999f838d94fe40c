"""`jaxflow fit` with nothing but a table: simple densities beside the flow."""

import json
import os
import signal

import numpy as np
import polars as pl
import pytest

import jaxflow as library
from jaxflow.cli.new_rows import compare_new_rows
from jaxflow.cli.training import Monitor
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


@pytest.mark.slow
def test_new_rows_are_compared_with_simple_densities(by_default, values):
    run, _ = by_default
    flow, record = library.load(run / "flow.safetensors"), load_extra(run / "flow.safetensors")
    new = np.random.default_rng(9).permuted(values, axis=0).astype(np.float32)
    comparison = compare_new_rows(flow, record, new)
    assert comparison is not None
    assert comparison.rows == "200 rows that trained nothing"
    assert {"flow", "Gaussian"} <= set(comparison.log_p)
    np.testing.assert_array_equal(comparison.log_p["flow"], flow.log_prob(new))
    # The rows of the fit are not new, and another table is not that of the fit.
    assert compare_new_rows(flow, record, values.astype(np.float32)) is None
    assert compare_new_rows(flow, record | {"table_sha256": "0"}, new) is None


@pytest.mark.slow
def test_a_large_table_is_never_second_to_a_gaussian(jaxflow, write, tmp_path):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(5100, 3)) @ rng.normal(size=(3, 3))
    table = write(tmp_path / "large.csv", rows, "a,b,c")
    result = jaxflow("fit", table, "--out", tmp_path / "run", "--steps", 20, "--width", 8)
    assert result.exit_code == 0, result.output
    densities = load_extra(tmp_path / "run" / "flow.safetensors")["comparison"]["densities"]
    assert densities["Gaussian"]["flow_gain"] > -1e-6
    assert "which also chose the best weights" in result.stdout


def test_info_knows_the_run(jaxflow, by_default):
    run, _ = by_default
    info = jaxflow("info", run)
    assert "width by the rows" in info.stdout
    assert "each held out once in 5 folds" in info.stdout
    as_json = json.loads(jaxflow("info", run, "--json").stdout)
    assert as_json["comparison"]["rows"].startswith("200 rows")


def test_scores_name_what_is_unusual(jaxflow, by_default, values, write, tmp_path):
    run, _ = by_default
    rows = values.copy()
    rows[17, 0] = 12.0
    table = write(tmp_path / "new.csv", np.column_stack([rows, np.arange(200.0)]), "a,b,log_prob")
    out = tmp_path / "scores.csv"
    options = "--out", out, "--percentile", "--keep-columns", "--unusual", 2
    result = jaxflow("score", run, table, *options)
    assert result.exit_code == 0, result.output
    assert "unusual 1  row 17: " in result.stdout
    assert "; a 12 (" in result.stdout
    scores = pl.read_csv(out)
    assert scores.columns == ["row", "log_prob", "percentile", "a", "b", "log_prob of table"]
    np.testing.assert_array_equal(scores["a"].to_numpy(), rows[:, 0])
    percent = scores["percentile"].to_numpy()
    assert percent[17] == 0
    assert 30 < np.median(percent) < 70
    order = np.argsort(scores["log_prob"].to_numpy())
    assert (np.diff(percent[order]) >= 0).all()
    told = json.loads(jaxflow("--json", "score", run, table, *options, "--overwrite").stdout)
    assert [each["row"] for each in told["unusual"]] == order[:2].tolist()
    result = jaxflow("score", run, table, "--out", tmp_path / "x.npy", "--keep-columns")
    assert "--keep-columns" in result.stderr


def test_ctrl_c_keeps_what_was_best(jaxflow, table, tmp_path, monkeypatch):
    call, steps, handler = Monitor.__call__, [], signal.getsignal(signal.SIGINT)

    def interrupt(self, row):
        steps.append(row.step)
        os.kill(os.getpid(), signal.SIGINT)
        return call(self, row)

    monkeypatch.setattr(Monitor, "__call__", interrupt)
    result = jaxflow("fit", table, "--out", tmp_path / "run")
    assert (result.exit_code, steps) == (130, [25])
    assert "keeping what was best so far" in result.stderr
    record = load_extra(tmp_path / "run" / "flow.safetensors")
    assert record["interrupted"]
    assert record["finished"]
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.slow
def test_a_density_given_other_columns(jaxflow, values, write, tmp_path):
    table = write(tmp_path / "table.csv", values, "a,b")
    run, scores = tmp_path / "run", tmp_path / "scores.csv"
    result = jaxflow("fit", table, "--given", "a", "--out", run, "--steps", 25)
    assert result.exit_code == 0, result.output
    assert "linear regression" in result.stdout
    assert 'given = "a"' in (run / "run.toml").read_text()
    result = jaxflow("score", run, table, "--out", scores, "--unusual", 1)
    assert "ignored" not in result.stderr
    log_p = pl.read_csv(scores)["log_prob"].to_numpy()
    flow = library.load(run / "flow.safetensors")
    expected = flow.log_prob(values[:, 1:], values[:, :1])
    np.testing.assert_allclose(log_p, expected, atol=1e-4)
    samples = tmp_path / "samples.csv"
    assert jaxflow("sample", run, "--given", "a=1", "--out", samples, "-n", 50).exit_code == 0
    # b = a^2 + 5 + 0.3 noise
    assert abs(pl.read_csv(samples)["b"].to_numpy().mean() - 6) < 1
    for options, words in [
        ((), "needs a number for a"),
        (("--given", "b=1"), "add --given a=..."),
        (("--given", "a=x"), "give numbers"),
        (("--given", "a=1", "--class", "b"), "has no classes"),
    ]:
        result = jaxflow("sample", run, *options, "--out", tmp_path / "no.csv")
        assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


def test_given_columns_are_checked(jaxflow, table, tmp_path):
    for options, words in [
        (("--given", "c"), "no columns ['c']"),
        (("--given", "a,b"), "no column is left"),
        (("--given", "a", "--columns", "a,b"), "in both --columns and --given"),
        (("--given", "a", "--kind", "b=positive"), "leave out"),
    ]:
        result = jaxflow("fit", table, *options, "--out", tmp_path / "no")
        assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


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
