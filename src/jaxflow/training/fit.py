"""`fit`: train a flow, validate it with the evaluation solver, keep the best weights."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from jaxflow.data.shards import Shards
from jaxflow.flows.flow import Flow
from jaxflow.objectives.protocol import Objective, check_objective
from jaxflow.runtime.keys import check_key
from jaxflow.runtime.mesh import check_covers_processes, rows_mesh
from jaxflow.runtime.processes import check_processes_agree, name_lost_processes
from jaxflow.runtime.progress import Progress
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.training.augment import Augment
from jaxflow.training.checkpoints import Checkpoints, open_store
from jaxflow.training.config import TrainConfig
from jaxflow.training.defaults import check_trains_likelihood, default_objective
from jaxflow.training.history import History
from jaxflow.training.identity import fingerprint
from jaxflow.training.optimizer import Choice, Schedule
from jaxflow.training.prepare import prepare
from jaxflow.training.record import Callback
from jaxflow.training.run import Run
from jaxflow.training.saved import read_extra, restore
from jaxflow.training.step import TrainingError
from jaxflow.training.trainable import check_flow, checked_train
from jaxflow.transforms import Proposal, Transform

# The type of the flow, which is also the type of the result.
F = TypeVar("F")


def fit(
    flow: F,
    x: ArrayInput | Shards | None,
    cond: ArrayInput | None = None,
    *,
    key: PRNGKeyArray,
    weights: ArrayInput | None = None,
    validation: float | ArrayInput | tuple[Any, ...] = 0.1,
    transform: Transform | Proposal | str | None = "auto",
    train: Sequence[str] | Flow = ("field",),
    augment: Augment | None = None,
    config: TrainConfig = TrainConfig(),
    objective: Objective | None = None,
    optimizer: optax.GradientTransformation | None = None,
    schedule: Schedule | None = None,
    progress: bool | None = None,
    callback: Callback | None = None,
    checkpoint: str | Path | Checkpoints | None = None,
    resume: bool = False,
    mesh: Mesh | int | None = None,
    shard_weights: bool = False,
) -> tuple[F, History]:
    """Train a flow and return it with the weights of the best held-out log-density.

    ```python
    import jax
    import jaxflow

    key = jax.random.key(0)
    x = jax.random.normal(key, (500, 2)) * 3 + 1
    flow = jaxflow.CNF(jaxflow.dynamics.MLP(2, key=key), jaxflow.StandardNormal(2))
    config = jaxflow.TrainConfig(steps=40, eval_every=20)  # 4000 steps by default
    flow, history = jaxflow.fit(flow, x, key=key, config=config)
    print(history["validation"][-1])  # nats
    samples = flow.sample(key, 5)
    ```

    Args:
        flow: a `CNF`, a `CouplingFlow` or another `Flow`.
        x: data, (n, *event), in any units; `jaxflow.data.Shards` for more rows than fit in
            memory; None for an objective that needs no data, such as `ReverseKL`.
        cond: conditions, (n, *condition); standardised for the network. None for no conditions.
        key: for the split, the minibatches and the objective; the same key gives the same flow.
        weights: how often each row counts, (n,), not negative: (2, 1, 0) means a row that occurs
            twice, one that occurs once and one that does not occur, which may hold anything.
            None for once each.
        validation: share of `x` to hold out; or the validation rows, (m, *event); or a tuple
            `(x, cond)` or `(x, cond, weights)` of them.
        transform: `"auto"` trains the flow for `config.pilot` steps with each of
            `jaxflow.transforms.candidate_transforms` and continues with the best one; a flow that
            has a transform keeps it. A `jaxflow.transforms.propose(x)` is applied before each
            candidate. None keeps the flow's transform or absence of one. Anything else is the
            transform to use.
        train: parts of the flow to train, of `"field"`, `"base"` and `"transform"`, or a tree of
            booleans (`jaxflow.trainable`); the rest stays bit for bit.
        augment: `(row, key) -> row`, a random change of each row of a minibatch, in data units,
            such as a mirrored image; None for none. Validation rows are not changed.
        config: settings of the optimiser, the validation and the stopping rules.
        objective: what to minimise, `(flow, x, cond, key) -> (loss, metrics)`, see
            `jaxflow.objectives`. By default `Staged()` (flow matching, then likelihood) for a
            `CNF`, `Denoising()` for a diffusion model, and `maximum_likelihood` otherwise and
            where more than the field is trained.
        optimizer: any transformation of optax, such as `optax.adam(1e-3)`, for a dict of the
            trained arrays by place; None for AdamW as `config` says. It starts anew at each stage
            of a `Staged` objective.
        schedule: learning rate of AdamW by the step of the training, in place of `config`'s.
        progress: show a progress bar; None for only on a terminal.
        callback: called after each validation with a `Record`; return True to stop. An error in
            it ends the training: `checkpoint` is written, and the error has the attributes
            `flow` and `history`.
        checkpoint: file to save the state of training in at each validation, or
            `Checkpoints(folder)` for several of them, where each device writes its part.
        resume: continue from `checkpoint` if it exists, on any number of devices; refused with
            other data, settings, objective or parts of the flow.
        mesh: devices that share the rows of each minibatch: their number, or a
            `jaxflow.rows_mesh(...)`; None for one device. Minibatches and random numbers do not
            depend on it, but sums are rounded in another order. With several processes, all of
            them make the same call with the same data.
        shard_weights: split weights and optimiser state among the devices too.

    Returns:
        The flow with the best weights, and the `History`: a dict of a list for each of the columns
        `step` (updates so far); `loss` (mean since the last validation; nats and data units for
        likelihood); `validation` (mean negative log-density of the validation rows by the
        evaluation solver, nats and data units); `coarse` (the same by the training solver);
        `num_evals` (field evaluations of a validation row); `learning_rate`; `seconds` (since
        the start); `stage` (of a
        `Staged` objective, from 0).

    Raises:
        ValueError, TypeError: bad data (rows and columns named), a flow without arrays to train,
            or bad settings, before training.
        FileExistsError: `Checkpoints` of an earlier fit, without `resume`.
        TrainingError: no validation value was finite; its attribute `trained` is the flow with
            the last weights.
        ProcessLostError: another process of the job ended.
    """
    check_flow(flow)
    check_key(key)
    choice = Choice(optimizer, schedule)
    train = checked_train(flow, train)
    if objective is None:
        objective = default_objective(flow, cond, train)
    check_objective(objective, weights is not None)
    check_trains_likelihood(objective, train)
    if x is None and augment is not None:
        raise ValueError("x=None has no rows to change: leave augment out")
    if x is None and not hasattr(objective, "held_out"):
        raise ValueError(f"x=None, and objective={objective} needs data: give rows (n, *event)")
    standardise = not getattr(objective, "raw_conditions", False)
    problems = prepare(
        flow,
        x,
        cond,
        key,
        validation,
        transform,
        config,
        weights,
        standardise=standardise,
        train=train,
        augment=augment,
    )
    check_transform = getattr(objective, "check_transform", None)
    if check_transform is not None:
        for problem in problems.values():
            check_transform(problem.transform)
    settings = key, config, objective, choice, _mesh_for(mesh, config), shard_weights
    data = ""
    if checkpoint or jax.process_count() > 1:
        held_out = validation if isinstance(validation, tuple) else (validation,)
        data = fingerprint(x, cond, weights, *held_out, key)
    store = open_store(checkpoint, data, resume=resume)
    resumes = store is not None and store.exists()
    check_processes_agree(f"{data} {resumes}")
    with Progress(config.steps, show=progress) as bar, name_lost_processes():
        extra = read_extra(store, problems, config) if store is not None and resumes else None
        names = problems if extra is None else [extra["transform"]]
        runs = [Run(name, problems[name], *settings) for name in names]
        if store is not None and extra is not None:
            restore(runs[0], store, extra, bar)
        # The candidates share their programs.
        with runs[0].compile_ahead() as ahead:
            for run in runs:
                run.ahead = ahead
            run = _best_run(runs, config.pilot_steps, bar) if len(runs) > 1 else runs[0]
            run.callback, run.store = callback, store
            if not resumes:
                run.report()
            run.advance(config.steps, bar)
    if run.failure and not run.step:
        raise TrainingError(f"{run.failure}; {choice.lower(config)}")
    if not math.isfinite(run.best_value):
        advice = f"{choice.lower(config)}, or give the training solve more steps"
        if hasattr(objective, "held_out") and not run.unsolved:
            advice = (
                f"the target of {objective} is finite at no sample of the flow; start from a base "
                "that covers it"
            )
        raise TrainingError(
            f"no validation value was finite in {run.step} steps: {run.unsolved or advice}",
            run.flow(run.to_host(run.state.ema)),
        )
    return run.result(), run.history


def _mesh_for(mesh: Mesh | int | None, config: TrainConfig) -> Mesh | None:
    if mesh is None:
        return None
    mesh = rows_mesh(mesh)
    check_covers_processes(mesh)
    if config.batch_size < mesh.size:
        raise ValueError(
            f"batch_size={config.batch_size} has less than a row for each of mesh={mesh.size} "
            "devices: give larger minibatches, or fewer devices"
        )
    return mesh


def _best_run(runs: list[Run], steps: int, progress: Progress) -> Run:
    """Advance all runs by `steps` and return the one with the best validation value."""
    for run in runs:
        run.advance(steps, progress)
    runs.sort(key=lambda run: run.best_value)
    values = ", ".join(f"{run.name} {run.best_value:.3f}" for run in runs)
    progress.say(
        f"transform: {runs[0].name} (validation loss in nats after {runs[0].step} steps: {values})"
    )
    return runs[0]
