"""Train the density of continuous columns from the best Gaussian."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import StandardNormal
from jaxflow.dynamics import MLP, ConditionScaling, StandardisedCondition
from jaxflow.flows.cnf import CNF
from jaxflow.objectives import maximum_likelihood
from jaxflow.runtime.progress import Progress
from jaxflow.tables.continuous import Codes, Continuous, Present, Rows, labels_of, seen_in
from jaxflow.tables.gaussian import Given, fit_gaussian
from jaxflow.training.config import TrainConfig
from jaxflow.training.fit import fit
from jaxflow.training.folds import Folds
from jaxflow.training.optimizer import Choice
from jaxflow.training.prepare import prepare
from jaxflow.training.run import Run
from jaxflow.transforms import Bounded, Chain, Gaussianise, Standardise
from jaxflow.transforms.choose import forward

# Ridges of the coefficients, in rows, and of the variances.
DECAYS, RIDGES = (1.0, 30.0, math.inf), (1e-2, 1e-4)
# Steps between two validations, and validations without a gain after which training stops; updates
# in which the learning rate rises.
EVERY, PATIENCE, RISE = 25, 6, 25

Splits = Sequence[tuple[np.ndarray, np.ndarray]]


class FittedContinuous(NamedTuple):
    """What `fit_continuous` returns.

    Attributes:
        model: the density.
        held: held-out log-densities of the rows of all folds in turn, (rows,).
        start: those of the Gaussian given the labels.
        independent: those of independent Gaussians of scaled columns.
        steps: number of updates of the flow, 0 where it stayed the Gaussian.
    """

    model: Continuous
    held: Float[np.ndarray, " rows"]
    start: Float[np.ndarray, " rows"]
    independent: Float[np.ndarray, " rows"]
    steps: int = 0


@dataclass(frozen=True)
class Settings:
    """How a Gaussian is fitted.

    Attributes:
        curved: columns that are mapped to normal scores; the others are standardised.
        decay: ridge of the coefficients, in rows.
        ridge: added to the variances of scaled columns.
        group: number of the labels that choose a covariance; -1 for one covariance.
        diagonal: whether the columns are independent given the labels.
    """

    curved: tuple[int, ...] = ()
    decay: float = DECAYS[0]
    ridge: float = RIDGES[0]
    group: int = -1
    diagonal: bool = False


class Data(NamedTuple):
    """Rows of continuous columns and what they are given.

    Attributes:
        y: codes of the columns, NaN where absent, (n, columns).
        limits: lower and upper limits of the codes, (2, columns).
        inputs: encoded discrete cells, (n, inputs).
        codes: the discrete cells, (n, variables).
        groups: discrete variables that may choose a covariance, and how many labels they have.
        gates: as for `Continuous`.
    """

    y: Rows
    limits: Float[np.ndarray, "2 columns"]
    inputs: Float[np.ndarray, "n inputs"]
    codes: Codes
    groups: dict[int, int]
    gates: tuple[int, ...]

    @property
    def masked(self) -> bool:
        """Whether cells are absent."""
        return bool(np.isnan(self.y).any())

    def given(self, rows: np.ndarray, group: int) -> Given:
        """What these rows are given."""
        codes, num_labels = self.codes[rows], self.groups.get(group, 1)
        return Given(
            seen_in(codes, self.gates), self.inputs[rows], labels_of(codes, group, num_labels)
        )

    def simple(self, settings: Settings, rows: np.ndarray, field: Any) -> Continuous:
        """The Gaussian of these rows, with a field that is 0 before training."""
        y, given = self.y[rows], self.given(rows, settings.group)
        # Absent cells repeat the present ones, to leave each column's distribution as it is.
        filled = np.stack([np.resize(c[~np.isnan(c)], len(c)) for c in y.T], axis=1)
        x, parts = jnp.asarray(filled, float), []
        if np.isfinite(self.limits).any():
            parts.append(Bounded(*(jnp.asarray(limit, float) for limit in self.limits)))
            x = forward(parts[0], x)[0]
        parts.append(_scaling(np.asarray(x, np.float64), settings.curved))
        scaling = Chain(tuple(parts)) if len(parts) > 1 else parts[0]
        u = np.asarray(forward(parts[-1], x)[0], np.float64)
        seen = np.asarray(given.seen)
        if not seen.all():
            fill = jnp.asarray(np.where(seen, y, filled), float)
            u = np.where(seen, np.asarray(forward(scaling, fill)[0], np.float64), np.nan)
        start = fit_gaussian(
            u,
            self.inputs[rows],
            np.asarray(given.label),
            self.groups.get(settings.group, 1),
            decay=settings.decay,
            ridge=settings.ridge,
            diagonal=settings.diagonal,
        )
        flow = CNF(field, StandardNormal(y.shape[1]))
        fill = jnp.asarray(filled[0], float)
        return Continuous(scaling, start, flow, fill, self.masked, settings.group, self.gates)

    def score(self, settings: Settings, folds: Splits) -> Any:
        """Held-out log-densities of the Gaussian, of all folds in turn, (rows,)."""
        each = []
        for train, held in folds:
            model = self.simple(settings, train, _no_field)
            given = self.given(held, settings.group)
            z, log_det = (np.asarray(v, np.float64) for v in model.scores(self.y[held], given))
            constant = 0.5 * math.log(2 * math.pi) * np.asarray(given.seen).sum(axis=1)
            each.append(log_det - 0.5 * (z**2).sum(axis=1) - constant)
        return np.concatenate(each)

    def choose(self, folds: Splits) -> tuple[Settings, dict[Settings, Float[np.ndarray, " rows"]]]:
        """The best settings, and the held-out log-densities of all that were tried."""
        tried: dict[Settings, Float[np.ndarray, " rows"]] = {}
        best = Settings()
        changes: list[list[dict[str, Any]]] = [
            [
                {"curved": curved, "group": group}
                for curved in ((), tuple(range(self.y.shape[1])))
                for group in (-1, *self.groups)
            ],
            *([{"toggle": column}] for column in range(self.y.shape[1])),
            [{"decay": decay} for decay in DECAYS],
            [{"ridge": ridge} for ridge in RIDGES],
            [{"diagonal": False}, {"decay": math.inf, "group": -1, "diagonal": True}],
        ]
        for options in changes:
            for option in options:
                if "toggle" in option:
                    option = {"curved": tuple(sorted({*best.curved} ^ {option["toggle"]}))}
                each = replace(best, **option)
                if each not in tried:
                    tried[each] = self.score(each, folds)
            best = max(tried, key=lambda each: tried[each].mean())
        return best, tried


def fit_continuous(
    data: Data,
    folds: Splits,
    key: PRNGKeyArray,
    config: TrainConfig,
    *,
    width: int,
    by_folds: bool,
    progress: Progress,
) -> FittedContinuous:
    """Choose a Gaussian by held-out rows, and train a flow from it where that helps them.

    Args:
        data: the rows.
        folds: row numbers to train on and to hold out, for each fold; none for too few rows.
        key: for the weights and the minibatches.
        config: steps, minibatch size and learning rate.
        width: units of each hidden layer.
        by_folds: whether to train on every fold for the number of steps, then on all rows; else a
            flow trains on the rows of the only fold, as `jaxflow.fit` does by default.
        progress: where to show it.
    """
    every, dim = np.arange(len(data.y)), data.y.shape[1]
    cond_dim = data.inputs.shape[1] + (dim if data.masked else 0)
    field = MLP(dim, width=width, cond_dim=cond_dim, key=key)
    if cond_dim:
        field = _with_condition(field, data, dim)
    zero = eqx.tree_at(_last, field, jax.tree.map(jnp.zeros_like, _last(field)))
    if not folds:
        nothing = np.zeros(0)
        settings = Settings(decay=30.0, ridge=0.2)
        return FittedContinuous(data.simple(settings, every, zero), nothing, nothing, nothing)
    settings, tried = data.choose(folds)
    simple = tried[settings]
    alone = next(
        values for each, values in tried.items() if each.diagonal and not np.isfinite(each.decay)
    )
    if by_folds:
        model, held, steps = _by_folds(data, settings, folds, zero, key, config, progress)
        return FittedContinuous(model, held, simple, alone, steps)
    (train, held_rows), *_ = folds
    model = data.simple(settings, train, zero)
    parts = []
    for rows in (train, held_rows):
        given = data.given(rows, settings.group)
        parts.append((np.asarray(model.scores(data.y[rows], given)[0]), model.cond(given)))
    (z, cond), validation = parts
    flow = replace(model.flow, field=field)
    validation = validation[: 1 if cond is None else 2]
    flow, history = fit(
        flow, z, cond, key=key, config=config, validation=validation, progress=progress.visible
    )
    trained = replace(model, flow=flow)
    held = trained.log_prob(data.y[held_rows], data.given(held_rows, settings.group))
    if held.mean() < simple.mean():
        return FittedContinuous(model, simple, simple, alone)
    return FittedContinuous(trained, held, simple, alone, int(history["step"][-1]))


def _by_folds(
    data: Data,
    settings: Settings,
    folds: Splits,
    field: Any,
    key: PRNGKeyArray,
    config: TrainConfig,
    progress: Progress,
) -> tuple[Continuous, Float[np.ndarray, " rows"], int]:
    """Train from the Gaussian on each fold, then on all rows for the best number of steps."""

    def run(train: np.ndarray, held: np.ndarray) -> tuple[Run, Continuous, np.ndarray]:
        model = data.simple(settings, train, field)
        parts, log_dets = [], []
        for rows in (train, held):
            given = data.given(rows, settings.group)
            z, log_det = model.scores(data.y[rows], given)
            parts.append((z, model.cond(given)))
            log_dets.append(np.asarray(log_det, np.float64))
        absent = (~np.asarray(given.seen)).sum(axis=1)
        more = log_dets[1] + 0.5 * math.log(2 * math.pi) * absent
        one = replace(
            config,
            ema=0.95,
            eval_every=EVERY,
            patience=None,
            max_seconds=None,
            validation_rows=len(held),
            solver_error=math.inf,
        )
        (z, cond), validation = parts
        validation = validation[: 1 if cond is None else 2]
        problem = prepare(model.flow, z, cond, key, validation, None, one, standardise=False)
        (only,) = problem.values()
        choice = Choice(schedule=_rising(config.learning_rate))
        return Run("start", only, key, one, maximum_likelihood, optimizer=choice), model, more

    started = [run(train, held) for train, held in folds]
    search = Folds([each for each, _, _ in started], len(data.y))
    search.train(config.steps, PATIENCE, config.max_seconds, progress)
    held = search.held_out() + np.concatenate([more for _, _, more in started])
    every = np.arange(len(data.y))
    if not search.best_step:
        return data.simple(settings, every, field), held, 0
    last, model, _ = run(every, every)
    last.train_to(search.best_step)
    return replace(model, flow=last.flow(last.state.ema)), held, search.best_step


def _scaling(x: Rows, curved: tuple[int, ...]) -> Any:
    """Normal scores of some columns, and a straight line for the others."""
    if not curved:
        return Standardise.fit(x)
    curves = Gaussianise.fit(x)
    knots, scores, slopes = (
        np.array(part) for part in (curves.knots, curves.scores, curves.slopes)
    )
    for j in set(range(x.shape[1])) - set(curved):
        scores[j] = np.linspace(-3, 3, scores.shape[1])
        knots[j], slopes[j] = x[:, j].mean() + x[:, j].std() * scores[j], 1 / x[:, j].std()
    return Gaussianise(*(jnp.asarray(part) for part in (knots, scores, slopes)))


@functools.cache
def _rising(rate: float) -> Any:
    """A learning rate that rises and stays, since the number of steps is not yet known."""
    return optax.linear_schedule(0.0, rate, RISE)


def _with_condition(network: MLP, data: Data, dim: int) -> StandardisedCondition:
    """The network with standardised inputs, and blind to absent columns where there are any."""
    scaling = ConditionScaling.fit(jnp.asarray(data.inputs, float))
    if not data.masked:
        return StandardisedCondition(network, scaling)
    mean = jnp.concatenate([jnp.zeros(dim), scaling.mean])
    scale = jnp.concatenate([jnp.ones(dim), scaling.scale])
    return StandardisedCondition(Present(network), ConditionScaling(mean, scale))


def _last(field: Any) -> Any:
    """The last layer of a field's network."""
    while not isinstance(field, MLP):
        field = field.network if isinstance(field, Present) else field.field
    return field.layers[-1]


def _no_field(t: Array, x: Array, cond: Array | None = None) -> Array:
    return 0 * x
