"""`fit`: train a flow, validate it by the evaluation solver, keep the best weights."""

import math
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from jaxflow.diffusion import ProbabilityFlow
from jaxflow.dynamics import OptionalCondition
from jaxflow.objectives import Denoising, Stage, Staged, maximum_likelihood
from jaxflow.runtime.mesh import check_covers_processes, rows_mesh
from jaxflow.runtime.processes import check_processes_agree, name_lost_processes
from jaxflow.runtime.progress import Progress
from jaxflow.training.config import TrainConfig
from jaxflow.training.prepare import finished, prepare
from jaxflow.training.run import Callback, History, Run
from jaxflow.training.step import Objective, TrainingError
from jaxflow.training.store import Checkpoints, fingerprint, store_of
from jaxflow.training.trainable import combine_trainable

# A flow comes back as one of its kind.
F = TypeVar("F")


def fit(
    flow: F,
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
    checkpoint: str | Path | Checkpoints | None = None,
    resume: bool = False,
    mesh: Mesh | int | None = None,
    shard_weights: bool = False,
) -> tuple[F, History]:
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
        x: data, (n, *event); `jaxflow.data.Shards` for more than fits in memory; None for an
            objective that needs none, such as `ReverseKL`.
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
        checkpoint: file that keeps the state of training, written at every validation; or
            `jaxflow.training.Checkpoints(folder)`, several of them, each device writing its part.
        resume: go on from `checkpoint` where it exists, on whatever devices.
        mesh: devices among which the rows of each minibatch are split, a number or
            `jaxflow.rows_mesh(...)`; None for one device. Random numbers and minibatches do not
            depend on it, sums are rounded in another order. With several processes all of them
            make the same call with the same rows.
        shard_weights: whether weights and optimizer state are split among the devices as well,
            rather than whole on each.

    Returns:
        The flow with the best weights, and the history: a table, column name -> values.

    Raises:
        ValueError, TypeError: bad data (rows and columns named) or settings, before training.
        FileExistsError: a folder of `Checkpoints` that holds another fit's, without `resume`.
        TrainingError: no validation value was ever finite.
        ProcessLostError: another process of the job has ended.
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
    given = key, config, objective, _mesh_for(mesh, config), shard_weights
    held = validation if isinstance(validation, tuple) else (validation,)
    data = ""
    if checkpoint or jax.process_count() > 1:
        data = fingerprint(x, cond, weights, *held, key)
    store = store_of(checkpoint, data, resume=resume)
    check_processes_agree(f"{data} {store is not None and store.exists()}")
    with Progress(config.steps, show=progress) as shown, name_lost_processes():
        if resume and store is not None and store.exists():
            run = Run.load(store, problems, shown, *given)
        else:
            runs = [Run(name, problem, *given) for name, problem in problems.items()]
            run = _choose(runs, config.pilot_steps, shown) if len(runs) > 1 else runs[0]
            run.report(callback, store)
        run.advance(config.steps, shown, callback, store)
        if store is not None:
            store.wait()
    if run.trouble and not run.step:
        raise TrainingError(f"{run.trouble}; lower learning_rate={config.learning_rate}")
    if not math.isfinite(run.best_value):
        raise TrainingError(
            f"no validation value was finite in {run.step} steps; lower learning_rate="
            f"{config.learning_rate}, or give the training solve more steps"
        )
    return finished(combine_trainable(run.best, run.frozen), run.problem), run.history


def _mesh_for(mesh: Mesh | int | None, config: TrainConfig) -> Mesh | None:
    """The mesh of a training; None for one device.

    Raises:
        ValueError: more devices than there are, or than a minibatch has rows.
    """
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


def _choose(runs: list[Run], steps: int, shown: Progress) -> Run:
    for run in runs:
        run.advance(steps, shown)
    runs.sort(key=lambda run: run.best_value)
    values = ", ".join(f"{run.name} {run.best_value:.3f}" for run in runs)
    shown.say(f"transform: {runs[0].name} (held-out nats after {runs[0].step} steps: {values})")
    return runs[0]
