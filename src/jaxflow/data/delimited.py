"""Delimited text (CSV, TSV, columns separated by spaces): its layout, and its rows in blocks."""

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxflow.data.frames import import_polars

if TYPE_CHECKING:
    import polars

# Suffixes of text tables.
TEXT = (".csv", ".tsv", ".txt")
# Cells that stand for a missing value.
NULLS = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "?", "-")
# Characters in which `sniff` looks for the separator and the header.
_HEAD = 1 << 20
# A quoted cell longer than this is a mistake.
LONGEST_CELL = 1 << 26
# A cell such as 1,5, before and after its comma.
DECIMAL_COMMA = r"^(\s*[-+]?\d*),(\d+(?:[eE][-+]?\d+)?\s*)$"


# A file, and whether its first line is the header; None for `sniff` to find out.
_known: ContextVar[tuple[Path, bool | None] | None] = ContextVar("header", default=None)


@contextlib.contextmanager
def first_line(path: Path | None, *, is_header: bool | None) -> Iterator[None]:
    """Context in which the first line of the text table `path` is its header, or a row.

    None for `is_header` leaves it to `sniff`.
    """
    token = _known.set(None if path is None else (path, is_header))
    try:
        yield
    finally:
        _known.reset(token)


def assume_first_line(*, is_header: bool | None) -> None:
    """Settle what the first line is, inside a `first_line` that left it open."""
    if (said := _known.get()) is not None and said[1] is None:
        _known.set((said[0], is_header))


@dataclass(frozen=True)
class Layout:
    """Separator and column names of a text table, and the number of lines before its rows."""

    separator: str
    names: tuple[str, ...]
    skip: int


def sniff(path: Path) -> Layout:
    """Find the separator and the header of a text table.

    The separator is the first of tab, semicolon, comma and space that the first two lines contain
    equally often. A first line of numbers and gaps is a row, and the columns are called x0, x1,
    ...; any other first line is the header, unless `first_line` says otherwise. Where commas
    do not separate, 1,5 is a number.
    """
    with _named_errors(path), path.open(encoding="utf-8-sig") as file:
        lines = (file.read(_HEAD) + file.readline()).split("\n")
        skip = next((i for i, line in enumerate(lines) if line.strip(" ")), None)
        if skip is None:
            raise ValueError(f"{path}: the file is empty")
        separator = _separator(lines[skip:])
        # A quoted name may hold a line break, so the reader counts the lines of the header.
        head = io.StringIO(_squeeze("\n".join(lines[skip:]), separator))
        reader = csv.reader(head, delimiter=separator)
        header = [field.strip() for field in next(reader)]
        known = [field for field in header if field not in NULLS]
        if separator != ",":
            known = [field.replace(",", ".") for field in known]
        is_row = bool(known) and all(map(is_number, known))
        if (said := _known.get()) is not None and said[0] == path and said[1] is not None:
            is_row = not said[1]
        if is_row:
            return Layout(separator, tuple(f"x{i}" for i in range(len(header))), skip)
        return Layout(separator, tuple(header), skip + reader.line_num)


def delimited_frames(
    path: Path, layout: Layout, chosen: Sequence[int], size: int, *, numbers: bool = True
) -> Iterator["polars.DataFrame"]:
    """Chosen columns of a text table, from about `size` characters at a time.

    With `numbers`, a column is parsed as float64 where all its cells are numbers, else as text, in
    which 1,5 becomes 1.5 where commas do not separate.
    """
    empty, names = True, [layout.names[i] for i in chosen]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: duplicate column names {repeated}; rename them")
    with _named_errors(path):
        for text, line in _blocks(path, layout.skip, size):
            frame = _parse(text, line, layout, chosen if numbers else (), path)[:, list(chosen)]
            frame.columns = names
            if numbers and layout.separator != ",":
                frame = _with_decimal_points(frame)
            empty = False
            yield frame
    if empty:
        raise ValueError(f"{path}: a header and no rows")


def text_column(path: Path, column: int) -> list[str | None]:
    """Cells of one column as text; a missing cell is None or empty."""
    frames = delimited_frames(path, sniff(path), [column], 1 << 24, numbers=False)
    return [cell for frame in frames for cell in frame.to_series().to_list()]


def header_line(names: Sequence[str]) -> str:
    """Header of a CSV file, with every name quoted that `sniff` might split or join."""
    quoted = [
        '"' + name.replace('"', '""') + '"' if re.search(r'[\s,;"]', name) else name
        for name in names
    ]
    return ",".join(quoted) + "\n"


def is_number(field: str) -> bool:
    """Whether a cell of a text table is a number; nan and inf are."""
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field  # Python reads 1_0 as ten; tables do not


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save the table as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a delimited table ({error})") from None


def _separator(lines: list[str]) -> str:
    # Joined, since a quoted name may hold line breaks as well as separators.
    text = re.sub(r'"[^"]*"', "", "\n".join(lines[:50]))
    bare = [line.strip(" ") for line in text.split("\n") if line.strip(" ")][:2] or [""]
    # Two lines decide: a name in the header may hold a semicolon or a space.
    for candidate in "\t;,":
        if candidate in bare[0] and len({line.count(candidate) for line in bare}) == 1:
            return candidate
    if all(" " in line and "," not in line for line in bare):
        return " "
    # The rows differ in length: `_parse` will count the cells between the most likely separators.
    return next((candidate for candidate in "\t;," if candidate in bare[0]), ",")


def _blocks(path: Path, skip: int, size: int) -> Iterator[tuple[str, int]]:
    """Text that ends with a row, and the number of lines before it; no blank lines at the end."""
    with path.open(encoding="utf-8-sig") as file:
        for _ in range(skip):
            file.readline()
        line, rest = skip, ""
        while start := file.read(size):
            parts = [start, file.readline()]
            # An odd number of quotes: the block ends inside a quoted cell.
            is_open, extra = sum(part.count('"') for part in parts) % 2, 0
            while is_open and (more := file.readline()):
                parts.append(more)
                is_open, extra = (is_open + more.count('"')) % 2, extra + len(more)
                if extra > LONGEST_CELL:
                    raise ValueError(
                        f"{path}: a quoted cell after line {line} does not end within {extra} "
                        "characters; close the quote"
                    )
            text = rest + "".join(parts)
            block = text.rstrip(" \n")
            rest = text[len(block) :]
            if block:
                yield block, line
                line += block.count("\n") + 1
                rest = rest.partition("\n")[2]


def _parse(
    text: str, line: int, layout: Layout, numeric: Sequence[int], path: Path
) -> "polars.DataFrame":
    """Parse complete rows: by polars if each line is a row, else by the csv module."""
    pl = import_polars()
    separator, width = layout.separator, len(layout.names)
    strings = {f"x{j}": pl.String for j in range(width)}
    text = _squeeze(text, separator)
    if '"' not in text:
        for schema in (strings | {f"x{j}": pl.Float64 for j in numeric}, strings):
            with contextlib.suppress(pl.exceptions.PolarsError):
                frame = pl.read_csv(
                    text.encode(),
                    has_header=False,
                    separator=separator,
                    quote_char=None,
                    schema=schema,
                )
                # Polars refuses a row with too many cells and fills up one with too few.
                is_row = len(frame) == text.count("\n") + 1
                if is_row and text.count(separator) == len(frame) * (width - 1):
                    return frame
    rows, reader = [], csv.reader(io.StringIO(text), delimiter=separator)
    for row in reader:
        # A blank line is a missing cell in a table of one column, and ignored in others.
        if width > 1 and len(row) < 2 and not "".join(row).strip(" "):
            continue
        cells = row or [""]
        if len(cells) != width:
            raise ValueError(
                f"{path}: line {line + reader.line_num} has {len(cells)} "
                f"field{'s' * (len(cells) != 1)}, but the first line has {width}"
            )
        rows.append(cells)
    return pl.DataFrame(rows, schema=strings, orient="row")


def _with_decimal_points(frame: "polars.DataFrame") -> "polars.DataFrame":
    """Cells of text such as 1,5 as 1.5."""
    strings = import_polars().selectors.string()
    return frame.with_columns(strings.str.replace(DECIMAL_COMMA, "${1}.${2}"))


def _squeeze(text: str, separator: str) -> str:
    """Columns separated by spaces: one space between two, none at either end of a line."""
    if separator != " ":
        return text
    return re.sub(r"^ | $", "", re.sub(r"[^\S\n]+", " ", text), flags=re.MULTILINE)
