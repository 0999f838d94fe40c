"""`jaxflow check`: the right rows are examined, and a person is told what was found."""

import json

import jax
import numpy as np
import pytest

import jaxflow as library
from jaxflow import diagnostics
from jaxflow.data import split
from jaxflow.io.checkpoint import load_extra
from jaxflow.transforms import Standardise


class Told:
    """An examination that found nothing."""

    problems, verdict, rows, solves = (), (), (), None

    def __str__(self):
        return "told"


@pytest.fixture
def asked(monkeypatch):
    """What the command asks of `diagnose`, which answers at once."""
    calls = []

    def diagnose(flow, data, **settings):
        calls.append({"data": data, **settings})
        return Told()

    monkeypatch.setattr(diagnostics, "diagnose", diagnose)
    return calls


@pytest.fixture(scope="module")
def fresh(write, tmp_path_factory):
    """70 rows of the kind that the run was fitted to, one of them with a NaN."""
    a, noise = np.random.default_rng(1).normal(size=(2, 70))
    values = np.stack([a, a**2 + 0.3 * noise + 5], axis=1)
    values[4, 1] = np.nan
    return write(tmp_path_factory.mktemp("fresh") / "fresh.csv", values, "a,b"), values


def test_rows_keep_their_numbers(jaxflow, fitted, fresh, asked):
    run, _ = fitted
    table, values = fresh
    result = jaxflow("check", run, table)
    assert result.exit_code == 2
    assert "rows 4 (from 0), columns 'b'. Drop them with" in result.stderr
    result = jaxflow(
        *("check", run, table, "--drop-nan", "--rows", 30, "--seed", 5, "--atol-nats", 0.5)
    )
    assert result.exit_code == 0
    told, comparison = result.stdout.split("\n\n")
    assert told == "told"
    assert "20 held-out rows, which also chose the best weights" in comparison
    (call,) = asked
    others = np.delete(np.arange(70), 4)
    np.testing.assert_array_equal(call["row_numbers"], others)
    np.testing.assert_array_equal(call["data"], values[others].astype(np.float32))
    assert (call["num_rows"], call["num_samples"], call["atol_nats"]) == (30, 30, 0.5)
    assert (call["key"] == jax.random.key(5)).all()


def test_of_its_own_table_the_held_out_rows_are_taken(jaxflow, fitted, table, values, asked):
    run, _ = fitted
    result = jaxflow("check", run, table)
    assert result.exit_code == 0, result.output
    held = np.sort(split(200, 0.1, 0)[1])
    np.testing.assert_array_equal(asked[0]["row_numbers"], held)
    np.testing.assert_array_equal(asked[0]["data"], values[held].astype(np.float32))
    assert f"the run was fitted to {table}, so only its 20 held-out rows" in result.stderr
    # They chose the weights: they are not compared as new rows.
    assert "trained nothing" not in result.stdout


def test_refusals_before_any_work(jaxflow, fitted, table, asked, tmp_path):
    run, _ = fitted
    exists = tmp_path / "exists.png"
    exists.write_bytes(b"mine")
    (tmp_path / "folder.png").mkdir()
    for options, said in (
        (("--picture", exists), "exists.png exists; add --overwrite to replace it"),
        (
            ("--picture", tmp_path / "a.csv"),
            "unknown suffix '.csv'; --picture writes .png, .pdf, .svg",
        ),
        (("--picture", tmp_path / "folder.png"), "is a folder; --picture must name a file"),
        (("--picture", tmp_path / "no" / "a.png"), "no such folder"),
    ):
        result = jaxflow("check", run, table, *options)
        assert result.exit_code == 2, said
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert said in result.stderr
        assert result.stdout == ""
    result = jaxflow("check", tmp_path, table)
    assert result.exit_code == 2
    assert "is not a run directory" in result.stderr
    assert asked == []
    assert exists.read_bytes() == b"mine"
    for option, value in (("--rows", 0), ("--seed", -1)):
        result = jaxflow("check", run, table, option, value)
        assert result.exit_code == 2
        assert f"Invalid value for '{option}'" in result.stderr
    help_text = jaxflow("check", "--help").stdout
    for option in ("--picture", "--rows", "--seed", "--drop-nan", "--overwrite", "--atol-nats"):
        assert option in help_text


def check_from_end_to_end(jaxflow, run, fresh, picture):
    picture.write_bytes(b"old")
    result = jaxflow(
        *("check", run, fresh[0], "--drop-nan", "--rows", 60),
        *("--picture", picture, "--overwrite"),
    )
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = result.stdout
    assert text.startswith("rows                 60 of 69, 2 columns, float32; 60 samples\n")
    for line in ("\nmass  ", "\nz, |z|^2  ", "\nsamples, MMD^2  ", "\nverdict: "):
        assert line in text
    assert text.endswith(f"\n\npicture: {picture}\n")
    assert "NaN" not in text
    return text


@pytest.mark.slow
def test_a_coupling_run_is_examined_without_solves(jaxflow, fitted, fresh, tmp_path):
    # A run as fit leaves it, with a flow that is made and not trained.
    record = load_extra(fitted[0] / "flow.safetensors")
    with jax.enable_x64(False):
        transform = Standardise.fit(np.random.default_rng(0).normal(size=(50, 2)))
        flow = library.CouplingFlow(
            2, width=2, depth=1, num_layers=1, transform=transform, key=jax.random.key(0)
        )
        library.save(tmp_path / "flow.safetensors", flow, extra=record)
    text = check_from_end_to_end(jaxflow, tmp_path, fresh, tmp_path / "a.png")
    assert "log-densities need no solve: exact up to rounding" in text
    assert abs(float(text.split("the density integrates to ")[1].split()[0]) - 1) < 1e-3
    assert "!! the encoded data are not N(0, I)" in text
    assert "ODE error" not in text


@pytest.mark.slow
def test_a_continuous_run_is_examined_in_every_respect(jaxflow, fitted, fresh, tmp_path):
    run, _ = fitted
    text = check_from_end_to_end(jaxflow, run, fresh, tmp_path / "a.png")
    assert "log-densities are good to" in text
    assert "60 rows solved again in float64" in text
    assert abs(float(text.split("the density integrates to ")[1].split()[0]) - 1) < 1e-3
    with jax.enable_x64(False):
        flow = library.load(run / "flow.safetensors")
        log_p = np.asarray(flow.log_prob(np.delete(fresh[1], 4, axis=0).astype(np.float32)))
    mean = float(text.split("mean log-density")[1].split("+-")[0])
    assert abs(mean - log_p.mean()) < 0.2


@pytest.mark.slow
def test_a_report_is_one_file_that_loads_nothing(jaxflow, fitted, table, tmp_path):
    run, _ = fitted
    report = tmp_path / "report.html"
    options = ("--report", report, "--rows", 20)
    result = jaxflow("check", run, table, *options)
    assert result.exit_code == 0, result.output
    page = report.read_text()
    for part in ("<h1>run</h1>", "log-density, nats", "stated error, nats", "0 of 20 rows failed"):
        assert part in page
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 3
    assert "http" not in page
    assert jaxflow("check", run, table, *options).exit_code == 2
    told = json.loads(jaxflow("--json", "check", run, table, *options, "--overwrite").stdout)
    assert set(told["problems"]) <= set(told["verdict"])
    assert told["report"] == str(report)


@pytest.mark.slow
def test_the_card_has_the_facts_of_the_run(jaxflow, fitted, fresh, tmp_path):
    run, _ = fitted
    table, _ = fresh
    card = tmp_path / "README.md"
    ask = ("check", run, table, "--drop-nan", "--rows", 20, "--card", card)
    result = jaxflow(*ask)
    assert result.exit_code == 0, result.output
    assert f"card: {card}" in result.stdout
    text, record = card.read_text(), load_extra(run / "flow.safetensors")
    assert f"value: {record['validation']:.6f}\n" in text
    assert f"{record['validation']:.4f} +- {record['validation_se']:.4f} nats a row" in text
    assert "200 rows, 20 of them held out" in text
    assert "1. a\n2. b\n" in text
    assert "estimated over 20 rows, median " in text
    assert jaxflow(*ask).exit_code == 2


def test_the_error_on_a_card_is_that_of_the_solves(fitted):
    from types import SimpleNamespace

    from jaxflow.cli.card import card_of

    run, _ = fitted
    record = load_extra(run / "flow.safetensors")
    solves = {"has_solve": True, "log_prob": np.zeros(4), "failed": {"MAX_STEPS": (1,)}}
    for errors, words in (
        (np.array([1e-5, np.inf, 3e-5, 2e-5]), "over 4 rows, median 2e-05 and at most 3e-05 nats"),
        (None, "not estimated for 4 rows; 1 failed"),
    ):
        card = card_of(run, record, SimpleNamespace(**solves, ode_errors=errors))
        assert words in card.error
        assert card.held_out == record["validation"]
    closed = card_of(run, record, SimpleNamespace(has_solve=False))
    assert "in closed form" in closed.error
    target = record | {"log_z": 0.1, "log_z_se": 0.1, "pareto_k": 0.9, "draws": 9, "effective": 3}
    del target["validation"]
    card = card_of(run, target, SimpleNamespace(has_solve=False))
    assert card.held_out is None
    assert "Pareto k 0.90 above 0.7: unreliable" in card.notes
    none = target | {"log_z_se": None, "pareto_k": None}
    card = card_of(run, none, SimpleNamespace(has_solve=False))
    assert "log Z 0.1000, no Pareto k: unreliable" in card.notes
