"""Options from a file, fits that go on with a run's flow, and functions in place of a table."""

import json
import tomllib

import numpy as np
import pytest
from tests.cli.conftest import TINY

TARGET = """
import jax.numpy as jnp

def log_p(x):
    return -0.5 * jnp.sum(((x - 1.0) / jnp.asarray([1.0, 2.0], x.dtype)) ** 2)

def pair(x):
    return x
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    path = tmp_path_factory.mktemp("targets") / "target.py"
    path.write_text(TARGET)
    return path


@pytest.mark.slow
def test_options_may_stand_in_a_file(tmp_path, jaxflow, table, fitted):
    path = tmp_path / "run.toml"
    path.write_text(f'table = "{table}"\nwidth = 4\nsteps = 20\ntransform = "none"\n')
    out = tmp_path / "run"
    assert jaxflow("fit", "--config", path, "--out", out, "--width", 8).exit_code == 0
    kept = tomllib.loads((out / "run.toml").read_text())
    assert kept["width"] == 8
    assert kept["transform"] == "none"
    # A run's own file gives the run again, to the bit.
    again = tmp_path / "again"
    assert jaxflow("fit", "--config", out / "run.toml", "--out", again).exit_code == 0
    flow = "flow.safetensors"
    scores = [np.genfromtxt(run / "history.csv", delimiter=",")[:, :4] for run in (out, again)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (again / flow).stat().st_size > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widht = 8", "unknown option 'widht'"),
        ("width = 8.5", "must be an integer"),
        ("float64 = 1", "must be true or false"),
        ("seed = true", "must be an integer"),
        ("columns = 3", "must be a string"),
        ("width = ", "line 1"),
    ],
)
def test_a_file_of_options_is_checked(tmp_path, jaxflow, table, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text + "\n")
    result = jaxflow("fit", table, "--config", path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_s_flow_goes_on(tmp_path, jaxflow, table, fitted, monkeypatch):
    monkeypatch.setattr("jaxflow.cli.models.REFLOW_PAIRS", 64)
    start, _ = fitted
    out = tmp_path / "straight"
    options = ("--from", start, "--steps", 20)
    result = jaxflow("fit", table, "--out", out, *options, "--objective", "reflow")
    assert result.exit_code == 0, result.output
    assert "from" in tomllib.loads((out / "run.toml").read_text())
    assert jaxflow("info", out).exit_code == 0
    for wrong, message in (
        (("--width", 9), "--width is fixed by the run of --from"),
        (("--objective", "ddpm"), "is not a diffusion model"),
        (("--objective", "reverse-kl"), "leave --from out"),
    ):
        result = jaxflow("fit", table, "--out", tmp_path / "no", *options, *wrong)
        assert result.exit_code == 2
        assert message in result.stderr
    result = jaxflow("fit", table, "--out", tmp_path / "no", "--objective", "reflow")
    assert "add --from RUN" in result.stderr


@pytest.mark.slow
def test_a_function_in_place_of_a_table(tmp_path, jaxflow, target):
    out = tmp_path / "run"
    options = (*TINY, "--objective", "reverse-kl", "--columns", "a,b")
    result = jaxflow("fit", f"{target}:log_p", "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert "log Z" in result.stdout
    assert "log Z" in jaxflow("info", out).stdout
    samples = tmp_path / "samples.csv"
    assert jaxflow("sample", out, "--out", samples, "-n", 5).exit_code == 0
    assert samples.read_text().startswith("a,b\n")


def test_what_is_no_target_is_refused(tmp_path, jaxflow, target):
    options = (*TINY, "--objective", "reverse-kl", "--columns", "a,b")
    for wrong, message in (
        (f"{target}", "write FILE.py:NAME"),
        (f"{target}:no", "has no function 'no'; it has log_p, pair"),
        (f"{target}:pair", "returns shape (2,)"),
        (f"{target}.py:log_p", "no such file"),
    ):
        result = jaxflow("fit", wrong, "--out", tmp_path / "no", *options)
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "no").exists()
    for more in (("--class-column", "a"), ("--transform", "whiten")):
        result = jaxflow("fit", f"{target}:log_p", "--out", tmp_path / "no", *options, *more)
        assert result.exit_code == 2
        assert "leave it out" in result.stderr
    options = ("--objective", "reverse-kl")
    result = jaxflow("fit", f"{target}:log_p", "--out", tmp_path / "no", *options)
    assert "add --columns a,b" in result.stderr


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def p(x):\n    return {'a': 1}['b']\n", ":2: return {'a': 1}['b']: KeyError: 'b'"),
        ("def p(x):\n    raise ValueError('mine')\n", ":2: raise ValueError('mine'): ValueError"),
        ("def p(x):\n    return x @ x[:1]\n", ":2: return x @ x[:1]: TypeError: dot_general"),
        ("def p(x:\n", ":1: def p(x:: SyntaxError: '(' was never closed"),
        ("import nixda\n", ":1: import nixda: ModuleNotFoundError: No module named 'nixda'"),
    ],
)
def test_errors_of_the_users_file_name_its_line(tmp_path, jaxflow, code, says):
    path = tmp_path / "mine.py"
    path.write_text(code)
    options = ("--objective", "reverse-kl", "--columns", "a,b", "--out", tmp_path / "run")
    result = jaxflow("fit", f"{path}:p", *options)
    assert result.exit_code == 1
    assert f"error: {path}{says}" in result.stderr
    assert "Traceback" not in result.stderr


def test_results_for_programs(jaxflow, fitted, table, tmp_path):
    run, _ = fitted
    told = json.loads(jaxflow("--json", "info", run).stdout)
    assert told["settings"]["width"] == 8
    scores = tmp_path / "scores.npy"
    told = json.loads(jaxflow("--json", "score", run, table, "--out", scores).stdout)
    log_p = np.load(scores)[:, 1]
    assert told["rows"] == 200
    np.testing.assert_allclose(told["mean"], log_p.mean(), rtol=1e-12)
    np.testing.assert_allclose(told["mean_se"], log_p.std(ddof=1) / 200**0.5, rtol=1e-9)
    assert "scored" in jaxflow("score", run, table, "--out", scores, "--overwrite").stdout


@pytest.mark.slow
def test_a_run_in_a_few_evaluations(tmp_path, jaxflow, table, fit):
    run, scores = tmp_path / "run", tmp_path / "scores.csv"
    assert fit(run).exit_code == 0
    result = jaxflow("score", run, table, "--out", scores, "--fast")
    assert result.exit_code == 2
    assert "jaxflow distil" in result.stderr
    few = ("--steps", 5, "--trajectories", 256)
    result = jaxflow("distil", run, table, "--evaluations", 2, *few)
    assert result.exit_code == 0, result.output
    assert "median" in result.stdout
    assert jaxflow("distil", run, table).exit_code == 2
    result = jaxflow("score", run, table, "--out", scores, "--fast")
    assert result.exit_code == 0, result.output
    assert "median" in result.stdout
    assert len(scores.read_text().splitlines()) == 201
    samples = tmp_path / "samples.csv"
    assert jaxflow("sample", run, "--out", samples, "-n", 5, "--fast").exit_code == 0
    result = jaxflow(
        "score", run, table, "--out", samples, "--fast", "--with-error", "--overwrite"
    )
    assert "--with-error needs an ODE solve" in result.stderr
