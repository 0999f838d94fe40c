"""Runs of `jaxflow fit` on tables of text, counts, dates, numbers and gaps."""

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxflow.cli.record import PLAN, check_numbers, new_record
from jaxflow.cli.run_directory import FLOW
from jaxflow.cli.settings import FitSettings
from jaxflow.cli.terminal import note, plural
from jaxflow.cli.training import compared_results, ending_early, finish
from jaxflow.data import Table, read_table, table_names
from jaxflow.io.checkpoint import load
from jaxflow.runtime.checks import constant_columns, finite_rows
from jaxflow.tables import FittedTable, fit_table
from jaxflow.tables.cells import Cells
from jaxflow.tables.frames import read_cells
from jaxflow.tables.plan import Plan
from jaxflow.tables.spacing import cells_matter
from jaxflow.training.history import History
from jaxflow.training.record import COLUMNS
from jaxflow.transforms import propose

# Most columns of whole numbers that are fitted as such unless the user says so: more take long.
MOST_WHOLE = 32


def read_numbers(
    table: Path, columns: Sequence[str] | None, *, whole: bool, drop_nan: bool
) -> Table | None:
    """The table, if a flow alone is to be fitted to it: numbers that vary and are continuous.

    None for a table that is fitted by the kinds of its columns: one with text, gaps or a constant,
    or, if `whole`, with whole numbers whose cells matter. These are taken for continuous, with a
    note, beside columns on a manifold, and if they are more than `MOST_WHOLE`.
    """
    table_names(table)  # raises for what is no table at all
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
    """Errors that name `kinds[...]` name the option `--kind` as it was typed."""
    try:
        yield
    except ValueError as error:
        text = str(error).replace("limits such as (0, 1)", "limits such as 0:1")
        for option in options:
            for name, kind in split_kinds([option]).items():
                text = text.replace(f"kinds[{name!r}]={kind!r}", f"--kind {option}")
                text = text.replace(f"kinds names {name!r}", f"--kind {option} names {name!r}")
        raise ValueError(text) from error


def read_mixed(
    table: Path,
    columns: Sequence[str] | None,
    settings: FitSettings,
    kind: Sequence[str],
    null: Sequence[str],
    *,
    drop_nan: bool,
) -> tuple[dict[str, Cells], dict[str, Any]]:
    """The columns to fit, and the run's record."""
    cells = read_cells(table, null)
    missing = [name for name in columns or () if name not in cells]
    if missing:
        raise ValueError(f"{table}: no columns {missing}; the file has {list(cells)}")
    cells = {name: cells[name] for name in columns or cells}
    count = rows = len(next(iter(cells.values())))
    if drop_nan:
        cells, kept = without_gaps(cells, list(cells), table)
        rows = len(kept)
    record = new_record(
        str(table),
        hash_cells(cells),
        list(cells),
        rows,
        settings,
        columns_chosen=columns is not None,
        rows_dropped=count - rows,
        drop_nan=drop_nan,
        kind=list(kind),
        null=list(null),
    )
    return cells, record


def fit_mixed(
    cells: dict[str, Cells], record: dict[str, Any], settings: FitSettings, folder: Path
) -> dict[str, Any]:
    """Fit the table and fill the run directory; returns the record with the results."""
    start = time.monotonic()
    with ending_early(folder, record, settings) as monitor, kinds_as_typed(record["kind"]):
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
    return finish(fitted, history, record | results, folder)


def without_gaps(
    cells: dict[str, Cells], names: Sequence[str], table: Path
) -> tuple[dict[str, Cells], Int[np.ndarray, " kept"]]:
    """The rows without a gap in the columns `names`, and their numbers; prints what is dropped."""
    gaps = np.zeros(len(next(iter(cells.values()))), bool)
    for name in names:
        gaps |= cells[name].missing
    if gaps.all():
        raise ValueError(f"{table}: each of its {plural(len(gaps), 'row')} has a gap")
    if gaps.any():
        note(f"dropped {gaps.sum()} of {plural(len(gaps), 'row')} with gaps")
    kept = np.flatnonzero(~gaps)
    return {name: each.take(kept) for name, each in cells.items()}, kept


def needs_mixed(run: Path, option: str) -> ValueError:
    """The error of an option that is for runs on more than numbers."""
    return ValueError(
        f"{option}: {run} was fitted to numbers alone; fit it with --kind, such as --kind "
        "a=continuous, so that any cell can be unknown"
    )


def note_absent(fitted: FittedTable, cells: dict[str, Cells], table: Path) -> None:
    """Print the columns of the run that a table lacks."""
    absent = [name for name in fitted.plan.names if name not in cells]
    if absent:
        note(f"{table} has no columns {', '.join(absent)}: their cells count as unknown")


def load_mixed(run: Path, record: dict[str, Any], **refused: Any) -> FittedTable:
    """The fitted table of a run; raises ValueError for options in `refused` that are set."""
    for option, value in refused.items():
        if value:
            check_numbers(run, record, f"--{option.replace('_', '-')}")
    return load(run / FLOW)


def hash_cells(cells: dict[str, Cells]) -> str:
    """SHA-256 of the cells as text."""
    found = hashlib.sha256()
    for name, each in cells.items():
        found.update(repr((name, each.text.tolist(), each.missing.tolist())).encode())
    return found.hexdigest()
