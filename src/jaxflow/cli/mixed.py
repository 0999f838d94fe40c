"""Runs of `jaxflow fit` on mixed tables: of text, counts, dates, numbers and gaps."""

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxflow.cli.record import PLAN, new_record
from jaxflow.cli.settings import FitData, FitSettings
from jaxflow.cli.tables import note_dropped
from jaxflow.cli.terminal import note
from jaxflow.cli.training import NewRun, compared_results, ending_early, finish
from jaxflow.data import Table, read_table, table_names
from jaxflow.runtime.checks import constant_columns, finite_rows
from jaxflow.tables import FittedTable, fit_table
from jaxflow.tables.cells import Cells
from jaxflow.tables.frames import read_cells
from jaxflow.tables.plan import Plan
from jaxflow.tables.spacing import cells_matter
from jaxflow.training.history import History
from jaxflow.training.record import COLUMNS
from jaxflow.transforms import propose

# With more columns of whole numbers than this, which would take long, the default is a flow.
MOST_WHOLE = 32


def read_numbers(
    table: Path, columns: Sequence[str] | None, *, whole: bool, drop_nan: bool
) -> Table | None:
    """The table if all its columns vary and are continuous numbers, so that a flow fits it.

    None for a table that is fitted by the kinds of its columns: one with text, gaps, a constant
    or, if `whole`, whole numbers that a rounded density does not describe. Beside columns on a
    manifold, and if there are more than `MOST_WHOLE`, whole numbers count as continuous, with a
    note.
    """
    table_names(table)  # raises for a file that is not a table
    try:
        read = read_table(table, columns)
    except ValueError:
        return None
    values = read.values[finite_rows(read.values)] if drop_nan else read.values
    if not np.isfinite(values).all():
        return None
    if len(values) < 2:
        return read
    if constant_columns(values, float(np.finfo(np.float32).eps)).any():
        return None
    pairs = zip(read.columns, values.T, strict=True)
    names = [name for name, column in pairs if whole and cells_matter(column)]
    if not names:
        return read
    flat = propose(values, read.columns).surface is None
    if flat and len(names) <= MOST_WHOLE:
        return None
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    why = f"being more than {MOST_WHOLE}" if flat else "beside columns on a manifold"
    note(
        f"whole numbers in {shown} are fitted by the flow, {why}: samples are rounded. To give "
        f"each number its probability, add --kind {names[0]}=whole: then all columns are fitted "
        "by their kinds"
    )
    return read


def split_kinds(options: Sequence[str]) -> dict[str, Any]:
    """`city=category` and `share=0:1` as kinds by name."""
    kinds: dict[str, Any] = {}
    for option in options:
        name, equals, kind = option.rpartition("=")
        if not equals or not name or not kind:
            raise ValueError(f"--kind {option}: write --kind COLUMN=KIND, such as city=category")
        lower, colon, upper = kind.partition(":")
        try:
            limits = (float(lower or -math.inf), float(upper or math.inf))
            kinds[name] = limits if colon else kind
        except ValueError:
            kinds[name] = kind
    return kinds


@contextlib.contextmanager
def kinds_as_typed(options: Sequence[str]) -> Iterator[None]:
    """Let errors name the option `--kind` as it was typed, in place of `kinds[...]`."""
    try:
        yield
    except ValueError as error:
        text = str(error).replace("limits such as (0, 1)", "limits such as 0:1")
        for option in options:
            for name, kind in split_kinds([option]).items():
                text = text.replace(f"kinds[{name!r}]={kind!r}", f"--kind {option}")
                text = text.replace(f"kinds names {name!r}", f"--kind {option} names {name!r}")
        raise ValueError(text) from error


def read_mixed(data: FitData, settings: FitSettings) -> tuple[dict[str, Cells], dict[str, Any]]:
    """The columns to fit, and the run's record."""
    cells = read_cells(data.table, data.null)
    missing = [name for name in data.columns or () if name not in cells]
    if missing:
        raise ValueError(f"{data.table}: no columns {missing}; the file has {list(cells)}")
    cells = {name: cells[name] for name in data.columns or cells}
    count = rows = len(next(iter(cells.values())))
    if data.drop_nan:
        cells, kept = without_gaps(cells, list(cells), data.table)
        rows = len(kept)
    record = new_record(
        str(data.table),
        hash_cells(cells),
        list(cells),
        rows,
        settings,
        columns_chosen=data.columns is not None,
        rows_dropped=count - rows,
        drop_nan=data.drop_nan,
        kind=data.kind,
        null=data.null,
    )
    return cells, record


def fit_mixed(cells: dict[str, Cells], run: NewRun) -> dict[str, Any]:
    """Fit the table and fill the run directory; returns the record with the results."""
    start, record, settings = time.monotonic(), run.record, run.settings
    with ending_early(run) as monitor, kinds_as_typed(record["kind"]):
        kinds, null = split_kinds(record["kind"]), record["null"]
        # Before the training, since it may take long.
        for line in str(Plan.of(cells, kinds, null, "dict")).splitlines():
            note(line)
        fitted = fit_table(
            cells,
            kinds=kinds,
            null=null,
            width=settings.width or 64,
            callback=monitor,
            **settings.options,
        )
    held_out = compared_results(fitted.comparison)
    results = {
        "interrupted": monitor.interrupted,
        "transform": "by the kinds of the columns",
        PLAN: str(fitted.plan).splitlines(),
        "columns": fitted.plan.names,
        **held_out,
    }
    history = History({name: [math.nan] for name in COLUMNS})
    value = held_out["validation"]
    history["step"], history["validation"] = [fitted.steps], [math.nan if value is None else value]
    history["seconds"] = [time.monotonic() - start]
    return finish(run, fitted, history, results)


def without_gaps(
    cells: dict[str, Cells], names: Sequence[str], table: Path
) -> tuple[dict[str, Cells], Int[np.ndarray, " kept"]]:
    """The rows without a gap in the columns `names`, and their numbers; prints what is dropped."""
    gaps = np.zeros(len(next(iter(cells.values()))), bool)
    for name in names:
        gaps |= cells[name].missing
    kept = np.flatnonzero(~gaps)
    note_dropped(len(gaps), len(kept), table, "gaps")
    return {name: each.take(kept) for name, each in cells.items()}, kept


def needs_mixed(run: Path, option: str) -> ValueError:
    """The error of an option that is only for runs on mixed tables."""
    return ValueError(
        f"{option}: {run} was fitted to numbers alone; fit it with --kind, such as --kind "
        "a=continuous, so that any cell can be unknown"
    )


def note_absent(fitted: FittedTable, cells: dict[str, Cells], table: Path) -> None:
    """Print the columns of the run that a table lacks."""
    absent = [name for name in fitted.plan.names if name not in cells]
    if absent:
        note(f"{table} has no columns {', '.join(absent)}: their cells count as unknown")


def hash_cells(cells: dict[str, Cells]) -> str:
    """SHA-256 of the cells as text."""
    digest = hashlib.sha256()
    for name, each in cells.items():
        digest.update(repr((name, each.text.tolist(), each.missing.tolist())).encode())
    return digest.hexdigest()
