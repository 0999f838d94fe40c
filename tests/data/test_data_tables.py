"""Tables survive a round trip through a file; anything else than numbers raises."""

import datetime
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from jaxflow.data import Table, read_table, write_table

NAMES = ("a", "b")


@pytest.fixture
def hard_values():
    """Doubles with all exponents, and those that text loses most easily."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 2)) * 10.0 ** rng.integers(-300, 300, (2000, 2))
    values[:5] = [
        [0.1, 1 / 3],
        [5e-324, np.finfo(float).max],
        [-0.0, np.nan],
        [np.inf, -np.inf],
        [0.1 + 0.2, 2.0**53 + 2],
    ]
    return values


def _write(path, text):
    path.write_bytes(text.encode())
    return path


# Round trips


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".parquet", ".CSV"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_exact(tmp_path, hard_values, suffix, dtype):
    with np.errstate(over="ignore", under="ignore"):
        values = hard_values.astype(dtype)
    path = tmp_path / f"t{suffix}"
    write_table(path, values, NAMES)
    table = read_table(path)
    # Text does not record a precision; every float32 is a float64.
    text = suffix.lower() == ".csv"
    assert table.values.dtype == (np.float64 if text else dtype)
    np.testing.assert_array_equal(table.values, values)
    np.testing.assert_array_equal(np.signbit(table.values[2, 0]), True)
    assert table.columns == (("x0", "x1") if suffix == ".npy" else NAMES)
    assert table.values.flags.c_contiguous
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "names",
    [
        ("a,b", 'the "c"', "conc; 1", "two\nlines", "x y", "é"),
        ("a;b",),
        ("a\tb",),
        ("two\nlines",),
    ],
)
def test_names_with_delimiters_quotes_and_line_breaks_survive(tmp_path, names):
    values = np.arange(2.0 * len(names)).reshape(2, len(names))
    for suffix in (".csv", ".parquet"):
        write_table(tmp_path / f"t{suffix}", values, names)
        table = read_table(tmp_path / f"t{suffix}")
        assert table.columns == names
        np.testing.assert_array_equal(table.values, values)


def test_one_column_round_trip_keeps_missing_rows(tmp_path):
    values = np.array([[1.0], [np.nan], [3.0], [np.nan]])
    write_table(tmp_path / "t.csv", values, ["a b"])
    table = read_table(tmp_path / "t.csv")
    assert table.columns == ("a b",)
    np.testing.assert_array_equal(table.values, values)


def test_integers_and_booleans_become_float64(tmp_path):
    np.save(tmp_path / "i.npy", np.arange(4, dtype=np.int32).reshape(2, 2))
    np.save(tmp_path / "b.npy", np.eye(2, dtype=bool))
    np.save(tmp_path / "h.npy", np.eye(2, dtype=np.float16))
    np.save(tmp_path / "big_endian.npy", np.eye(2, dtype=">f4"))
    pl.DataFrame({"a": [1, None], "b": [True, False]}).write_parquet(tmp_path / "p.parquet")
    expected = {
        "i.npy": [[0, 1], [2, 3]],
        "b.npy": np.eye(2),
        "h.npy": np.eye(2),
        "p.parquet": [[1, 1], [np.nan, 0]],
    }
    for name, values in expected.items():
        table = read_table(tmp_path / name)
        assert table.values.dtype == np.float64
        np.testing.assert_array_equal(table.values, values)
    assert read_table(tmp_path / "big_endian.npy").values.dtype == np.float32


def test_parquet_of_two_precisions_is_float64(tmp_path):
    frame = pl.DataFrame({"a": [0.1], "b": [0.1]}, schema={"a": pl.Float32, "b": pl.Float64})
    frame.write_parquet(tmp_path / "p.parquet")
    np.testing.assert_array_equal(
        read_table(tmp_path / "p.parquet").values, [[np.float64(np.float32(0.1)), 0.1]]
    )


# Text: header, delimiter, missing cells


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a,b\n1,2\n3,4\n", NAMES),
        ("1,2\n3,4\n", ("x0", "x1")),
        ("1e0,+2\n3.,4", ("x0", "x1")),
        ("a,2\n1,2\n3,4\n", ("a", "2")),
        ("\ufeffa,b\r\n1,2\r\n3,4\r\n", NAMES),
        ("\n\na,b\n\n1,2\n\n3,4\n\n", NAMES),
        (" a , b\n 1, 2 \n3 ,4\n", NAMES),
        ('"a","b"\n1,2\n3,4\n', NAMES),
        ('"a","b"\n"1","2"\n\n"3",4\n', NAMES),
        ("a\tb\n1\t2\n3\t4\n", NAMES),
        ("a;b\n1;2\n3;4\n", NAMES),
        ("a;b\n1,0;2\n3;+4,0e0\n", NAMES),
        ("1,0;2,0\n3;4\n", ("x0", "x1")),
        ("a\tb\n 1,0\t2\n3\t4\n", NAMES),
        ("a b\n1 2\n3 4\n", NAMES),
        ("  1   2\n  3   4\n", ("x0", "x1")),
        ("a,b\r1,2\r3,4\r", NAMES),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_header_and_delimiter_are_found(tmp_path, text, columns, suffix):
    table = read_table(_write(tmp_path / f"t{suffix}", text))
    assert table.columns == columns
    np.testing.assert_array_equal(table.values, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,\n,4\n", [[1, np.nan], [np.nan, 4]]),
        ("1,\n3,4\n", [[1, np.nan], [3, 4]]),
        ('a,b\n1,""\n3," "\n', [[1, np.nan], [3, np.nan]]),
        ("a,b\nnan,inf\n-inf,NaN\n", [[np.nan, np.inf], [-np.inf, np.nan]]),
        ("a\n1\n\n3\n", [[1], [np.nan], [3]]),
        ('a\n"1"\n\n"3"\n', [[1], [np.nan], [3]]),
    ],
)
def test_empty_cells_are_nan(tmp_path, text, expected):
    path = _write(tmp_path / "t.csv", text)
    np.testing.assert_array_equal(read_table(path).values, expected)


def test_numpy_text_reads_back(tmp_path):
    values = np.random.default_rng(1).normal(size=(20, 3))
    np.savetxt(tmp_path / "t.txt", values)
    np.testing.assert_array_equal(read_table(tmp_path / "t.txt").values, values)


def test_columns_are_chosen_in_the_order_asked(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    for suffix, names in ((".csv", "abc"), (".parquet", "abc"), (".npy", ("x0", "x1", "x2"))):
        path = tmp_path / f"t{suffix}"
        write_table(path, values, tuple(names))
        table = read_table(path, columns=[names[2], names[0]])
        assert table.columns == (names[2], names[0])
        np.testing.assert_array_equal(table.values, values[:, [2, 0]])


def test_text_columns_can_be_left_out(tmp_path):
    path = _write(tmp_path / "t.csv", ",name,a,b\n0,p,1,2\n1,q,3,4\n")
    np.testing.assert_array_equal(read_table(path, columns=NAMES).values, [[1, 2], [3, 4]])


# Text: refusals


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"t\.csv: the file is empty"),
        ("\n \n", "the file is empty"),
        ("a,b\n", "a header and no rows"),
        ("a,b\n1,2\n3\n", "line 3 has 1 field, but the first line has 2"),
        ("a,b\n1\n", "line 2 has 1 field, but the first line has 2"),
        ("\na,b\n1,2\n\n3,4,5\n", "line 5 has 3 fields, but the first line has 2"),
        ("1,2\n3\n", "line 2 has 1 field, but the first line has 2"),
        ('a,b\n"1",2\n3,"4",5\n', "line 3 has 3 fields, but the first line has 2"),
        ("a,b,a\n1,2,3\n", r"duplicate column names \['a'\]"),
        ("\t\n1\t2\n", r"duplicate column names \[''\]"),
        (",a\n0,1\n", "column 0 has no name.*index=False"),
        (
            "a,b,c\n1,p,2\n3,q,x\n",
            "column 'b' has 'p' in row 0; column 'c' has 'x' in row 1.*columns=",
        ),
        ("a,b\n1,2\n,NA\n", "column 'b' has 'NA' in row 1.*leave a missing cell empty"),
        ('a,b\n1,2\n3,"1,000"\n', "column 'b' has '1,000' in row 1"),
        ("a,b\n1_0,2\n", "column 'a' has '1_0' in row 0"),
        (",".join(f"c{i}" for i in range(12)) + "\n" + ",".join("z" * 12), "'c9' .*; and 2 more"),
    ],
)
def test_bad_text_is_refused(tmp_path, text, match):
    with pytest.raises(ValueError, match=match):
        read_table(_write(tmp_path / "t.csv", text))


def test_a_column_that_occurs_twice_is_named(tmp_path):
    path = _write(tmp_path / "t.csv", "a,b,a\n1,2,3\n")
    with pytest.raises(ValueError, match=r"duplicate column names \['a'\]"):
        read_table(path, ["a", "b"])


def test_commas_that_are_no_decimal_commas_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"column 'a' has '1\.500,25' in row 0"):
        read_table(_write(tmp_path / "t.csv", "a;b\n1.500,25;1\n"))


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("é,b\n1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.csv: not UTF-8 text"):
        read_table(tmp_path / "t.csv")


def test_parquet_of_other_types_is_refused(tmp_path):
    dates = pl.DataFrame({"a": [1.0], "when": [datetime.date(1970, 1, 1)]})
    dates.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"'when' has datetime\.date\(1970, 1, 1\) in row 0"):
        read_table(tmp_path / "t.parquet")
    pl.DataFrame({"s": [None, "p"]}).write_parquet(tmp_path / "s.parquet")
    with pytest.raises(ValueError, match="column 's' has 'p' in row 1"):
        read_table(tmp_path / "s.parquet")
    _write(tmp_path / "u.parquet", "not parquet at all")
    with pytest.raises(ValueError, match=r"u\.parquet: not a Parquet file"):
        read_table(tmp_path / "u.parquet")
    pl.DataFrame({"a": []}, schema={"a": pl.Float64}).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(ValueError, match="the table has no rows"):
        read_table(tmp_path / "v.parquet")


# NumPy


def test_npz_takes_x_or_the_only_table(tmp_path):
    x, y = np.eye(3), np.zeros((2, 2))
    np.savez(tmp_path / "named.npz", x=x, y=y)
    np.savez(tmp_path / "only.npz", data=x, labels=np.arange(3), names=np.array([["a"]]))
    np.savez_compressed(tmp_path / "objects.npz", data=x, extra=np.array([None], dtype=object))
    for name in ("named.npz", "only.npz", "objects.npz"):
        np.testing.assert_array_equal(read_table(tmp_path / name).values, x)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"y": np.eye(2), "z": np.eye(2)}, r"several .* \['y', 'z'\]; save the one to read as x"),
        ({"y": np.ones(2)}, r"no \(n, d\) array of numbers among \['y'\]"),
        ({"x": np.ones(2), "y": np.eye(2)}, r"\['x'\]: 1-d, shape \(2,\).*x\[:, None\]"),
        ({"x": np.array([[None]])}, r"\['x'\]: an array of Python objects"),
    ],
)
def test_unclear_npz_is_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(ValueError, match=match):
        read_table(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.array([[1, "a"]], dtype=object), r"Python objects, which is never unpickled"),
        (np.arange(3.0), r"1-d, shape \(3,\); reshape to rows with x\[:, None\]"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\); a table is \(n, d\)"),
        (np.zeros((2, 0)), "d at least 1"),
        (np.zeros((0, 2)), "the table has no rows"),
        (np.eye(2) * 1j, "dtype complex128 is not real numbers"),
        (np.array([["a"]]), "is not real numbers"),
        (np.zeros((2, 1), dtype=[("a", float)]), "is not real numbers"),
        (np.eye(2, dtype=np.longdouble), "that fit float64"),
    ],
)
def test_bad_npy_is_refused(tmp_path, array, match):
    np.save(tmp_path / "t.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=match) as caught:
        read_table(tmp_path / "t.npy")
    assert "\n" not in str(caught.value)
    assert "t.npy" in str(caught.value)


def test_damaged_numpy_files_are_refused(tmp_path):
    np.save(tmp_path / "whole.npy", np.eye(50))
    np.savez(tmp_path / "whole.npz", x=np.eye(50))
    for suffix in (".npy", ".npz"):
        whole = (tmp_path / f"whole{suffix}").read_bytes()
        (tmp_path / f"half{suffix}").write_bytes(whole[: len(whole) // 2])
        _write(tmp_path / f"text{suffix}", "1,2\n")
        for name in ("half", "text"):
            with pytest.raises(ValueError, match=f"{name}.*: not a complete NumPy file") as caught:
                read_table(tmp_path / f"{name}{suffix}")
            assert "allow_pickle" not in str(caught.value)


# Paths, columns, writing


def test_bad_paths_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"unknown suffix '\.xlsx'; a table is \.csv.*\.parquet"):
        read_table(tmp_path / "t.xlsx")
    with pytest.raises(ValueError, match="unknown suffix ''"):
        read_table(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="not a file"):
        read_table(tmp_path / "folder.csv")
    for suffix in (".npy", ".npz", ".parquet"):
        with pytest.raises(ValueError, match="the file is empty"):
            read_table(_write(tmp_path / f"t{suffix}", ""))


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        (["a", "c"], r"no columns \['c'\]; the file has \['a', 'b'\]"),
        ("a", r"columns='a' is one string; write columns=\['a'\]"),
        ([], "keeps nothing"),
        (["a", "a"], r"columns: duplicate column names \['a'\]"),
    ],
)
def test_bad_choice_of_columns_is_refused(tmp_path, columns, match):
    path = _write(tmp_path / "t.csv", "a,b\n1,2\n")
    with pytest.raises(ValueError, match=match):
        read_table(path, columns=columns)


def test_nothing_is_overwritten_unasked(tmp_path):
    for suffix in (".csv", ".npy", ".parquet"):
        path = tmp_path / f"t{suffix}"
        path.write_text("precious")
        with pytest.raises(FileExistsError, match="pass overwrite=True to replace it"):
            write_table(path, np.eye(2), NAMES)
        assert path.read_text() == "precious"
        write_table(path, np.eye(2), NAMES, overwrite=True)
        np.testing.assert_array_equal(read_table(path).values, np.eye(2))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "t.npy"
    write_table(path, np.eye(2), NAMES)

    def half_a_write(file, *_, **__):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", half_a_write)
    with pytest.raises(OSError, match="disk full"):
        write_table(path, np.zeros((2, 2)), NAMES, overwrite=True)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["t.npy"]
    np.testing.assert_array_equal(read_table(path).values, np.eye(2))


@pytest.mark.parametrize(
    ("name", "values", "columns", "match"),
    [
        ("t.npz", np.eye(2), NAMES, r"unknown suffix '\.npz'; write \.csv, \.npy, \.parquet"),
        ("t.csv", np.eye(2), ("a",), "1 names for 2 columns"),
        ("t.csv", np.eye(2), ("a", "a"), r"duplicate column names \['a'\]"),
        ("t.csv", np.eye(2), ("a", ""), "column 1 has no name"),
        ("t.csv", np.eye(2), ("0", "1"), "are all numbers"),
        ("t.csv", np.ones(2), NAMES, r"values: 1-d.*x\[:, None\]"),
        ("t.npy", np.array([[None]]), ("a",), "array of Python objects"),
    ],
)
def test_bad_writes_are_refused(tmp_path, name, values, columns, match):
    with pytest.raises(ValueError, match=match):
        write_table(tmp_path / name, values, columns)
    assert os.listdir(tmp_path) == []


def test_writing_into_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none: no such folder"):
        write_table(tmp_path / "none" / "t.csv", np.eye(2), NAMES)


def test_table_checks_itself():
    with pytest.raises(ValueError, match=r"shape \(2,\) and dtype float64; a table holds"):
        Table(np.ones(2), ("a",))
    with pytest.raises(ValueError, match="dtype int64"):
        Table(np.ones((2, 1), int), ("a",))
    with pytest.raises(ValueError, match="2 names for 1 columns"):
        Table(np.ones((2, 1)), NAMES)


def test_import_needs_neither_polars_nor_scikit_learn(tmp_path):
    np.save(tmp_path / "t.npy", np.eye(2))
    _write(tmp_path / "t.csv", "1,2\n")
    code = """
import sys
sys.modules["polars"] = sys.modules["sklearn"] = None
from jaxflow.data import breast_cancer, read_table
assert read_table("t.npy").values.shape == (2, 2)
for call in (lambda: read_table("t.csv"), breast_cancer):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "need polars: pip install '.[cli]'" in result.stdout
    assert "need scikit-learn: pip install '.[demo]'" in result.stdout
