"""Train a flow into a run directory, and keep what came of it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from jaxflow.cli import run_directory
from jaxflow.cli.job import is_first
from jaxflow.cli.models import Settings
from jaxflow.cli.outputs import write_columns
from jaxflow.cli.reports import tell

_INTERRUPTED = 130
# Without a progress bar, a line at most this often.
_SECONDS_BETWEEN_LINES = 5.0


def train(
    flow: Any,
    x: Any,
    cond: Any,
    record: dict[str, Any],
    settings: Settings,
    folder: Path,
    *,
    profile: Path | None = None,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """`jaxflow.fit` with the run's settings and its state on the disk: the flow and its history.

    An interruption keeps the state and says how to go on; a training that failed leaves nothing.
    """
    import jaxflow
    from jaxflow.training.usual import usual_eval_every

    config = jaxflow.TrainConfig(
        steps=settings.steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        max_seconds=settings.max_seconds,
        eval_every=usual_eval_every(settings.steps),
    )
    state = folder / run_directory.STATE
    run_directory.write_record(folder, record)
    try:
        with _watching(settings.steps, profile) as callback:
            return jaxflow.fit(
                flow,
                x,
                cond,
                config=config,
                callback=callback,
                progress=None if is_first() else False,
                checkpoint=state,
                **options,
            )
    except BaseException as error:
        # A state on the disk is worth keeping unless training itself failed.
        if isinstance(error, jaxflow.TrainingError | jaxflow.SolveError) or not state.exists():
            run_directory.discard(folder)
        elif isinstance(error, KeyboardInterrupt):
            tell("interrupted; go on with the same command and --resume")
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(_INTERRUPTED) from None
        raise


def keep(
    flow: Any, history: dict[str, Any], record: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Fill the run directory with a trained flow; the record, now finished."""
    import jaxflow

    record = record | {
        "finished": True,
        "steps": history["step"][-1],
        "seconds": history["seconds"][-1],
    }
    memory = peak_memory()
    if memory is not None:
        record["peak_memory_mib"] = memory
    if not is_first():
        return record
    write_columns(folder / run_directory.HISTORY, history)
    run_directory.write_record(folder, record)
    # Last, since a run with a flow counts as finished.
    jaxflow.save(folder / run_directory.FLOW, flow, extra=record)
    (folder / run_directory.STATE).unlink()
    return record


def tell_proposal(transform: Any) -> None:
    """What was found in the columns, where a transform was proposed."""
    from jaxflow.transforms import Proposal

    if isinstance(transform, Proposal) and is_first():
        for line in transform.lines():
            tell(line)


def peak_memory() -> float | None:
    """The most memory in use on the first device so far, in MiB; None where it does not tell."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    return stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else None


@contextmanager
def _watching(
    steps: int, profile: Path | None
) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """What is done at every validation: a line for a log, and the profile."""
    lines = _lines(steps) if is_first() and not sys.stderr.isatty() else None
    if profile is None:
        yield lines
        return
    import jax

    began, running = 0.0, False

    def watch(row: dict[str, Any]) -> None:
        nonlocal began, running
        if lines is not None:
            lines(row)
        if not began:
            # What the steps need has been compiled by now.
            jax.profiler.start_trace(str(profile))
            began, running = time.monotonic(), True
        elif running and time.monotonic() > began + 0.05:
            # Sooner comes only what a pilot left to be told.
            jax.profiler.stop_trace()
            running = False

    try:
        yield watch
    finally:
        if running:
            jax.profiler.stop_trace()


def _lines(steps: int) -> Callable[[dict[str, Any]], None]:
    """Progress for a log: a line now and then on standard error."""
    last = time.monotonic()

    def tell_step(row: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            tell(f"step {row['step']} of {steps}: held-out {row['validation']:.4f} nats")

    return tell_step
