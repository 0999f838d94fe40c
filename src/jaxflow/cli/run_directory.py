"""The run directory: its files, and how a new run replaces an old one.

- flow.safetensors: the fitted flow and the content of run.json; exists once the fit is finished
- history.csv: training history
- run.json: data, settings, versions and results, see `jaxflow.cli.record`
- run.toml: options of the fit, for `jaxflow fit --config`
- map.safetensors: the fast approximation by `jaxflow distil`
- state.safetensors: training state of an unfinished fit, for `--resume`

A new run is written in place. One that replaces another is written beside it, as `.NAME.new`,
and renamed when it is finished.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from jaxflow.cli.config import to_toml
from jaxflow.cli.outputs import write_bytes
from jaxflow.cli.processes import is_first
from jaxflow.cli.record import check_record
from jaxflow.cli.settings import INHERITED, option_name
from jaxflow.cli.tables import join_names
from jaxflow.data.delimited import assume_first_line
from jaxflow.io.checkpoint import load_extra

FLOW, HISTORY, STATE = "flow.safetensors", "history.csv", "state.safetensors"
RECORD, OPTIONS, MAP = "run.json", "run.toml", "map.safetensors"


def choose_folder(out: Path, *, overwrite: bool, resume: bool) -> Path:
    """The folder to fit in: `out`, or `.NAME.new` if `out` holds a run to replace."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out must name a folder")
    # Replace the folder that a link points to, not the link.
    target = out.resolve()
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if not names:
        return target
    if RECORD not in names and FLOW not in names:
        raise FileExistsError(f"{out} is not empty and not a run directory; choose another --out")
    finished, new = FLOW in names, _sibling(target, "new")
    if resume and overwrite and (new / RECORD).exists():
        return new
    if resume and not finished:
        return target
    if not overwrite:
        if resume:
            state, advice = "a finished run, nothing to resume", "--overwrite to fit it again"
        elif finished:
            state, advice = "a finished run", "--overwrite to replace it"
        else:
            state = "an interrupted run"
            advice = "--resume to continue it, or --overwrite to start again"
        raise FileExistsError(f"{out} holds {state}; add {advice}, or choose another --out")
    foreign = [name for name in names if not _is_run_file(name)]
    if foreign:
        raise FileExistsError(
            f"{out} also holds {', '.join(foreign)}, which --overwrite would delete; move them "
            "away, or choose another --out"
        )
    return new


def put_in_place(folder: Path, out: Path) -> None:
    """Replace the run in `out` by the finished run in `folder`."""
    target = out.resolve()
    if folder == target:
        return
    old = _sibling(target, "old")
    discard(old)
    os.rename(target, old)
    try:
        os.rename(folder, target)
    except BaseException:
        os.rename(old, target)
        raise
    discard(old)


def discard(folder: Path) -> None:
    """Delete the files of a run, and the folder if it is then empty."""
    if not folder.is_dir() or not is_first():
        return
    for path in folder.iterdir():
        if _is_run_file(path.name):
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write run.json and run.toml, creating the folder."""
    if not is_first():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / OPTIONS, to_toml(_fit_options(record)).encode())
    write_bytes(folder / RECORD, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())


def read_record(folder: Path) -> dict[str, Any]:
    """Read run.json; raises ValueError if it is damaged."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / RECORD} is damaged: it is not JSON") from error
    return check_record(folder / RECORD, record, finished=False)


def read_finished(run: Path) -> dict[str, Any]:
    """Read the record of a finished run; tables are then read as that of the run was."""
    check_run(run)
    if not (run / FLOW).exists():
        raise ValueError(
            f"{run} holds an interrupted run without a flow; finish it by the same jaxflow fit "
            "command with --resume"
        )
    record = load_extra(run / FLOW)
    if not record.keys() >= {"table", "settings"}:
        raise ValueError(
            f"{run / FLOW} was not written by jaxflow fit; read it in Python: jaxflow.load(path)"
        )
    record = check_record(run / FLOW, record, finished=True)
    assume_first_line(is_header=record.get("header"))
    return record


def check_run(run: Path) -> None:
    """Raise unless `run` is a run directory, finished or interrupted."""
    if not run.exists():
        raise FileNotFoundError(f"{run}: no such run directory; create one with jaxflow fit")
    if not run.is_dir():
        raise ValueError(f"{run} is a file; name a run directory that jaxflow fit made")
    if not (run / FLOW).exists() and not (run / RECORD).exists():
        raise ValueError(f"{run} is not a run directory: it has no {FLOW}")


def _fit_options(record: dict[str, Any]) -> dict[str, Any]:
    """Options of `jaxflow fit` that repeat the run."""
    settings = {option_name(name): value for name, value in record["settings"].items()}
    names = record["columns"] if record["columns_chosen"] else None
    columns = {"columns": join_names(names), "class_column": record["class_column"]}
    if settings["from"] is not None:
        columns = {}
        settings = {name: settings[name] for name in settings if name not in INHERITED}
    return {
        # A path that does not depend on the folder in which the file is used.
        "table": str(Path(record["table"]).resolve()),
        **columns,
        **settings,
        "given": join_names(record.get("given")),
        "kind": record.get("kind") or None,
        "null": record.get("null") or None,
        "drop_nan": record["drop_nan"],
        "header": record.get("header"),
        "levels": record.get("levels"),
    }


def _sibling(out: Path, suffix: str) -> Path:
    return out.with_name(f".{out.name}.{suffix}")


def _is_run_file(name: str) -> bool:
    # Temporary files remain if the program is killed while it writes.
    is_temporary = name.startswith(".") and name.endswith(".part")
    return is_temporary or name in (FLOW, HISTORY, RECORD, STATE, OPTIONS, MAP)
