"""Location and spread of a target given conditions: least squares, then boosted trees.

Regressions predict only rows that they did not see, so that residuals are as large as for new
rows.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxflow.dynamics import ConditionScaling, Moments, Regression, Trees
from jaxflow.runtime.threads import one_thread
from jaxflow.training.starts import surely_better

# Penalties of least squares that are tried, in units of one row of standardised conditions.
PENALTIES = (1e-6, 1.0, 30.0, 1000.0)
# Trees with more leaves for more rows; a tree is added while a tenth of the rows gains. Trees for
# fewer rows or for more columns of the target are not tried.
LEAVES, MANY_LEAVES, MANY_ROWS = 15, 63, 5000
FEWEST_ROWS, MOST_COLUMNS = 100, 4
TREES: dict[str, Any] = {"learning_rate": 0.05, "max_iter": 600, "l2_regularization": 1.0}
TREES |= {"early_stopping": True, "random_state": 0}
# A residual of 0 has no logarithm: this share of the residuals' spread is added.
FLOOR = 1e-3
# A column whose residuals are below this share of its spread has no bounded density.
LEAST = 1e-6
# Least gain in nats for which a location or spread is modelled by more than before; it must also
# be sure, for few rows held out may gain by chance.
GAIN = 0.005

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


class Normal(NamedTuple):
    """Normal densities of rows, as a regression predicts them without having seen the rows."""

    location: Float[np.ndarray, "n d"]
    log_scale: Float[np.ndarray, "n d"]
    words: str

    def residuals(self, u: Any) -> Float[np.ndarray, "n d"]:
        """`(u - location) / exp(log_scale)` of targets (n, d)."""
        return (np.asarray(u, np.float64) - self.location) / np.exp(self.log_scale)

    def log_prob(self, u: Any) -> Float[np.ndarray, " n"]:
        """Log-densities of targets (n, d), in nats."""
        return np.sum(_normal(self.residuals(u)) - self.log_scale, axis=1)


class Predicted(NamedTuple):
    """The chosen regression, fitted to all rows, the rows' encoded conditions, and predictions.

    `linear` is least squares with a constant spread; neither has seen the rows that it predicts.
    """

    moments: Moments
    cond: Float[np.ndarray, "n e"]
    chosen: Normal
    linear: Normal


def predict(
    u: Float[np.ndarray, "n d"],
    cond: Float[np.ndarray, "n c"],
    folds: Folds,
    dtype: Any,
    names: Sequence[str],
) -> Predicted:
    """Choose and fit the regression of each column of a standardised target.

    The rows held out by the folds are all rows. Raises ValueError for a column that is a linear
    function of the conditions.
    """
    scaling = ConditionScaling.fit(jnp.asarray(cond, dtype))
    c = np.asarray(jax.vmap(scaling)(jnp.asarray(cond, dtype)), np.float64)
    boosts = len(u) >= FEWEST_ROWS and u.shape[1] <= MOST_COLUMNS and find_spec("sklearn")
    # Threads wait for each other where cores are busy, which takes ten times as long.
    with one_thread():
        columns = [_column(c, y, folds, bool(boosts)) for y in np.asarray(u, np.float64).T]
    unseen, models = zip(*columns, strict=True)
    location, log_scale, line, line_scale = np.moveaxis(np.array(unseen), 0, -1)
    for name, scale in zip(names, line_scale[0], strict=True):
        if scale < np.log(LEAST):
            raise ValueError(
                f"column {name} of x follows from cond, up to {np.exp(scale):.1e} of its spread, "
                "so its density given cond has no bound: leave it out"
            )
    fitted = [_regression(each, dtype) for each in zip(*models, strict=True)]
    linear = chosen = Normal(line, line_scale, "linear regression, one spread")
    if any(model.trees for pair in models for model in pair):
        chosen = Normal(location, log_scale, "regression by boosted trees")
    elif not np.array_equal(log_scale, line_scale):
        chosen = Normal(location, log_scale, "linear regression")
    encoded = np.concatenate([c, location, log_scale], axis=1)
    return Predicted(Moments(scaling, *fitted), encoded, chosen, linear)


class _Model(NamedTuple):
    """One output of a `Regression`, in NumPy."""

    slope: np.ndarray
    bias: float
    trees: list[dict[str, np.ndarray]]
    predict: Callable[[np.ndarray], np.ndarray]


def _regression(models: Sequence[_Model], dtype: Any) -> Regression:
    slopes = np.stack([model.slope for model in models])
    biases = np.array([model.bias for model in models])
    trees = [Trees.stack(model.trees, dtype) if model.trees else None for model in models]
    return Regression(jnp.asarray(slopes, dtype), jnp.asarray(biases, dtype), tuple(trees))


def _column(
    c: np.ndarray, y: np.ndarray, folds: Folds, boosts: bool
) -> tuple[tuple[np.ndarray, ...], tuple[_Model, _Model]]:
    """Location and log-scale of unseen rows, the same by least squares, and the fitted models."""
    lines = {penalty: _unseen(_line(penalty), c, y, folds) for penalty in PENALTIES}
    penalty = min(lines, key=lambda each: _log_rms(y - lines[each]))
    location = line = lines[penalty]
    kind, scale = _line(penalty), _constant(y - line)
    if boosts:
        boosted = _unseen(_boosted(penalty), c, y, folds)
        if _gains(y - boosted, _constant(y - boosted), y - line, scale):
            location, kind = boosted, _boosted(penalty)
    log_scale, spread = _spread(c, y - location, folds, boosts)
    return (location, log_scale, line, scale), (kind(c, y), spread)


def _spread(
    c: np.ndarray, residuals: np.ndarray, folds: Folds, boosts: bool
) -> tuple[np.ndarray, _Model]:
    """The log-scale of residuals given conditions: constant, linear, or by trees."""
    best, constant = _constant(residuals), _log_rms(residuals)
    target = np.log(np.abs(residuals) + FLOOR * np.exp(constant))
    model = _Model(np.zeros(c.shape[1]), constant, [], lambda c: np.full(len(c), constant))
    kinds = _line(PENALTIES[1]), _boosted(PENALTIES[1])
    for kind in kinds if boosts else kinds[:1]:
        unseen = _unseen(kind, c, target, folds)
        shift = _log_rms(residuals / np.exp(unseen))
        if _gains(residuals, unseen + shift, residuals, best):
            best, fitted = unseen + shift, kind(c, target)
            model = fitted._replace(bias=fitted.bias + shift)
    return best, model


def _gains(
    residuals: np.ndarray, log_scale: np.ndarray, others: np.ndarray, other_scale: np.ndarray
) -> bool:
    """Whether normal log-densities exceed others by `GAIN`, and surely."""
    log_p = _normal(residuals / np.exp(log_scale)) - log_scale
    other = _normal(others / np.exp(other_scale)) - other_scale
    return surely_better(log_p, other) and float((log_p - other).mean()) > GAIN


def _constant(residuals: np.ndarray) -> np.ndarray:
    """One log-scale for all residuals."""
    return np.full(len(residuals), _log_rms(residuals))


def _unseen(kind: Callable[..., _Model], c: np.ndarray, y: np.ndarray, folds: Folds) -> np.ndarray:
    """The prediction of each row by a model fitted to other folds."""
    out = np.empty(len(y))
    for train, held in folds:
        out[held] = kind(c[train], y[train]).predict(c[held])
    return out


def _line(penalty: float) -> Callable[..., _Model]:
    """Least squares with a penalty on the slopes (ridge regression)."""

    def fit(c: np.ndarray, y: np.ndarray) -> _Model:
        centre, mean = c.mean(axis=0), y.mean()
        gaps = c - centre
        squares = gaps.T @ gaps + penalty * np.eye(c.shape[1])
        slope = np.linalg.solve(squares, gaps.T @ (y - mean))
        bias = float(mean - centre @ slope)
        return _Model(slope, bias, [], lambda c: c @ slope + bias)

    return fit


def _boosted(penalty: float) -> Callable[..., _Model]:
    """Least squares, then boosted trees for the residuals."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    def fit(c: np.ndarray, y: np.ndarray) -> _Model:
        line = _line(penalty)(c, y)
        leaves = MANY_LEAVES if len(c) > MANY_ROWS else LEAVES
        trees = HistGradientBoostingRegressor(max_leaf_nodes=leaves, **TREES)
        trees.fit(c, y - line.predict(c))
        columns = [np.unique(column) for column in c.T]
        nodes = [_nodes(each.nodes, columns) for (each,) in trees._predictors]
        bias = line.bias + float(np.ravel(trees._baseline_prediction)[0])
        return _Model(line.slope, bias, nodes, lambda c: line.predict(c) + trees.predict(c))

    return fit


def _nodes(nodes: np.ndarray, columns: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """A tree of scikit-learn's boosting, for `Trees.stack`; its leaves point to themselves.

    A threshold that is a value of its column moves to the middle of the gap above, so that
    rounding sends no row of the training to another leaf.
    """
    own, leaf = np.arange(len(nodes)), nodes["is_leaf"].astype(bool)
    feature, threshold = np.where(leaf, 0, nodes["feature_idx"]), nodes["num_threshold"].copy()
    for i in np.flatnonzero(~leaf):
        values = columns[feature[i]]
        above = np.searchsorted(values, threshold[i], side="right")
        if 0 < above < len(values):
            threshold[i] = 0.5 * (values[above - 1] + values[above])
    return {
        "feature": feature,
        "threshold": threshold,
        "left": np.where(leaf, own, nodes["left"]),
        "right": np.where(leaf, own, nodes["right"]),
        "value": np.where(leaf, nodes["value"], 0.0),
    }


def _log_rms(values: np.ndarray) -> float:
    return float(0.5 * np.log(np.mean(values**2) + np.finfo(float).tiny))


def _normal(z: np.ndarray) -> np.ndarray:
    """Log-density of the standard normal."""
    return -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
