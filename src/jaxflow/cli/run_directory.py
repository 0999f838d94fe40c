"""A run directory: the fitted flow, its history and its settings, and how it comes about.

- flow.safetensors: the flow, with the content of run.json beside it; present once a fit is done
- history.csv: the history of the training
- run.json: the table, the settings, the versions and the results
- run.toml: the options of the fit, for `jaxflow fit --config`
- map.safetensors: the flow in a few evaluations, where `jaxflow distil` was called
- state.safetensors: the state of a training that goes on or was interrupted

A new run is trained in its own place. One that replaces another is trained beside it, as
`.NAME.new`, and takes its place when it is done.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxflow.cli.config import toml
from jaxflow.cli.job import is_first
from jaxflow.cli.models import DECIDED, option_name
from jaxflow.cli.outputs import write_whole
from jaxflow.cli.record import check_record
from jaxflow.cli.tables import join_names

FLOW, HISTORY, STATE = "flow.safetensors", "history.csv", "state.safetensors"
RECORD, OPTIONS, MAP = "run.json", "run.toml", "map.safetensors"
Run = Annotated[Path, typer.Argument(help="Run directory that jaxflow fit made.")]


def choose_folder(out: Path, *, overwrite: bool, resume: bool) -> Path:
    """Where a fit writes: `out`, or a folder beside it where `out` holds a run to replace.

    Raises:
        ValueError: `out` is a file.
        FileExistsError: `out` holds something that the options do not allow to replace.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out names a folder")
    # Where a link leads, so that a replacement leaves the link alone.
    target = out.resolve()
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if not names:
        return target
    if RECORD not in names and FLOW not in names:
        raise FileExistsError(f"{out} is not empty and no run directory; choose another --out")
    finished = FLOW in names
    beside = _beside(target, "new")
    if resume and overwrite and (beside / RECORD).exists():
        return beside
    if resume and not finished:
        return target
    if not overwrite and resume:
        raise FileExistsError(
            f"{out} holds a finished run, so there is nothing to resume; add --overwrite to fit "
            "it again, or choose another --out"
        )
    if not overwrite and finished:
        raise FileExistsError(
            f"{out} holds a finished run; add --overwrite to replace it, or choose another --out"
        )
    if not overwrite:
        raise FileExistsError(
            f"{out} holds an interrupted run; add --resume to go on with it, or --overwrite to "
            "start again"
        )
    foreign = [name for name in names if not _is_ours(name)]
    if foreign:
        raise FileExistsError(
            f"{out} also holds {', '.join(foreign)}, not files of the run; move them away, or "
            "choose another --out"
        )
    return beside


def put_in_place(folder: Path, out: Path) -> None:
    """Let a finished run in `folder` take the place of the one in `out`, which is deleted."""
    target = out.resolve()
    if folder == target:
        return
    old = _beside(target, "old")
    discard(old)
    os.rename(target, old)
    try:
        os.rename(folder, target)
    except BaseException:
        os.rename(old, target)
        raise
    discard(old)


def discard(folder: Path) -> None:
    """Delete a run: its own files, and the folder where that leaves it empty."""
    if not folder.is_dir() or not is_first():
        return
    for path in folder.iterdir():
        if _is_ours(path.name):
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write run.json and run.toml, in a folder that is made if need be."""
    if not is_first():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / OPTIONS, toml(_options(record)).encode())
    write_whole(folder / RECORD, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())


def read_record(folder: Path) -> dict[str, Any]:
    """Read run.json.

    Raises:
        ValueError: it is damaged.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / RECORD} is damaged: it is not JSON") from error
    return check_record(folder / RECORD, record, finished=False)


def read_run(run: Path) -> dict[str, Any]:
    """What a finished run says of itself, from the file of its flow.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no run directory, an interrupted one, or a flow from elsewhere.
    """
    from jaxflow.io import checkpoint

    check_run(run)
    if not (run / FLOW).exists():
        raise ValueError(
            f"{run} holds an interrupted run and no flow yet; finish it by the same jaxflow fit "
            "command with --resume"
        )
    record = checkpoint.load_extra(run / FLOW)
    if not record.keys() >= {"table", "settings"}:
        raise ValueError(
            f"{run / FLOW} was not written by jaxflow fit; read it in Python: jaxflow.load(path)"
        )
    return check_record(run / FLOW, record, finished=True)


def check_run(run: Path) -> None:
    """Refuse what is no run directory, finished or interrupted."""
    if not run.exists():
        raise FileNotFoundError(f"{run}: no such run directory; jaxflow fit makes one")
    if not run.is_dir():
        raise ValueError(f"{run} is a file; give the run directory that jaxflow fit made")
    if not (run / FLOW).exists() and not (run / RECORD).exists():
        raise ValueError(f"{run} is no run directory: it has no {FLOW}; jaxflow fit makes one")


def _options(record: dict[str, Any]) -> dict[str, Any]:
    """The options of `jaxflow fit` that a run was started with."""
    settings = {option_name(name): value for name, value in record["settings"].items()}
    options: dict[str, Any] = {"table": record["table"]}
    if settings["from"] is not None:
        settings = {name: settings[name] for name in settings if name not in DECIDED}
    else:
        names = record["columns"] if record["columns_chosen"] else None
        options |= {"columns": join_names(names), "class_column": record["class_column"]}
    return options | settings | {"drop_nan": record["drop_nan"]}


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f".{out.name}.{what}")


def _is_ours(name: str) -> bool:
    # A killed program may leave a file that it was writing.
    is_part = name.startswith(".") and name.endswith(".part")
    return is_part or name in (FLOW, HISTORY, RECORD, STATE, OPTIONS, MAP)
