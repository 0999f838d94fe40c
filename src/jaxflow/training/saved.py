"""Save a run in a checkpoint, check that a checkpoint belongs to a run, and restore it.

The argument `run` is a `jaxflow.training.run.Run`, which calls most of these functions itself.
"""

from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.runtime.progress import Progress
from jaxflow.training.checkpoints import Store
from jaxflow.training.config import TrainConfig
from jaxflow.training.history import History
from jaxflow.training.identity import check_same, describe
from jaxflow.training.prepare import NOT_FITTED
from jaxflow.training.validation import step_settings, with_ode

# Attributes of a run that a checkpoint restores, and its other entries.
RESTORED = ("step", "skipped", "best_value", "since_best", "history")
SAVED = ("transform", *RESTORED, "config", "ode", "flow", "objective")


def made_of(run: Any) -> dict[str, dict[str, str]]:
    """Describe the objective, the optimizer and the flow of a new run, part by part.

    A checkpoint can only be resumed with the same ones.
    """
    choice, problem = run.optimizer, run.problem
    own = choice.optimizer or choice.schedule
    transform = problem.transform
    if run.name not in NOT_FITTED:  # fitted here, and rounded otherwise on another machine
        transform = jax.tree.map(jnp.shape, transform)
    flow = describe(run.frozen, "flow") | describe(transform, "flow.transform")
    if problem.batch_transform is not None and problem.batch_transform.augment is not None:
        flow |= describe(problem.batch_transform.augment, "augment")
    return {
        "objective": describe(run.objective, "objective"),
        "optimizer": {} if own is None else describe(own, "optimizer"),
        "flow": flow,
    }


def save(run: Any, store: Store) -> None:
    """Save everything that is needed to resume bit for bit."""
    extra = {
        **{name: getattr(run, name) for name in RESTORED},
        "transform": run.name,
        **run.made_of,
        "config": asdict(run.config),
        "ode": step_settings(run.frozen),
        "devices": _num_devices(run),
    }
    store.save(run.state, run.best, extra, run.to_host)


def save_or_warn(run: Any, progress: Progress, *, is_last: bool) -> None:
    """Save; the last checkpoint may fail, since the training does not need it."""
    try:
        save(run, run.store)
        if is_last:
            run.store.wait()
    except Exception as error:
        if not is_last:
            raise
        progress.warn(f"checkpoint={run.store.name!r} could not be written: {error}")


def read_extra(store: Store, problems: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Read the entries of a checkpoint other than arrays.

    Raises:
        ValueError: the checkpoint is damaged, or of other data, settings or transforms.
    """
    extra: dict[str, Any] = {"skipped": 0} | store.extra()  # 0.1 left no steps out
    missing = [name for name in SAVED if name not in extra]
    if missing:
        raise ValueError(
            f"checkpoint={store.name!r} is damaged or not of a training: it lacks "
            f"{', '.join(missing)}; start in another file"
        )
    ours, theirs = asdict(config), extra["config"]
    # A run that ran out of time may be resumed with more of it.
    changed = [n for n in ours if ours[n] != theirs.get(n) and n != "max_seconds"]
    if changed or extra["transform"] not in problems:
        was = {name: theirs.get(name) for name in changed} or extra["transform"]
        raise ValueError(
            f"checkpoint={store.name!r} was made with {was}; resume with the same settings "
            "and data, or start in another file"
        )
    return extra


def restore(run: Any, store: Store, extra: dict[str, Any], progress: Progress) -> None:
    """Give a new run the state of a checkpoint, whose other entries are `extra`.

    Raises:
        ValueError: the checkpoint is damaged, or of another objective, optimizer or flow.
    """
    for kind, parts in run.made_of.items():
        # Earlier versions had one optimizer, and did not record it.
        check_same(kind, parts, extra.get(kind, {}), store.name)
    run.state, run.best = store.load(run.state, run.best, run.to_host, run.to_mesh)
    for name in RESTORED:
        setattr(run, name, extra[name])
    run.history = History(run.history)
    run.check_patience(progress)
    if extra["ode"]:
        run.frozen = with_ode(run.frozen, replace(run.frozen.ode, **extra["ode"]))
    before, now = extra.get("devices", 1), _num_devices(run)
    if before != now:
        progress.say(
            f"step {run.step}: devices were {before} and are {now}; minibatches and random "
            "numbers stay the same, sums are rounded in another order"
        )


def keep_interrupted(run: Any, error: BaseException) -> None:
    """Give a callback's error the flow and the history so far, save the state, and say where."""
    error.__dict__.update(flow=run.result(), history=run.history)
    where = "error.flow has the best weights so far, and error.history the records"
    # Several processes save together, and the others may not have raised.
    if run.store is not None and jax.process_count() == 1:
        try:
            save(run, run.store)
            run.store.wait()
            where += f"; fit(..., resume=True) goes on from checkpoint={run.store.name!r}"
        except Exception as failure:  # the first error is the one to report
            where += f"; checkpoint={run.store.name!r} could not be written: {failure}"
    error.add_note(f"a callback of fit raised this after step {run.step}: {where}")


def _num_devices(run: Any) -> int:
    return 1 if run.mesh is None else run.mesh.size
