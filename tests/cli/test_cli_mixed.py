"""`jaxflow fit` on tables of text, counts, dates, numbers and gaps."""

import json

import numpy as np
import polars as pl
import pytest

from jaxflow.cli.mixed import read_numbers

RNG = np.random.default_rng(0)
LABELS = "city,visits,day,home,id\n"


def write_people(path, n=200, *, numbers=False):
    """A table of text, counts, dates, a constant, gaps and an identifier."""
    rng = np.random.default_rng(0)
    lines = [LABELS if not numbers else "temp,share," + LABELS]
    for i in range(n):
        city = ["Oslo", "Rome"][int(rng.random() < 0.3)]
        visits, day = rng.poisson(4.0 if city == "Rome" else 1.0), rng.integers(10, 29)
        shown = ["", "NA", "?"][i % 3] if rng.random() < 0.1 else city
        row = f"{shown},{visits},2026-03-{day},Earth,{'x' * (i % 7)}{i}\n"
        if numbers:
            temp = rng.normal(18.0 if city == "Rome" else 5.0)
            row = f"{temp if rng.random() > 0.1 else 'gone'},{rng.uniform()}," + row
        lines.append(row)
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def run(jaxflow, tmp_path_factory):
    """A run on discrete columns, its table, and what its fit printed."""
    folder = tmp_path_factory.mktemp("mixed")
    table = write_people(folder / "people.csv")
    result = jaxflow("fit", table, "--out", folder / "run", "--kind", "city=category")
    assert result.exit_code == 0, result.output
    return folder / "run", table, result


def test_a_table_of_text_gaps_and_constants_is_fitted(run):
    _, _, result = run
    assert "city    category with 2 labels: Oslo, Rome; " in result.stderr
    assert "visits  count: whole numbers from 0 on" in result.stderr
    assert "day     date, counted in days from 2026-03-10" in result.stderr
    assert "home    constant, Earth" in result.stderr
    assert "id      left out: an identifier: 200 different cells in 200 rows" in result.stderr
    assert "product of all columns" in result.stdout


def test_samples_have_the_labels_and_gaps_of_the_table(jaxflow, run, tmp_path):
    folder, _, _ = run
    result = jaxflow("sample", folder, "--out", tmp_path / "new.csv", "-n", 400)
    assert result.exit_code == 0, result.output
    new = pl.read_csv(tmp_path / "new.csv", try_parse_dates=True)
    assert new.columns == ["city", "visits", "day", "home"]
    assert set(new["city"]) == {"Oslo", "Rome", None}
    assert (new["visits"].dtype, new["day"].dtype) == (pl.Int64, pl.Date)
    assert new["visits"].to_numpy().min() >= 0
    given = ("--given", "city=Rome", "--given", "visits=3")
    result = jaxflow("sample", folder, "--out", tmp_path / "rome.csv", "-n", 20, *given)
    assert result.exit_code == 0, result.output
    rome = pl.read_csv(tmp_path / "rome.csv")
    assert set(rome["city"]) == {"Rome"}
    assert set(rome["visits"]) == {3}


def test_rows_are_scored_and_checked(jaxflow, run, tmp_path):
    folder, table, _ = run
    result = jaxflow("score", folder, table, "--out", tmp_path / "scores.csv")
    assert result.exit_code == 0, result.output
    scores = pl.read_csv(tmp_path / "scores.csv")
    assert len(scores) == 200
    assert np.isfinite(scores["log_prob"].to_numpy()).all()
    lowest = scores["log_prob"].to_numpy().argmin()
    assert f"unusual 1  row {lowest}: " in result.stdout
    assert "(missing: " not in result.stdout
    options = "--out", tmp_path / "exact.csv", "--with-error", "--unusual", 0
    result = jaxflow("score", folder, table, *options)
    assert result.exit_code == 0, result.output
    exact = pl.read_csv(tmp_path / "exact.csv")
    assert set(exact["status"]) == {"success"}
    assert exact["ode_error"].max() == exact["trace_se"].max() == 0
    options = "--out", tmp_path / "known.csv", "--drop-nan", "--unusual", 0
    result = jaxflow("score", folder, table, *options)
    known = pl.read_csv(tmp_path / "known.csv")
    assert 0 < len(known) < 200
    picked = scores["log_prob"].to_numpy()[known["row"].to_numpy()]
    np.testing.assert_allclose(known["log_prob"], picked, rtol=1e-6)
    files = {"report": tmp_path / "report.html", "card": tmp_path / "README.md"}
    files["picture"] = tmp_path / "columns.png"
    options = [part for name, path in files.items() for part in (f"--{name}", path)]
    result = jaxflow("check", folder, table, "--rows", 150, *options, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["problems"] == []
    assert files["picture"].stat().st_size > 1000
    page = files["report"].read_text()
    assert f"Tested on 150 rows of {table}: no problem found." in page
    assert "category with 2 labels: Oslo, Rome" in page
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 1
    assert "city" in files["card"].read_text()
    assert "city" in jaxflow("info", folder).stdout


def test_rows_with_gaps_are_scored_and_filled(jaxflow, run, tmp_path):
    folder, _, _ = run
    table, out = tmp_path / "gaps.csv", tmp_path / "out.csv"
    table.write_text("id,visits,city,home\nn1,,Rome,Earth\nn2,3,,Earth\nn3,2,Oslo,Earth\n")
    result = jaxflow("score", folder, table, "--out", out, "--marginal")
    assert result.exit_code == 0, result.output
    assert "has no columns day: their cells count as unknown" in result.stderr
    scores = pl.read_csv(out)
    assert scores.columns == ["row", "log_prob", "log_prob_se"]
    assert np.isfinite(scores.to_numpy()).all()
    result = jaxflow("sample", folder, "--fill", table, "--out", out, "--overwrite")
    assert result.exit_code == 0, result.output
    filled = pl.read_csv(out, try_parse_dates=True)
    assert filled.columns == ["id", "visits", "city", "home", "day"]
    assert filled["id"].to_list() == ["n1", "n2", "n3"]
    assert filled["visits"].to_list()[1:] == [3, 2]
    assert (filled["city"][0], filled["city"][2]) == ("Rome", "Oslo")
    assert filled.null_count().to_numpy().sum() == 0


@pytest.mark.slow
def test_the_columns_and_rows_of_a_run_are_recognised(jaxflow, run, tmp_path):
    _, table, _ = run
    options = "--columns", "city,id,visits", "--drop-nan", "--kind", "city=category"
    result = jaxflow("fit", table, "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    result = jaxflow("check", tmp_path / "run", table)
    assert result.exit_code == 2
    assert "column 'city' has" in result.stderr
    result = jaxflow("check", tmp_path / "run", table, "--drop-nan", "--json")
    assert result.exit_code == 0, result.output
    assert f"the run was fitted to rows of {table}" in result.stderr
    assert 100 < json.loads(result.stdout)["rows"] < 200


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("score", "RUN", "BAD", "--out", "OUT"), "'city' has Paris in row 0: the labels are"),
        (("score", "RUN", "TABLE", "--out", "OUT", "--fast"), "--fast is for tables of numbers"),
        (("sample", "RUN", "--out", "OUT", "--given", "town=x"), r"given names ['town']"),
        (("sample", "RUN", "--out", "OUT", "--given", "town"), "write --given COLUMN=VALUE"),
        (
            ("score", "RUN", "TABLE", "--out", "OUT", "--marginal", "--with-error"),
            "drop --with-error",
        ),
        (("distil", "RUN", "TABLE"), "jaxflow distil is for tables of numbers"),
        (("fit", "TABLE", "--out", "new", "--from", "RUN"), "--from is for tables of numbers"),
        (("fit", "TABLE", "--out", "new", "--kind", "city"), "write --kind COLUMN=KIND"),
        (
            ("fit", "TABLE", "--out", "new", "--kind", "city=0:1"),
            "has Oslo in row 1 (178 such rows)",
        ),
        (("fit", "TABLE", "--out", "new", "--kind", "a=count"), "--kind a=count names 'a', which"),
        (("fit", "TABLE", "--out", "new", "--kind", "city=hue"), "--kind city=hue is unknown"),
        (
            ("fit", "TABLE", "--out", "new", "--given", "city"),
            "RUN --given city=VALUE (TABLE: not",
        ),
        (("sample", "RUN", "--out", "OUT", "--given", "id=x7"), "; 'id' was left out: an identif"),
        (
            ("sample", "RUN", "--out", "OUT", "--fill", "TABLE", "-n", "3"),
            "leave --num and --give",
        ),
        (("score", "RUN", "GAPS", "--out", "OUT"), "(command line: --marginal)"),
        (("score", "RUN", "OTHER", "--out", "OUT", "--marginal"), "no column is one of city, vis"),
        (("score", "RUN", "TABLE", "--out", "OUT", "--marginal", "--percentile"), "whole rows"),
        (("fit", "TABLE", "--out", "new", "--kind", "a=count", "--field", "mlp"), "default model"),
    ],
)
def test_what_does_not_fit_is_refused(jaxflow, run, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.csv"
    bad.write_text("city,visits,day,home\nParis,1,2026-03-12,Earth\n")
    gaps, other = tmp_path / "gaps.csv", tmp_path / "other.csv"
    gaps.write_text("city,visits,day,home\nOslo,,2026-03-12,Earth\n")
    other.write_text("town,x\nOslo,1\n")
    named = {"RUN": run[0], "TABLE": run[1], "BAD": bad, "OUT": tmp_path / "out.csv"}
    named |= {"GAPS": gaps, "OTHER": other}
    result = jaxflow(*(named.get(arg, arg) for arg in args))
    assert result.exit_code == 2, result.output
    assert words.replace("TABLE", str(run[1])) in result.stderr
    assert not (tmp_path / "out.csv").exists()
    assert not (tmp_path / "new").exists()


CELLS = {
    "codes": ("007,7", "category with 2 labels: 007, 7"),
    "exponents": ("1e5,100000,3.25,7.5", "positive"),
    "words": ("NA,5.5,?,-,null,2.25,9.1", "4 cells missing"),
    "truth": ("true,FALSE,True", "category with 2 labels: true, false"),
    "dates": ("2026-01-02,2026-02-03", "date, counted in days from 2026-01-02"),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_of_text_files(name, tmp_path):
    """One outcome for each sort of cell."""
    from jaxflow.tables.frames import read_cells
    from jaxflow.tables.plan import Plan

    text, words = CELLS[name]
    table = tmp_path / "table.csv"
    cells = text.split(",")
    table.write_text("x;y\n" + "".join(f"{cell};1\n" for cell in cells))
    plan = Plan.of(read_cells(table), None, (), "polars")
    assert words in str(plan).splitlines()[0]


def test_decimal_commas_and_quoted_separators(tmp_path):
    from jaxflow.tables.frames import read_cells

    table = tmp_path / "table.csv"
    table.write_text('x;y\n1,5;"a;b"\n-2;c\n')
    cells = read_cells(table)
    np.testing.assert_array_equal(cells["x"].numbers, [1.5, -2.0])
    assert cells["y"].text.tolist() == ["a;b", "c"]


def test_numbers_too_large_for_a_density_are_named(jaxflow, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("x,y\n1e308,a\n-1e308,b\n0.5,c\n")
    result = jaxflow("fit", table, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "column 'x' has 1e+308 in row 0 (2 such rows): too large" in result.stderr


WHOLE = {
    "visits": ({"visits": RNG.poisson(2.0, 50)}, None, ""),
    "incomes": ({"income": np.floor(np.exp(RNG.normal(12, 1, 50)))}, 2, ""),
    "rounded": ({"weight": RNG.normal(100, 14, 50).round()}, 2, ""),
    "heights": ({"height": RNG.normal(1.75, 0.1, 50)}, 2, ""),
    "places": (
        {
            "lat": np.degrees(np.arcsin(RNG.uniform(-1, 1, 50))),
            "lon": RNG.uniform(-180, 180, 50),
            "felt": RNG.poisson(2.0, 50),
        },
        4,
        "whole numbers in felt are fitted by the flow, beside columns on a manifold",
    ),
    "pixels": (
        {f"p{j}": RNG.integers(0, 17, 50) for j in range(40)},
        41,
        "whole numbers in p0, p1, p2, p3 and 36 more are fitted by the flow, being more than 32",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_make_a_table_of_kinds(name, tmp_path, capsys):
    """A flow alone takes the table where it has so many columns, with the note."""
    columns, width, words = WHOLE[name]
    pl.DataFrame(columns | {"x": RNG.normal(size=50)}).write_csv(tmp_path / "table.csv")
    read = read_numbers(tmp_path / "table.csv", None, whole=True, drop_nan=False)
    assert (None if read is None else read.values.shape[1]) == width
    said = capsys.readouterr().err
    assert said.startswith(words)
    assert bool(said) == bool(words)
    assert read_numbers(tmp_path / "table.csv", None, whole=False, drop_nan=False) is not None


@pytest.mark.slow
def test_whole_numbers_are_drawn_within_their_limits(jaxflow, tmp_path):
    """A table of numbers, with a word for one of its kinds and without."""
    age, visits = RNG.integers(18, 80, 200), RNG.poisson(1.0, 200)
    columns = {"age": age, "visits": visits, "height": RNG.normal(1.75, 0.1, 200)}
    table, run, out = tmp_path / "table.csv", tmp_path / "run", tmp_path / "new.csv"
    pl.DataFrame(columns).write_csv(table)
    result = jaxflow("fit", table, "--out", run, "--steps", 25)
    assert result.exit_code == 0, result.output
    assert "visits  count: whole numbers from 0 on" in result.stderr
    assert jaxflow("sample", run, "--out", out, "-n", 2000).exit_code == 0
    new = pl.read_csv(out)
    assert (new["age"].dtype, new["visits"].dtype) == (pl.Int64, pl.Int64)
    assert new["visits"].to_numpy().min() == 0
    assert jaxflow("score", run, out, "--out", tmp_path / "scores.csv").exit_code == 0
    options = "--kind", "age=continuous", "--steps", 25, "--overwrite"
    result = jaxflow("fit", table, "--out", run, *options)
    assert "age     continuous" in result.stderr
    assert jaxflow("sample", run, "--out", out, "-n", 20, "--overwrite").exit_code == 0
    new = pl.read_csv(out)
    assert (new["age"].dtype, new["visits"].dtype) == (pl.Float64, pl.Int64)


@pytest.mark.slow
def test_a_run_repeats_from_its_options(jaxflow, tmp_path):
    table = write_people(tmp_path / "people.csv", numbers=True)
    kinds = ("--kind", "share=0:1", "--null", "gone", "--steps", 25)
    first, again = tmp_path / "first", tmp_path / "again"
    result = jaxflow("fit", table, "--out", first, *kinds)
    assert result.exit_code == 0, result.output
    assert "temp    positive: logarithm; " in result.stderr
    assert "share   bounded, within (0, 1): logit" in result.stderr
    result = jaxflow("fit", table, "--out", again, "--config", first / "run.toml")
    assert result.exit_code == 0, result.output
    scores = []
    for run in (first, again):
        jaxflow("score", run, table, "--out", run / "scores.csv")
        scores.append(pl.read_csv(run / "scores.csv")["log_prob"].to_numpy())
    np.testing.assert_array_equal(*scores)
    result = jaxflow("sample", first, "--out", tmp_path / "new.parquet")
    new = pl.read_parquet(tmp_path / "new.parquet")
    assert new["share"].is_between(0, 1, closed="none").all()
    assert new["temp"].null_count() > 0
