"""Train the probabilities of discrete cells from their frequencies."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.runtime.progress import Progress
from jaxflow.tables.discrete import Autoregressive, Codes, start_heads
from jaxflow.tables.groups import Group, Groups, Stacked, log_prob
from jaxflow.tables.laws import Law
from jaxflow.training.prepare import host_seed

# Rows of a block that is validated.
BLOCK = 2048
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
    laws, gates = tuple(laws), tuple(gates)
    end = time.monotonic() + (math.inf if max_seconds is None else max_seconds)
    trains = [*(train for train, _ in folds), np.arange(len(codes))]
    seed = host_seed(key)
    starts = [start_heads(laws, codes[train], seed) for train in trains]
    models = [Autoregressive(heads, laws, gates) for heads in starts]
    if not folds or not laws:
        nothing = np.zeros((sum(len(held) for _, held in folds), len(laws)))
        return FittedDiscrete(models[-1], nothing, nothing)
    groups = Groups.of(laws)
    data, order = groups.rows(laws, codes), groups.order
    weights = jnp.asarray(
        [np.bincount(train, minlength=len(codes)) > 0 for train in trains], float
    )
    outs = [out for _, out in folds]
    held = np.concatenate(
        [model.log_prob(codes[out]) for model, out in zip(models, outs, strict=False)]
    )
    heads: Any = groups.stack(starts, laws)
    best = last = _last(heads)
    since = np.zeros(len(laws), int)
    state, average = optimizer().init(heads), heads
    for step in range(0, MOST, EVERY):
        key, batch_key = jax.random.split(key)
        heads, average, state = _train(
            heads, average, state, groups.groups, data, weights, batch_key
        )
        now = np.zeros_like(held)
        now[:, order] = _held_out(groups.groups, average, data, outs)
        gains = now.mean(axis=0) > held.mean(axis=0) + GAIN
        since = np.where(gains, 0, since + 1)
        held, last = np.where(gains, now, held), _last(average)
        best = tuple(
            jax.tree.map(lambda new, old, kept=gains[numbers]: _where(kept, new, old), *both)
            for numbers, *both in zip(groups.members, last, best, strict=True)
        )
        progress.update(step, f"labels and counts: {-held.sum(axis=1).mean():.3f} nats")
        done = (since >= PATIENCE).all() or not np.isfinite(now).all()
        if done or time.monotonic() > end:
            break
    tables = [
        _frequencies(model, codes, train, part)
        for model, (train, part) in zip(models, folds, strict=False)
    ]
    fitted = Autoregressive(groups.unstack(best, laws), laws, gates)
    return FittedDiscrete(fitted, held, np.concatenate(tables))


def optimizer() -> optax.GradientTransformation:
    """How the heads are trained."""
    return optax.adamw(RATE, weight_decay=DECAY)


def _frequencies(
    start: Autoregressive, codes: Codes, train: np.ndarray, held: np.ndarray
) -> Float[np.ndarray, "held variables"]:
    """Log-probabilities of held-out cells by the counts of each variable, and a smooth law.

    The smooth law has the share of the cells that occur once: so often a new cell is new (Good
    1953, "The population frequencies of species", eq. 9), and two cells more.
    """
    # Before training a head does not see its inputs.
    prior = np.exp(start.log_prob(codes[held]))
    counts, shares = np.zeros_like(prior), np.zeros(len(start.laws))
    totals = (~np.isnan(codes[train])).sum(axis=0)
    for j in range(len(start.laws)):
        known = codes[train][:, j]
        values, inverse = np.unique(known[~np.isnan(known)], return_counts=True)
        shares[j] = ((inverse == 1).sum() + MORE) / (totals[j] + MORE)
        if len(values):
            place = np.minimum(np.searchsorted(values, codes[held][:, j]), len(values) - 1)
            counts[:, j] = np.where(values[place] == codes[held][:, j], inverse[place], 0)
    table = np.log((1 - shares) * counts / np.maximum(totals, 1) + shares * prior)
    return np.where(np.isnan(codes[held]), 0.0, table)


def _last(heads: tuple[Stacked, ...]) -> tuple[Stacked, ...]:
    """The heads of the model of all rows."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[-1]), heads)


def _where(kept: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The new entries of some variables."""
    return np.where(kept.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _held_out(
    groups: tuple[Group, ...],
    heads: tuple[Stacked, ...],
    data: tuple[Array, ...],
    outs: Sequence[np.ndarray],
) -> Float[np.ndarray, "rows variables"]:
    """Held-out log-probabilities of the folds in turn, in the order of the groups."""
    most = max(map(len, outs))
    count = -(-most // BLOCK)
    size = -(-most // count)
    # Folds differ by a few rows: the last row fills them up, and one program takes all blocks.
    index = np.stack([np.pad(out, (0, count * size - len(out)), mode="edge") for out in outs])
    blocks = jnp.asarray(np.swapaxes(index.reshape(len(outs), count, size), 0, 1))
    found = np.asarray(_log_prob_blocks(groups, heads, data, blocks), np.float64)
    found = np.swapaxes(found, 0, 1).reshape(len(outs), count * size, -1)
    return np.concatenate([each[: len(out)] for each, out in zip(found, outs, strict=True)])


@eqx.filter_jit
def _log_prob_blocks(
    groups: tuple[Group, ...],
    heads: tuple[Stacked, ...],
    data: tuple[Array, ...],
    blocks: Int[Array, "blocks folds size"],
) -> Float[Array, "blocks folds size variables"]:
    folds = jax.tree.map(lambda leaf: leaf[: blocks.shape[1]], heads)

    def of_rows(heads: tuple[Stacked, ...], rows: Array) -> Array:
        inputs, cells, present = (part[rows] for part in data)
        return log_prob(groups, heads, inputs, cells, present)

    return jax.lax.map(lambda rows: jax.vmap(of_rows)(folds, rows), blocks)


@eqx.filter_jit
def _train(
    heads: tuple[Stacked, ...],
    average: tuple[Stacked, ...],
    state: optax.OptState,
    groups: tuple[Group, ...],
    data: tuple[Array, Array, Array],
    weights: Float[Array, "models n"],
    key: PRNGKeyArray,
) -> tuple[tuple[Stacked, ...], tuple[Stacked, ...], optax.OptState]:
    """`EVERY` updates of all models, each by the rows that it weights."""
    count = weights.shape[1]

    def loss(heads: tuple[Stacked, ...], rows: tuple[Array, ...], weight: Array) -> Array:
        total = jnp.sum(weight[:, None] * log_prob(groups, heads, *rows))
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
