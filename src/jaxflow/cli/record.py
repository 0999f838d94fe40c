"""The record of a run as it is read again: is all there, and of its kind?"""

import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from jaxflow.cli.models import Settings

KINDS: dict[str, Any] = {
    "jaxflow": str,
    "versions": dict,
    "table": str,
    "table_sha256": str,
    "columns": list[str],
    "columns_chosen": bool,
    "rows": int,
    "settings": dict,
}
# What a fit adds when it is done; of a target there are other figures.
FINISHED = KINDS | {"transform": str, "seconds": float, "steps": int}
HELD_OUT = {"validation": float, "validation_se": float | None, "rows_held_out": int}


def check_record(file: Path, record: Any, *, finished: bool) -> dict[str, Any]:
    """The record itself.

    Raises:
        ValueError: an entry that is not there or is of another kind, by its name.
    """
    kinds = FINISHED if finished else KINDS
    if finished and isinstance(record, dict) and "log_z" not in record:
        kinds = kinds | HELD_OUT
    _check(file, record, kinds, "")
    _check(file, record["versions"], {"jax": str}, "versions.")
    settings = {"start": None} | record["settings"]
    _check(file, settings, get_type_hints(Settings), "settings.")
    try:
        Settings(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged, or of another version: {error}") from error
    return record


def _check(file: Path, found: Any, kinds: dict[str, Any], where: str) -> None:
    missing = sorted(kinds.keys() - (found.keys() if isinstance(found, dict) else set()))
    if missing:
        raise ValueError(f"{file} is damaged: it lacks {', '.join(where + n for n in missing)}")
    for name, kind in kinds.items():
        if not _is(found[name], kind):
            raise ValueError(f"{file} is damaged: {where}{name} is {found[name]!r:.80}")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a kind."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(_is(value, each) for each in get_args(kind))
    if origin is list:
        return isinstance(value, list) and all(_is(each, get_args(kind)[0]) for each in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
