"""A table read in blocks equals the table read at once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxflow.data import read_blocks, read_table, table_names, write_table
from jaxflow.data.delimited import delimited_frames, sniff

CELLS = st.sampled_from(["1", "-2.5", "3e4", "", " 7", '"8"', '"a;b"', '"two\nlines"', '"q""q"'])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=8),
    st.booleans(),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.integers(1, 40),
)
def test_text_cells_are_the_same_in_blocks(rows, header, separator, end, size):
    import tempfile
    from pathlib import Path

    lines = [separator.join(row) for row in rows]
    lines = ["a" + separator + "b"] * header + lines
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes((end.join(lines) + end).encode())
        layout = replace(sniff(path), names=("a", "b"))
        try:
            (frame,) = delimited_frames(path, layout, [0, 1], 1 << 20, numbers=False)
        except ValueError:
            return
        blocks = list(delimited_frames(path, layout, [0, 1], size, numbers=False))
    # A missing cell is null or empty text, which read as the same number.
    cells = [row for block in blocks for row in block.fill_null("").rows()]
    assert cells == frame.fill_null("").rows()


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".parquet"])
def test_numbers_are_the_same_in_blocks(tmp_path, suffix):
    values = np.random.default_rng(0).normal(size=(25_000, 3))
    path = tmp_path / f"table{suffix}"
    write_table(path, values, ["a", "b", "c"])
    chosen = ["x2", "x0"] if suffix == ".npy" else ["c", "a"]
    blocks = [block.values for block in read_blocks(path, chosen, rows=1000)]
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate(blocks), values[:, [2, 0]])
    assert table_names(path) == read_table(path).columns


def test_a_bad_cell_is_named_by_its_row_in_the_file(tmp_path):
    path = tmp_path / "table.csv"
    rows = [f"{i},{i}" for i in range(2000)]
    rows[1500] = "1,oops"
    path.write_text("a,b\n" + "\n".join(rows))
    with pytest.raises(ValueError, match="column 'b' has 'oops' in row 1500"):
        list(read_blocks(path, rows=10))


def test_a_quote_left_open_ends_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxflow.data.delimited.LONGEST_CELL", 1000)
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "1,2\n" * 1000 + '1,"2\n' + "1,2\n" * 1000)
    with pytest.raises(ValueError, match="close the quote"):
        list(read_blocks(path, rows=1))


@pytest.mark.parametrize("array", [np.ones(3), np.array(1.0)])
def test_blocks_refuse_an_array_with_the_same_text(tmp_path, array):
    path = tmp_path / "table.npy"
    np.save(path, array)
    with pytest.raises(ValueError, match="shape") as whole:
        read_table(path)
    with pytest.raises(ValueError, match="shape") as blocks:
        list(read_blocks(path))
    assert str(blocks.value) == str(whole.value)
