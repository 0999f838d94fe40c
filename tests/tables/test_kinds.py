"""Kinds of table columns: what is found, and cells that go there and back."""

import datetime
import decimal
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest

import jaxflow
from jaxflow.data.delimited import NULLS
from jaxflow.tables.cells import Cells
from jaxflow.tables.frames import read_cells, sort_of
from jaxflow.tables.kinds import Category, Date, Ignored, Number, Whole, kind_of
from jaxflow.tables.plan import Plan
from jaxflow.tables.spacing import cells_matter

RNG, OTHER = np.random.default_rng(4), np.random.default_rng(5)
N = 400


class Case(NamedTuple):
    """A column, its kind, and words of its description."""

    column: Any
    kind: type
    words: str


WORDS = np.array(["oak", "ash", "elm"])[RNG.integers(0, 3, N)]
DAYS = np.datetime64("2026-01-01") + RNG.integers(0, 365, N)
COLUMNS = {
    "text": Case(WORDS, Category, "category with 3 labels"),
    "truth": Case(RNG.random(N) < 0.3, Category, "2 labels: false, true"),
    "two numbers": Case(RNG.integers(0, 2, N), Category, "category with 2 labels"),
    "codes": Case(np.array(["007", "7", "07"])[RNG.integers(0, 3, N)], Category, "3 labels"),
    "large codes": Case(2**53 + RNG.choice([1, 3, 4], N), Category, "90071992547409"),
    "constant": Case(np.full(N, 3.5), Category, "constant, 3.5"),
    "few numbers": Case(np.array([0.12, 5.1, np.pi])[RNG.integers(0, 3, N)], Category, "3 labels"),
    "count": Case(RNG.poisson(4.0, N), Whole, "count: whole numbers from 0 on"),
    "rating": Case(RNG.integers(1, 6, N), Whole, "whole numbers from 1 to 5"),
    "signed": Case(np.round(9 * RNG.normal(size=N)), Whole, "whole numbers"),
    "tenths": Case(np.round(RNG.normal(size=N), 1), Whole, "numbers in steps of 0.1"),
    "in 25s": Case(
        25.0 * np.round(160 + 20 * RNG.normal(size=N)), Whole, "numbers in steps of 25 from 0 on"
    ),
    "large": Case(
        np.floor(np.exp(10 + RNG.normal(size=N))),
        Number,
        "positive: logarithm; samples are rounded to whole numbers",
    ),
    "large and repeated": Case(
        np.floor(np.exp(10 + RNG.normal(size=N // 4)))[RNG.integers(0, N // 4, N)], Whole, "count"
    ),
    "whole degrees": Case(RNG.integers(0, 360, N), Number, "bounded, within (0, 360): logit"),
    "normal": Case(RNG.normal(size=N), Number, "continuous"),
    "positive": Case(np.exp(RNG.normal(size=N)), Number, "positive: logarithm"),
    "share": Case(RNG.uniform(size=N), Number, "bounded, within (0, 1): logit"),
    "with zeros": Case(
        np.where(RNG.random(N) < 0.3, 0.0, np.exp(RNG.normal(size=N))),
        Number,
        "positive: logarithm; exactly 0 has a probability",
    ),
    "days": Case(DAYS, Date, "date, counted in days from 2026-01-0"),
    "ISO days": Case(DAYS.astype(str), Date, "date, counted in days from 2026-01-0"),
    "times": Case(
        DAYS.astype("datetime64[s]") + RNG.integers(1, 9000, N), Date, "counted in seconds from"
    ),
    "hours": Case(
        DAYS.astype("datetime64[h]") + RNG.integers(0, 9000, N), Date, "counted in hours from"
    ),
    "series of years": Case(1700 + np.arange(N) // 2, Whole, "whole numbers from 0 on"),
    "years of many rows": Case(2000 + RNG.integers(0, 30, N), Whole, "whole numbers from 2000 to"),
    "years up to now": Case(
        np.minimum(2014 - RNG.poisson(2.0, N), 2013), Whole, "whole numbers from 0 on"
    ),
    "brackets": Case(
        np.array([2500, 7500, 15000, 35000, 75000, 200000])[RNG.integers(0, 6, N)],
        Category,
        "category with 6 labels",
    ),
    "uneven steps": Case(
        np.array([0.19, 0.22, 0.27, 0.32, 0.72])[RNG.integers(0, 5, N)], Category, "5 labels"
    ),
    "few steps of 2": Case(2 * RNG.integers(0, 4, N), Whole, "numbers in steps of 2 from 0 to 6"),
    "persons": Case(1 + RNG.poisson(1.5, N), Whole, "whole numbers from 1 on"),
    "day of the month": Case(1 + np.arange(N) % 30, Whole, "whole numbers from 1 to 30"),
    "codes of rare ends": Case(
        np.repeat([-1, 0, 1], [32, 96, 272]), Whole, "whole numbers from -1 to 1"
    ),
    "status": Case(np.repeat([1, 2, 3], [110, 262, 28]), Whole, "whole numbers from 1 to 3"),
    "few events": Case(
        np.repeat([0, 1, 2, 3], [241, 121, 30, 8]), Whole, "count: whole numbers from 0 on"
    ),
    "storm hour": Case(
        np.repeat(np.arange(24), [95, *[1] * 5] * 4),
        Whole,
        "whole numbers from 0 to 23",
    ),
    "storm.month": Case(5 + OTHER.poisson(3.0, N).clip(0, 7), Whole, "whole numbers from 1 to 12"),
    "votes": Case(
        np.repeat([0.0, 4.5, 14.5, 24.5, 34.5, 45.5, 84.5], [180, 170, 30, 10, 6, 3, 1]),
        Category,
        "category with 7 labels",
    ),
    "humidity": Case(
        np.minimum(OTHER.gamma(16.0, 5.0, N), 100.0),
        Number,
        "bounded, within (0, 100): logit; exactly 100 has a probability",
    ),
    "humidity that is seldom full": Case(
        np.append([100.0] * 9, OTHER.uniform(20, 80, N - 9)),
        Number,
        "bounded, within (0, 100): logit; exactly 100 has a probability",
    ),
    "percent": Case(
        np.append([0, 100], OTHER.integers(3, 60, N - 2)), Whole, "whole numbers from 0 to 100"
    ),
    "month first": Case(
        [f"{day.month}/{day.day}/{day.year}" for day in DAYS.tolist()],
        Date,
        "date read as month/day/year, counted in days from 2026-01-0",
    ),
    "day first": Case(
        [day.strftime("%d.%m.%Y") for day in DAYS.tolist()],
        Date,
        "date read as day/month/year, counted in days",
    ),
    "weeks": Case(
        np.datetime64("2015-01-04") + 7 * np.arange(N), Date, "in steps of 7 days from 2015-01-"
    ),
    "months": Case(
        (np.datetime64("1992-01") + np.arange(N)).astype("datetime64[D]"),
        Date,
        "counted in months from 1992-0",
    ),
    "month named": Case(
        [day.strftime("%d-%b-%Y").lstrip("0") for day in DAYS.tolist()],
        Date,
        "date, counted in days from 2026-01-0",
    ),
    "digits": Case(
        [int(day.strftime("%Y%m%d")) for day in DAYS.tolist()],
        Date,
        "date read as yyyymmdd, counted in days from 2026-01-0",
    ),
    "minutes": Case(
        [day.strftime("%Y/%m/%d 7:05") for day in DAYS.tolist()],
        Date,
        "date read as year/month/day, counted in steps of 1440 minutes from 2026-01-0",
    ),
    "names": Case([f"row {i}" for i in range(N)], Ignored, "left out: an identifier: 400"),
    "prose": Case(
        [f"Ate {i} apples on a train" for i in range(N)], Ignored, "free text: 400 diff"
    ),
    "laps": Case(
        [f"{i // 60}:{i % 60:02}" for i in range(N)], Ignored, "durations as text: write"
    ),
    "spans": Case([f"{i // 60}h {i % 60} min" for i in range(N)], Ignored, "durations as text"),
    "row number": Case(np.arange(1, 1 + N), Ignored, "left out: an identifier: the number of"),
    "nothing": Case([None] * N, Ignored, "left out: every cell is missing"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_each_kind_is_found_and_described(name):
    case = COLUMNS[name]
    cells = Cells.of(name, case.column)
    kind = kind_of(cells)
    assert type(kind) is case.kind
    assert kind.describe().startswith(case.words) or not case.words.startswith("whole")
    assert case.words in kind.describe()
    # Parts of the table have the same kind: folds do not change it.
    rows = RNG.permutation(N)[:320]
    if case.kind is not Ignored:
        assert type(kind_of(Cells.of(name, np.asarray(case.column)[rows]))) is case.kind


@pytest.mark.parametrize("name", [n for n, c in COLUMNS.items() if c.kind is not Ignored])
def test_cells_come_back(name):
    case = COLUMNS[name]
    cells = Cells.of(name, case.column)
    kind: Any = kind_of(cells)
    codes = kind.encode(cells)
    if isinstance(kind, Number):
        back = kind.decode(codes, kind.states(cells))
        np.testing.assert_allclose(back, np.asarray(case.column), rtol=1e-6)
    elif np.asarray(case.column).dtype.kind == "f":
        np.testing.assert_allclose(kind.decode(codes), case.column)
    else:
        back = kind.decode(codes)
        days = {"minutes": DAYS + np.timedelta64(425, "m")}
        days |= dict.fromkeys(
            ("ISO days", "month first", "day first", "month named", "digits"), DAYS
        )
        expected = days.get(name, np.asarray(case.column))
        np.testing.assert_array_equal(back, expected)
        assert back.dtype.kind == {"U": "O"}.get(expected.dtype.kind, expected.dtype.kind)


@pytest.mark.parametrize(
    ("column", "matter"),
    [
        (RNG.poisson(2.0, N), True),
        (RNG.integers(18, 80, N), True),
        (RNG.geometric(0.01, N), True),
        (np.round(RNG.normal(100, 14, N)), False),
        (np.round(RNG.normal(100, 3, N)), True),
        (np.floor(np.exp(10 + RNG.normal(size=N))), False),
        (RNG.normal(size=N), False),
    ],
)
def test_whole_numbers_whose_cells_matter(column, matter):
    """In a part of the table as in all of it."""
    column = column.astype(float)
    for rows in (slice(None), RNG.permutation(N)[:320], RNG.permutation(N)[:320]):
        assert cells_matter(column[rows]) is matter


@pytest.mark.parametrize("sort", [pd.DataFrame, pl.DataFrame, dict])
@pytest.mark.parametrize("unit", ["D", "h", "m", "s"])
def test_points_in_time_are_written_to_every_frame(sort, unit):
    when = np.datetime64("2026-01-01") + np.arange(1, 50).astype(f"timedelta64[{unit}]")
    frame = sort({"when": when if unit == "D" else when.astype("datetime64[us]")})
    plan = Plan.of(read_cells(frame, ()), {"when": "date"}, (), sort_of(frame))
    back = plan.write(plan.read(frame))
    np.testing.assert_array_equal(np.asarray(back["when"]).astype(f"datetime64[{unit}]"), when)


def test_missing_cells_of_any_type():
    for cells in (
        [None, "a", np.nan, " NA "],
        np.array([np.nan, 1.0, np.nan, np.nan]),
        np.array(["NaT", "2026-01-01", "NaT", "NaT"], "datetime64[D]"),
        [None, True, None, None],
        [None, datetime.date(2026, 1, 1), None, None],
    ):
        found = Cells.of("x", cells, NULLS)
        np.testing.assert_array_equal(found.missing, [True, False, True, True])
        kind: Any = kind_of(found)
        codes = kind.encode(found)
        np.testing.assert_array_equal(np.isnan(codes), found.missing)


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        (["2024-01-31T10:00:00+02:00", "2024-02-01T23:30:00-01:00"], "2024-01-31T08:00"),
        (["2024-01", "2024-03"], "2024-01-01"),
        (["Jan 31, 2024", "December 1 2024"], "2024-01-31"),
        (pd.DataFrame({"x": pd.period_range("2024", periods=3, freq="Q")})["x"], "2024-01-01"),
        (pl.Series([datetime.datetime(2024, 1, 31, 12, tzinfo=datetime.UTC)]), "2024-01-31T12:00"),
        (pd.Series(pd.to_datetime(["2024-01-31"]).tz_localize("Europe/Oslo")), "2024-01-30T23:00"),
        (np.array([20240131, 20240229]), "2024-01-31"),
    ],
)
def test_dates_in_other_words(cells, first):
    sort = pl if isinstance(cells, pl.Series) else pd
    kind = kind_of(read_cells(sort.DataFrame({"x": cells}))["x"])
    assert isinstance(kind, Date)
    assert np.datetime64(kind.origin) == np.datetime64(first)
    assert cells_matter(np.array([20240131.0, 20240229.0]))
    for text in ("20240132", "Jan 2024 3", "31 2024", "1-Jan-24", "2024-13", "12/Foo/2024"):
        assert np.isnat(Cells.of("x", [text]).times("yyyymmdd")).all()


NUMBERS = [f"{x:.3f}" for x in OTHER.normal(100, 9, 59)]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([*NUMBERS, "n/a"], "59 of 60 cells are numbers, 'n/a' is not: --null n/a "),
        ([*NUMBERS, "not known"], "--null 'not known' .in Python null=.'not known'.. for gaps"),
        ([*NUMBERS[:40], *["na"] * 5, "unknown"], "numbers, 'na', 'unknown' are not: --null na"),
        (NUMBERS, "59 of 59 cells are numbers as text: convert them, or name a kind, --kind x="),
        ([f"${x}" for x in NUMBERS], r"59 of 59 cells are numbers with a sign, such as \$"),
        ([f"{i}%" for i in range(99)], "numbers with a sign, such as 0%: write the numbers alone"),
        ([*DAYS[:59].astype(str), "?"], "59 of 60 cells are dates, '\\?' is not: --null '\\?'"),
        (["3/14/2026"] * 9 + [f"{i}/15/2026" for i in range(1, 10)] + ["soon"], "18 of 19 cells"),
    ],
)
def test_numbers_and_dates_with_a_few_words_are_refused(column, words):
    cells = Cells.of("x", np.array(column, object))
    with pytest.raises(ValueError, match=words):
        kind_of(cells)
    assert isinstance(kind_of(cells, "category"), Category)


@pytest.mark.parametrize(
    "column",
    [
        [*["4", "6", "8"] * 20, "3", "rotary"],
        ["00123", *NUMBERS],
        [*NUMBERS[:40], *[f"A/5 {i}" for i in range(10)]],
    ],
)
def test_labels_and_identifiers_may_be_numbers(column):
    assert isinstance(kind_of(Cells.of("x", np.array(column, object))), Category | Ignored)


def test_decimals_and_masked_arrays_are_numbers_and_gaps():
    decimals = [decimal.Decimal("1.25") * i for i in range(60)]
    for frame in (pl.DataFrame({"x": decimals}), pd.DataFrame({"x": decimals})):
        cells = read_cells(frame)["x"]
        assert cells.are_numbers
        assert cells.raw[1] == 1.25
    masked = Cells.of("x", np.ma.array([1.0, 2.0], mask=[True, False]))
    np.testing.assert_array_equal(masked.missing, [True, False])
    assert np.isnan(masked.numbers[0])


def test_times_of_day_and_durations_have_an_outcome():
    times = pl.DataFrame({"x": [datetime.time(i % 24, i) for i in range(60)]})
    assert "durations as text" in kind_of(read_cells(times)["x"]).describe()
    spans = pl.DataFrame({"x": [datetime.timedelta(hours=1)]})
    with pytest.raises(ValueError, match=r"'x' has dtype timedelta64.*write durations as numbers"):
        read_cells(spans)


def test_dates_between_the_steps_have_no_probability():
    months = (np.datetime64("1992-01") + np.arange(30)).astype("datetime64[D]")
    kind: Any = kind_of(Cells.of("x", months))
    np.testing.assert_array_equal(kind.encode(Cells.of("x", ["1993-01-01", None]))[0], 12)
    with pytest.raises(ValueError, match="has 1993-01-02 in row 0: the column is date, counted"):
        kind.encode(Cells.of("x", ["1993-01-02"]))


def test_text_of_dates_whose_month_is_unknown_is_text():
    cells = Cells.of("x", ["1/2/2026", "3/4/2026"] * 30)
    assert isinstance(kind_of(cells), Category)


@pytest.mark.parametrize(
    ("column", "kind", "words"),
    [
        (["a", "b"], "count", "'x' has a in row 0.*not a finite number"),
        ([1.0, 2.5], "count", "has 2.5 in row 1: the column is count"),
        ([1.0, -2.0], "count", "has -2.0 in row 1: beyond the limits"),
        ([0.5, 1.5], (0, 1), r"has 1.5 in row 1: the column is bounded, within \(0, 1\)"),
        ([0.5, -0.5], "positive", "has -0.5 in row 1"),
        ([0.5, 0.7], (1, 0), "limits 1 and 0 are empty"),
        (["yes", "no"], "date", "has yes in row 0.*not a date"),
        (["1/2/2026", "3/4/2026"], "date", "has 1/2/2026 in row 0.*day or month first"),
        ([1.0, 2.0], "colour", "choose category, count, whole, date"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(column, kind, words):
    cells = Cells.of("x", column)
    find: Any = kind_of
    with pytest.raises(ValueError, match=words):
        find(cells, kind).encode(cells)


def test_kinds_by_name():
    numbers = Cells.of("x", RNG.integers(1, 6, N))
    assert isinstance(kind_of(numbers, "category"), Category)
    assert kind_of(numbers, "count") == Whole(lower=0.0)
    assert kind_of(numbers, "whole") == Whole(1.0, 5.0)
    bounded = kind_of(numbers, (0, 6))
    assert isinstance(bounded, Number)
    assert (bounded.lower, bounded.upper) == (0.0, 6.0)
    assert isinstance(kind_of(numbers, "identifier"), Ignored)


def test_samples_have_the_decimals_of_the_cells():
    x = np.round(OTHER.uniform(0.0, 1000.0, N), 2)
    kind = kind_of(Cells.of("price", x))
    assert isinstance(kind, Number)
    codes = (OTHER.uniform(0.0, 900.0, N) - kind.centre) / kind.scale
    drawn = kind.decode(codes, np.zeros(N))
    np.testing.assert_array_equal(drawn, np.round(drawn, 2))
    least = kind.decode(np.array([(1e-4 - kind.centre) / kind.scale]), np.zeros(1))
    assert least[0] == 0.01
    share = kind_of(Cells.of("share", np.round(OTHER.uniform(size=N), 4)))
    assert isinstance(share, Number)
    ends = (np.array([1e-6, 1 - 1e-6]) - share.centre) / share.scale
    np.testing.assert_array_equal(share.decode(ends, np.zeros(2)), [0.0001, 0.9999])
    many = kind_of(Cells.of("x", OTHER.normal(size=N)))
    assert isinstance(many, Number)
    assert many.decimals is None
    old = Number.upgrade_fields({"lower": 0.0, "whole": True})
    assert old == {"lower": 0.0, "first": None, "decimals": 0}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1,500", "999", None], [1500, 999, np.nan]),
        (["1,234,567", "-1,000.5"], [1234567, -1000.5]),
        (["0,125", "1,234"], [0.125, 1.234]),  # 0 begins no group
        (["1,5", "1,234"], [1.5, 1.234]),
        (["1,5e-05", ",25"], [1.5e-05, 0.25]),
    ],
)
def test_commas_group_digits_where_all_of_a_column_can(cells, expected):
    np.testing.assert_array_equal(Cells.of("x", cells).numbers, expected)
    assert Cells.of("x", [*cells, "many"]).text[0] == cells[0]


@pytest.mark.parametrize(("separator", "expected"), [(",", 1500.0), (";", 1.5)])
def test_commas_are_decimal_in_files_separated_otherwise(tmp_path, separator, expected):
    path = tmp_path / "table.csv"
    path.write_text(f'city{separator}income\nOslo{separator}"1,500"\nRome{separator}"2,750"\n')
    assert read_cells(path)["income"].raw[0] == expected


def test_a_first_row_with_a_gap_is_a_row(tmp_path):
    path = tmp_path / "table.csv"
    for word in ("NA", "?", ""):
        path.write_text(f"{word},1.5\n2.0,0.3\n")
        cells = read_cells(path)
        assert list(cells) == ["x0", "x1"]
        np.testing.assert_array_equal(cells["x0"].missing, [True, False])
    path.write_text("a,a\n1,2\n")
    with pytest.raises(ValueError, match=r"duplicate column names \['a'\]"):
        read_cells(path)


@pytest.mark.parametrize("name", ["id", "row_id", "CustomerID", "rownames", "Unnamed: 0"])
def test_numbers_named_as_identifiers_are_left_out(name):
    numbers = np.random.default_rng(0).permutation(5000)[:100]
    assert isinstance(kind_of(Cells.of(name, numbers)), Ignored)
    assert not isinstance(kind_of(Cells.of(name, numbers // 100)), Ignored)
    assert not isinstance(kind_of(Cells.of("amount paid", numbers)), Ignored)


DEPENDENT = {
    "linear": (lambda x, n, city: 2 * x + 1, "'y' from 'x'. "),
    "of counts and labels": (
        lambda x, n, city: 2000 + n / 12 + 0.3 * (city == "a"),
        "'y' from 'n', 'city'. ",
    ),
    "logarithm": (lambda x, n, city: np.log(x), "'x' from 'y'. "),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_columns_that_follow_from_others_have_no_density(name):
    function, words = DEPENDENT[name]
    rng = np.random.default_rng(0)
    x, n, city = np.exp(rng.normal(size=50)), rng.poisson(3.0, 50), rng.choice(["a", "b"], 50)
    frame = {"x": x, "n": n, "city": city, "y": function(x, n, city)}
    with pytest.raises(ValueError, match="columns follow from others: ") as error:
        jaxflow.fit_table(frame, key=jax.random.key(0))
    assert words in str(error.value)
    assert f"--kind {words[1]}=identifier" in str(error.value)


LARGE = [2**53 + 1] * 12 + [2**53 + 3] * 8
SORTS = {
    "array": np.array(LARGE),
    "unsigned": np.array(LARGE, np.uint64),
    "list": LARGE,
    "gap": [*LARGE, None],
    "text": list(map(str, LARGE)),
    "polars": pl.Series([*LARGE, None]),
}


@pytest.mark.parametrize("name", SORTS)
def test_whole_numbers_that_float64_rounds_are_codes(name):
    column = {"id": SORTS[name]}
    (cells,) = read_cells(pl.DataFrame(column) if name == "polars" else column).values()
    kind = kind_of(cells)
    assert isinstance(kind, Category)
    drawn = kind.decode(kind.encode(cells)[~cells.missing])
    assert list(map(int, drawn)) == LARGE


def test_large_whole_numbers_that_occur_once_are_left_out():
    kind = kind_of(Cells.of("key", 2**60 + np.arange(300)))
    assert isinstance(kind, Ignored)
    assert "identifier" in kind.describe()


def test_a_number_that_would_be_rounded_to_an_atom_is_found():
    kind = Number(0.0, np.inf, 0.0, 10.0, atoms=(1.0, 2.0), decimals=0)
    codes, states = np.array([0.01, 0.12, 0.24, 0.26, np.nan]), np.array([0.0, 0, 0, 0, 0])
    np.testing.assert_array_equal(kind.meet_atoms(codes, states), [True, True, True, False, False])
    assert not kind.meet_atoms(codes, np.ones(5)).any()
    assert not replace(kind, decimals=None).meet_atoms(codes, states).any()
