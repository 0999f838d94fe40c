"""Train a flow and fill its run directory."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jaxtyping import Float, Int, PRNGKeyArray

import jaxflow
from jaxflow.cli.errors import INTERRUPTED
from jaxflow.cli.models import transform_text
from jaxflow.cli.outputs import open_table
from jaxflow.cli.processes import is_first
from jaxflow.cli.run_directory import FLOW, HISTORY, STATE, discard, write_record
from jaxflow.cli.settings import FitSettings
from jaxflow.cli.terminal import finite, note
from jaxflow.runtime.dependence import DependentColumnsError
from jaxflow.training.comparison import Comparison
from jaxflow.training.defaults import default_eval_every
from jaxflow.training.from_simple import compared
from jaxflow.training.history import History
from jaxflow.training.record import Record
from jaxflow.training.starts import before_scaling, choose_start
from jaxflow.transforms import Chain, Proposal, spread_rows

# Quantiles of held-out log-densities that a run keeps.
LEVELS = np.linspace(0, 1, 101)
# Least seconds between two lines of progress, if there is no progress bar.
LINE_INTERVAL = 5.0
# Least seconds of a profile: calls that follow at once are not separated by training steps.
PROFILE_TIME = 0.05


class NewRun(NamedTuple):
    """A run to fit.

    Attributes:
        folder: the run directory to fill.
        record: its record, without results.
        settings: the settings of the fit.
        resume: continue from the training state in the folder, if there is one.
        mesh: number of devices; None for one.
        profile: folder for a profile.
    """

    folder: Path
    record: dict[str, Any]
    settings: FitSettings
    resume: bool
    mesh: int | None
    profile: Path | None


def held_out_results(log_p: Float[np.ndarray, " held"]) -> dict[str, Any]:
    """Entries of a record about the log-densities of held-out rows."""
    results: dict[str, Any] = {"rows_held_out": len(log_p), "validation": None}
    results |= {"validation_se": None, "held_out_quantiles": []}
    if len(log_p) and np.isfinite(log_p).all():
        mean, error = Comparison({"flow": log_p}).mean()
        results |= {"validation": -mean, "held_out_quantiles": np.quantile(log_p, LEVELS).tolist()}
        results |= {"validation_se": finite(error)}
    return results


def compared_results(comparison: Comparison) -> dict[str, Any]:
    """`held_out_results`, with the log-densities of simple densities."""
    held_out = held_out_results(comparison.log_p.get("flow", np.zeros(0)))
    return held_out | {"comparison": comparison.as_dict()}


def beside_simple(
    flow: Any,
    x: Float[np.ndarray, "n d"],
    first: Chain | None,
    key: PRNGKeyArray,
    train: Int[np.ndarray, " train"],
    held: Int[np.ndarray, " held"],
    trace_key: PRNGKeyArray | None = None,
) -> dict[str, Float[np.ndarray, " held"]]:
    """The flow's log-densities of the rows `held`, beside simple densities of the rows `train`.

    `first` has the transforms of the columns before their scaling. Rows on a grid have noise.
    """
    noisy = spread_rows(first, x, key)[held]
    log_p = np.asarray(flow.log_prob(noisy, key=trace_key), np.float64)
    _, folds = before_scaling(jnp.asarray(x), first, key, [(train, held)])
    return compared(log_p, choose_start(folds))


def train(run: NewRun, flow: Any, *rows: Any, **options: Any) -> tuple[Any, History]:
    """Call `jaxflow.fit` with the settings of the run; returns the flow and its history.

    An interruption leaves the training state in the folder for --resume.
    """
    settings = run.settings
    config = jaxflow.TrainConfig(
        steps=settings.steps,
        batch_size=settings.size("batch_size"),
        learning_rate=settings.size("learning_rate"),
        max_seconds=settings.max_seconds,
        eval_every=default_eval_every(settings.steps),
    )
    with resumable(run) as monitor:
        return jaxflow.fit(
            flow,
            *rows,
            config=config,
            callback=monitor,
            progress=None if is_first() else False,
            checkpoint=run.folder / STATE,
            resume=run.resume,
            mesh=run.mesh,
            **options,
        )


@contextlib.contextmanager
def resumable(run: NewRun) -> Iterator["Monitor"]:
    """Write the record, then train; yields the callback of the training.

    An error deletes the folder if it leaves nothing to resume. Raises typer.Exit after an
    interruption. Errors of dependent columns name them.
    """
    write_record(run.folder, run.record)
    monitor = Monitor(run.settings.steps, run.profile)
    can_resume = (run.folder / STATE).exists
    try:
        yield monitor
    except BaseException as error:
        if isinstance(error, jaxflow.TrainingError | jaxflow.SolveError) or not can_resume():
            discard(run.folder)
        elif isinstance(error, KeyboardInterrupt):
            note("interrupted; repeat the command with --resume to continue")
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(INTERRUPTED) from None
        if isinstance(error, DependentColumnsError):
            raise DependentColumnsError(error.dependent, run.record["columns"]) from None
        raise
    finally:
        monitor.close()


@contextlib.contextmanager
def ending_early(run: NewRun) -> Iterator["Monitor"]:
    """`resumable` for trainings that keep no state: Ctrl-C ends them at the next validation.

    A second Ctrl-C raises.
    """
    with resumable(run) as monitor:

        def end(*_: Any) -> None:
            if monitor.interrupted:
                raise KeyboardInterrupt
            monitor.interrupted = True
            note("interrupted: keeping what was best so far; Ctrl-C again to leave nothing")

        in_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, end) if in_main else None
        try:
            yield monitor
        finally:
            if in_main:
                signal.signal(signal.SIGINT, before)


def finish(run: NewRun, flow: Any, history: History, results: dict[str, Any]) -> dict[str, Any]:
    """Write the trained flow and its history to the run directory; returns the final record."""
    record = run.record | {
        "transform": transform_text(getattr(flow, "transform", None)),
        **results,
        "finished": True,
        "steps": history["step"][-1] if history["step"] else 0,
        "seconds": float(history["seconds"][-1]) if history["step"] else 0.0,
        "steps_verdict": history.verdict,
    }
    memory = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        record["peak_memory_mib"] = memory["peak_bytes_in_use"] / 2**20
    if is_first():
        with open_table(run.folder / HISTORY) as append:
            append(history)
        write_record(run.folder, record)
        # Last, because a run with a flow counts as finished.
        jaxflow.save(run.folder / FLOW, flow, extra=record)
        (run.folder / STATE).unlink(missing_ok=True)
    return record


def note_proposal(transform: Any) -> None:
    """Print which transforms were proposed for the columns, and why."""
    if isinstance(transform, Proposal) and is_first():
        for line in transform.lines():
            note(line)


class Monitor:
    """Callback at each validation: prints progress, takes the profile, may end the training."""

    def __init__(self, steps: int, profile: Path | None) -> None:
        self.steps, self.profile, self.interrupted = steps, profile, False
        self.prints = is_first() and not sys.stderr.isatty()
        self.last_line = time.monotonic()
        self.profile_start: float | None = None

    def __call__(self, row: Record) -> bool:
        """Receive the newest row of the history; returns whether to stop."""
        now = time.monotonic()
        if self.prints and now - self.last_line >= LINE_INTERVAL:
            self.last_line = now
            note(f"step {row.step} of {self.steps}: validation loss {row.validation:.4f} nats")
        if self.profile is not None and self.profile_start is None:
            # The steps have been compiled by now.
            jax.profiler.start_trace(str(self.profile))
            self.profile_start = time.monotonic()
        elif self.profile_start is not None and now > self.profile_start + PROFILE_TIME:
            self.close()
        return self.interrupted

    def close(self) -> None:
        """End the profile."""
        if self.profile is not None and self.profile_start is not None:
            jax.profiler.stop_trace()
            self.profile = None
