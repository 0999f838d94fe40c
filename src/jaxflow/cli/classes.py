"""Conditions of rows: classes, one-hot, or columns of numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from jaxflow.cli.tables import errors_of
from jaxflow.cli.terminal import note
from jaxflow.data import Table, check_rows, read_table, table_names
from jaxflow.data.delimited import TEXT, is_number, text_column
from jaxflow.runtime.text import plural
from jaxflow.tables.cells import is_code
from jaxflow.tables.spacing import is_whole

# A column with more labels is taken for numbers.
MAX_CLASSES = 1000

Labels = np.ndarray
RowNumbers = Int[np.ndarray, " rows"]
Conditions = Float[np.ndarray, "rows c"]
OneHot = Float[np.ndarray, "rows classes"]


def row_conditions(
    record: dict[str, Any], path: Path, class_name: str | None = None
) -> Callable[[RowNumbers], Conditions | None]:
    """A function from the numbers of rows of a table to their conditions for a run.

    These are one class for all rows, the columns that the run is given, or the classes in its
    class column; None for a run without any.
    """
    classes, column = record.get("classes"), str(record.get("class_column"))
    if class_name is not None:
        fixed = class_condition(record, class_name)
        return lambda rows: np.tile(fixed, (len(rows), 1))
    if record.get("given"):
        table = read_table(path, record["given"])
        return lambda rows: _finite_conditions(table, rows, path)
    if classes is None:
        return lambda rows: None
    labels = read_labels(path, column)
    return lambda rows: one_hot(select_labels(labels, rows, path, column), classes, path)


def _finite_conditions(table: Table, rows: RowNumbers, path: Path) -> Conditions:
    values = table.values[rows]
    with errors_of(path):
        check_rows(values, columns=table.columns)
    return values


def class_condition(record: dict[str, Any], name: str) -> Float[np.ndarray, " classes"]:
    """One-hot vector of a class of the run; raise ValueError if the run does not have it."""
    classes = record.get("classes")
    if classes is None:
        raise ValueError(
            f"--class {name}: the run has no classes; fit it with --class-column COLUMN"
        )
    if normalise(name) not in classes:
        raise ValueError(
            f"--class {name} is unknown; the run has the classes {', '.join(classes)}"
        )
    return np.eye(len(classes), dtype=np.float32)[classes.index(normalise(name))]


def draw_classes(record: dict[str, Any], num: int, seed: int) -> tuple[np.ndarray, OneHot]:
    """Draw a class for each of `num` rows by the classes' frequencies: labels, and one-hot."""
    classes, counts = record["classes"], record.get("class_counts")
    if counts is None:
        note("the run has no counts of its classes: each is drawn as often; choose one by --class")
        counts = [1] * len(classes)
    shares = np.array(counts) / sum(counts)
    index = np.random.default_rng(seed).choice(len(classes), num, p=shares)
    labels = np.array(classes)
    if not any(map(is_code, classes)) and all(map(is_number, classes)):
        numbers = labels.astype(float)
        labels = numbers.astype(int) if is_whole(numbers) else numbers
    return labels[index], np.eye(len(classes), dtype=np.float32)[index]


def read_labels(path: Path, column: str) -> Labels:
    """Read the label of each row as text, "" for a missing one; 1, 1.0 and 1e0 are the same."""
    names = table_names(path)
    if column not in names:
        raise ValueError(f"{path}: no column {column!r}; it has {', '.join(names)}")
    return np.asarray([normalise(cell) for cell in _read_cells(path, names, column)])


def select_labels(labels: Labels, row_numbers: RowNumbers, path: Path, column: str) -> Labels:
    """Return the labels of the rows with these numbers; raise ValueError if one is missing."""
    labels = labels[row_numbers]
    empty = row_numbers[labels == ""]
    if empty.size:
        raise ValueError(
            f"{path}: {plural(empty.size, 'row')} without a label in {column!r}, first row "
            f"{empty[0]}"
        )
    return labels


def find_classes(labels: Labels, column: str) -> list[str]:
    """Return the 2 to `MAX_CLASSES` distinct labels, sorted, numbers by value."""
    classes = sorted(set(labels.tolist()), key=_sort_key)
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ValueError(
            f"class column {column} has {plural(len(classes), 'distinct label')}; it must have 2 "
            f"to {MAX_CLASSES}"
        )
    return classes


def one_hot(labels: Labels, classes: Sequence[str], path: Path) -> OneHot:
    """Return one-hot classes in float32; raise ValueError for an unknown label."""
    index = {name: i for i, name in enumerate(classes)}
    unknown = [i for i, label in enumerate(labels) if label not in index]
    if unknown:
        raise ValueError(
            f"{path}: row {unknown[0]} has the class {str(labels[unknown[0]])!r} "
            f"({plural(len(unknown), 'such row')}); the run was fitted to {', '.join(classes)}"
        )
    return np.eye(len(classes), dtype=np.float32)[[index[label] for label in labels]]


def _read_cells(path: Path, names: Sequence[str], column: str) -> Sequence[Any]:
    suffix = path.suffix.lower()
    if suffix in TEXT:
        return text_column(path, list(names).index(column))
    if suffix == ".parquet":
        return pl.read_parquet(path, columns=[column]).to_series().to_list()
    return read_table(path, [column]).values[:, 0].tolist()


def normalise(cell: Any) -> str:
    """A label as text, "" for a missing one; 1, 1.0 and 1e0 are the same, 007 and 7 are not."""
    text = "" if cell is None else str(cell).strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    # Python reads 1_0 as 10, people do not.
    if "_" in text or is_code(text):
        return text
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        if value != value:
            return ""
        return str(int(value)) if value == value // 1 and abs(value) < 2**53 else repr(value)
    return text


def _sort_key(label: str) -> tuple[bool, float, str]:
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label
