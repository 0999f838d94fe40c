"""Train a conditional flow from a regression: the flow learns the residuals."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxflow.bases import StandardNormal
from jaxflow.dynamics import EncodedCondition, LocationScale
from jaxflow.flows.cnf import CNF
from jaxflow.flows.data_space import with_transform
from jaxflow.runtime.checks import split
from jaxflow.training.comparison import Comparison
from jaxflow.training.defaults import SCALINGS, default_eval_every, encoded_config
from jaxflow.training.folds import FOLD_ROWS, MOST_HELD, NUM_FOLDS, make_folds
from jaxflow.training.from_encoder import fit_encoded
from jaxflow.training.from_simple import (
    LARGE_RIDGE,
    MANY_ROWS,
    FittedDensity,
    Table,
    train_folds,
    untrained,
)
from jaxflow.training.regression import Predicted, predict
from jaxflow.training.starts import Fold, Start, before_scaling, choose_start, surely_better
from jaxflow.transforms import Chain
from jaxflow.transforms.choose import forward


def by_regression(
    table: Table, cond: Array, validation: float, settings: dict[str, Any]
) -> FittedDensity:
    """Fit a regression, choose a density of its residuals, and train a flow from there.

    Location and spread of each row are predicted by regressions that did not see it. For a target
    of several columns and many rows a flow is also trained as `jaxflow.inference` does, and the
    better one on the rows held out is the result: the regression of a target with several modes
    says little. `validation` is the share of the rows to hold out, of a large table and for the
    second flow; `settings` are the user's settings of the training, None for the defaults.
    """
    every = np.arange(len(table.x))
    share = validation if len(every) > FOLD_ROWS else None
    noisy, (fold,) = before_scaling(table.x, table.proposal.first, table.key, [(every, every)])
    scaling = SCALINGS["standardise"].fit(noisy)
    transform = Chain((*table.proposal.parts, scaling))
    u, log_det = forward(scaling, noisy)
    log_det = fold.log_det + np.asarray(log_det, np.float64)
    groups = every if table.is_tiny else table.groups()
    parts = make_folds(groups, min(NUM_FOLDS, len(every)), table.seed, equal=False)
    seen = predict(np.asarray(u), np.asarray(cond), parts, u.dtype, table.proposal.columns)
    encoded = jnp.asarray(seen.cond, u.dtype)
    table = table._replace(cond=encoded)
    residuals = jnp.asarray(seen.chosen.residuals(u), u.dtype)

    def start_flow(start: Start | None, rows: np.ndarray) -> CNF:
        """The density of these residuals; None for the regression's own, a standard normal."""
        field = LocationScale(table.field(encoded.shape[1]))
        each = residuals[rows]
        base = StandardNormal(each.shape[1:]) if start is None else start.mixture(each)
        return CNF(field, base, transform=transform)

    if table.is_tiny:
        flow = start_flow(Start(ridge=LARGE_RIDGE), every)
        return untrained(_for_new_conditions(flow, seen, transform), len(every))
    offset = log_det - seen.chosen.log_scale.sum(axis=1)
    folds = table.folds() if share is None else [_split(len(every), share, table.seed)]
    tried = choose_start(
        [Fold(residuals[train], residuals[held], offset[held]) for train, held in folds],
        only_mixtures=True,
    )
    held = np.concatenate([held for _, held in folds])
    densities = {
        each.words: each.log_prob(u)[held] + log_det[held] for each in (seen.linear, seen.chosen)
    }
    start = next(iter(tried))
    if surely_better(tried[start], densities[seen.chosen.words]):
        densities[f"{seen.chosen.words}, {start.name} of residuals"] = tried[start]
    else:
        start = None
    trained = train_folds(table, partial(start_flow, start), folds)
    flows = [_for_new_conditions(flow, seen, transform) for flow in trained.flows]
    log_p = {"flow": trained.log_p} | densities
    comparison = Comparison.of(log_p, NUM_FOLDS if share is None else 0)
    fitted = FittedDensity(trained._replace(flows=flows).flow, trained.history, comparison)
    if table.x.shape[1] > 1 and len(every) >= MANY_ROWS:
        return _or_encoded(fitted, held, table, cond, validation, settings)
    return fitted


def _or_encoded(
    fitted: FittedDensity,
    compared: np.ndarray,
    table: Table,
    cond: Array,
    validation: float,
    settings: dict[str, Any],
) -> FittedDensity:
    """A flow whose encoder learns location and spread with it, if that is better than `fitted`.

    `compared` are the row numbers of `fitted.comparison`; those that the other flow holds out too
    decide.
    """
    x, every = table.x, default_eval_every(table.config.steps)
    train, held = _split(len(x), validation, table.seed)
    flow, history = fit_encoded(
        x[train],
        cond[train],
        key=table.key,
        width=table.width,
        depth=table.depth,
        config=encoded_config(len(x), eval_every=every, **settings),
        validation=(x[held], cond[held]),
        parts=table.proposal.parts,
        progress=table.progress,
        callback=table.callback,
    )
    place = np.full(len(x), -1)
    place[compared] = np.arange(len(compared))
    held = held[place[held] >= 0]
    same_rows = {name: each[place[held]] for name, each in fitted.comparison.log_p.items()}
    log_p = np.asarray(flow.log_prob(table.noisy[held], cond[held]), np.float64)
    if not log_p.mean() > same_rows["flow"].mean():
        return fitted
    return FittedDensity(flow, history, Comparison.of(same_rows | {"flow": log_p}))


def _for_new_conditions(flow: CNF, seen: Predicted, transform: Chain) -> CNF:
    """The flow for conditions in their own units: it predicts location and spread itself."""
    flow = replace(flow, field=EncodedCondition(flow.field, seen.moments))
    return with_transform(flow, transform)


def _split(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to hold out, at most `MOST_HELD` of the latter."""
    train, held = split(count, share, seed)
    return train, held[:MOST_HELD]
