"""What a person is told: one line an error, a note or a warning, on standard error."""

import functools
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

INPUT_REFUSED, COMPUTATION_FAILED = 2, 1

_as_json = False

# The library's messages give the Python call to write; here the option is meant.
_SPELLINGS = {
    "Drop them with x[finite_rows(x)], or --drop-nan on the command line": (
        "Leave these rows out with --drop-nan"
    ),
    "pass overwrite=True": "add --overwrite",
    "columns=[...]": "--columns a,b",
    "fraction=": "--validation ",
}


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """The command with errors as one line `error: ...` and an exit code.

    The code is 2 where the input was refused, 1 where a computation failed. Other exceptions are
    faults of the program and keep their traceback; with JAXFLOW_TRACEBACK=1 all do.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with _plain_warnings():
                command(*args, **kwargs)
        except Exception as error:
            code = _exit_code(error)
            if code is None or os.environ.get("JAXFLOW_TRACEBACK") == "1":
                raise
            tell(f"error: {_one_line(error)}")
            raise typer.Exit(code) from None

    return run


def tell(line: str) -> None:
    """Write a line to standard error, away from the results."""
    typer.echo(line, err=True)


def use_json(wanted: bool) -> None:
    """Whether results are written for programs: one JSON object a command."""
    global _as_json
    _as_json = wanted


def show(rows: dict[str, str], numbers: dict[str, Any]) -> None:
    """Write results to standard output as labelled lines, the labels bold on a terminal."""
    width = max(map(len, rows))
    labels = (typer.style(label.ljust(width), bold=True) for label in rows)
    lines = (f"{label}  {text}" for label, text in zip(labels, rows.values(), strict=True))
    result("\n".join(lines), numbers)


def result(text: str, numbers: dict[str, Any]) -> None:
    """Write results to standard output: the text, or with --json the numbers alone."""
    typer.echo(json.dumps(numbers, allow_nan=False) if _as_json else text)


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = " ".join(str(error).split())
    for python, option in _SPELLINGS.items():
        text = text.replace(python, option)
    return text


def _exit_code(error: Exception) -> int | None:
    # Imported here, where jax has been loaded or the error is none of these.
    from jax.errors import JaxRuntimeError

    from jaxflow.ode.status import SolveError
    from jaxflow.training import TrainingError

    files = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
    if isinstance(error, (ValueError, TypeError, ImportError, PermissionError, *files)):
        return INPUT_REFUSED
    if isinstance(error, SolveError | TrainingError | JaxRuntimeError | OSError):
        return COMPUTATION_FAILED
    return None


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """The library's warnings without file and line."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell(f"warning: {message}")
        yield
