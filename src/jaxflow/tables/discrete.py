"""The joint probability of discrete cells: each given those before it."""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxflow.runtime.progress import Progress
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.tables.laws import Law

# Units of the hidden layer, rows of an update, learning rate and decay of the weights.
WIDTH, BATCH, RATE, DECAY = 48, 512, 4e-3, 1e-3
# Share of the old weights in the average that is validated.
AVERAGE = 0.95
# Updates between two validations; largest number of updates; validations without a gain after
# which training stops; least gain in nats.
EVERY, MOST, PATIENCE, GAIN = 25, 2500, 8, 1e-4
# Rows of the smooth law that frequencies are counted with.
MORE = 2.0
# Rows that are computed at once.
CHUNK = 16_384

Codes = Float[np.ndarray, "n variables"]
Folds = Sequence[tuple[np.ndarray, np.ndarray]]


class Head(eqx.Module):
    """Parameters of a law from the cells before: `b + A e + C tanh(D e + d)`.

    Attributes:
        bias: `b`, (parameters,).
        linear: `A`, (parameters, inputs).
        out: `C`, (parameters, width).
        into: `D`, (width, inputs).
        shift: `d`, (width,).
    """

    bias: Array
    linear: Array
    out: Array
    into: Array
    shift: Array

    @classmethod
    def make(cls, bias: np.ndarray, num_inputs: int, key: PRNGKeyArray) -> "Head":
        """A head whose parameters are `bias` whatever the inputs."""
        into = jax.random.normal(key, (WIDTH, num_inputs)) / np.sqrt(max(num_inputs, 1))
        zeros = jnp.zeros((len(bias), num_inputs))
        return cls(
            jnp.asarray(bias, into.dtype),
            zeros,
            jnp.zeros((len(bias), WIDTH)),
            into,
            jnp.zeros(WIDTH),
        )

    def __call__(self, inputs: Float[Array, " inputs"]) -> Float[Array, " parameters"]:
        """The parameters of one cell."""
        hidden = jnp.tanh(self.into @ inputs + self.shift)
        return self.bias + self.linear @ inputs + self.out @ hidden


class Autoregressive(eqx.Module):
    """`log P(k) = sum_j log P(k_j | k_1 ... k_{j-1})`, each by its law and its head.

    A variable with a gate is absent unless the variable of that number has the code 0; an absent
    cell is NaN and has probability 1.

    Attributes:
        heads: parameters of each variable's law.
        laws: laws of the variables.
        gates: number of the variable that each depends on, -1 for none.
    """

    heads: tuple[Head, ...]
    laws: tuple[Law, ...] = eqx.field(static=True)
    gates: tuple[int, ...] = eqx.field(static=True)

    def encode(self, codes: Codes) -> Float[np.ndarray, "n inputs"]:
        """Inputs to networks: those of all variables, beside each other."""
        return _encode(self.laws, codes)

    def log_prob(self, codes: Codes) -> Float[np.ndarray, "n variables"]:
        """Log-probability of each cell given those before it; 0 where it is absent."""
        each = [
            np.asarray(_log_prob(self.heads, self.laws, *_rows(self.laws, part)), np.float64)
            for part in _chunks(codes)
        ]
        return np.concatenate(each) if each else np.zeros(codes.shape)

    def sample(
        self,
        key: PRNGKeyArray,
        codes: Codes,
        fixed: Bool[np.ndarray, "n variables"] | None = None,
    ) -> Codes:
        """Draw the cells that are not fixed, in turn.

        Args:
            key: random key.
            codes: the fixed cells, anything elsewhere, (n, variables).
            fixed: which cells are fixed; None for none.

        Returns:
            The codes of all cells.
        """
        codes, seed = codes.copy(), jax.random.bits(key, (4,), np.uint32)
        uniform = np.random.default_rng(np.asarray(seed).tolist())
        codes[:, :] = codes if fixed is None else np.where(fixed, codes, np.nan)
        for j, (head, law) in enumerate(zip(self.heads, self.laws, strict=True)):
            inputs = _encode(self.laws[:j], codes[:, :j])
            parts = [np.asarray(_parameters(head, part)) for part in _chunks(inputs)]
            drawn = law.sample(np.concatenate(parts), uniform.random((len(codes), 2)))
            free = np.ones(len(codes), bool) if fixed is None else ~fixed[:, j]
            if self.gates[j] >= 0:
                free &= codes[:, self.gates[j]] == 0
            codes[free, j] = drawn[free]
        return codes


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
    """
    laws = tuple(laws)
    data = _rows(laws, codes)
    trains = [*(train for train, _ in folds), np.arange(len(codes))]
    weights = jnp.asarray(
        [np.bincount(train, minlength=len(codes)) > 0 for train in trains], float
    )
    starts = [_starts(laws, codes[train], key) for train in trains]
    heads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)

    def losses(heads: tuple[Head, ...]) -> np.ndarray:
        """Held-out log-probabilities of the folds in turn, (rows, variables)."""
        each = [
            _log_prob(jax.tree.map(lambda leaf, i=i: leaf[i], heads), laws, *_take(data, held))
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
        if (since >= PATIENCE).all() or not np.isfinite(now).all():
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
    """Log-probabilities of held-out cells by the counts of each variable, and a few more."""
    # Before training a head does not see its inputs.
    heads = _starts(laws, codes[train], jax.random.key(0))
    prior = np.exp(np.asarray(_log_prob(heads, laws, *_rows(laws, codes[held])), np.float64))
    counts = np.zeros_like(prior)
    totals = (~np.isnan(codes[train])).sum(axis=0)
    for j in range(len(laws)):
        values, inverse = np.unique(codes[train][:, j], return_counts=True)
        place = np.minimum(np.searchsorted(values, codes[held][:, j]), len(values) - 1)
        counts[:, j] = np.where(values[place] == codes[held][:, j], inverse[place], 0)
    table = np.log((counts + MORE * prior) / (totals + MORE))
    return np.where(np.isnan(codes[held]), 0.0, table)


def _encode(laws: Sequence[Law], codes: Codes) -> Float[np.ndarray, "n inputs"]:
    parts = [law.encode(column) for law, column in zip(laws, codes.T, strict=True)]
    return np.concatenate([np.zeros((len(codes), 0)), *parts], axis=1)


def _rows(laws: Sequence[Law], codes: Codes) -> tuple[Array, Array, Array]:
    """Inputs, (n, inputs), cells, (n, variables, 3), and which are present, (n, variables)."""
    parts = [law.cells(column) for law, column in zip(laws, codes.T, strict=True)]
    cells = np.stack(parts, axis=1) if parts else np.zeros((len(codes), 0, 3))
    inputs = jnp.asarray(_encode(laws, codes), float)
    return inputs, jnp.asarray(cells, float), jnp.asarray(~np.isnan(codes))


def _take(data: tuple[Array, Array, Array], rows: np.ndarray) -> tuple[Array, Array, Array]:
    inputs, cells, present = (part[rows] for part in data)
    return inputs, cells, present


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    """The rows in blocks."""
    return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]


@eqx.filter_jit
def _parameters(head: Head, inputs: ArrayInput) -> Float[Array, "n parameters"]:
    return jax.vmap(head)(jnp.asarray(inputs, head.bias.dtype))


@eqx.filter_jit
def _log_prob(
    heads: tuple[Head, ...], laws: tuple[Law, ...], inputs: Array, cells: Array, present: Array
) -> Float[Array, "n variables"]:
    return _each(heads, laws, inputs, cells, present)


def _each(
    heads: tuple[Head, ...], laws: tuple[Law, ...], inputs: Array, cells: Array, present: Array
) -> Float[Array, "n variables"]:
    """Log-probability of each cell of rows given those before it."""
    columns, size = [], 0
    for j, (head, law) in enumerate(zip(heads, laws, strict=True)):
        parameters = jax.vmap(head)(inputs[:, :size])
        columns.append(jax.vmap(law.log_prob)(parameters, cells[:, j]))
        size += law.num_inputs
    if not columns:
        return jnp.zeros(present.shape)
    return jnp.where(present, jnp.stack(columns, axis=1), 0.0)


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
        total = jnp.sum(weight[:, None] * _each(heads, laws, *rows))
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
