"""What a fit is given: its rows, and the record that its run begins with."""

import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.cli import run_directory
from jaxflow.cli.classes import classes_of, conditions, of_rows, one_hot, read_labels
from jaxflow.cli.models import DECIDED, Objective, Settings, option_name
from jaxflow.cli.tables import (
    digest,
    drop_rows,
    in_precision,
    read_like,
    split_names,
)


def read_inputs(
    table: Path,
    columns: str | None,
    class_column: str | None,
    settings: Settings,
    *,
    drop_nan: bool,
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """The rows to fit, in the run's precision, their conditions, and the record of a run.

    Raises:
        ValueError, TypeError: a table that cannot be fitted, by its file, rows and columns.
    """
    if settings.start is not None:
        return _read_like(settings.start, table, settings, drop_nan=drop_nan)
    from jaxflow.data import read_table, table_names

    chosen = split_names(columns)
    if class_column is not None and chosen is None:
        chosen = [name for name in table_names(table) if name != class_column]
    if class_column is not None and class_column in (chosen or ()):
        raise ValueError(
            f"--columns names {class_column}, which --class-column takes for the class"
        )
    read = read_table(table, chosen)
    values, kept = drop_rows(read.values, read.columns, table, drop_nan=drop_nan)
    x = in_precision(values, read.columns, table, float64=settings.float64)
    classes = cond = None
    if class_column is not None:
        labels = of_rows(read_labels(table, class_column), kept, table, class_column)
        classes = classes_of(labels, class_column)
        cond = one_hot(labels, classes, table)
    of_table = {
        "class_column": class_column,
        "classes": classes,
        "columns": list(read.columns),
        "columns_chosen": chosen is not None,
        "rows_dropped": len(read.values) - len(kept),
    }
    return x, cond, _record(settings, table, x, cond, of_table, drop_nan=drop_nan)


def settings_from(start: Path, settings: Settings, chosen: list[str]) -> Settings:
    """The settings with those of a run's flow, which goes on being trained.

    Args:
        start: the run.
        settings: the options.
        chosen: names of the options that are not as usual.

    Raises:
        ValueError: an option that the run has decided.
    """
    of_run = run_directory.read_run(start)["settings"]
    for name in (*DECIDED, "columns", "class_column"):
        if name in chosen:
            raise ValueError(
                f"--{name.replace('_', '-')} belongs to the run {start}, with whose flow --from "
                "goes on: leave it out"
            )
    objective = Objective(settings.objective)
    if Objective(of_run["objective"]).diffuses:
        if objective not in (Objective.auto, of_run["objective"]):
            raise ValueError(
                f"--objective {objective}: {start} is a diffusion model, which goes on as one; "
                "leave --objective out"
            )
        objective = Objective(of_run["objective"])
    elif objective.diffuses:
        raise ValueError(f"--objective {objective}: {start} is no diffusion model; fit one anew")
    decided = {name: of_run[name] for name in DECIDED}
    return replace(settings, **decided, objective=objective.value)


def _read_like(
    start: str, table: Path, settings: Settings, *, drop_nan: bool
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Rows as a run's fit would take them, whose flow goes on with them."""
    of_run = run_directory.read_run(Path(start))
    names = of_run["columns"]
    values = read_like(table, names, chosen=of_run["columns_chosen"])
    found, kept = drop_rows(values, names, table, drop_nan=drop_nan)
    x = in_precision(found, names, table, float64=settings.float64)
    cond = conditions(of_run, table, kept, None)
    same = ("class_column", "classes", "columns", "columns_chosen")
    of_table = {name: of_run.get(name) for name in same}
    of_table["rows_dropped"] = len(values) - len(kept)
    return x, cond, _record(settings, table, x, cond, of_table, drop_nan=drop_nan)


def _record(
    settings: Settings,
    table: Path,
    x: np.ndarray,
    cond: np.ndarray | None,
    of_table: dict[str, Any],
    *,
    drop_nan: bool,
) -> dict[str, Any]:
    """What a run says of itself before it is trained."""
    return (
        versions()
        | of_table
        | {
            "table": str(table),
            "table_sha256": digest(x),
            "labels_sha256": None if cond is None else digest(cond),
            "rows": len(x),
            "drop_nan": drop_nan,
            "settings": asdict(settings),
        }
    )


def record_of(
    source: str, word: str, columns: list[str], rows: int, settings: Settings
) -> dict[str, Any]:
    """What a run says of itself that is not trained on a table: of a target, or of shards.

    Args:
        source: the target or the folder.
        word: what tells it from others.
        columns: names of the columns.
        rows: how many there are.
        settings: the options.
    """
    return versions() | {
        "table": source,
        "table_sha256": word,
        "columns": columns,
        "columns_chosen": True,
        "rows": rows,
        "rows_dropped": 0,
        "drop_nan": False,
        "class_column": None,
        "classes": None,
        "labels_sha256": None,
        "settings": asdict(settings),
    }


def versions() -> dict[str, Any]:
    """What a run is made with, and when."""
    from importlib.metadata import version

    from jaxflow import __version__

    return {
        "jaxflow": __version__,
        "versions": {name: version(name) for name in ("jax", "equinox", "optax", "numpy")},
        "python": sys.version.split()[0],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": False,
    }


def check_same(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to go on with other data or options than the run was started with."""
    advice = "resume with what it was started with, or replace it with --overwrite alone"
    if old["columns"] != new["columns"]:
        raise ValueError(
            f"{out} was started with the columns {', '.join(old['columns'])}, not "
            f"{', '.join(new['columns'])}; {advice}"
        )
    for name, value in new["settings"].items():
        # More time does not change what is trained.
        if name != "max_seconds" and old["settings"].get(name) != value:
            option = option_name(name).replace("_", "-")
            raise ValueError(
                f"{out} was started with --{option} "
                f"{old['settings'].get(name)}, not {value}; {advice}"
            )
    for name in ("table_sha256", "labels_sha256"):
        if old.get(name) != new[name]:
            raise ValueError(f"{out} was started with other rows, of {old['table']}; {advice}")
