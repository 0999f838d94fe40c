"""What a person sees while a flow trains: a bar on a terminal, only what matters elsewhere."""

import logging
import sys
from types import TracebackType
from typing import Any

logger = logging.getLogger("jaxflow")


class Progress:
    """A progress bar on standard error; without one, messages go to the `jaxflow` logger.

    Args:
        total: training steps.
        show: True or False; None shows it on a terminal only.
    """

    def __init__(self, total: int, *, show: bool | None = None) -> None:
        self.total = total
        self._bar: Any = None
        self._task: Any = None
        if sys.stderr.isatty() if show is None else show:
            # Imported here: rich would double the import time of the library.
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("training"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[numbers]}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self.total, numbers="compiling")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, row: dict[str, int | float]) -> None:
        """Show the newest row of a history."""
        if self._bar is not None:
            numbers = f"loss {row['loss']:.3f}  validation {row['validation']:.3f} nats"
            if row["num_evals"]:
                numbers += f"  {row['num_evals']:.0f} evaluations"
            self._bar.update(self._task, completed=row["step"], numbers=numbers)

    def say(self, message: str) -> None:
        """Tell the person something: above the bar, or in the log where there is none."""
        self._tell(message, logging.INFO)

    def warn(self, message: str) -> None:
        """Tell the person something that they should not miss."""
        self._tell(message, logging.WARNING)

    def _tell(self, message: str, level: int) -> None:
        if self._bar is None:
            logger.log(level, message)
        else:
            self._bar.console.print(message)
