"""The program itself: its help, its version, its errors, and its start without other settings."""

import inspect
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from tests.cli.conftest import TINY

import jaxflow as library
from jaxflow.cli.app import COMMANDS, load_command
from jaxflow.cli.fit import fit as fit_command
from jaxflow.cli.settings import SIZES, STEPS
from jaxflow.runtime.extras import install_extra


def python(*args, cwd=None, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "JAXFLOW_"))}
    return subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env | {"COLUMNS": "100"} | environment,
        timeout=300,
    )


PROGRAM = "import sys; from jaxflow.cli import main; sys.argv[0] = 'jaxflow'; main()"


def test_version(jaxflow):
    result = jaxflow("--version")
    assert (result.exit_code, result.stdout) == (0, f"jaxflow {library.__version__}\n")


@pytest.mark.parametrize("command", ["fit", "score", "sample", "info"])
def test_every_command_and_option_has_help(jaxflow, command):
    result = jaxflow(command, "--help")
    assert result.exit_code == 0
    assert "run directory" in result.stdout.replace("Run", "run")


def test_defaults_are_the_librarys():
    signature = inspect.signature(fit_command)
    config = library.TrainConfig()
    defaults = {name: each.default for name, each in signature.parameters.items()}
    defaults |= SIZES | {"steps": STEPS}
    for name in ("steps", "batch_size", "learning_rate", "max_seconds"):
        assert defaults[name] == getattr(config, name)
    mlp = inspect.signature(library.dynamics.MLP.__init__)
    for name in ("width", "depth"):
        assert defaults[name] == mlp.parameters[name].default
    chosen = inspect.signature(library.fit_density).parameters
    assert all(signature.parameters[name].default == chosen[name].default for name in SIZES)


def test_refusals_before_any_work(jaxflow, fit, fitted, table, write, values, tmp_path):
    run, _ = fitted
    exists = write(tmp_path / "exists.csv", values, "a,b")
    words = write(tmp_path / "words.csv", values, "a,b")
    words.write_text("a,b\n1,red\n2,blue\n")
    header = tmp_path / "header.csv"
    header.write_text("a,b\n")
    single = write(tmp_path / "single.csv", values[:, :1], "a")
    out, new = ("--out", tmp_path / "out.csv"), tmp_path / "run"
    for result, said in (
        (jaxflow("score", run, table, "--out", exists), "exists; add --overwrite to replace it"),
        (jaxflow("sample", run, "--out", exists), "exists; add --overwrite to replace it"),
        (jaxflow("sample", run, "--out", tmp_path / "s.txt"), "unknown suffix '.txt'"),
        (jaxflow("sample", run, "--out", tmp_path / "no" / "s.csv"), "no such folder"),
        (jaxflow("sample", run, *out, "--sampler", "best"), "--sampler best is unknown; choose"),
        (jaxflow("score", run, header, *out), "a header and no rows"),
        (jaxflow("score", run, tmp_path / "none.csv", *out), "none.csv: no such file"),
        (jaxflow("info", tmp_path / "none"), "none: no such run directory"),
        (jaxflow("info", table), "is a file; name a run directory"),
        (jaxflow("score", tmp_path, table, *out), "is not a run directory: it has no"),
        (fit(new, table=words), "column 'b' has 'red' in row 0"),
        (fit(new, table=words), "(command line: --columns a,b)"),
        (fit(new, table=tmp_path / "none.csv"), "none.csv: no such file"),
        (fit(new, "--columns", "a,c"), "no columns ['c']; the file has ['a', 'b']"),
        (fit(new, "--validation", 0), "--validation=0.0 must lie between 0 and 1"),
        (fit(new, "--learning-rate", 0), "learning_rate=0.0 must be positive"),
        (fit(new, "--field", "best"), "--field best is unknown; choose one of auto, mlp,"),
        (
            fit(new, "--model", "coupling", "--trace", "exact"),
            "--trace exact requires --model cnf",
        ),
        (
            fit(new, "--objective", "auto", "--model", "coupling", table=single),
            "needs at least 2 columns, got 1",
        ),
    ):
        assert result.exit_code == 2, said
        assert result.stderr.startswith("error: ")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
    for result, option in (
        (jaxflow("sample", run, *out, "-n", 0), "--num"),
        (jaxflow("sample", run, *out, "--seed", -1), "--seed"),
        (fit(new, "--validation", 1.5), "--validation"),
        (fit(new, "--steps", 0), "--steps"),
        (fit(new, "--width", 0), "--width"),
    ):
        assert result.exit_code == 2
        assert f"Invalid value for '{option}'" in result.stderr.replace("'-n' / ", "")
    assert not new.exists()
    assert not (tmp_path / "out.csv").exists()
    assert exists.read_bytes().startswith(b"a,b\n")


def test_output_is_replaced_when_asked(jaxflow, fitted, tmp_path):
    out = tmp_path / "samples.csv"
    out.write_text("old")
    result = jaxflow("sample", fitted[0], "-n", 2, "--out", out, "--overwrite")
    assert result.exit_code == 0, result.output
    assert len(pl.read_csv(out)) == 2


def test_traceback_when_asked(jaxflow, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFLOW_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="no such run directory"):
        jaxflow("info", tmp_path / "none")


def test_one_line_without_typer():
    result = python("-c", f"import sys; sys.modules['typer'] = None; {PROGRAM}")
    assert result.returncode == 1
    assert result.stderr == f"the command line needs typer: {install_extra('cli')}\n"


def test_help_of_the_program_loads_no_jax():
    code = (
        "import sys; from typer.testing import CliRunner; from jaxflow.cli.app import app; "
        "print(CliRunner().invoke(app, ['--help']).stdout); sys.exit('jax' in sys.modules)"
    )
    result = python("-c", code)
    assert (result.returncode, result.stderr) == (0, "")
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_listed_help_is_the_first_line_of_the_command(name):
    assert load_command(name).help.splitlines()[0] == COMMANDS[name][1]


def test_commands_start_no_jax_backend():
    """`jaxflow.join_processes` must come before it."""
    code = (
        "from jaxflow.cli.app import COMMANDS, load_command; from jax._src import xla_bridge; "
        "[load_command(name) for name in COMMANDS]; print(xla_bridge._backends)"
    )
    assert python("-c", code).stdout == "{}\n"


@pytest.mark.slow
def test_program_on_its_own(fitted, table, tmp_path):
    """In JAX's default settings, from another folder, the numbers are the same."""
    run, _ = fitted
    result = python(
        *("-c", PROGRAM, "fit", table, "--out", "runs/b", *map(str, TINY)),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("jaxflow sample runs/b --out samples.csv\n")
    ours, theirs = (
        pl.read_csv(folder / "history.csv") for folder in (tmp_path / "runs" / "b", run)
    )
    np.testing.assert_array_equal(ours["step"], theirs["step"])
    np.testing.assert_allclose(ours["validation"], theirs["validation"], rtol=1e-6)

    result = python("-c", PROGRAM, "info", "runs/c", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: runs/c: no such run directory; create one with jaxflow fit\n"
