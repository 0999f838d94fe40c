"""The density of continuous columns given the discrete ones: a flow that starts as a Gaussian."""

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
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxflow.bases import StandardNormal
from jaxflow.dynamics import MLP, ConditionScaling, StandardisedCondition
from jaxflow.dynamics.protocol import Field
from jaxflow.flows.cnf import CNF
from jaxflow.objectives import maximum_likelihood
from jaxflow.runtime.progress import Progress
from jaxflow.tables.gaussian import Given, LinearGaussian, fit_gaussian
from jaxflow.training.config import TrainConfig
from jaxflow.training.defaults import SCALINGS
from jaxflow.training.fit import fit
from jaxflow.training.folds import Folds
from jaxflow.training.optimizer import Choice
from jaxflow.training.prepare import prepare
from jaxflow.training.run import Run
from jaxflow.transforms import Bounded, Chain

# Ridges of the coefficients, in rows, and of the variances.
DECAYS, RIDGES = (1.0, 30.0, math.inf), (1e-2, 1e-4)
# Steps between two validations, and validations without a gain after which training stops; updates
# in which the learning rate rises.
EVERY, PATIENCE, RISE = 25, 6, 25

Rows = Float[np.ndarray, "n columns"]
Codes = Float[np.ndarray, "n variables"]


class Present(eqx.Module):
    """`f(t, x, (seen, c)) = seen g(t, seen x, (seen, c))`: absent entries stand still, unseen.

    Attributes:
        network: `g`, with conditions of `columns + inputs` entries.
    """

    network: Field

    def __call__(self, t: Array, x: Array, cond: Array) -> Array:
        """`dx/dt` at one point."""
        seen = cond[: x.size].reshape(x.shape)
        return seen * self.network(t, seen * x, cond)


class Continuous(eqx.Module):
    """`p(y | seen, inputs)` of the present columns, in three steps: scaling, Gaussian, flow.

    A scaling of each column and a Gaussian with a mean linear in the inputs make scores z, whose
    density is a flow's. Absent columns have z = 0, where the flow leaves them.

    Attributes:
        scaling: a transform of each column by itself.
        start: the Gaussian.
        flow: density of the scores; its conditions are `(seen, inputs)`, or the inputs alone if
            no cell was absent in training.
        fill: a value of each column that the scaling takes, for absent cells.
        masked: whether cells were absent in training.
        group: the discrete variable whose label chooses the covariance; -1 for none.
        gates: for each column the discrete variable that is 0 where it is present; -1 for none.
    """

    scaling: Any
    start: LinearGaussian
    flow: CNF
    fill: Float[Array, " columns"]
    masked: bool = eqx.field(static=True)
    group: int = eqx.field(static=True)
    gates: tuple[int, ...] = eqx.field(static=True)

    def given(self, codes: Codes, inputs: Float[np.ndarray, "n inputs"]) -> Given:
        """What the rows with these discrete cells are given."""
        num_labels = self.start.covariances.shape[0]
        return Given(_seen(codes, self.gates), inputs, _labels(codes, self.group, num_labels))

    def log_prob(self, y: Rows, given: Given) -> Float[np.ndarray, " n"]:
        """Log-density of the present columns of rows, in nats; 0 for a row without one."""
        z, log_det = self.scores(y, given)
        log_p = np.asarray(self.flow.log_prob(z, self.cond(given)), np.float64)
        absent = (~np.asarray(given.seen)).sum(axis=1)
        return log_p + 0.5 * math.log(2 * math.pi) * absent + np.asarray(log_det, np.float64)

    def scores(self, y: Rows, given: Given) -> tuple[Array, Array]:
        """Scores of rows, 0 where absent, and the log-determinants of the present columns."""
        filled = jnp.asarray(np.where(given.seen, y, np.asarray(self.fill)), float)
        return _scores(self.scaling, self.start, filled, given)

    def sample(self, key: PRNGKeyArray, given: Given) -> Rows:
        """Draw the present columns of rows; NaN elsewhere."""
        z = self.flow.sample(key, len(given.seen), self.cond(given))
        y = np.asarray(_columns(self.scaling, self.start, z, given), np.float64)
        return np.where(given.seen, y, np.nan)

    def cond(self, given: Given) -> Array | None:
        """Conditions of the flow."""
        parts = [given.seen, given.inputs] if self.masked else [given.inputs]
        cond = jnp.concatenate([jnp.asarray(part, float) for part in parts], axis=1)
        return cond if cond.shape[1] else None


class FittedContinuous(NamedTuple):
    """What `fit_continuous` returns.

    Attributes:
        model: the density.
        held: held-out log-densities of the rows of all folds in turn, (rows,).
        start: those of the Gaussian given the labels.
        independent: those of independent Gaussians of scaled columns.
    """

    model: Continuous
    held: Float[np.ndarray, " rows"]
    start: Float[np.ndarray, " rows"]
    independent: Float[np.ndarray, " rows"]


@dataclass(frozen=True)
class Settings:
    """How a Gaussian is fitted.

    Attributes:
        scaling: name of the scaling of the columns.
        decay: ridge of the coefficients, in rows.
        ridge: added to the variances of scaled columns.
        group: number of the labels that choose a covariance; -1 for one covariance.
        diagonal: whether the columns are independent given the labels.
    """

    scaling: str = "standardise"
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
            _seen(codes, self.gates), self.inputs[rows], _labels(codes, group, num_labels)
        )

    def simple(self, settings: Settings, rows: np.ndarray, field: Any) -> Continuous:
        """The Gaussian of these rows, with a field that is 0 before training."""
        y, given = self.y[rows], self.given(rows, settings.group)
        # Absent cells repeat the present ones, to leave each column's distribution as it is.
        filled = np.stack([np.resize(c[~np.isnan(c)], len(c)) for c in y.T], axis=1)
        x, parts = jnp.asarray(filled, float), []
        if np.isfinite(self.limits).any():
            parts.append(Bounded(*(jnp.asarray(limit, float) for limit in self.limits)))
            x = jax.vmap(parts[0].forward)(x)[0]
        parts.append(SCALINGS[settings.scaling].fit(x))
        scaling = Chain(tuple(parts)) if len(parts) > 1 else parts[0]
        u = np.asarray(jax.vmap(parts[-1].forward)(x)[0], np.float64)
        seen = np.asarray(given.seen)
        if not seen.all():
            fill = jnp.asarray(np.where(seen, y, filled), float)
            u = np.where(seen, np.asarray(_scale(scaling, fill)[0], np.float64), np.nan)
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

    def score(self, settings: Settings, folds: Sequence[tuple[np.ndarray, np.ndarray]]) -> Any:
        """Held-out log-densities of the Gaussian, of all folds in turn, (rows,)."""
        each = []
        for train, held in folds:
            model = self.simple(settings, train, _no_field)
            given = self.given(held, settings.group)
            z, log_det = (np.asarray(v, np.float64) for v in model.scores(self.y[held], given))
            constant = 0.5 * math.log(2 * math.pi) * np.asarray(given.seen).sum(axis=1)
            each.append(log_det - 0.5 * (z**2).sum(axis=1) - constant)
        return np.concatenate(each)

    def choose(
        self, folds: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[Settings, dict[Settings, Float[np.ndarray, " rows"]]]:
        """The best settings, and the held-out log-densities of all that were tried."""
        tried: dict[Settings, Float[np.ndarray, " rows"]] = {}
        best = Settings()
        changes: list[list[dict[str, Any]]] = [
            [{"scaling": name} for name in ("standardise", "gaussianise")],
            [{"decay": decay} for decay in DECAYS],
            [{"group": group} for group in (-1, *self.groups)],
            [{"ridge": ridge} for ridge in RIDGES],
            [{"diagonal": False}, {"decay": math.inf, "group": -1, "diagonal": True}],
        ]
        for options in changes:
            for option in options:
                each = replace(best, **option)
                if each not in tried:
                    tried[each] = self.score(each, folds)
            best = max(tried, key=lambda each: tried[each].mean())
        return best, tried


def fit_continuous(
    data: Data,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
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
        model, held = _by_folds(data, settings, folds, zero, key, config, progress)
        return FittedContinuous(model, held, simple, alone)
    (train, held_rows), *_ = folds
    model = data.simple(settings, train, zero)
    parts = []
    for rows in (train, held_rows):
        given = data.given(rows, settings.group)
        parts.append((np.asarray(model.scores(data.y[rows], given)[0]), model.cond(given)))
    (z, cond), validation = parts
    flow = replace(model.flow, field=field)
    validation = validation[: 1 if cond is None else 2]
    flow, _ = fit(
        flow, z, cond, key=key, config=config, validation=validation, progress=progress.visible
    )
    trained = replace(model, flow=flow)
    held = trained.log_prob(data.y[held_rows], data.given(held_rows, settings.group))
    if held.mean() < simple.mean():
        trained, held = model, simple
    return FittedContinuous(trained, held, simple, alone)


def _by_folds(
    data: Data,
    settings: Settings,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    field: Any,
    key: PRNGKeyArray,
    config: TrainConfig,
    progress: Progress,
) -> tuple[Continuous, Float[np.ndarray, " rows"]]:
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
        return data.simple(settings, every, field), held
    last, model, _ = run(every, every)
    last.train_to(search.best_step)
    return replace(model, flow=last.flow(last.state.ema)), held


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


def _seen(codes: Codes, gates: tuple[int, ...]) -> Bool[np.ndarray, "n columns"]:
    """The columns whose gate is 0, or that have none."""
    each = [codes[:, gate] == 0 if gate >= 0 else np.ones(len(codes), bool) for gate in gates]
    return np.stack(each, axis=1)


def _labels(codes: Codes, group: int, num_labels: int) -> Int[np.ndarray, " n"]:
    """The label that chooses the covariance, the last one where it is absent."""
    if group < 0:
        return np.zeros(len(codes), int)
    return np.nan_to_num(codes[:, group], nan=num_labels - 1.0).astype(int)


def _no_field(t: Array, x: Array, cond: Array | None = None) -> Array:
    return 0 * x


def _scale(scaling: Any, y: Array) -> tuple[Array, Array]:
    """Scaled columns, and the logarithm of the slope of each; a column's scaling is its own."""

    def one(y: Array) -> tuple[Array, Array]:
        u, slope = jax.jvp(lambda y: scaling.forward(y)[0], (y,), (jnp.ones_like(y),))
        return u, jnp.log(slope)

    return jax.vmap(one)(y)


@eqx.filter_jit
def _scores(
    scaling: Any, start: LinearGaussian, y: Float[Array, "n columns"], given: Given
) -> tuple[Array, Array]:
    u, log_slopes = _scale(scaling, y)
    z, log_det = jax.vmap(start.forward)(u, given)
    return z, log_det + jnp.sum(jnp.where(given.seen, log_slopes, 0.0), axis=1)


@eqx.filter_jit
def _columns(scaling: Any, start: LinearGaussian, z: Array, given: Given) -> Array:
    u = jax.vmap(start.inverse)(z, given)
    return jax.vmap(scaling.inverse)(u)[0]

