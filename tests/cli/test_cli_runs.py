"""A run appears whole, is replaced only when asked, and goes on after an interruption."""

import json
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import jaxflow as library
from jaxflow.io.checkpoint import load_extra
from jaxflow.runtime.progress import Progress


def contents(run):
    return {path.name: path.read_bytes() for path in sorted(run.iterdir())}


@pytest.fixture
def interrupt(monkeypatch):
    """Interrupt the next fit after so many of its ten validations were kept; 0 for before one."""

    def arm(validations, error=KeyboardInterrupt):
        # The bar is told of a validation before its state is kept.
        real, calls = Progress.update, 0

        def update(self, *progress):
            nonlocal calls
            if calls == validations:
                monkeypatch.setattr(Progress, "update", real)
                raise error
            calls += 1
            real(self, *progress)

        monkeypatch.setattr(Progress, "update", update)

    return arm


def assert_same_training(run, expected):
    flows = [library.load(folder / "flow.safetensors") for folder in (run, expected)]
    for ours, theirs in zip(*map(jax.tree.leaves, flows), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    histories = [pl.read_csv(folder / "history.csv").drop("seconds") for folder in (run, expected)]
    assert histories[0].equals(histories[1])


def test_existing_run_is_kept(fit, fitted):
    run, _ = fitted
    before = contents(run)
    result = fit(run)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {run} holds a finished run; add --overwrite to replace it, or choose another "
        "--out\n"
    )
    result = fit(run, "--resume")
    assert result.exit_code == 2
    assert "nothing to resume" in result.stderr
    assert contents(run) == before


def test_interrupted_run_goes_on_as_if_never_interrupted(
    jaxflow, fit, fitted, interrupt, tmp_path
):
    run = tmp_path / "run"
    # Two candidate transforms take three stretches each; the seventh would be the next one.
    interrupt(6)
    result = fit(run)
    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted; repeat the command with --resume to continue\n")
    assert {path.name for path in run.iterdir()} == {
        "run.json",
        "run.toml",
        "state.safetensors",
    }

    assert "interrupted at step 4 of 20" in jaxflow("info", run).stdout
    result = jaxflow("sample", run, "--out", tmp_path / "samples.csv")
    assert result.exit_code == 2
    assert "holds an interrupted run without a flow" in result.stderr
    result = fit(run)
    assert result.exit_code == 2
    assert "add --resume to continue it, or --overwrite to start again" in result.stderr

    result = fit(run, "--resume")
    assert result.exit_code == 0, result.output
    assert "state.safetensors" not in contents(run)
    assert_same_training(run, fitted[0])


def test_resume_wants_the_same_options_and_rows(fit, interrupt, values, write, tmp_path):
    run = tmp_path / "run"
    interrupt(7)
    assert fit(run).exit_code == 130
    before = contents(run)
    other = write(tmp_path / "other.csv", values[::-1], "a,b")
    named = write(tmp_path / "named.csv", values, "a,z")
    for result, said in (
        (fit(run, "--resume", "--learning-rate", 0.5), "--learning-rate None, not 0.5"),
        (fit(run, "--resume", "--columns", "b,a"), "the columns a, b, not b, a"),
        (fit(run, "--resume", table=other), "with other rows, of"),
        (fit(run, "--resume", table=named), "the columns a, b, not a, z"),
    ):
        assert result.exit_code == 2
        assert f"error: {run} was started with" in result.stderr
        assert said in result.stderr
    assert contents(run) == before


def test_interruption_before_any_state_leaves_nothing(fit, interrupt, tmp_path):
    interrupt(0)
    assert fit(tmp_path / "run").exit_code == 130
    assert not (tmp_path / "run").exists()


def test_resume_without_a_run_starts_one(fit, fitted, tmp_path):
    (tmp_path / "run").mkdir()
    assert fit(tmp_path / "run", "--resume").exit_code == 0
    assert_same_training(tmp_path / "run", fitted[0])


@pytest.mark.slow
def test_replaced_run_stays_until_the_new_one_is_done(fit, fitted, interrupt, tmp_path):
    run = tmp_path / "run"
    assert fit(run, "--seed", 1).exit_code == 0
    before = contents(run)

    interrupt(4)
    assert fit(run, "--overwrite").exit_code == 130
    assert contents(run) == before
    # A failed one, too, and it starts anew.
    interrupt(0, library.TrainingError("no validation value was finite"))
    result = fit(run, "--overwrite")
    assert result.exit_code == 1
    assert result.stderr.endswith("error: no validation value was finite\n")
    assert contents(run) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]

    interrupt(4)
    assert fit(run, "--overwrite").exit_code == 130
    result = fit(run, "--overwrite", "--resume")
    assert result.exit_code == 0, result.output
    assert_same_training(run, fitted[0])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert json.loads((run / "run.json").read_text())["settings"]["seed"] == 0


def test_only_runs_are_replaced(fit, tmp_path):
    """Neither a folder of something else nor another's file in a run is ever deleted."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("words")
    for option in ((), ("--overwrite",), ("--resume",)):
        result = fit(folder, *option)
        assert result.exit_code == 2
        assert "is not empty and not a run directory" in result.stderr
    (folder / "run.json").write_text("{}")
    result = fit(folder, "--overwrite")
    assert result.exit_code == 2
    assert "also holds thesis.tex, which --overwrite would delete" in result.stderr
    result = fit(folder / "thesis.tex")
    assert result.exit_code == 2
    assert "is a file; --out must name a folder" in result.stderr
    assert (folder / "thesis.tex").read_text() == "words"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


def test_failed_training_leaves_nothing_and_exits_with_1(fit, interrupt, tmp_path):
    interrupt(4, library.TrainingError("no validation value was finite"))
    result = fit(tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr.endswith("error: no validation value was finite\n")
    assert not (tmp_path / "run").exists()


def test_damaged_record_is_refused(jaxflow, fit, tmp_path):
    for text, said in (("{", "it is not JSON"), ("{}", "it has no entry columns,")):
        (tmp_path / "run.json").write_text(text)
        for result in (fit(tmp_path, "--resume"), jaxflow("info", tmp_path)):
            assert result.exit_code == 2
            assert f"run.json is damaged: {said}" in result.stderr


def test_weights_that_are_not_finite_are_refused(jaxflow, fitted, table, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(fitted[0], run)
    path = run / "flow.safetensors"
    flow = jax.tree.map(
        lambda leaf: leaf * jnp.nan if eqx.is_inexact_array(leaf) else leaf, library.load(path)
    )
    library.save(path, flow, extra=load_extra(path), overwrite=True)
    out = "--out", tmp_path / "out.csv"
    for command in (("score", run, table, *out), ("sample", run, *out), ("check", run, table)):
        result = jaxflow(*command)
        assert result.exit_code == 2
        assert "holds NaN or infinity" in result.stderr
