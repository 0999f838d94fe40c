"""Which columns and rows of a table are used, and what is said of the others."""

import numpy as np
import polars as pl
import pytest

from jaxflow.io.checkpoint import load_extra


def scores(jaxflow, run, table, out, *args):
    result = jaxflow("score", run, table, "--out", out, *args)
    assert result.exit_code == 0, result.output
    return pl.read_csv(out), result


def test_columns_are_found_by_name(jaxflow, fitted, table, values, write, tmp_path):
    """In any order, between others, even text, which are named as ignored."""
    run, _ = fitted
    expected, _ = scores(jaxflow, run, table, tmp_path / "expected.csv")
    frame = pl.DataFrame({"id": ["p"] * 200, "b": values[:, 1], "c": 0.0, "a": values[:, 0]})
    frame.write_csv(tmp_path / "wide.csv")
    frame.write_parquet(tmp_path / "wide.parquet")
    for suffix in ("csv", "parquet"):
        found, result = scores(
            jaxflow, run, tmp_path / f"wide.{suffix}", tmp_path / f"out-{suffix}.csv"
        )
        assert found.equals(expected)
        assert "ignored 2 columns: id, c" in result.stderr


def test_columns_without_names_are_taken_by_position(
    jaxflow, fitted, table, values, write, tmp_path
):
    run, _ = fitted
    expected, _ = scores(jaxflow, run, table, tmp_path / "expected.csv")
    write(tmp_path / "bare.csv", values)
    np.save(tmp_path / "bare.npy", values)
    for name in ("bare.csv", "bare.npy"):
        found, _ = scores(jaxflow, run, tmp_path / name, tmp_path / f"out-{name}.csv")
        assert found.equals(expected)


@pytest.mark.slow
def test_run_without_names_takes_named_columns_by_position(
    jaxflow, fit, fitted, table, values, write, tmp_path
):
    write(tmp_path / "bare.csv", values)
    assert fit(tmp_path / "run", table=tmp_path / "bare.csv").exit_code == 0
    found, _ = scores(jaxflow, tmp_path / "run", table, tmp_path / "scores.csv")
    expected, _ = scores(jaxflow, fitted[0], table, tmp_path / "expected.csv")
    assert found.equals(expected)
    write(tmp_path / "three.csv", np.c_[values, values[:, :1]])
    result = jaxflow(
        *("score", tmp_path / "run", tmp_path / "three.csv", "--out", tmp_path / "three-out.csv")
    )
    assert result.exit_code == 2
    assert "expected 2 columns (x0, x1), got 3 (x0, x1, x2)" in result.stderr


@pytest.mark.slow
def test_chosen_columns_of_a_table_without_names(jaxflow, fit, values, write, tmp_path):
    """Then x0, x1, ... are names: the training table can be scored as it is."""
    bare = write(tmp_path / "bare.csv", np.c_[values, values[:, :1]])
    result = fit(tmp_path / "run", "--columns", "x0, x1", table=bare)
    assert result.exit_code == 0, result.output
    assert load_extra(tmp_path / "run" / "flow.safetensors")["columns"] == ["x0", "x1"]
    _, result = scores(jaxflow, tmp_path / "run", bare, tmp_path / "scores.csv")
    assert "ignored 1 column: x2" in result.stderr


def test_missing_columns_are_named(jaxflow, fitted, values, write, tmp_path):
    run, _ = fitted
    for header, rows, said in (
        ("a,z", values, "expected 2 columns (a, b), got 2 (a, z): missing b"),
        ("a", values[:, :1], "expected 2 columns (a, b), got 1 (a): missing b"),
        (None, values[:, :1], "expected 2 columns (a, b), got 1 (x0): missing a, b"),
    ):
        new = write(tmp_path / "new.csv", rows, header)
        result = jaxflow("score", run, new, "--out", tmp_path / "scores.csv")
        assert result.exit_code == 2
        assert result.stderr == f"error: {new}: {said}\n"


def test_incomplete_rows_are_refused_or_dropped(
    jaxflow, fit, fitted, table, values, write, tmp_path
):
    run, _ = fitted
    # As many whole rows as in other tests, so that compiled code is shared.
    broken = np.insert(values, [3, 16], [[np.nan, 1.0], [1.0, np.inf]], axis=0)
    new = write(tmp_path / "new.csv", broken, "a,b")
    refused = [
        jaxflow("score", run, new, "--out", tmp_path / "scores.csv"),
        fit(tmp_path / "run", table=new),
    ]
    for result in refused:
        assert result.exit_code == 2
        assert result.stderr == (
            f"error: {new}: x has NaN or infinity in 2 of 202 rows: rows 3, 17 (from 0), columns "
            "'a', 'b'. Drop them with x[finite_rows(x)], or --drop-nan on the command line\n"
        )
    assert not (tmp_path / "run").exists()

    found, result = scores(jaxflow, run, new, tmp_path / "scores.csv", "--drop-nan")
    assert result.stderr == "dropped 2 of 202 rows with NaN or infinity\n"
    assert found["row"].to_list() == [i for i in range(202) if i not in (3, 17)]
    expected, _ = scores(jaxflow, run, table, tmp_path / "whole.csv")
    np.testing.assert_array_equal(found["log_prob"], expected["log_prob"])

    result = fit(tmp_path / "run", "--drop-nan", table=new)
    assert result.exit_code == 0, result.output
    assert "dropped 2 of 202 rows" in result.stderr
    assert "2 dropped" in result.stdout
    assert result.stdout.endswith("--out samples.csv\n")
    record = load_extra(tmp_path / "run" / "flow.safetensors")
    assert (record["rows"], record["rows_dropped"]) == (200, 2)


def test_no_row_left(jaxflow, fitted, write, tmp_path):
    run, _ = fitted
    new = write(tmp_path / "new.csv", [[np.nan, 1.0], [2.0, np.nan]], "a,b")
    result = jaxflow("score", run, new, "--out", tmp_path / "scores.csv", "--drop-nan")
    assert result.exit_code == 2
    assert result.stderr == f"error: {new}: each of its 2 rows has NaN or infinity\n"


def test_numbers_that_float32_cannot_tell_apart(fit, values, write, tmp_path):
    """Too large ones are refused, coarse ones told, constant ones refused by name."""
    table = write(tmp_path / "table.csv", values * np.array([1e300, 1.0]), "a,b")
    result = fit(tmp_path / "run", table=table)
    assert result.exit_code == 2
    assert "column 'a' holds" in result.stderr
    assert "too large for float32; fit with --float64" in result.stderr

    table = write(tmp_path / "table.csv", values * np.array([1e-300, 1.0]), "a,b")
    result = fit(tmp_path / "run", table=table)
    assert result.exit_code == 2
    assert "too small for float32: multiply it by a constant" in result.stderr

    table = write(tmp_path / "table.csv", values + np.array([1e4, 0.0]), "a,b")
    result = fit(tmp_path / "run", table=table)
    assert result.exit_code == 0, result.output
    assert "warning: float32 rounds a coarsely: large values, small differences" in result.stderr

    table = write(tmp_path / "table.csv", np.c_[values, np.full(200, 1.5)], "a,b,c")
    result = fit(tmp_path / "other", table=table)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: x is constant (to rounding) in 1 column: 'c' = 1.5.")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_dependent_columns_are_named(fit, jaxflow, values, write, tmp_path):
    table = write(tmp_path / "sums.csv", np.c_[values, values.sum(axis=1)], "north,east,total")
    for result in (
        fit(tmp_path / "run", table=table),
        jaxflow("fit", table, "--out", tmp_path / "a"),
    ):
        assert result.exit_code == 2
        assert (
            "error: the columns of x are linearly dependent: column 'total' from" in result.stderr
        )
        assert "drop column 'total'" in result.stderr
