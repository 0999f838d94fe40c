"""From a table to a run to scores and samples: the numbers are those of the flow itself."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import jaxflow as library
from jaxflow import Hutchinson
from jaxflow.cli.score import Moments
from jaxflow.data import read_table, split
from jaxflow.flows.coupling import CouplingFlow
from jaxflow.io.checkpoint import load_extra


def log_prob(run, values):
    # In the precision of the run, as without the settings of the tests.
    with jax.enable_x64(False):
        flow = library.load(run / "flow.safetensors")
        return np.asarray(flow.log_prob(values), np.float64)


def test_run_directory_holds_flow_history_and_settings(fitted, table):
    run, _ = fitted
    assert {path.name for path in run.iterdir()} == {
        "flow.safetensors",
        "history.csv",
        "run.json",
        "run.toml",
    }
    record = json.loads((run / "run.json").read_text())
    assert record == load_extra(run / "flow.safetensors")
    assert record["columns"] == ["a", "b"]
    assert (record["table"], record["rows"], record["rows_dropped"]) == (str(table), 200, 0)
    assert record["settings"]["width"] == 8
    assert record["finished"]
    history = pl.read_csv(run / "history.csv")
    steps = history["step"].to_list()
    assert steps == sorted(set(steps))
    assert steps[-1] == record["steps"] == 20


def test_quality_is_mean_and_standard_error_of_held_out_rows(fitted, values):
    run, _ = fitted
    record = load_extra(run / "flow.safetensors")
    _, held = split(200, 0.1, 0)
    log_p = log_prob(run, values[held].astype(np.float32))
    np.testing.assert_allclose(record["validation"], -log_p.mean(), rtol=1e-6)
    np.testing.assert_allclose(record["validation_se"], log_p.std(ddof=1) / np.sqrt(20), rtol=1e-6)
    history = pl.read_csv(run / "history.csv")
    best = np.min(history["validation"].to_numpy())
    np.testing.assert_allclose(record["validation"], best, rtol=1e-5)


def test_fit_prints_result_and_next_command(fitted, table):
    run, result = fitted
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    record = load_extra(run / "flow.safetensors")
    assert lines["rows"] == "180 for training, 20 held out"
    assert lines["transform"] == record["transform"]
    assert lines["flow"] == f"{-record['validation']:.4f} +- {record['validation_se']:.4f}"
    assert lines["held-out"].startswith("log-density in nats per row, higher is better, 20 held")
    assert lines["verdict"] == record["comparison"]["verdict"]
    assert lines["next"] == f"jaxflow sample {run} --out samples.csv"
    assert "\x1b" not in result.stdout


def test_scores_are_the_flows(jaxflow, fitted, table, values, tmp_path):
    run, _ = fitted
    result = jaxflow("score", run, table, "--out", tmp_path / "scores.csv")
    assert result.exit_code == 0, result.output
    scores = pl.read_csv(tmp_path / "scores.csv")
    assert scores["row"].to_list() == list(range(200))
    np.testing.assert_array_equal(
        scores["log_prob"].cast(pl.Float32), log_prob(run, values).astype(np.float32)
    )
    # Numbers of the table keep the digits that float32 would drop before the transform.
    assert (scores["log_prob"].to_numpy() != log_prob(run, values.astype(np.float32))).any()
    assert f"{scores['log_prob'].mean():.4f}" in result.stdout


def test_scores_with_their_errors(jaxflow, fitted, table, tmp_path):
    run, _ = fitted
    out = tmp_path / "scores.csv"
    assert jaxflow("score", run, table, "--out", out, "--with-error").exit_code == 0
    scores = pl.read_csv(out)
    assert scores.columns == ["row", "log_prob", "ode_error", "trace_se", "status"]
    assert (scores["status"] == "success").all()
    assert scores["ode_error"].is_between(0, 0.1).all()
    assert (scores["trace_se"] == 0).all()
    numbers = tmp_path / "scores.npy"
    assert jaxflow("score", run, table, "--out", numbers, "--with-error").exit_code == 0
    assert (read_table(numbers).values[:, 4] == 0).all()


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_scores_in_other_formats(jaxflow, fitted, table, values, tmp_path, suffix):
    run, _ = fitted
    out = tmp_path / f"scores.{suffix}"
    assert jaxflow("score", run, table, "--out", out).exit_code == 0
    expected = np.column_stack([np.arange(200), log_prob(run, values)])
    np.testing.assert_array_equal(read_table(out).values, expected)


def test_samples_are_the_flows(jaxflow, fitted, tmp_path):
    run, _ = fitted
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        out = tmp_path / f"{name}.csv"
        result = jaxflow("sample", run, "-n", 7, "--seed", seed, "--out", out)
        assert result.exit_code == 0, result.output
    first, again, other = (
        read_table(tmp_path / f"{name}.csv") for name in ("first", "again", "other")
    )
    assert first.columns == ("a", "b")
    np.testing.assert_array_equal(first.values, again.values)
    assert (first.values != other.values).all()
    with jax.enable_x64(False):
        flow = library.load(run / "flow.safetensors")
        expected = np.asarray(flow.sample(jax.random.key(3), 7))
    np.testing.assert_array_equal(first.values.astype(expected.dtype), expected)


def test_info_says_what_the_run_is(jaxflow, fitted, table):
    run, _ = fitted
    result = jaxflow("info", run)
    assert result.exit_code == 0, result.output
    record = load_extra(run / "flow.safetensors")
    for text in (str(table), "200 rows", "a, b", "cnf (mlp), width 8", "20 steps", "float32"):
        assert text in result.stdout
    assert f"{record['validation']:.4f}" in result.stdout


def test_a_run_can_be_moved(jaxflow, fitted, table, tmp_path):
    run, _ = fitted
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(run, moved)
    for args in (
        ("info", moved),
        ("score", moved, table, "--out", tmp_path / "scores.csv"),
        ("sample", moved, "-n", 3, "--out", tmp_path / "samples.csv"),
    ):
        assert jaxflow(*args).exit_code == 0
    assert pl.read_csv(tmp_path / "scores.csv")["log_prob"].is_finite().all()


@pytest.mark.slow
def test_inputs_without_names_and_in_other_formats(fitted, fit, write, values, tmp_path):
    """The same rows give the same flow, whatever the file."""
    run, _ = fitted
    expected = library.load(run / "flow.safetensors")
    np.save(tmp_path / "table.npy", values)
    pl.DataFrame(values, schema=["u", "v"]).write_parquet(tmp_path / "table.parquet")
    write(tmp_path / "table.csv", values)
    for suffix, columns in (("npy", ["x0", "x1"]), ("parquet", ["u", "v"]), ("csv", ["x0", "x1"])):
        out = tmp_path / suffix
        result = fit(out, table=tmp_path / f"table.{suffix}")
        assert result.exit_code == 0, result.output
        assert load_extra(out / "flow.safetensors")["columns"] == columns
        flow = library.load(out / "flow.safetensors")
        for ours, theirs in zip(jax.tree.leaves(flow), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_options_reach_the_flow(fit, tmp_path):
    """Coupling layers in float64, no transform."""
    result = fit(
        tmp_path / "a",
        "--objective",
        "auto",
        "--model",
        "coupling",
        "--float64",
        "--transform",
        "none",
        "--depth",
        1,
    )
    assert result.exit_code == 0, result.output
    flow = library.load(tmp_path / "a" / "flow.safetensors")
    assert isinstance(flow, CouplingFlow)
    assert flow.transform is None
    weights = [leaf for leaf in jax.tree.leaves(flow) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {str(leaf.dtype) for leaf in weights} == {"float64"}
    assert len(flow.layers.network) == 2


@pytest.mark.slow
def test_objectives_reach_training(fit, tmp_path):
    result = fit(
        tmp_path / "run", "--objective", "matching", "--transform", "whiten", "--steps", 200
    )
    assert result.exit_code == 0, result.output
    history = pl.read_csv(tmp_path / "run" / "history.csv")
    # The matching loss is no log-density, and no training solve is looked at.
    assert (history["coarse"] == history["validation"]).all()
    assert history["validation"][-1] < history["validation"][0]


@pytest.mark.slow
def test_stochastic_trace_scores_repeat(jaxflow, fit, table, tmp_path):
    result = fit(
        tmp_path / "run",
        *("--field", "concatsquash", "--trace", "hutchinson", "--depth", 1),
        *("--transform", "standardise"),
    )
    assert result.exit_code == 0, result.output
    flow = library.load(tmp_path / "run" / "flow.safetensors")
    assert isinstance(flow.field, library.dynamics.ConcatSquash)
    assert isinstance(flow.transform, library.transforms.Standardise)
    assert (flow.trace, len(flow.field.layers)) == (Hutchinson(), 2)
    for name in ("first.csv", "again.csv"):
        assert jaxflow("score", tmp_path / "run", table, "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()


@pytest.mark.slow
def test_columns_are_looked_at_and_told(fit, write, tmp_path):
    rng = np.random.default_rng(3)
    values = np.stack([rng.poisson(3.0, 300), np.exp(2 * rng.normal(size=300))], axis=1)
    table = write(tmp_path / "counts.csv", values, "count,size")
    result = fit(tmp_path / "run", table=table)
    assert result.exit_code == 0, result.output
    assert "count: steps of 1: dequantised, log_prob is log P" in result.stderr
    assert "size: positive and skewed: logarithm" in result.stderr
    record = load_extra(tmp_path / "run" / "flow.safetensors")
    assert record["transform"].startswith("dequantise, bounded, ")
    flow = library.load(tmp_path / "run" / "flow.safetensors")
    with jax.enable_x64(False):
        drawn = np.asarray(flow.sample(jax.random.key(0), 100))
    np.testing.assert_array_equal(drawn[:, 0], np.round(drawn[:, 0]))
    assert (drawn[:, 1] > 0).all()


def test_the_mean_of_blocks_is_the_mean_and_failed_rows_are_counted():
    values = np.random.default_rng(0).normal(size=1000) + 1e6
    moments = Moments()
    for block in (values[:10], [np.nan], values[10:400], np.empty(0), values[400:], [np.nan] * 2):
        moments.add(np.asarray(block))
    assert (moments.count, moments.failed) == (1003, 3)
    np.testing.assert_allclose(moments.mean, values.mean(), rtol=1e-14)
    assert moments.error is not None
    np.testing.assert_allclose(moments.error, values.std(ddof=1) / 1000**0.5, rtol=1e-9)
    moments.add(np.asarray([-np.inf, 1.0]))
    assert (moments.failed, moments.outside, moments.mean, moments.error) == (3, 1, -np.inf, None)
    nothing = Moments()
    nothing.add(np.full(2, np.nan))
    assert np.isnan(nothing.mean)
    assert nothing.error is None
