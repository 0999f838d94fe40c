"""`fit`: minibatches, many steps in one compiled call, validation by the evaluation solver."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxflow.checkpoint import load_extra, load_leaves, save_leaves
from jaxflow.data.checks import check_columns, check_rows, split
from jaxflow.model import Flow, assemble, score_rows, separate
from jaxflow.objectives import maximum_likelihood
from jaxflow.ode import ODE
from jaxflow.progress import Progress
from jaxflow.rows import as_rows, cond_rows, promote
from jaxflow.training.config import TrainConfig
from jaxflow.training.step import (
    Objective,
    Rows,
    TrainState,
    minibatches,
    optimizer_of,
    train_steps,
)
from jaxflow.transforms import choose_transform

History = dict[str, list[int | float]]


class TrainingError(RuntimeError):
    """Training could not go on; the message says at which step and what to try."""


def fit(
    flow: Any,
    x: Any,
    cond: Any = None,
    *,
    key: PRNGKeyArray,
    validation: Any = 0.1,
    transform: Any = "auto",
    config: TrainConfig = TrainConfig(),
    objective: Objective = maximum_likelihood,
    progress: bool | None = None,
    callback: Callable[[dict[str, int | float]], bool | None] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> tuple[Any, History]:
    """Train a flow and return its best version, by held-out log-density.

    ```python
    flow, history = jaxflow.fit(flow, x_train, validation=x_val, key=jax.random.key(0))
    ```

    The values in `history` are mean negative log-densities in nats, in the data's own units:
    `loss` as the objective gives it on the last minibatches, `validation` by the evaluation
    solver, `coarse` by the training solver on the same rows.

    Args:
        flow: a `CNF`, a `CouplingFlow`, or any `Flow`. Base and transform are not trained.
        x: data, (n, *event).
        cond: conditions, (n, *condition).
        key: for the split, the minibatches and the probes; the same key gives the same flow.
        validation: held-out rows, or `(x, cond)`, or the part of `x` to hold out.
        transform: `"auto"` fits one to the data where the flow has none (see
            `jaxflow.transforms.choose_transform`); `None` leaves the flow as it is; else the
            transform to use.
        config: settings.
        objective: `(flow, x, cond, key) -> (loss, metrics)`.
        progress: whether to show a progress bar; None shows it on a terminal only.
        callback: called with the newest row of the history; returning True ends training.
        checkpoint: file that keeps the state of training, written at every validation.
        resume: go on from `checkpoint` where it exists.

    Returns:
        The flow with the best weights, and the history: a table, column name -> values.

    Raises:
        ValueError: bad data (rows and columns named) or settings, before training starts.
        TrainingError: no validation value was ever finite.
    """
    flow, train, held = _prepare(flow, x, cond, key, validation, transform, config)
    params, frozen = separate(flow)
    seed = _seed(key)
    # Copies: the compiled call gives its input's memory to its output.
    state = TrainState(_copy(params), _copy(params), optimizer_of(config).init(params))
    run = _Run(state, best=_copy(params), config=config)
    if resume and checkpoint is not None and Path(checkpoint).exists():
        frozen = run.load(checkpoint, frozen)
    start = time.monotonic() - (run.history["seconds"][-1] if run.history["seconds"] else 0.0)

    with Progress(config.steps, show=progress) as shown:
        while run.step < config.steps and not run.finished:
            count = min(config.eval_every, config.steps - run.step)
            indices = minibatches(len(train.x), config, seed, run.step, count)
            run.state, losses, rate = train_steps(
                (
                    frozen,
                    train,
                    indices,
                    jnp.asarray(count),
                    jnp.asarray(run.step),
                    key,
                    objective,
                    config,
                ),
                run.state,
            )
            run.step += count
            loss = float(np.mean(np.asarray(losses)[:count]))
            candidate = assemble(run.state.ema, frozen)
            value, num_evals = _validate(candidate, held, key)
            coarse = _coarse(candidate, held, key) if _has_solver(flow) else value
            row = {
                "step": run.step,
                "loss": loss,
                "validation": value,
                "coarse": coarse,
                "num_evals": num_evals,
                "learning_rate": float(rate),
                "seconds": time.monotonic() - start,
            }
            run.record(row)
            shown.update(row)
            if not math.isfinite(loss):
                shown.say(f"the loss is {loss} at step {run.step}: training stops")
                run.finished = True
            elif math.isfinite(value) and abs(value - coarse) > config.solver_error:
                frozen, message = _refine(frozen, abs(value - coarse))
                shown.say(message)
            if callback is not None and callback(row):
                run.finished = True
            if config.max_seconds is not None and row["seconds"] > config.max_seconds:
                run.finished = True
            if checkpoint is not None:
                run.save(checkpoint, frozen)
    if not math.isfinite(run.best_value):
        raise TrainingError(
            f"no validation value was finite in {run.step} steps; lower learning_rate="
            f"{config.learning_rate}, or give the training solve more steps"
        )
    return assemble(run.best, frozen), run.history


class _Run:
    """The host's side of a training: its state, the best weights so far, the history."""

    columns = ("step", "loss", "validation", "coarse", "num_evals", "learning_rate", "seconds")

    def __init__(self, state: TrainState, *, best: Any, config: TrainConfig) -> None:
        self.state, self.best, self.config = state, best, config
        self.best_value, self.since_best, self.step = math.inf, 0, 0
        self.finished = False
        self.history: History = {name: [] for name in self.columns}

    def record(self, row: dict[str, int | float]) -> None:
        for name, value in row.items():
            self.history[name].append(value)
        # NaN compares false, so it is never best.
        if row["validation"] < self.best_value:
            self.best_value, self.since_best = row["validation"], 0
            self.best = _copy(self.state.ema)
        else:
            self.since_best += 1
            self.finished = self._is_stuck()

    def _is_stuck(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.since_best >= patience

    def save(self, path: str | Path, frozen: Any) -> None:
        extra = {
            "step": self.step,
            "best_value": self.best_value,
            "since_best": self.since_best,
            "history": self.history,
            "config": asdict(self.config),
            "ode": _steps_of(frozen),
        }
        save_leaves(path, (self.state, self.best), extra=extra)

    def load(self, path: str | Path, frozen: Any) -> Any:
        extra = load_extra(path)
        ours = asdict(self.config)
        # A run that went out of time may go on with more of it.
        changed = [n for n in ours if ours[n] != extra["config"].get(n) and n != "max_seconds"]
        if changed:
            was = {name: extra["config"].get(name) for name in changed}
            raise ValueError(
                f"checkpoint={str(path)!r} was made with {was}; resume with these settings, or "
                "start in another file"
            )
        self.state, self.best = load_leaves(path, (self.state, self.best))
        self.step, self.best_value = extra["step"], extra["best_value"]
        self.since_best, self.history = extra["since_best"], extra["history"]
        self.finished = self._is_stuck()
        return _with_steps(frozen, extra["ode"])


def _prepare(
    flow: Any,
    x: Any,
    cond: Any,
    key: PRNGKeyArray,
    validation: Any,
    transform: Any,
    config: TrainConfig,
) -> tuple[Any, Rows, Rows]:
    """The flow with its transform, and training and validation rows, all checked."""
    if not isinstance(flow, Flow):
        raise TypeError(f"flow={flow!r} must be a CNF, a CouplingFlow or another jaxflow Flow")
    x, cond = _data(flow, x, cond, "x")
    if isinstance(validation, float | int):
        train_rows, held_rows = split(len(x), float(validation), sum(_seed(key)) % 2**32)
        held_x, held_cond = x[held_rows], None if cond is None else cond[held_rows]
        x, cond = x[train_rows], None if cond is None else cond[train_rows]
    else:
        held_x, held_cond = validation if isinstance(validation, tuple) else (validation, None)
        held_x, held_cond = _data(flow, held_x, held_cond, "validation")
        if (held_cond is None) != (cond is None):
            raise ValueError("give conditions to both or neither: validation=(x_val, cond_val)")
    check_columns(np.asarray(x))
    if isinstance(transform, str):
        if transform != "auto":
            raise ValueError(
                f"transform={transform!r} is unknown; choose 'auto', None or a transform"
            )
        transform = choose_transform(x, held_x) if flow.transform is None else flow.transform
    if transform is not None:
        flow = eqx.tree_at(
            lambda flow: flow.transform, flow, transform, is_leaf=lambda leaf: leaf is None
        )
    rows = config.validation_rows
    flow, train, held = promote(
        flow, Rows(x, cond), Rows(held_x[:rows], None if held_cond is None else held_cond[:rows])
    )
    return flow, train, held


def _data(flow: Flow, x: Any, cond: Any, name: str) -> tuple[Array, Array | None]:
    rows, batch = as_rows(x, flow.event_shape, name)
    if len(batch) != 1 or batch[0] == 0:
        raise ValueError(
            f"{name} has shape {np.shape(x)}; rows of shape (n, "
            f"{', '.join(map(str, flow.event_shape))}) with n at least 1 belong here"
        )
    check_rows(np.asarray(rows), name)
    conditions = cond_rows(cond, batch)
    if conditions is not None:
        check_rows(np.asarray(conditions), f"the condition of {name}")
    return rows, conditions


def _validate(flow: Any, held: Rows, key: PRNGKeyArray) -> tuple[float, float]:
    """Mean negative log-density of the held-out rows, and the evaluations of its solve."""
    # The same probes at every validation, so that values can be compared.
    log_p, stats = score_rows(flow, held.x, held.cond, jax.random.fold_in(key, 1 << 31))
    evaluations = [float(jnp.mean(part.num_evals)) for part in stats if part is not None]
    return -float(jnp.mean(log_p)), float(np.mean(evaluations)) if evaluations else 0.0


def _coarse(flow: Any, held: Rows, key: PRNGKeyArray) -> float:
    """The same value by the training solver."""
    return _validate(replace(flow, ode_eval=flow.ode), held, key)[0]


def _has_solver(flow: Any) -> bool:
    return hasattr(flow, "ode") and hasattr(flow, "ode_eval")


def _refine(frozen: Any, error: float) -> tuple[Any, str]:
    """The flow with a finer training solve, and a sentence about it."""
    ode: ODE = frozen.ode
    if ode.num_steps is not None:
        ode = replace(ode, num_steps=2 * ode.num_steps)
        what = f"num_steps={ode.num_steps}"
    elif ode.dt is not None:
        ode = replace(ode, dt=ode.dt / 2)
        what = f"dt={ode.dt}"
    else:
        ode = replace(ode, rtol=ode.rtol / 10, atol=ode.atol / 10)
        what = f"rtol={ode.rtol}, atol={ode.atol}"
    return replace(frozen, ode=ode), (
        f"the training solve was off by {error:.3f} nats; it goes on with {what}"
    )


def _steps_of(flow: Any) -> dict[str, Any]:
    ode = getattr(flow, "ode", None)
    return {n: getattr(ode, n) for n in ("num_steps", "dt", "rtol", "atol")} if ode else {}


def _with_steps(flow: Any, steps: dict[str, Any]) -> Any:
    return replace(flow, ode=replace(flow.ode, **steps)) if steps else flow


def _copy(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def _seed(key: PRNGKeyArray) -> tuple[int, ...]:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return tuple(int(word) for word in np.asarray(jax.random.key_data(key) if typed else key))
