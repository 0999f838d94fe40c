"""Errors and warnings of a command as one line each, with an exit code."""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import typer
from jax.errors import JaxRuntimeError

from jaxflow.cli.terminal import note
from jaxflow.ode.status import SolveError
from jaxflow.training import TrainingError

COMPUTATION_FAILED, INVALID_INPUT, INTERRUPTED = 1, 2, 130


class UserCodeError(Exception):
    """An error raised by a Python file of the user; the message names its line."""


# Other exceptions are bugs and keep their traceback.
_EXIT_CODES = {
    INVALID_INPUT: (
        *(ValueError, TypeError, ImportError, PermissionError),
        *(FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError),
    ),
    COMPUTATION_FAILED: (UserCodeError, SolveError, TrainingError, JaxRuntimeError, OSError),
}


def report_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command: print expected errors as `error: ...` and exit with their code.

    With JAXFLOW_TRACEBACK=1 in the environment every exception keeps its traceback.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
                command(*args, **kwargs)
        except Exception as error:
            code = next((c for c, kinds in _EXIT_CODES.items() if isinstance(error, kinds)), None)
            if code is None or os.environ.get("JAXFLOW_TRACEBACK") == "1":
                raise
            note(f"error: {_one_line(error)}")
            raise typer.Exit(code) from None

    return run


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())
