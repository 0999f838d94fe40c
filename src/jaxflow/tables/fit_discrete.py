"""Train the probabilities of discrete cells from their frequencies."""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.runtime.progress import Progress
from jaxflow.tables.discrete import (
    Autoregressive,
    Codes,
    Head,
    log_prob_rows,
    rows_of,
)
from jaxflow.tables.laws import Law

# Rows of an update, learning rate and decay of the weights.
BATCH, RATE, DECAY = 512, 4e-3, 1e-3
# Share of the old weights in the average that is validated.
AVERAGE = 0.95
# Updates between two validations; largest number of updates; validations without a gain after
# which training stops; least gain in nats.
EVERY, MOST, PATIENCE, GAIN = 25, 2500, 8, 1e-4
# Rows of the smooth law that frequencies are counted with.
MORE = 2.0

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


class FittedDiscrete(NamedTuple):
    """What `fit_discrete` returns.

    Attributes:
        model: the probabilities.
        held: held-out log-probabilities of the rows of all folds in turn, (rows, variables).
        independent: those of independent variables with smoothed frequencies.
    """

    model: Autoregressive
    held: Float[np.ndarray, "rows variables"]
    independent: Float[np.ndarray, "rows variables"]


def fit_discrete(
    laws: Sequence[Law],
    gates: Sequence[int],
    codes: Codes,
    folds: Folds,
    key: PRNGKeyArray,
    progress: Progress,
    max_seconds: float | None = None,
) -> FittedDiscrete:
    """Train the heads from independent frequencies, each as long as that helps held-out rows.

    The models of all folds and the model of all rows train together. The heads share no weights,
    so each stops at its own best step, which is 0 where the cells before do not help.

    Args:
        laws: law of each variable.
        gates: as for `Autoregressive`.
        codes: the rows.
        folds: row numbers to train on and to hold out, for each fold.
        key: for the weights and the minibatches.
        progress: where to show it.
        max_seconds: stop at the first validation after this many seconds; None for no limit.
    """
    laws, end = tuple(laws), time.monotonic() + (math.inf if max_seconds is None else max_seconds)
    data = rows_of(laws, codes)
    trains = [*(train for train, _ in folds), np.arange(len(codes))]
    weights = jnp.asarray(
        [np.bincount(train, minlength=len(codes)) > 0 for train in trains], float
    )
    starts = [_starts(laws, codes[train], key) for train in trains]
    heads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)

    def losses(heads: tuple[Head, ...]) -> np.ndarray:
        """Held-out log-probabilities of the folds in turn, (rows, variables)."""
        each = [
            log_prob_rows(jax.tree.map(lambda leaf, i=i: leaf[i], heads), laws, *_take(data, held))
            for i, (_, held) in enumerate(folds)
        ]
        return np.concatenate([np.asarray(part, np.float64) for part in each])

    if not folds:
        nothing = np.zeros((0, len(laws)))
        return FittedDiscrete(Autoregressive(starts[-1], laws, tuple(gates)), nothing, nothing)
    held = losses(heads)
    best, since = list(heads), np.zeros(len(laws), int)
    state, average = optimizer().init(heads), heads
    for step in range(0, MOST, EVERY):
        key, batch_key = jax.random.split(key)
        heads, average, state = _train(heads, average, state, laws, data, weights, batch_key)
        now = losses(average)
        gains = now.mean(axis=0) > held.mean(axis=0) + GAIN
        since = np.where(gains, 0, since + 1)
        for j in np.flatnonzero(gains):
            best[j], held[:, j] = average[j], now[:, j]
        progress.update(step, f"labels and counts: {-held.sum(axis=1).mean():.3f} nats")
        done = (since >= PATIENCE).all() or not np.isfinite(now).all()
        if done or time.monotonic() > end:
            break
    last = jax.tree.map(lambda leaf: leaf[-1], tuple(best))
    tables = [_frequencies(laws, codes, train, part) for train, part in folds]
    return FittedDiscrete(Autoregressive(last, laws, tuple(gates)), held, np.concatenate(tables))


def optimizer() -> optax.GradientTransformation:
    """How the heads are trained."""
    return optax.adamw(RATE, weight_decay=DECAY)


def _starts(laws: tuple[Law, ...], codes: Codes, key: PRNGKeyArray) -> tuple[Head, ...]:
    keys = jax.random.split(key, max(len(laws), 1))
    sizes = np.cumsum([0, *(law.num_inputs for law in laws)])
    return tuple(
        Head.make(law.start(column), int(size), each)
        for law, column, size, each in zip(laws, codes.T, sizes, keys, strict=False)
    )


def _frequencies(
    laws: tuple[Law, ...], codes: Codes, train: np.ndarray, held: np.ndarray
) -> Float[np.ndarray, "held variables"]:
    """Log-probabilities of held-out cells by the counts of each variable, and a smooth law.

    The smooth law has the share of the cells that occur once: so often a new cell is new (Good
    1953, "The population frequencies of species", eq. 9), and two cells more.
    """
    # Before training a head does not see its inputs.
    heads = _starts(laws, codes[train], jax.random.key(0))
    prior = np.exp(np.asarray(log_prob_rows(heads, laws, *rows_of(laws, codes[held])), np.float64))
    counts, shares = np.zeros_like(prior), np.zeros(len(laws))
    totals = (~np.isnan(codes[train])).sum(axis=0)
    for j in range(len(laws)):
        known = codes[train][:, j]
        values, inverse = np.unique(known[~np.isnan(known)], return_counts=True)
        shares[j] = ((inverse == 1).sum() + MORE) / (totals[j] + MORE)
        if len(values):
            place = np.minimum(np.searchsorted(values, codes[held][:, j]), len(values) - 1)
            counts[:, j] = np.where(values[place] == codes[held][:, j], inverse[place], 0)
    table = np.log((1 - shares) * counts / np.maximum(totals, 1) + shares * prior)
    return np.where(np.isnan(codes[held]), 0.0, table)


def _take(data: tuple[Array, Array, Array], rows: np.ndarray) -> tuple[Array, Array, Array]:
    inputs, cells, present = (part[rows] for part in data)
    return inputs, cells, present


@eqx.filter_jit
def _train(
    heads: tuple[Head, ...],
    average: tuple[Head, ...],
    state: optax.OptState,
    laws: tuple[Law, ...],
    data: tuple[Array, Array, Array],
    weights: Float[Array, "models n"],
    key: PRNGKeyArray,
) -> tuple[tuple[Head, ...], tuple[Head, ...], optax.OptState]:
    """`EVERY` updates of all models, each by the rows that it weights."""
    count = weights.shape[1]

    def loss(heads: tuple[Head, ...], rows: tuple[Array, Array, Array], weight: Array) -> Array:
        total = jnp.sum(weight[:, None] * log_prob_rows(heads, laws, *rows))
        return -total / jnp.maximum(jnp.sum(weight), 1.0)

    def update(carry: tuple, key: PRNGKeyArray) -> tuple[tuple, None]:
        heads, average, state = carry
        rows, weight = data, weights
        if count > BATCH:
            index = jax.random.randint(key, (BATCH,), 0, count)
            inputs, cells, present = (part[index] for part in data)
            rows, weight = (inputs, cells, present), weights[:, index]
        slopes = jax.vmap(jax.grad(loss), in_axes=(0, None, 0))(heads, rows, weight)
        with jax.numpy_dtype_promotion("standard"):  # optax
            changes, state = optimizer().update(slopes, state, heads)
        heads = optax.apply_updates(heads, changes)
        average = jax.tree.map(lambda a, b: AVERAGE * a + (1 - AVERAGE) * b, average, heads)
        return (heads, average, state), None

    carry, _ = jax.lax.scan(update, (heads, average, state), jax.random.split(key, EVERY))
    return carry
