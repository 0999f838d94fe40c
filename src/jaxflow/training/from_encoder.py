"""Train a conditional flow whose encoder learns location and spread of the target with it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxflow.bases import StandardNormal
from jaxflow.dynamics import (
    EncodedCondition,
    LocationScale,
    ObservationEncoder,
    RobustScaling,
    SetEncoder,
)
from jaxflow.flows.cnf import CNF
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.training.config import TrainConfig
from jaxflow.training.defaults import ENCODED, sine_network
from jaxflow.training.fit import fit
from jaxflow.training.history import History
from jaxflow.training.record import Callback
from jaxflow.transforms import Chain, Whiten

# Least spread of the residuals of a line, as a share of the column's spread.
LEAST = 1e-4


def fit_encoded(
    x: ArrayInput,
    cond: ArrayInput,
    *,
    key: PRNGKeyArray,
    width: int,
    depth: int,
    config: TrainConfig,
    validation: Any,
    weights: Any = None,
    parts: tuple[Any, ...] = (),
    embed: Any = None,
    progress: bool | None = None,
    callback: Callback | None = None,
) -> tuple[CNF, History]:
    """Fit `p(x | cond)`: an `ObservationEncoder` of robustly scaled conditions, a field of sines.

    `jaxflow.inference` trains it, and `fit_density` for several columns given conditions.

    Args:
        x: the target, (n, d).
        cond: conditions, (n, *condition).
        key: for the split, the weights and the minibatches.
        width: units of each hidden layer.
        depth: number of hidden layers.
        config: settings of the training.
        validation: as for `fit`.
        weights: how often each row counts, (n,).
        parts: transforms of the target before it is whitened.
        embed: encoder of one condition.
        progress: as for `fit`.
        callback: as for `fit`.

    Returns:
        The flow and its history.
    """
    dim, shape = np.shape(x)[1], np.shape(cond)[1:]
    rows, cond_rows = jnp.asarray(x, float), jnp.asarray(cond, float)
    scaling = RobustScaling.fit(cond, rows=2 if isinstance(embed, SetEncoder) else 1)
    features = None if embed is not None else jax.vmap(scaling)(cond_rows).reshape(len(rows), -1)
    u = rows
    for part in parts:
        u = jax.vmap(part.forward)(u)[0]
    whiten, line = _linear(u, features)
    field_key, encoder_key, fit_key = jax.random.split(key, 3)
    encoder = ObservationEncoder(dim, scaling, shape, embed, line=line, key=encoder_key)
    field = sine_network(
        dim, width=width, depth=depth, cond_dim=encoder.num_outputs, key=field_key
    )
    return fit(
        CNF(EncodedCondition(LocationScale(field), encoder), StandardNormal(dim)),
        rows,
        cond_rows,
        key=fit_key,
        weights=weights,
        validation=validation,
        transform=Chain((*parts, whiten)),
        config=config,
        objective=ENCODED,
        progress=progress,
        callback=callback,
    )


def _linear(u: Array, features: Array | None) -> tuple[Whiten, Any]:
    """Least squares of rows on features, in units that whiten the residuals.

    Returns:
        The transform into these units, and the matrix and constant of the line in them; None
        without features.
    """
    y = np.asarray(u, np.float64)
    c = np.empty((len(y), 0)) if features is None else np.asarray(features, np.float64)
    mean, centre = y.mean(axis=0), c.mean(axis=0)
    # A product of two arrays: of one array with itself, BLAS would round otherwise.
    squares = (c - centre).T @ (c - centre) + np.eye(c.shape[1])
    slope = np.linalg.solve(squares, (c - centre).T @ (y - mean))
    residuals = y - mean - (c - centre) @ slope
    floor = LEAST**2 * np.diag(y.std(axis=0) ** 2)
    factor = np.linalg.cholesky(residuals.T @ residuals / len(y) + floor)
    whiten = Whiten(jnp.asarray(mean, u.dtype), jnp.asarray(factor, u.dtype))
    if features is None:
        return whiten, None
    slope = np.linalg.solve(factor, slope.T).T
    line = slope, -centre @ slope
    return whiten, tuple(jnp.asarray(each, u.dtype) for each in line)
