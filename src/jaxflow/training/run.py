"""One training: what it changes on the devices, and on the host what was best so far."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from jaxflow.flows.flow import score_rows
from jaxflow.ode import ODE
from jaxflow.runtime.mesh import put_on_mesh, replicate, shard_largest_axis, to_host
from jaxflow.runtime.processes import broadcast_from_first
from jaxflow.runtime.progress import Progress
from jaxflow.training.config import TrainConfig
from jaxflow.training.prepare import Problem, seed_of
from jaxflow.training.source import source_of
from jaxflow.training.stages import Span, span_at
from jaxflow.training.step import Objective, TrainState, first_bad, optimizer_of, train_steps
from jaxflow.training.store import Store
from jaxflow.training.trainable import combine_trainable, partition_trainable

Row = dict[str, int | float]
History = dict[str, list[int | float]]
Callback = Callable[[Row], bool | None]

# Doublings of the training solve's steps before the first step that uses it.
MOST_REFINEMENTS = 5
# What a state is kept with.
KEPT = ("transform", "step", "best_value", "since_best", "history", "config", "ode")
COLUMNS = ("step", "loss", "validation", "coarse", "num_evals", "learning_rate", "seconds")


class Run:
    """One training of one problem.

    Args:
        name: the transform's.
        problem: what is trained.
        key: random key.
        config: settings.
        objective: what is minimised.
        mesh: devices among which minibatches are split; None for one.
        shard_weights: whether the state is split among them too.
    """

    def __init__(
        self,
        name: str,
        problem: Problem,
        key: PRNGKeyArray,
        config: TrainConfig,
        objective: Objective,
        mesh: Mesh | None = None,
        shard_weights: bool = False,
    ) -> None:
        self.name, self.problem, self.key = name, problem, key
        self.config, self.objective, self.mesh = config, objective, mesh
        self.place = shard_largest_axis if shard_weights else replicate
        self.source = source_of(problem, seed_of(key), mesh)
        params, self.frozen = partition_trainable(problem.flow)
        self.state = self._fresh(params, config)
        self.best, self.best_value, self.since_best = params, math.inf, 0
        self.step, self.finished, self.trouble = 0, False, ""
        self.history: History = {name: [] for name in COLUMNS}

    def advance(
        self,
        until: int,
        shown: Progress,
        callback: Callback | None = None,
        store: Store | None = None,
    ) -> None:
        """Train to a step, or until nothing is left to gain."""
        config = self.config
        start = time.monotonic() - (self.history["seconds"] or [0.0])[-1]
        while self.step < until and not self.finished:
            span = self._span(self.step)
            if self.step and self.step == span.first:
                self._begin(span, shown)
            ahead = min(until, span.end) - self.step
            loss, rate = self._train(span, min(span.config.eval_every, ahead))
            row = self._validate() | {"loss": loss, "learning_rate": rate}
            row["seconds"] = broadcast_from_first(time.monotonic() - start)
            self._record(row)
            shown.update(self.step, _numbers(row))
            error = abs(row["validation"] - row["coarse"])
            if self.trouble:
                shown.warn(f"{self.trouble}: training stops, and the best weights so far are kept")
                self.finished = True
            elif error > config.solver_error:
                self.frozen, settings = _refine(self.frozen)
                shown.warn(f"the training solve was off by {error:.3f} nats; now {settings}")
            self._ask(callback, row)
            if config.max_seconds is not None and row["seconds"] > config.max_seconds:
                self.finished = True
            if store is not None:
                self.save(store)

    def report(self, callback: Callback | None, store: Store | None) -> None:
        """Catch up on what `advance` left out while it was not known which run would go on."""
        for i in range(len(self.history["step"])):
            row = {name: values[i] for name, values in self.history.items()}
            self._ask(callback, row)
        if store is not None and self.step:
            self.save(store)

    def _ask(self, callback: Callback | None, row: Row) -> None:
        stop = callback is not None and bool(callback(row))
        self.finished = bool(broadcast_from_first(float(stop))) or self.finished

    def _on_mesh(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def _fresh(self, params: dict[str, Array], config: TrainConfig) -> TrainState:
        """The state in which training starts from such weights."""
        # Copies: the compiled call gives its input's memory to its output.
        state = TrainState(_copy(params), _copy(params), optimizer_of(config).init(params))
        return self.placed(state)

    def placed(self, state: Any) -> Any:
        """Arrays that are the same in every process, where training has them."""
        if self.mesh is None:
            return state
        with self._on_mesh():
            return eqx.filter_jit(self.place)(put_on_mesh(state, self.mesh))

    def home(self, tree: Any) -> Any:
        """Arrays of the training as ordinary ones of this process."""
        return tree if self.mesh is None else to_host(tree, self.mesh)

    def _span(self, step: int) -> Span:
        return span_at(self.objective, self.config, step)

    def _begin(self, span: Span, shown: Progress) -> None:
        """Go on from the best weights with another objective, its schedule starting anew."""
        params = self.best if math.isfinite(self.best_value) else self.home(self.state.ema)
        self.state, self.since_best = self._fresh(params, span.config), 0
        if span.solves and not self._span(self.step - 1).solves:
            self._settle_solver(shown)

    def _train(self, span: Span, count: int) -> tuple[float, float]:
        """Take `count` steps; their mean loss and the last learning rate."""
        rows, indices = self.source.stretch(span.config, self.step, count)
        numbers = jnp.asarray(count), jnp.asarray(self.step), jnp.asarray(span.first)
        given = self.frozen, rows, self.problem.enter, span.objective
        inputs = (given, indices, *numbers, self.key, span.config, self.place)
        with self._on_mesh():
            self.state, losses, rate = train_steps(inputs, self.state)
        values = np.asarray(losses)[:count].astype(float)
        good = np.isfinite(values)
        if not good.all():
            count = int(np.argmin(good))
            step = self.step + count
            step_key = jax.random.fold_in(self.key, step)
            with self._on_mesh():
                name = first_bad(given, self.state.params, indices[count], step_key)
            self.trouble = (
                f"the loss or its gradient is not finite at step {step + 1}, first {name}"
            )
        self.step += count
        return float(np.mean(values)) + self.problem.offsets[0], float(rate)

    def _settle_solver(self, shown: Progress) -> None:
        """Refine the training solve until its value is the evaluation's, before it trains."""
        flow = combine_trainable(self.home(self.state.ema), self.frozen)
        value, _ = self._score(flow)
        for _ in range(MOST_REFINEMENTS):
            coarse, _ = self._score(replace(flow, ode_eval=self.frozen.ode))
            if abs(coarse - value) <= self.config.solver_error:
                break
            self.frozen, _ = _refine(self.frozen)
        shown.say(f"step {self.step}: likelihood from here on, with {self.frozen.ode}")

    def _validate(self) -> Row:
        flow = combine_trainable(self.home(self.state.ema), self.frozen)
        value, num_evals = self._score(flow)
        coarse = value
        if hasattr(flow, "ode") and hasattr(flow, "ode_eval") and self._span(self.step - 1).solves:
            coarse, _ = self._score(replace(flow, ode_eval=flow.ode))
        row: Row = dict.fromkeys(COLUMNS, 0)
        return row | {
            "step": self.step,
            "validation": value,
            "coarse": coarse,
            "num_evals": num_evals,
        }

    def _score(self, flow: Any) -> tuple[float, float]:
        """Mean negative log-density of the held-out rows, and the evaluations of its solve."""
        held = self.problem.held
        # The same probes at every validation, so that values can be compared.
        key = jax.random.fold_in(self.key, 1 << 31)
        if hasattr(self.objective, "held_out"):
            return broadcast_from_first(self.objective.held_out(flow, held.cond, key)[0]), 0.0
        flow = flow.choose_probes(held.x, held.cond, key)
        log_p, stats = score_rows(flow, held.x, held.cond, key)
        weights = None if held.weights is None else np.asarray(held.weights)
        value = -float(np.average(np.asarray(log_p, float), weights=weights))
        value += self.problem.offsets[1]
        return broadcast_from_first(value), 0.0 if stats is None else float(
            np.mean(np.asarray(stats.num_evals))
        )

    def _record(self, row: Row) -> None:
        for name, value in row.items():
            self.history[name].append(value)
        # NaN compares false, so it is never best.
        if row["validation"] < self.best_value:
            self.best_value, self.since_best = row["validation"], 0
            self.best = _copy(self.home(self.state.ema))
        else:
            self.since_best += 1
        self._stop_if_stuck()

    def _stop_if_stuck(self) -> None:
        patience = self.config.patience
        if self._span(self.step - 1).end < self.config.steps:
            return
        self.finished = patience is not None and self.since_best >= patience

    def save(self, store: Store) -> None:
        """Keep all that is needed to go on bit for bit."""
        extra = {
            "transform": self.name,
            "step": self.step,
            "best_value": self.best_value,
            "since_best": self.since_best,
            "history": self.history,
            "config": asdict(self.config),
            "ode": _steps_of(self.frozen),
            "devices": 1 if self.mesh is None else self.mesh.size,
        }
        store.save((self.state, self.best), extra, self.home)

    @classmethod
    def load(
        cls, store: Store, problems: dict[str, Problem], shown: Progress, *given: Any
    ) -> "Run":
        """The run that a checkpoint holds, as it was; `given` as for a new one, from the key on.

        Raises:
            ValueError: other settings or data than the checkpoint's.
        """
        extra = store.read_extra()
        lacking = [name for name in KEPT if name not in extra]
        if lacking:
            raise ValueError(
                f"checkpoint={store.name!r} is damaged or no state of a training: it lacks "
                f"{', '.join(lacking)}; start in another file"
            )
        ours, theirs = asdict(given[1]), extra["config"]
        # A run that went out of time may go on with more of it.
        changed = [n for n in ours if ours[n] != theirs.get(n) and n != "max_seconds"]
        if changed or extra["transform"] not in problems:
            was = {name: theirs.get(name) for name in changed} or extra["transform"]
            raise ValueError(
                f"checkpoint={store.name!r} was made with {was}; resume with the same settings "
                "and data, or start in another file"
            )
        run = cls(extra["transform"], problems[extra["transform"]], *given)
        run.state, run.best = store.load((run.state, run.best), run.home, run.placed)
        run.step, run.best_value = extra["step"], extra["best_value"]
        run.since_best, run.history = extra["since_best"], extra["history"]
        run._stop_if_stuck()
        if extra["ode"]:
            run.frozen = replace(run.frozen, ode=replace(run.frozen.ode, **extra["ode"]))
        before, now = extra.get("devices", 1), 1 if run.mesh is None else run.mesh.size
        if before != now:
            shown.say(
                f"step {run.step}: devices were {before} and are {now}; minibatches and random "
                "numbers go on as they would have, sums are rounded in another order"
            )
        return run


def _refine(frozen: Any) -> tuple[Any, str]:
    """The flow with a finer training solve, and its settings in words."""
    ode: ODE = frozen.ode
    if ode.num_steps is not None:
        changes: dict[str, Any] = {"num_steps": 2 * ode.num_steps}
    elif ode.dt is not None:
        changes = {"dt": ode.dt / 2}
    else:
        changes = {"rtol": ode.rtol / 10, "atol": ode.atol / 10}
    words = ", ".join(f"{name}={value}" for name, value in changes.items())
    return replace(frozen, ode=replace(ode, **changes)), words


def _steps_of(flow: Any) -> dict[str, Any]:
    """The settings that training may have refined."""
    ode = getattr(flow, "ode", None)
    return {n: getattr(ode, n) for n in ("num_steps", "dt", "rtol", "atol")} if ode else {}


def _copy(tree: dict[str, Array]) -> dict[str, Array]:
    return {name: jnp.array(leaf, copy=True) for name, leaf in tree.items()}


def _numbers(row: dict[str, Any]) -> str:
    """A row of the history in words, for the progress bar."""
    numbers = f"loss {row['loss']:.3f}  validation {row['validation']:.3f} nats"
    return numbers + (f"  {row['num_evals']:.0f} evaluations" if row["num_evals"] else "")
