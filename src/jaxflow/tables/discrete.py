"""The joint probability of discrete cells: each given those before it."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxflow.runtime.shapes import ArrayInput
from jaxflow.tables.laws import Law

# Units of the hidden layer.
WIDTH = 48
# Rows that are computed at once.
CHUNK = 16_384

Codes = Float[np.ndarray, "n variables"]


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
            np.asarray(log_prob_rows(self.heads, self.laws, *rows_of(self.laws, part)), np.float64)
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


def _encode(laws: Sequence[Law], codes: Codes) -> Float[np.ndarray, "n inputs"]:
    parts = [law.encode(column) for law, column in zip(laws, codes.T, strict=True)]
    return np.concatenate([np.zeros((len(codes), 0)), *parts], axis=1)


def rows_of(laws: Sequence[Law], codes: Codes) -> tuple[Array, Array, Array]:
    """Inputs, (n, inputs), cells, (n, variables, 3), and which are present, (n, variables)."""
    parts = [law.cells(column) for law, column in zip(laws, codes.T, strict=True)]
    cells = np.stack(parts, axis=1) if parts else np.zeros((len(codes), 0, 3))
    inputs = jnp.asarray(_encode(laws, codes), float)
    return inputs, jnp.asarray(cells, float), jnp.asarray(~np.isnan(codes))


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    """The rows in blocks."""
    return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]


@eqx.filter_jit
def _parameters(head: Head, inputs: ArrayInput) -> Float[Array, "n parameters"]:
    return jax.vmap(head)(jnp.asarray(inputs, head.bias.dtype))


@eqx.filter_jit
def log_prob_rows(
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
