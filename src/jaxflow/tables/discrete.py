"""The joint probability of discrete cells: each given those before it."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxflow.runtime.keys import numpy_rng
from jaxflow.tables.laws import Law

# Units of the hidden layer.
WIDTH = 48
# Rows that are computed at once.
CHUNK = 16_384

Codes = Float[np.ndarray, "n variables"]


class Head(eqx.Module):
    """Parameters of a law from the cells before: `bias + linear e + out tanh(into e + shift)`."""

    bias: Array
    linear: Array
    out: Array
    into: Array
    shift: Array

    def __call__(self, inputs: Float[np.ndarray, "n inputs"]) -> Float[np.ndarray, "n parameters"]:
        """The parameters of rows, in float64 on the host: nothing to compile."""
        bias, linear, out, into, shift = (
            np.asarray(part, np.float64)
            for part in (self.bias, self.linear, self.out, self.into, self.shift)
        )
        return bias + inputs @ linear.T + np.tanh(inputs @ into.T + shift) @ out.T


class Autoregressive(eqx.Module):
    """`log P(k) = sum_j log P(k_j | k_1 ... k_{j-1})`, each by its law and its head.

    A variable with a gate, the number of another or -1 for none, is absent unless that has the
    code 0; an absent cell is NaN and has probability 1.
    """

    heads: tuple[Head, ...]
    laws: tuple[Law, ...] = eqx.field(static=True)
    gates: tuple[int, ...] = eqx.field(static=True)

    def encode(self, codes: Codes) -> Float[np.ndarray, "n inputs"]:
        """Inputs to networks: those of all variables, beside each other."""
        return encode(self.laws, codes)

    def log_prob(self, codes: Codes, *, others: bool = False) -> Float[np.ndarray, "n variables"]:
        """Log-probability of each cell given those before it; 0 where it is absent.

        `others`: whether these are rows of the table, to be scored by its other rows.
        """
        log_p = np.zeros(codes.shape)
        for first in range(0, len(codes), CHUNK):
            rows, size = slice(first, first + CHUNK), 0
            inputs = self.encode(codes[rows])
            for j, (head, law) in enumerate(zip(self.heads, self.laws, strict=True)):
                each = law.log_prob(
                    head(inputs[:, :size]), law.cells(codes[rows, j], others=others)
                )
                log_p[rows, j] = np.where(np.isnan(codes[rows, j]), 0.0, each)
                size += law.num_inputs
        return log_p

    def sample(
        self,
        key: PRNGKeyArray,
        codes: Codes,
        fixed: Bool[np.ndarray, "n variables"] | None = None,
    ) -> Codes:
        """Draw the cells of `codes` that are not fixed, in turn."""
        codes, uniform = codes.copy(), numpy_rng(key)
        codes[:, :] = codes if fixed is None else np.where(fixed, codes, np.nan)
        inputs = np.zeros((len(codes), 0))
        for j, (head, law) in enumerate(zip(self.heads, self.laws, strict=True)):
            chunks = (inputs[i : i + CHUNK] for i in range(0, max(len(inputs), 1), CHUNK))
            drawn = [law.sample(head(part), uniform.random((len(part), 2))) for part in chunks]
            free = np.ones(len(codes), bool) if fixed is None else ~fixed[:, j]
            if self.gates[j] >= 0:
                free &= codes[:, self.gates[j]] == 0
            codes[free, j] = np.concatenate(drawn)[free]
            inputs = np.concatenate([inputs, law.encode(codes[:, j])], axis=1)
        return codes


def encode(laws: Sequence[Law], codes: Codes) -> Float[np.ndarray, "n inputs"]:
    """Inputs to networks: those of all variables, beside each other."""
    parts = [law.encode(column) for law, column in zip(laws, codes.T, strict=True)]
    return np.concatenate([np.zeros((len(codes), 0)), *parts], axis=1)


def constant_heads(
    laws: Sequence[Law], biases: Sequence[np.ndarray], seed: int
) -> tuple[Head, ...]:
    """Heads that ignore the cells before them; their first layer is random."""
    heads, size, rng = [], 0, np.random.default_rng(seed)
    dtype = jax.dtypes.canonicalize_dtype(float)
    for law, bias in zip(laws, biases, strict=True):
        into = rng.normal(size=(WIDTH, size)) / max(size, 1) ** 0.5
        zeros = np.zeros((len(bias), size + WIDTH))
        parts = bias, zeros[:, :size], zeros[:, size:], into, np.zeros(WIDTH)
        # Rounded by NumPy: jax would compile a program for each shape.
        heads.append(Head(*(jnp.asarray(part.astype(dtype)) for part in parts)))
        size += law.num_inputs
    return tuple(heads)
