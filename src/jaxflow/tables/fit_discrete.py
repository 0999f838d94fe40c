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

from jaxflow.runtime.keys import host_seed
from jaxflow.runtime.progress import Progress
from jaxflow.tables.discrete import Autoregressive, Codes, constant_heads
from jaxflow.tables.groups import Group, Groups, Stacked, log_prob
from jaxflow.tables.laws import Law

# Rows of a block that is validated.
BLOCK = 2048
# Rows of an update, learning rate and decay of the weights.
BATCH, RATE, DECAY = 512, 4e-3, 1e-3
# Share of the old weights in the average that is validated.
AVERAGE = 0.95
# Updates between two validations; largest number of updates; validations without a gain after
# which training stops; least gain in nats.
EVERY, MOST, PATIENCE, GAIN = 25, 2500, 8, 1e-4

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


class FittedDiscrete(NamedTuple):
    """The model, and held-out log-probabilities of the rows of all folds in turn.

    `independent` are those by the smoothed frequencies of each variable alone.
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
    end: float = math.inf,
) -> FittedDiscrete:
    """Train the heads, each as long as that helps held-out rows.

    The models of all folds and the model of all rows train together. The heads share no weights,
    so each stops at its own best step. A variable keeps its frequencies where no step beats them.
    `folds` has row numbers to train on and to hold out; `gates` are those of `Autoregressive`;
    training ends after `end`, a time of `time.monotonic`.
    """
    laws, gates = tuple(laws), tuple(gates)
    trains = [*(train for train, _ in folds), np.arange(len(codes))]
    seed = host_seed(key)
    frequencies, starts = [], []
    for part in (codes[train] for train in trains):
        columns = list(zip(laws, part.T, strict=True))
        each = ([law.frequencies(c) for law, c in columns], [law.start(c) for law, c in columns])
        frequencies.append(constant_heads(laws, each[0], seed))
        starts.append(constant_heads(laws, each[1], seed))
    simple = [Autoregressive(heads, laws, gates) for heads in frequencies]
    outs = [out for _, out in folds]
    if not folds or not laws:
        nothing = np.zeros((sum(map(len, outs)), len(laws)))
        return FittedDiscrete(simple[-1], nothing, nothing)
    groups = Groups.of(laws)
    data, order = groups.rows(laws, codes), groups.order
    weights = jnp.asarray(
        [np.bincount(train, minlength=len(codes)) > 0 for train in trains], float
    )
    independent = np.concatenate(
        [model.log_prob(codes[out], others=True) for model, out in zip(simple, outs, strict=False)]
    )
    held, best = independent, _last(groups.stack(frequencies, laws))
    heads: Any = groups.stack(starts, laws)
    average, state = heads, eqx.filter_jit(optimizer().init)(heads)
    top, since = np.full(len(laws), -np.inf), np.zeros(len(laws), int)
    for step in range(0, MOST, EVERY):
        key, batch_key = jax.random.split(key)
        heads, average, state = _train(
            heads, average, state, groups.groups, data, weights, batch_key
        )
        now = np.zeros_like(held)
        now[:, order] = _held_out(groups.groups, average, data, outs)
        means = now.mean(axis=0)
        since = np.where(means > top + GAIN, 0, since + 1)
        top, gains = np.maximum(top, means), means > held.mean(axis=0) + GAIN
        held = np.where(gains, now, held)
        best = tuple(
            jax.tree.map(lambda new, old, kept=gains[numbers]: _where(kept, new, old), *both)
            for numbers, *both in zip(groups.members, _last(average), best, strict=True)
        )
        progress.update(step, f"labels and counts: {-held.sum(axis=1).mean():.3f} nats")
        done = (since >= PATIENCE).all() or not np.isfinite(now).all()
        if done or time.monotonic() > end:
            break
    fitted = Autoregressive(groups.unstack(best, laws), laws, gates)
    return FittedDiscrete(fitted, held, independent)


def optimizer() -> optax.GradientTransformation:
    """How the heads are trained."""
    return optax.adamw(RATE, weight_decay=DECAY)


def _last(heads: tuple[Stacked, ...]) -> tuple[Stacked, ...]:
    """The heads of the model of all rows."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[-1], heads)


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
