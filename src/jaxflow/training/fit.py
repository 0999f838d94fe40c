"""`fit`: train a flow, validate it by the evaluation solver, keep the best weights."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxflow.checkpoint import load_extra, load_leaves, save_leaves
from jaxflow.diffusion import ProbabilityFlow
from jaxflow.dynamics import OptionalCondition
from jaxflow.model import assemble, score_rows, separate
from jaxflow.objectives import Denoising, Stage, Staged, maximum_likelihood
from jaxflow.ode import ODE
from jaxflow.progress import Progress
from jaxflow.training.config import TrainConfig
from jaxflow.training.prepare import Problem, finished, prepare, seed_of
from jaxflow.training.stages import Span, span_at
from jaxflow.training.step import (
    Objective,
    TrainingError,
    TrainState,
    first_bad,
    minibatches,
    optimizer_of,
    train_steps,
)

Row = dict[str, int | float]
History = dict[str, list[int | float]]
Callback = Callable[[Row], bool | None]

# Doublings of the training solve's steps before the first step that uses it.
MOST_REFINEMENTS = 5
COLUMNS = ("step", "loss", "validation", "coarse", "num_evals", "learning_rate", "seconds")


def fit(
    flow: Any,
    x: Any,
    cond: Any = None,
    *,
    key: PRNGKeyArray,
    weights: Any = None,
    validation: Any = 0.1,
    transform: Any = "auto",
    config: TrainConfig = TrainConfig(),
    objective: Objective | None = None,
    progress: bool | None = None,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> tuple[Any, History]:
    """Train a flow and return its best version, by held-out log-density.

    ```python
    flow, history = jaxflow.fit(flow, x_train, validation=x_val, key=jax.random.key(0))
    ```

    The history's values are mean negative log-densities in nats, in the data's own units:
    `loss` by the objective on the last minibatches (for another objective than likelihood, its
    own value plus the transform's constant), `validation` by the evaluation solver, `coarse`
    by the training solver on the same rows.

    Args:
        flow: a `CNF`, a `CouplingFlow`, or any `Flow`. Base and transform are not trained.
        x: data, (n, *event); None for an objective that needs none, such as `ReverseKL`.
        cond: conditions, (n, *condition); standardised on their way into the network.
        key: for the split, the minibatches and the probes; the same key gives the same flow.
        weights: how often each row counts, (n,), none of them negative: weights (2, 1, 0) are
            rows that occur twice, once and never.
        validation: held-out rows, or `(x, cond, weights)`, or the part of `x` to hold out.
        transform: `"auto"`: where the flow has none, each of
            `jaxflow.transforms.candidate_transforms` is trained for `config.pilot` steps, and
            the one with the better validation value goes on; so too behind what
            `jaxflow.transforms.propose(x)` found in the columns, if that is given. `None` leaves
            the flow as it is; else the transform to use.
        config: settings.
        objective: `(flow, x, cond, key) -> (loss, metrics)`, with `weights` as a fifth argument
            where there are any; it sees the flow without its transform, and rows in flow space.
            None is `Staged()`, flow matching and then likelihood, for a `CNF`, `Denoising()` for
            a diffusion model, and likelihood for other flows.
            One with a method `held_out(flow, cond, key) -> (value, share of samples left out)`
            is validated by that.
        progress: whether to show a progress bar; None shows it on a terminal only.
        callback: called with the newest row of the history; returning True ends training.
        checkpoint: file that keeps the state of training, written at every validation.
        resume: go on from `checkpoint` where it exists.

    Returns:
        The flow with the best weights, and the history: a table, column name -> values.

    Raises:
        ValueError, TypeError: bad data (rows and columns named) or settings, before training.
        TrainingError: no validation value was ever finite.
    """
    if objective is None:
        objective = _usual_objective(flow, cond)
    if x is None and not hasattr(objective, "held_out"):
        raise ValueError(f"x=None, and objective={objective} needs data: give rows (n, *event)")
    standardise = not getattr(objective, "raw_conditions", False)
    problems = prepare(
        flow, x, cond, key, validation, transform, config, weights, standardise=standardise
    )
    check = getattr(objective, "check_transform", None)
    if check is not None:
        for problem in problems.values():
            check(problem.transform)
    file = Path(checkpoint) if checkpoint is not None else None
    resumed = file if resume and file is not None and file.exists() else None
    with Progress(config.steps, show=progress) as shown:
        if resumed is not None:
            run = _Run.load(resumed, problems, key, config, objective)
        else:
            runs = [_Run(name, p, key, config, objective) for name, p in problems.items()]
            run = _choose(runs, config.pilot_steps, shown) if len(runs) > 1 else runs[0]
            run.report(callback, file)
        run.advance(config.steps, shown, callback, file)
    if run.trouble and not run.step:
        raise TrainingError(f"{run.trouble}; lower learning_rate={config.learning_rate}")
    if not math.isfinite(run.best_value):
        raise TrainingError(
            f"no validation value was finite in {run.step} steps; lower learning_rate="
            f"{config.learning_rate}, or give the training solve more steps"
        )
    return finished(assemble(run.best, run.frozen), run.problem), run.history


def _usual_objective(flow: Any, cond: Any) -> Objective:
    """What a flow is trained by unless told otherwise."""
    field = getattr(flow, "field", None)
    if field is None:
        return maximum_likelihood
    if not isinstance(field, ProbabilityFlow):
        return Staged()
    network = getattr(field.denoiser, "network", None)
    optional = cond is not None and isinstance(network, OptionalCondition)
    denoising = Denoising(drop=0.1 if optional else 0.0)
    # As for flow matching, a long memory of the weights: the loss never settles.
    return Staged((Stage(denoising, 1.0, ema=0.999),))


def _choose(runs: list["_Run"], steps: int, shown: Progress) -> "_Run":
    for run in runs:
        run.advance(steps, shown)
    runs.sort(key=lambda run: run.best_value)
    values = ", ".join(f"{run.name} {run.best_value:.3f}" for run in runs)
    shown.say(f"transform: {runs[0].name} (held-out nats after {runs[0].step} steps: {values})")
    return runs[0]


class _Run:
    """One training: its state on the device, and on the host what was best so far."""

    def __init__(
        self,
        name: str,
        problem: Problem,
        key: PRNGKeyArray,
        config: TrainConfig,
        objective: Objective,
    ) -> None:
        self.name, self.problem, self.key = name, problem, key
        self.config, self.objective = config, objective
        params, self.frozen = separate(problem.flow)
        # Copies: the compiled call gives its input's memory to its output.
        self.state = TrainState(_copy(params), _copy(params), optimizer_of(config).init(params))
        self.best, self.best_value, self.since_best = params, math.inf, 0
        self.step, self.finished, self.trouble = 0, False, ""
        self.history: History = {name: [] for name in COLUMNS}

    def advance(
        self,
        until: int,
        shown: Progress,
        callback: Callback | None = None,
        checkpoint: Path | None = None,
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
            row["seconds"] = time.monotonic() - start
            self._record(row)
            shown.update(self.step, _numbers(row))
            error = abs(row["validation"] - row["coarse"])
            if self.trouble:
                shown.warn(f"{self.trouble}: training stops, and the best weights so far are kept")
                self.finished = True
            elif error > config.solver_error:
                self.frozen, settings = _refine(self.frozen)
                shown.warn(f"the training solve was off by {error:.3f} nats; now {settings}")
            if callback is not None and callback(row):
                self.finished = True
            if config.max_seconds is not None and row["seconds"] > config.max_seconds:
                self.finished = True
            if checkpoint is not None:
                self._save(checkpoint)

    def report(self, callback: Callback | None, checkpoint: Path | None) -> None:
        """Catch up on what `advance` left out while it was not known which run would go on."""
        for i in range(len(self.history["step"])):
            row = {name: values[i] for name, values in self.history.items()}
            if callback is not None and callback(row):
                self.finished = True
        if checkpoint is not None and self.step:
            self._save(checkpoint)

    def _span(self, step: int) -> Span:
        return span_at(self.objective, self.config, step)

    def _begin(self, span: Span, shown: Progress) -> None:
        """Go on from the best weights with another objective, its schedule starting anew."""
        params = self.best if math.isfinite(self.best_value) else self.state.ema
        opt_state = optimizer_of(span.config).init(params)
        self.state, self.since_best = TrainState(_copy(params), _copy(params), opt_state), 0
        if span.solves and not self._span(self.step - 1).solves:
            self._settle_solver(shown)

    def _train(self, span: Span, count: int) -> tuple[float, float]:
        """Take `count` steps; their mean loss and the last learning rate."""
        train = self.problem.train
        indices = minibatches(len(train.x), span.config, seed_of(self.key), self.step, count)
        numbers = jnp.asarray(count), jnp.asarray(self.step), jnp.asarray(span.first)
        given = self.frozen, train, self.problem.enter, span.objective
        inputs = (given, indices, *numbers, self.key, span.config)
        self.state, losses, rate = train_steps(inputs, self.state)
        values = np.asarray(losses)[:count].astype(float)
        good = np.isfinite(values)
        if not good.all():
            count = int(np.argmin(good))
            step, rows = self.step + count, indices[count]
            name = first_bad(given, self.state.params, rows, jax.random.fold_in(self.key, step))
            self.trouble = (
                f"the loss or its gradient is not finite at step {step + 1}, first {name}"
            )
        self.step += count
        return float(np.mean(values)) + self.problem.offsets[0], float(rate)

    def _settle_solver(self, shown: Progress) -> None:
        """Refine the training solve until its value is the evaluation's, before it trains."""
        flow = assemble(self.state.ema, self.frozen)
        value, _ = self._score(flow)
        for _ in range(MOST_REFINEMENTS):
            coarse, _ = self._score(replace(flow, ode_eval=self.frozen.ode))
            if abs(coarse - value) <= self.config.solver_error:
                break
            self.frozen, _ = _refine(self.frozen)
        shown.say(f"step {self.step}: likelihood from here on, with {self.frozen.ode}")

    def _validate(self) -> Row:
        flow = assemble(self.state.ema, self.frozen)
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
            return self.objective.held_out(flow, held.cond, key)[0], 0.0
        flow = flow.settled(held.x, held.cond, key)
        log_p, stats = score_rows(flow, held.x, held.cond, key)
        weights = None if held.weights is None else np.asarray(held.weights)
        value = -float(np.average(np.asarray(log_p, float), weights=weights))
        value += self.problem.offsets[1]
        return value, 0.0 if stats is None else float(np.mean(np.asarray(stats.num_evals)))

    def _record(self, row: Row) -> None:
        for name, value in row.items():
            self.history[name].append(value)
        # NaN compares false, so it is never best.
        if row["validation"] < self.best_value:
            self.best_value, self.since_best = row["validation"], 0
            self.best = _copy(self.state.ema)
        else:
            self.since_best += 1
        self._stop_if_stuck()

    def _stop_if_stuck(self) -> None:
        patience = self.config.patience
        if self._span(self.step - 1).end < self.config.steps:
            return
        self.finished = patience is not None and self.since_best >= patience

    def _save(self, path: Path) -> None:
        extra = {
            "transform": self.name,
            "step": self.step,
            "best_value": self.best_value,
            "since_best": self.since_best,
            "history": self.history,
            "config": asdict(self.config),
            "ode": _steps_of(self.frozen),
        }
        save_leaves(path, (self.state, self.best), extra=extra)

    @classmethod
    def load(
        cls,
        path: Path,
        problems: dict[str, Problem],
        key: PRNGKeyArray,
        config: TrainConfig,
        objective: Objective,
    ) -> "_Run":
        """The run that a checkpoint holds, as it was."""
        extra = load_extra(path)
        ours, theirs = asdict(config), extra["config"]
        # A run that went out of time may go on with more of it.
        changed = [n for n in ours if ours[n] != theirs.get(n) and n != "max_seconds"]
        if changed or extra["transform"] not in problems:
            was = {name: theirs.get(name) for name in changed} or extra["transform"]
            raise ValueError(
                f"checkpoint={str(path)!r} was made with {was}; resume with the same settings "
                "and data, or start in another file"
            )
        run = cls(extra["transform"], problems[extra["transform"]], key, config, objective)
        run.state, run.best = load_leaves(path, (run.state, run.best))
        run.step, run.best_value = extra["step"], extra["best_value"]
        run.since_best, run.history = extra["since_best"], extra["history"]
        run._stop_if_stuck()
        if extra["ode"]:
            run.frozen = replace(run.frozen, ode=replace(run.frozen.ode, **extra["ode"]))
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
