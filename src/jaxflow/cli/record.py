"""The record of a run, written to run.json: its data, settings, versions and results."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from jaxflow import __version__
from jaxflow.cli.settings import DEFAULTS, FitSettings, option_name
from jaxflow.data import split

# The entry of a run on a mixed table, of labels, counts or gaps too: the lines of its plan.
PLAN = "plan"
# The entry of a run on images: their shape.
IMAGES = "image_shape"

# Types of the entries that later commands read.
STARTED: dict[str, Any] = {
    "jaxflow": str,
    "versions": dict,
    "table": str,
    "table_sha256": str,
    "columns": list[str],
    "columns_chosen": bool,
    "rows": int,
    "settings": dict,
}
FINISHED = STARTED | {"transform": str, "seconds": float, "steps": int}
HELD_OUT = {"validation": float | None, "validation_se": float | None, "rows_held_out": int}


def new_record(
    source: str, digest: str, columns: list[str], rows: int, settings: FitSettings, **more: Any
) -> dict[str, Any]:
    """The record of a fit that begins; `digest` is a hash of what `source` holds.

    `more` has the entries that differ from those of a fit without classes or dropped rows.
    """
    return (
        versions()
        | {
            "finished": False,
            "class_column": None,
            "classes": None,
            "columns": columns,
            "columns_chosen": True,
            "rows_dropped": 0,
            "table": source,
            "table_sha256": digest,
            "labels_sha256": None,
            "rows": rows,
            "drop_nan": False,
            "settings": asdict(settings),
        }
        | more
    )


def versions() -> dict[str, Any]:
    """Versions of the software, and the time."""
    return {
        "jaxflow": __version__,
        "versions": {name: version(name) for name in ("jax", "equinox", "optax", "numpy")},
        "python": sys.version.split()[0],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def is_diffusion(record: dict[str, Any]) -> bool:
    """Whether the run's flow is a diffusion model."""
    return settings_of(record).schedule is not None


def trained_on_all(record: dict[str, Any]) -> bool:
    """Whether folds chose the flow, which then saw all rows."""
    return bool(record.get("comparison", {}).get("folds"))


def run_split(record: dict[str, Any], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows that a run trained on, and of those that it held out."""
    settings = record["settings"]
    return split(rows, settings["validation"], record.get("split_seed", settings["seed"]))


def check_numbers(run: Path, record: dict[str, Any], option: str) -> None:
    """Raise ValueError if the run was fitted to images or to a mixed table."""
    if IMAGES in record:
        raise ValueError(f"{option} is for tables, and {run} was fitted to images: leave it out")
    if PLAN in record:
        raise ValueError(
            f"{option} is for tables of numbers, and {run} was fitted to labels, counts or gaps "
            "too: leave it out"
        )


def refuse_options(run: Path, record: dict[str, Any], **options: Any) -> None:
    """`check_numbers` for each of the options that is set."""
    for name, value in options.items():
        if value:
            check_numbers(run, record, f"--{name.replace('_', '-')}")


def settings_of(record: dict[str, Any]) -> FitSettings:
    """Return the settings of a run."""
    return FitSettings(**record["settings"])


def check_resumable(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise ValueError if a run was started with other data or options than it is resumed with."""
    advice = "resume it with the same, or start again with --overwrite alone"
    if old["columns"] != new["columns"]:
        raise ValueError(
            f"{out} was started with the columns {', '.join(old['columns'])}, not "
            f"{', '.join(new['columns'])}; {advice}"
        )
    for name, value in new["settings"].items():
        before = old["settings"].get(name, DEFAULTS.get(name))
        # A longer time limit does not change the result.
        if name != "max_seconds" and before != value:
            option = option_name(name).replace("_", "-")
            raise ValueError(f"{out} was started with --{option} {before}, not {value}; {advice}")
    for name in ("table_sha256", "labels_sha256"):
        if old.get(name) != new[name]:
            raise ValueError(f"{out} was started with other rows, of {old['table']}; {advice}")


def check_record(file: Path, record: Any, *, finished: bool) -> dict[str, Any]:
    """Return the record if each entry that commands read is present and of the right type."""
    entries = FINISHED if finished else STARTED
    # A fit to a target has no held-out rows.
    if finished and isinstance(record, dict) and "log_z" not in record:
        entries = entries | HELD_OUT
    _check_entries(file, record, entries)
    _check_entries(file, record["versions"], {"jax": str}, "versions.")
    settings = DEFAULTS | record["settings"]
    _check_entries(file, settings, get_type_hints(FitSettings), "settings.")
    try:
        FitSettings(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged, or of another version: {error}") from error
    return record


def _check_entries(file: Path, values: Any, entries: dict[str, Any], prefix: str = "") -> None:
    missing = sorted(entries.keys() - (values.keys() if isinstance(values, dict) else set()))
    if missing:
        names = ", ".join(prefix + name for name in missing)
        raise ValueError(f"{file} is damaged: it has no entry {names}")
    for name, kind in entries.items():
        if not _is_instance(values[name], kind):
            raise ValueError(f"{file} is damaged: {prefix}{name} is {values[name]!r:.80}")


def _is_instance(value: Any, kind: Any) -> bool:
    """`isinstance` that knows `list[str]` and `float | None`; a bool is not a number."""
    kinds = get_args(kind) or (kind,)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(isinstance(each, kinds) for each in value)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)
