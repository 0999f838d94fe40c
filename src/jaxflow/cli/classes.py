"""Classes of rows: a column of labels, and the conditions that they stand for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxflow.cli.reports import counted

ClassName = Annotated[
    str | None,
    typer.Option("--class", help="Class, one of those that the run was fitted to."),
]

# More labels than this are taken for a column of numbers.
_MOST = 1000


def read_labels(path: Path, column: str) -> np.ndarray:
    """The labels of a table's rows as text, (n,), "" for none; 1, 1.0 and 1e0 are one label.

    Raises:
        ValueError: no such column.
    """
    from jaxflow.data import table_names

    names = table_names(path)
    if column not in names:
        raise ValueError(f"{path}: no column {column!r}; it has {', '.join(names)}")
    return np.asarray([_label(cell) for cell in _cells(path, names, column)])


def of_rows(labels: np.ndarray, kept: np.ndarray, path: Path, column: str) -> np.ndarray:
    """The labels of the rows that are used.

    Raises:
        ValueError: one of them has none.
    """
    labels = labels[kept]
    empty = kept[labels == ""]
    if empty.size:
        raise ValueError(
            f"{path}: {counted(empty.size, 'row')} without a label in {column!r}, first row "
            f"{empty[0]}"
        )
    return labels


def classes_of(labels: np.ndarray, column: str) -> list[str]:
    """The distinct labels, numbers by their value.

    Raises:
        ValueError: one label alone, or too many.
    """
    found = sorted(set(labels.tolist()), key=_by_value)
    if not 2 <= len(found) <= _MOST:
        raise ValueError(
            f"--class-column {column} has {counted(len(found), 'label')}; from 2 to {_MOST} are "
            "classes"
        )
    return found


def one_hot(labels: np.ndarray, classes: Sequence[str], path: Path) -> np.ndarray:
    """Conditions of rows, (n, classes), float32.

    Raises:
        ValueError: a label that is none of the classes, by its row.
    """
    number = {name: i for i, name in enumerate(classes)}
    unknown = [i for i, label in enumerate(labels) if label not in number]
    if unknown:
        raise ValueError(
            f"{path}: row {unknown[0]} has the class {str(labels[unknown[0]])!r} "
            f"({counted(len(unknown), 'such row')}); the run was fitted to {', '.join(classes)}"
        )
    return np.eye(len(classes), dtype=np.float32)[[number[label] for label in labels]]


def conditions(
    record: dict[str, Any], path: Path, kept: np.ndarray, name: str | None
) -> np.ndarray | None:
    """Conditions of a table's rows for a run, (n, classes); None for a run without classes.

    Args:
        record: the run's.
        path: the table.
        kept: numbers of the rows that are used.
        name: `--class`, for all rows; None to read the run's column of labels.

    Raises:
        ValueError: a class for a run without any, a missing column, unknown labels.
    """
    return conditions_of(record, path, name)(kept)


def conditions_of(
    record: dict[str, Any], path: Path, name: str | None
) -> Callable[[np.ndarray], np.ndarray | None]:
    """`conditions` of rows by their numbers; the labels are read once."""
    if name is not None:
        given = condition(record, name)
        return lambda kept: np.broadcast_to(given, (len(kept), len(given)))
    if record.get("classes") is None:
        return lambda _: None
    column, classes = record["class_column"], record["classes"]
    labels = read_labels(path, column)
    return lambda kept: one_hot(of_rows(labels, kept, path, column), classes, path)


def condition(record: dict[str, Any], name: str) -> np.ndarray:
    """The condition of a class, (classes,).

    Raises:
        ValueError: a run without classes, or without this one.
    """
    classes = record.get("classes")
    if classes is None:
        raise ValueError(
            f"--class {name}: the run has no classes; fit it with --class-column COLUMN"
        )
    if _label(name) not in classes:
        raise ValueError(f"--class {name} is none of the run's classes: {', '.join(classes)}")
    return np.eye(len(classes), dtype=np.float32)[classes.index(_label(name))]


def _cells(path: Path, names: Sequence[str], column: str) -> Sequence[Any]:
    from jaxflow.data import read_table
    from jaxflow.data.delimited import read_delimited
    from jaxflow.data.frames import import_polars

    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        return read_delimited(path)[0].to_series(list(names).index(column)).to_list()
    if suffix == ".parquet":
        return import_polars().read_parquet(path, columns=[column]).to_series().to_list()
    return read_table(path, [column]).values[:, 0].tolist()


def _label(cell: Any) -> str:
    text = "" if cell is None else str(cell).strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    # Python reads 1_0 as 10, people do not.
    if "_" in text:
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


def _by_value(label: str) -> tuple[bool, float, str]:
    try:
        return False, float(label), ""
    except ValueError:
        return True, 0.0, label
