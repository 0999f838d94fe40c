"""Delimited text (CSV, TSV, columns between spaces) as data frames of strings."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from jaxflow.data.frames import import_polars

if TYPE_CHECKING:
    import polars

# Lines that tell the separator are looked for in so many characters.
HEAD = 1 << 20
# A longer line, read block by block, is a mistake.
LONGEST_LINE = 1 << 26


def read_delimited(path: Path) -> tuple["polars.DataFrame", tuple[str, ...]]:
    """Read the cells of a text table, and the columns' names ("" for one without a name).

    The delimiter is the first of tab, semicolon, comma and space that the first two lines use
    equally often. A first line of numbers alone is data, and the columns are then called x0,
    x1, ...; any other first line is a header. The frame's own names are x0, x1, ... either way.

    Raises:
        ValueError: the file is not UTF-8 text, is empty, has a header and no rows, or has a
            line with another number of fields than the first.
    """
    return next(delimited_blocks(path))


def delimited_blocks(
    path: Path, size: int = -1
) -> Iterator[tuple["polars.DataFrame", tuple[str, ...]]]:
    """What `read_delimited` reads, some rows at a time: about `size` characters; -1 for all."""
    layout = None
    try:
        # Line breaks of every kind are read as one.
        with path.open(encoding="utf-8-sig", newline=None) as file:
            for text, line_num in _whole_lines(file, size, path):
                lines = text.split("\n")
                if layout is None:
                    layout = _layout(lines, line_num, path)
                    lines, line_num = lines[layout.skipped :], line_num + layout.skipped
                    if not any(line.strip(" ") for line in lines):
                        raise ValueError(f"{path}: a header and no rows")
                yield _cells(lines, layout, line_num, path), layout.names
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save the table as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a delimited table ({error})") from None
    if layout is None:
        raise ValueError(f"{path}: the file is empty")


def delimited_names(path: Path) -> tuple[str, ...]:
    """The names of a text table's columns, from its first lines."""
    return next(delimited_blocks(path, HEAD))[1]


def header_line(names: Sequence[str]) -> str:
    """The header of a CSV file, quoted wherever `read_delimited` might split or join a name."""
    quoted = [
        '"' + name.replace('"', '""') + '"' if re.search(r'[\s,;"]', name) else name
        for name in names
    ]
    return ",".join(quoted) + "\n"


def is_number(field: str) -> bool:
    """Whether a field of a text table reads as a number (nan and inf do)."""
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field  # Python reads 1_0 as ten; tables do not


@dataclass(frozen=True)
class _Layout:
    """How a text table is written: what is between cells, names, and lines before its rows."""

    separator: str
    names: tuple[str, ...]
    skipped: int


def _whole_lines(file: IO[str], size: int, path: Path) -> Iterator[tuple[str, int]]:
    """Text that ends with a line and outside of quotes, and the number of its first line.

    Blank lines before the table and after it are left out.
    """
    rest, line_num = "", 1
    while True:
        more = file.read(size)
        text = rest + more
        end = _line_end(text) if more and size > 0 else len(text)
        # Blank lines at the end may be the file's last ones.
        whole = text[:end].rstrip(" \n")
        rest = text[len(whole) :]
        if line_num == 1:
            line_num += len(whole) - len(whole.lstrip("\n"))
            whole = whole.lstrip("\n")
        if whole:
            yield whole, line_num
            line_num += whole.count("\n") + 1
            # What is left of the last line: its break, and spaces before it.
            rest = rest.partition("\n")[2]
        if not more or size < 0:
            return
        if len(rest) > LONGEST_LINE:
            raise ValueError(
                f"{path}: no line ends in {len(rest)} characters after line {line_num - 1}; is a "
                "quote left open?"
            )


def _line_end(text: str) -> int:
    """Where the last line ends that is outside of quotes; 0 if none does."""
    end = text.rfind("\n")
    quotes = text.count('"', 0, max(end, 0))
    while end > 0 and quotes % 2:
        before = text.rfind("\n", 0, end)
        quotes -= text.count('"', max(before, 0), end)
        end = before
    return max(end, 0)


def _layout(lines: list[str], line_num: int, path: Path) -> _Layout:
    separator = _separator(lines)
    # A quoted name may hold a line break, so the csv module says where the header ends.
    reader = csv.reader((f"{_squeezed(line, separator)}\n" for line in lines), delimiter=separator)
    first = [field.strip() for field in next(reader)]
    if _is_data(first):
        return _Layout(separator, tuple(f"x{i}" for i in range(len(first))), 0)
    return _Layout(separator, tuple(first), reader.line_num)


def _cells(lines: list[str], layout: _Layout, line_num: int, path: Path) -> "polars.DataFrame":
    lines = [_squeezed(line, layout.separator) for line in lines]
    parse = _parse_quoted if any('"' in line for line in lines) else _parse_plain
    return parse(lines, layout.separator, len(layout.names), line_num, path)


def _squeezed(line: str, separator: str) -> str:
    """A line of columns between spaces, with one space between two."""
    return " ".join(line.split()) if separator == " " else line


def _is_data(fields: list[str]) -> bool:
    """Whether the first line is a row: numbers, and perhaps missing cells, alone."""
    filled = [field for field in fields if field]
    return bool(filled) and all(is_number(field) for field in filled)


def _separator(lines: list[str]) -> str:
    # Joined, since a quoted name may hold line breaks as well as separators.
    text = re.sub(r'"[^"]*"', "", "\n".join(lines[:50]))
    bare = [line.strip(" ") for line in text.split("\n") if line.strip(" ")][:2] or [""]
    # Both lines are asked, since a name in the header may hold a semicolon or a space.
    for candidate in "\t;,":
        if candidate in bare[0] and len({line.count(candidate) for line in bare}) == 1:
            return candidate
    if all(" " in line and "," not in line for line in bare):
        return " "
    # A ragged table: split at what there is, so that the error can count the fields.
    return next((candidate for candidate in "\t;," if candidate in bare[0]), ",")


def _check_width(found: int, width: int, line_num: int, path: Path) -> None:
    if found != width:
        raise ValueError(
            f"{path}: line {line_num} has {found} field{'s' * (found != 1)}, "
            f"but the first line has {width}"
        )


def _parse_plain(
    lines: list[str], separator: str, width: int, line_num: int, path: Path
) -> "polars.DataFrame":
    """Text without quotes: counting separators finds the ragged lines, polars does the rest."""
    pl = import_polars()
    kept = []
    for number, line in enumerate(lines, start=line_num):
        # In a table of one column a blank line is a missing cell, elsewhere it is nothing.
        if width > 1 and not line.strip(" "):
            continue
        _check_width(line.count(separator) + 1, width, number, path)
        kept.append(line)
    if width == 1:
        return pl.DataFrame({"x0": kept}, schema={"x0": pl.String})
    return pl.read_csv(
        "\n".join(kept).encode(),
        has_header=False,
        separator=separator,
        quote_char=None,
        schema={f"x{i}": pl.String for i in range(width)},
    )


def _parse_quoted(
    lines: list[str], separator: str, width: int, line_num: int, path: Path
) -> "polars.DataFrame":
    """Text with quotes, where a field may hold separators and line breaks."""
    pl = import_polars()
    rows = []
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator)
    for row in reader:
        if not row and width > 1:
            continue
        _check_width(max(len(row), 1), width, line_num + reader.line_num - 1, path)
        rows.append(row or [""])
    return pl.DataFrame(rows, schema={f"x{i}": pl.String for i in range(width)}, orient="row")
