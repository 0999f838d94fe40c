"""`--header` and `--no-header`: whether the first line of a text table has names."""

import polars as pl
import pytest

from jaxflow.data import read_table, table_names
from jaxflow.data.delimited import first_line


@pytest.fixture(scope="module")
def years(fit, values, write, tmp_path_factory):
    """A table whose names are years, and a run on it."""
    folder = tmp_path_factory.mktemp("years")
    table = write(folder / "years.csv", values, "1990,1991")
    result = fit(folder / "run", "--header", table=table)
    assert result.exit_code == 0, result.output
    return table, folder / "run", result


@pytest.mark.slow
def test_names_may_be_numbers(jaxflow, years, tmp_path):
    table, run, result = years
    assert "1990, 1991" in result.stdout
    assert "header = true" in (run / "run.toml").read_text()
    scores = tmp_path / "scores.csv"
    assert jaxflow("score", run, table, "--out", scores).exit_code == 0
    assert len(pl.read_csv(scores)) == 200
    samples = tmp_path / "samples.csv"
    assert jaxflow("sample", run, "--out", samples, "-n", 5).exit_code == 0
    assert samples.read_text().splitlines()[0] == "1990,1991"
    assert jaxflow("score", run, samples, "--out", scores, "--overwrite").exit_code == 0
    assert len(pl.read_csv(scores)) == 5


def test_rows_without_names(jaxflow, years, tmp_path):
    _, run, _ = years
    samples, scores = tmp_path / "samples.csv", tmp_path / "scores.csv"
    result = jaxflow("sample", run, "--out", samples, "-n", 5, "--no-header")
    assert result.exit_code == 0
    assert len(samples.read_text().splitlines()) == 5
    result = jaxflow("score", run, samples, "--out", scores, "--no-header")
    assert result.exit_code == 0, result.output
    assert len(pl.read_csv(scores)) == 5


def test_the_first_line_is_as_said_for_one_file(years, tmp_path):
    table, _, _ = years
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    assert table_names(table) == ("x0", "x1")
    with first_line(table, is_header=True):
        assert table_names(table) == ("1990", "1991")
        assert len(read_table(table).values) == 200
    with first_line(other, is_header=False):
        assert table_names(other) == ("x0", "x1")
        assert len(read_table(table).values) == 201
    assert table_names(other) == ("a", "b")


def test_other_files_have_no_header(jaxflow, tmp_path):
    result = jaxflow("fit", tmp_path / "x.npy", "--out", tmp_path / "run", "--no-header")
    assert result.exit_code == 2
    assert "--no-header is for text tables (.csv, .tsv, .txt)" in result.stderr
