"""`Run`: one training of one problem, its state on the devices and its record on the host."""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray

from jaxflow.flows.flow import score_rows
from jaxflow.objectives.protocol import Objective
from jaxflow.ode import ODE, SolveError
from jaxflow.runtime.keys import seed_words
from jaxflow.runtime.mesh import put_on_mesh, replicate, shard_largest_axis, to_host
from jaxflow.runtime.processes import broadcast_from_first
from jaxflow.runtime.progress import Progress
from jaxflow.runtime.threads import Ahead
from jaxflow.training.checkpoints import Store
from jaxflow.training.config import TrainConfig
from jaxflow.training.minibatches import minibatches_of
from jaxflow.training.optimizer import Choice
from jaxflow.training.phases import Phase, phase_at
from jaxflow.training.prepare import Problem, in_data_units
from jaxflow.training.record import (
    COLUMNS,
    Callback,
    Record,
    append_record,
    new_history,
    progress_text,
    records_of,
)
from jaxflow.training.saved import keep_interrupted, made_of, save, save_or_warn
from jaxflow.training.step import (
    Steps,
    copy_arrays,
    first_non_finite,
    initial_state,
    num_finite,
    train_steps,
)
from jaxflow.training.trainable import combine_trainable, partition_trainable
from jaxflow.training.validation import accurate_ode, refine, validation_value, with_ode

# A phase before the last one ends after this many validations in a row that are worse than the
# best one by OVER nats: by over-training, not by the noise of its loss.
EARLY, OVER = 3, 0.02


class Run:
    """One training of one problem; `name` is its transform's, the other arguments as for `fit`."""

    def __init__(
        self,
        name: str,
        problem: Problem,
        key: PRNGKeyArray,
        config: TrainConfig,
        objective: Objective,
        optimizer: Choice,
        mesh: Mesh | None = None,
        shard_weights: bool = False,
    ) -> None:
        self.name, self.problem, self.key = name, problem, key
        self.config, self.objective, self.mesh = config, objective, mesh
        self.optimizer = optimizer
        self.place = shard_largest_axis if shard_weights else replicate
        self.minibatches = minibatches_of(problem, seed_words(key), mesh)
        params, self.frozen = partition_trainable(problem.flow, problem.trained)
        self.state = self.to_mesh(initial_state(params, optimizer.at(self._phase(0))))
        self.best, self.best_value, self.since_best = params, math.inf, 0
        # The place in the schedule, and how much of it was left out by phases that ended early.
        self.step, self.skipped = 0, 0
        self.finished, self.failure = False, ""
        self.unsolved = ""  # why the last validation without a value had none
        self.made_of = made_of(self)
        self.history = new_history()
        self.ahead = Ahead()
        # Who gets the records, and where the state is saved at each of them.
        self.callback: Callback | None = None
        self.store: Store | None = None

    def compile_ahead(self) -> Ahead:
        """Compile the programs of a likelihood that comes later while the first steps train.

        Not on several devices, whose programs all threads must call in one order.
        """
        now = self._phase(self.step)
        later = self._phase(min(now.end, self.config.steps - 1))
        alone = self.mesh is None and jax.process_count() == 1 and self.problem.stream is None
        if now.solves or not later.solves or not alone or not hasattr(self.frozen, "ode"):
            return Ahead()
        flow = combine_trainable(self.best, self.frozen)

        def value(flow: Any) -> Any:
            return validation_value(flow, self.problem, self.objective, self.key)

        coarse = replace(flow, ode_eval=self.frozen.ode)
        return Ahead(
            [partial(value, flow), partial(self.take_no_step, later), partial(value, coarse)]
        )

    def take_no_step(self, phase: Phase) -> Any:
        """Call the training step of a phase for no step, so that jax compiles it."""
        state = initial_state(self.best, self.optimizer.at(phase))
        return train_steps(self._inputs(phase, phase.first, 0), state)

    def compile_first(self) -> Ahead:
        """Compile the first training step while the caller validates the start."""
        return Ahead([partial(self.take_no_step, self._phase(self.step))])

    def advance(self, until: int, progress: Progress) -> None:
        """Train up to the step `until`, or until a stopping rule applies."""
        config = self.config
        start = time.monotonic() - (self.history["seconds"] or [0.0])[-1]
        while self.step < until and not self.finished:
            phase = self._phase(self.step)
            if self.step and self.step == phase.first:
                self._begin(phase, progress)
            count = min(until, phase.next_validation(self.step)) - self.step
            loss, rate = self._train(phase, count)
            values = self.validate() | {"loss": loss, "learning_rate": rate, "stage": phase.stage}
            values["seconds"] = broadcast_from_first(time.monotonic() - start)
            record = Record(**values)
            self._keep(record, progress)
            progress.update(self.step, progress_text(record))
            error = abs(record.validation - record.coarse)
            if self.failure:
                progress.warn(f"{self.failure}: training stops and keeps the best weights so far")
                self.finished = True
            elif error > config.solver_error:
                ode, settings = refine(self.frozen.ode)
                self.frozen = with_ode(self.frozen, ode)
                progress.warn(f"the training solve was off by {error:.3f} nats; now {settings}")
            self._call_back(record)
            if config.max_seconds is not None and record.seconds > config.max_seconds:
                self.finished = True
            if self.store is not None:
                save_or_warn(self, progress, is_last=self.finished or self.step >= until)

    def report(self) -> None:
        """Pass on the records so far, after an `advance` without callback and checkpoints."""
        for record in records_of(self.history):
            self._call_back(record)
        if self.store is not None and self.step:
            save(self, self.store)

    def _call_back(self, record: Record) -> None:
        try:
            stop = self.callback is not None and bool(self.callback(record))
        except BaseException as error:
            keep_interrupted(self, error)
            raise
        self.finished = bool(broadcast_from_first(float(stop))) or self.finished

    def held_out(self, params: Any) -> Float[np.ndarray, " rows"]:
        """Log-density of each validation row with these weights, in nats and data units."""
        rows = self.problem.validation
        log_p, _ = score_rows(combine_trainable(params, self.frozen), rows.x, rows.cond, self.key)
        return np.asarray(log_p, np.float64) + np.asarray(self.problem.log_det, np.float64)

    def train_to(self, step: int) -> None:
        """Train up to a step without a validation."""
        while self.step < step and not self.failure:
            phase = self._phase(self.step)
            self._train(phase, min(phase.config.eval_every, step - self.step))

    def result(self) -> Any:
        """The flow with the best weights so far, in data units."""
        return self.flow(self.best)

    def _on_mesh(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def to_mesh(self, state: Any) -> Any:
        """Put arrays, the same in every process, where training keeps them."""
        if self.mesh is None:
            return state
        with self._on_mesh():
            return eqx.filter_jit(self.place)(put_on_mesh(state, self.mesh))

    def flow(self, params: Any) -> Any:
        """The flow with these weights, in data units."""
        return in_data_units(combine_trainable(params, self.frozen), self.problem)

    def to_host(self, tree: Any) -> Any:
        """Copy arrays of the training to this process."""
        return tree if self.mesh is None else to_host(tree, self.mesh)

    def _phase(self, step: int) -> Phase:
        return phase_at(self.objective, self.config, step)

    def _begin(self, phase: Phase, progress: Progress) -> None:
        """Start a phase from the best weights, with a new optimiser."""
        params = self.best if math.isfinite(self.best_value) else self.to_host(self.state.ema)
        self.state = self.to_mesh(initial_state(params, self.optimizer.at(phase)))
        self.since_best = 0
        if phase.solves and not self._phase(self.step - 1).solves:
            self.ahead.wait()
            ode = accurate_ode(self.frozen.ode, self._value, self.config.solver_error)
            self.frozen = with_ode(self.frozen, ode)
            progress.say(f"step {self.step}: likelihood from here on, with {ode}")

    def _train(self, phase: Phase, count: int) -> tuple[float, float]:
        """Take `count` steps; return their mean loss and the last learning rate."""
        inputs = self._inputs(phase, self.step, count)
        with self._on_mesh():
            self.state, losses, rate = train_steps(inputs, self.state)
        values = np.asarray(losses)[:count].astype(float)
        taken = num_finite(losses, count)
        if taken < count:
            step_key = jax.random.fold_in(self.key, self.step + taken)
            with self._on_mesh():
                batch = inputs.indices[taken]
                name = first_non_finite(inputs.loss_args, self.state.params, batch, step_key)
            self.failure = (
                f"the loss or its gradient is not finite at step {self.step + taken + 1}, "
                f"first {name}"
            )
        self.step += taken
        return float(np.mean(values)) + self.problem.offsets[0], float(rate)

    def _inputs(self, phase: Phase, step: int, count: int) -> Steps:
        """The inputs of `count` steps from a step of a phase on."""
        rows, indices = self.minibatches.load(phase.config, step, count)
        numbers = jnp.asarray(count), jnp.asarray(step), jnp.asarray(phase.first)
        loss_args = self.frozen, rows, self.problem.batch_transform, phase.objective
        optimizer = self.optimizer.at(phase)
        return Steps(
            loss_args, indices, *numbers, self.key, phase.config.ema, optimizer, self.place
        )

    def _value(self, ode: ODE | None = None) -> tuple[float, float]:
        """Validation value and evaluations by this solver; None is the evaluation solver."""
        self.ahead.wait(1)
        flow = combine_trainable(self.to_host(self.state.ema), self.frozen)
        flow = flow if ode is None else replace(flow, ode_eval=ode)
        try:
            return validation_value(flow, self.problem, self.objective, self.key)
        except SolveError as error:  # not a value, and no end of the training
            self.unsolved = str(error)
            return math.nan, 0.0

    def validate(self) -> dict[str, Any]:
        """A record of the averaged weights as they are, without loss and learning rate."""
        value, num_evals = self._value()
        record: dict[str, Any] = dict.fromkeys(COLUMNS, 0)
        record |= {"step": self.step - self.skipped, "validation": value, "num_evals": num_evals}
        has_solvers = hasattr(self.frozen, "ode") and hasattr(self.frozen, "ode_eval")
        is_checked = has_solvers and math.isfinite(self.config.solver_error)
        if is_checked and self._phase(self.step - 1).solves:
            value, _ = self._value(self.frozen.ode)
        return record | {"coarse": value}

    def _keep(self, record: Record, progress: Progress) -> None:
        """Add a record to the history, and keep the weights if they are the best so far."""
        append_record(self.history, record)
        # NaN compares false, so it is never best.
        if record.validation < self.best_value:
            self.best_value, self.since_best = record.validation, 0
            self.best = copy_arrays(self.to_host(self.state.ema))
        else:
            self.since_best += 1
        self.check_patience(progress)

    def check_patience(self, progress: Progress) -> None:
        """Stop where nothing is gained; before the last phase, go on with the next one."""
        patience, phase = self.config.patience, self._phase(self.step - 1)
        if patience is None or self.step == phase.first:
            return
        if phase.end >= self.config.steps:
            self.finished = self.since_best >= patience
        elif self.since_best >= min(patience, EARLY) and self._over_trains():
            progress.say(
                f"step {self.step - self.skipped}: the held-out rows have become less likely "
                f"since a loss of {self.best_value:.3f} nats, so {phase.objective} ends here"
            )
            self.skipped += phase.end - self.step
            self.step = phase.end

    def _over_trains(self) -> bool:
        """Whether the last validations are clearly worse than the best one."""
        last = self.history["validation"][-EARLY:]
        return min(last, default=math.nan) > self.best_value + OVER
