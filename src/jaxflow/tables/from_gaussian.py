"""Train the density of continuous columns from the best Gaussian."""

import math
import time
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics import MLP, ConditionScaling, StandardisedCondition
from jaxflow.dynamics.mlp import zero_field
from jaxflow.runtime.progress import Progress
from jaxflow.tables.continuous import Continuous, Present
from jaxflow.tables.start import Data, Recipe, Splits
from jaxflow.training.config import TrainConfig
from jaxflow.training.fit import fit
from jaxflow.training.folds import Folds, start_run
from jaxflow.training.record import Callback
from jaxflow.training.run import Run

# Steps for which two starts are trained on one fold before one is chosen.
PILOT = 200
# The flow has at least this time to train, so that it is validated once.
LEAST_SECONDS = 1e-3


class FittedContinuous(NamedTuple):
    """The density, and held-out log-densities of the rows of all folds in turn.

    `start` are those of the Gaussian given the labels, `independent` those of independent
    Gaussians of scaled columns; `steps` is 0 where the flow stayed the Gaussian.
    """

    model: Continuous
    held: Float[np.ndarray, " rows"]
    start: Float[np.ndarray, " rows"]
    independent: Float[np.ndarray, " rows"]
    steps: int = 0


class Training(NamedTuple):
    """How to train from a Gaussian; `field` is the field before training."""

    data: Data
    field: Any
    key: PRNGKeyArray
    config: TrainConfig
    progress: Progress
    callback: Callback | None
    deadline: float

    def timed(self, share: float = 1.0) -> TrainConfig:
        """The settings with this share of the time that is left before the deadline."""
        left = max(share * (self.deadline - time.monotonic()), LEAST_SECONDS)
        return replace(self.config, max_seconds=left) if math.isfinite(left) else self.config

    def scored(self, model: Continuous, rows: np.ndarray) -> tuple[tuple[Array, ...], np.ndarray]:
        """Scores and conditions of rows, and their log-density minus that of the scores."""
        conditions = self.data.conditions(rows, model.group)
        z, more = model.scored(self.data.y[rows], conditions)
        cond = model.cond(conditions)
        return ((z,) if cond is None else (z, cond)), more

    def run(
        self, settings: Recipe, train: np.ndarray, held: np.ndarray
    ) -> tuple[Run, Continuous, Float[np.ndarray, " held"]]:
        """A training on some rows that validates others, its start, and as `scored` of these."""
        model = self.data.simple(settings, train, self.field)
        (rows, _), (validation, more) = self.scored(model, train), self.scored(model, held)
        return start_run(model.flow, rows, validation, self.key, self.config), model, more

    def pilot(self, starts: list[Recipe], folds: Splits) -> Recipe:
        """The start from which a short training on one fold comes furthest."""
        if len(starts) == 1 or time.monotonic() > self.deadline:
            return starts[0]
        values = []
        for start in starts:
            run, _, more = self.run(start, *folds[0])
            first = run.validate()["validation"]
            run.advance(min(PILOT, self.config.steps), self.progress)
            values.append(min(first, run.best_value) - more.mean())
        return starts[int(np.argmin(values))]

    def by_folds(self, settings: Recipe, folds: Splits) -> tuple[Continuous, np.ndarray, int]:
        """Train on each fold, then on all rows for the best number of steps."""
        runs = [self.run(settings, train, held) for train, held in folds]
        every = np.arange(len(self.data.y))
        search = Folds([run for run, _, _ in runs], len(every))
        # The training on all rows takes as long as that on each of the folds.
        search.train(self.timed(len(folds) / (len(folds) + 1)), self.progress, self.callback)
        held = search.held_out() + np.concatenate([more for _, _, more in runs])
        model = self.data.simple(settings, every, self.field)
        flow = search.train_all(lambda: self.run(settings, every, every)[0])
        return (model if flow is None else replace(model, flow=flow)), held, search.best_step

    def by_hold_out(self, settings: Recipe, fold: Any) -> tuple[Continuous, np.ndarray, int]:
        """Train on the rows of a fold as `jaxflow.fit` does by default."""
        train, held = fold
        model = self.data.simple(settings, train, self.field)
        rows, _ = self.scored(model, train)
        validation, _ = self.scored(model, held)
        flow, history = fit(
            model.flow,
            *rows,
            key=self.key,
            validation=validation,
            transform=None,
            config=self.timed(),
            progress=self.progress.visible,
            callback=self.callback,
        )
        trained = replace(model, flow=flow)
        log_p = trained.log_prob(self.data.y[held], self.data.conditions(held, settings.group))
        return trained, log_p, int(history["step"][-1])


def fit_continuous(
    data: Data,
    folds: Splits,
    key: PRNGKeyArray,
    config: TrainConfig,
    *,
    width: int,
    depth: int,
    by_folds: bool,
    progress: Progress,
    callback: Callback | None,
    deadline: float,
) -> FittedContinuous:
    """Choose a Gaussian by held-out rows, and train a flow from it where that helps them.

    With `by_folds` the flow trains on every fold for the number of steps, then on all rows; else
    on the rows of the only fold, as `jaxflow.fit` does by default. There are no folds for too few
    rows. `deadline` is a time of `time.monotonic`.
    """
    every, dim = np.arange(len(data.y)), data.y.shape[1]
    cond_dim = data.inputs.shape[1] + (dim if data.masked else 0)
    field = MLP(dim, width=width, depth=depth, cond_dim=cond_dim, key=key)
    zero = zero_field(field)
    if cond_dim:
        field, zero = (_with_condition(each, data, dim) for each in (field, zero))
    if not folds:
        nothing = np.zeros(0)
        settings = Recipe(decay=30.0, ridge=0.2)
        return FittedContinuous(data.simple(settings, every, zero), nothing, nothing, nothing)
    settings, tried = data.choose(folds, deadline)
    straight = max((each for each in tried if not each.curved), key=lambda e: tried[e].mean())
    alone = next(
        values for each, values in tried.items() if each.diagonal and not np.isfinite(each.decay)
    )
    training = Training(data, zero, key, config, progress, callback, deadline)
    chosen = training.pilot(list(dict.fromkeys([settings, straight])), folds)
    if by_folds:
        model, held, steps = training.by_folds(chosen, folds)
    else:
        model, held, steps = training._replace(field=field).by_hold_out(chosen, folds[0])
    if held.mean() < tried[settings].mean():
        rows = every if by_folds else folds[0][0]
        model, held, steps = data.simple(settings, rows, zero), tried[settings], 0
    return FittedContinuous(model, held, tried[settings], alone, steps)


def _with_condition(network: MLP, data: Data, dim: int) -> StandardisedCondition:
    """The network with standardised inputs, and blind to absent columns where there are any."""
    scaling = ConditionScaling.fit(jnp.asarray(data.inputs, float))
    if not data.masked:
        return StandardisedCondition(network, scaling)
    mean = jnp.concatenate([jnp.zeros(dim), scaling.mean])
    scale = jnp.concatenate([jnp.ones(dim), scaling.scale])
    return StandardisedCondition(Present(network), ConditionScaling(mean, scale))
