"""Folds of a small table, and runs on them that start from a density and stop together."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxflow.objectives import maximum_likelihood
from jaxflow.runtime.keys import seed_words
from jaxflow.runtime.lanes import take_rows
from jaxflow.runtime.progress import Progress
from jaxflow.runtime.threads import in_threads, num_threads
from jaxflow.training.config import TrainConfig
from jaxflow.training.minibatches import MemoryBatches
from jaxflow.training.optimizer import Choice
from jaxflow.training.prepare import prepare
from jaxflow.training.record import (
    COLUMNS,
    Callback,
    Record,
    append_record,
    new_history,
    progress_text,
    records_of,
)
from jaxflow.training.run import Run
from jaxflow.training.step import copy_arrays

# Tables of more rows than FOLD_ROWS hold out a share instead of folds; tables of fewer distinct
# rows than FEWEST hold out nothing.
FOLD_ROWS, NUM_FOLDS, FEWEST = 5000, 5, 10
# Splits that are tried for one in which every column varies in every fold.
ATTEMPTS = 20
# Least gain in nats that counts as one.
GAIN = 1e-4
# Steps between two validations, also of large tables, and validations without a gain after which
# a training stops.
EVERY, LARGE_EVERY, PATIENCE = 25, 100, 6
# Updates in which the learning rate rises.
RISE = 25
# Largest number of held-out rows that stop a training; a fold always uses all of its own.
MOST_HELD = 4096

Splits = list[tuple[Int[np.ndarray, " t"], Int[np.ndarray, " h"]]]
# Rows, and their conditions where there are any.
Arrays = tuple[Array, ...]


def make_folds(
    groups: Int[np.ndarray, " n"], count: int, seed: int, *, equal: bool = True
) -> Splits:
    """Split rows into `count` folds at random: row numbers to train on and to hold out, for each.

    The rows of a group, numbered from 0, stay together. With `equal`, all folds have the same
    sizes, to share compiled programs, and a few rows may be in no fold.
    """
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    # Rows by the random place of their group; a fold ends where a group does.
    rows = np.argsort(place[groups], kind="stable")
    at = place[groups[rows]] * count // len(order)
    parts = [rows[at == k] for k in range(count)]
    trains = [np.concatenate(parts[:k] + parts[k + 1 :]) for k in range(count)]
    if not equal:
        return list(zip(trains, parts, strict=True))
    least, size = min(map(len, trains)), min(map(len, parts))
    return [(train[:least], held[:size]) for train, held in zip(trains, parts, strict=True)]


def varied_folds(
    groups: Int[np.ndarray, " n"], seed: int, is_flat: Callable[[np.ndarray], Any]
) -> tuple[Splits, Bool[np.ndarray, " columns"]]:
    """Folds whose training rows vary in every column, and the columns for which there are none.

    `is_flat` says of rows which columns do not vary.
    """
    for attempt in range(ATTEMPTS):
        folds = make_folds(groups, NUM_FOLDS, seed + attempt)
        flat = np.any([is_flat(train) for train, _ in folds], axis=0)
        if not flat.any():
            break
    return folds, flat


class Folds:
    """Runs on the folds of a table, advanced together, and the step of the best mean.

    `best` has the weights of each run at `best_step`, the step of the least mean held-out negative
    log-density; 0 for the start. `history` has means over the folds, from step 0 on.
    """

    def __init__(self, runs: list[Run], num_rows: int) -> None:
        """Begin the runs; their training rows are filled up to `num_rows`, for one program."""
        self.runs, self.history = runs, new_history()
        for run in runs:
            rows = run.problem.train
            filled, seed = take_rows(rows, num_rows), seed_words(run.key)
            run.minibatches = MemoryBatches(filled, seed, run.mesh, len(rows.x))
        self.began = time.monotonic()
        with runs[0].compile_first() as ahead:
            first = self._add_mean([run.validate() | {"loss": math.nan} for run in runs])
            ahead.wait()
        self.lowest = first.validation
        self._keep_weights(0)

    def train(
        self, config: TrainConfig, progress: Progress, callback: Callback | None = None
    ) -> None:
        """Train until `PATIENCE` validations bring nothing, or as long as `config` says.

        Also until `callback`, which gets the means over the folds, returns True.
        """
        every, most, max_seconds = self.runs[0].config.eval_every, config.steps, config.max_seconds
        for step in [*range(every, most, every), most]:
            self._advance(step, progress)
            record = self._add_mean([records_of(run.history)[-1] for run in self.runs])
            progress.update(step, progress_text(record))
            if any(run.finished for run in self.runs) or not math.isfinite(record.validation):
                break
            if record.validation < self.lowest - GAIN:
                self.lowest = record.validation
                self._keep_weights(step)
            if step - self.best_step >= PATIENCE * every:
                break
            if callback is not None and callback(record):
                break
            if max_seconds is not None and record.seconds > max_seconds:
                break

    def train_all(self, make_run: Callable[[], Run]) -> Any | None:
        """The flow of a run on all rows, trained to the best step; None if that is the start."""
        if not self.best_step:
            return None
        run = make_run()
        run.train_to(self.best_step)
        return run.flow(run.state.ema)

    def flows(self) -> list[Any]:
        """The flow of each fold at the best step."""
        return [run.flow(best) for run, best in zip(self.runs, self.best, strict=True)]

    def held_out(self) -> Float[np.ndarray, " n"]:
        """Log-densities of the held-out rows of all folds in turn at the best step, in nats."""
        each = [run.held_out(best) for run, best in zip(self.runs, self.best, strict=True)]
        return np.concatenate(each)

    def _advance(self, step: int, progress: Progress) -> None:
        """Advance all runs, one on each core; the first one alone where it compiles for all."""
        calls = [functools.partial(run.advance, step, progress) for run in self.runs]
        if not self.runs[0].step:
            calls.pop(0)()
        list(in_threads(calls, num_threads()))

    def _keep_weights(self, step: int) -> None:
        self.best_step = step
        self.best = [copy_arrays(run.state.ema) for run in self.runs]

    def _add_mean(self, records: Sequence[Mapping[str, Any]]) -> Record:
        """Add the mean of the folds' records to the history, and return it."""
        means: dict[str, Any] = {n: float(np.mean([r[n] for r in records])) for n in COLUMNS}
        means["seconds"] = time.monotonic() - self.began
        means |= {name: round(means[name]) for name in ("step", "stage")}
        record = Record(**means)
        append_record(self.history, record)
        return record


def start_run(
    flow: Any,
    train: Arrays,
    held: Arrays,
    key: PRNGKeyArray,
    config: TrainConfig,
    *,
    large: bool = False,
) -> Run:
    """A training by maximum likelihood of a flow that is a density already; it never stops itself.

    Rows on a grid are held out with noise within their cells. `large` tables are validated less
    often.
    """
    config = replace(
        config,
        ema=0.95,
        eval_every=LARGE_EVERY if large else EVERY,
        patience=None,
        validation_rows=min(len(held[0]), MOST_HELD),
        max_seconds=None,
        solver_error=math.inf,
    )
    x, cond = (*train, None)[:2]
    problems = prepare(
        flow, x, cond, key, held, None, config, standardise=False, spread_validation=False
    )
    (problem,) = problems.values()
    choice = Choice(schedule=_rising(config.learning_rate))
    return Run("start", problem, key, config, maximum_likelihood, choice)


@functools.cache
def _rising(rate: float) -> Any:
    """A learning rate that rises and stays, since the number of steps is not yet known."""
    return optax.linear_schedule(0.0, rate, RISE)
