"""Progress of long tasks: a bar on a terminal, log messages elsewhere."""

import logging
import sys
from typing import Any

logger = logging.getLogger("jaxflow")


class Progress:
    """A progress bar of `total` steps on standard error, as a context.

    `show=None` shows it on a terminal only. Without a bar, messages go to the `jaxflow` logger.
    """

    def __init__(self, total: int, *, task: str = "training", show: bool | None = None) -> None:
        self.total, self.task = total, task
        self._bar: Any = None
        self._task: Any = None
        if sys.stderr.isatty() if show is None else show:
            # Imported here: rich would double the import time of the library.
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn(task),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[numbers]}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.task, total=self.total, numbers="compiling")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def visible(self) -> bool:
        """Whether the bar is shown."""
        return self._bar is not None

    def update(self, completed: int, numbers: str = "") -> None:
        """Show the number of completed steps, and `numbers` beside the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, numbers=numbers)

    def say(self, message: str) -> None:
        """Print a message above the bar, or log it at level INFO without a bar."""
        self._emit(message, logging.INFO)

    def warn(self, message: str) -> None:
        """Print a warning above the bar, or log it at level WARNING without a bar."""
        self._emit(message, logging.WARNING)

    def _emit(self, message: str, level: int) -> None:
        if self._bar is None:
            logger.log(level, message)
        else:
            self._bar.console.print(message)
