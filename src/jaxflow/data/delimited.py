"""Delimited text (CSV, TSV, columns between spaces) as a data frame of strings."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxflow.data.frames import import_polars

if TYPE_CHECKING:
    import polars


def read_delimited(path: Path) -> tuple["polars.DataFrame", tuple[str, ...]]:
    """Read the cells of a text table, and the columns' names ("" for one without a name).

    The delimiter is the first of tab, semicolon, comma and space that the first two lines use
    equally often. A first line of numbers alone is data, and the columns are then called x0,
    x1, ...; any other first line is a header. The frame's own names are x0, x1, ... either way.

    Raises:
        ValueError: the file is not UTF-8 text, is empty, has a header and no rows, or has a
            line with another number of fields than the first.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save the table as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip(" \n")
    start = len(text) - len(text.lstrip("\n"))
    lines = text[start:].split("\n")
    if lines == [""]:
        raise ValueError(f"{path}: the file is empty")

    separator = _separator(lines)
    if separator == " ":
        lines = [" ".join(line.split()) for line in lines]
    try:
        # A quoted name may hold a line break, so the csv module says where the header ends.
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator)
        first = [field.strip() for field in next(reader)]
        has_header = not _is_data(first)
        names = tuple(first) if has_header else tuple(f"x{i}" for i in range(len(first)))
        skipped = reader.line_num if has_header else 0
        body, line_num = lines[skipped:], start + skipped + 1
        if not any(line.strip(" ") for line in body):
            raise ValueError(f"{path}: a header and no rows")
        if any('"' in line for line in body):
            frame = _parse_quoted(body, separator, len(first), line_num, path)
        else:
            frame = _parse_plain(body, separator, len(first), line_num, path)
    except csv.Error as error:
        raise ValueError(f"{path}: not a delimited table ({error})") from None
    return frame, names


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
