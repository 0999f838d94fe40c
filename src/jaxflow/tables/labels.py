"""The law of a label: a softmax, which starts at smoothed frequencies."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxflow.tables.softmax import choose, log_softmax

# Labels with an input of their own to the networks; the rarer ones share none.
SHOWN = 32
# Parts of a row that each label may lose to all labels alike, and rows that these may have more.
DISCOUNTS, MORE_ROWS = np.array([0.0, 0.25, 0.5, 0.75, 0.9]), 4.0 ** np.arange(5, -1, -1)

Codes = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Labels:
    """`P(k)`, a softmax over `count` labels, the frequent ones first."""

    count: int

    @property
    def num_parameters(self) -> int:
        """A logit for each label."""
        return self.count

    @property
    def slots(self) -> Int[np.ndarray, " parameters"]:
        """Places of the parameters among those of similar laws."""
        return np.arange(self.count)

    @property
    def num_inputs(self) -> int:
        """Entries of `encode`."""
        return min(self.count, SHOWN)

    def cells(self, codes: Codes, *, others: bool = False) -> Float[np.ndarray, "n 4"]:
        """The entries of each cell for `log_prob`: its label, then zeros."""
        return np.nan_to_num(codes)[:, None] * np.eye(1, 4)

    def encode(self, codes: Codes) -> Float[np.ndarray, "n inputs"]:
        """One-hot labels; zeros for cells that are absent (NaN) and for rare labels."""
        return (codes[:, None] == np.arange(self.num_inputs)).astype(float)

    def start(self, codes: Codes) -> Float[np.ndarray, " parameters"]:
        """Parameters that make the probabilities the smoothed frequencies of these cells."""
        known = codes[~np.isnan(codes)].astype(int)
        return np.log(_smoothed(np.bincount(known, minlength=self.count)))

    frequencies = start

    def log_prob(
        self, parameters: Float[np.ndarray, "n parameters"], cells: Float[np.ndarray, "n 4"]
    ) -> Float[np.ndarray, " n"]:
        """Log-probability of each cell."""
        return label_log_prob(parameters, cells)

    def sample(self, parameters: np.ndarray, uniform: Float[np.ndarray, "n 2"]) -> Codes:
        """Draw a label for each row of parameters, (n, parameters)."""
        return choose(parameters, uniform[:, 0]).astype(float)


def label_log_prob(logits: Any, cells: Any) -> Any:
    """Log-probability of each cell, (n,), by the logits of all labels, (n, labels)."""
    xp = logits.__array_namespace__()
    index = cells[:, :1].astype(int)
    return xp.take_along_axis(log_softmax(logits), index, axis=1)[:, 0]


def _smoothed(counts: Int[np.ndarray, " labels"]) -> Float[np.ndarray, " labels"]:
    """Probabilities of labels by their counts `n`, also of those that no row has.

        P(k) = max(n_k - d, 0) / (n + a) + (a + d seen) / (n + a) / labels

    With `d` of `DISCOUNTS` and `a` of `MORE_ROWS` by which each row is the most likely given the
    others (Pitman and Yor 1997, "The two-parameter Poisson-Dirichlet distribution").
    """
    d, more = DISCOUNTS[:, None], MORE_ROWS

    def of(count: Any, seen: Any, total: Any, d: Any, more: Any) -> Any:
        common = (more + d * seen) / len(counts)
        return (np.maximum(count - d, 0) + common) / (total + more)

    n = counts[:, None, None]
    others = of(n - 1, (counts > 0).sum() - (n == 1), max(counts.sum() - 1, 0), d, more)
    fit = (n * np.log(others)).sum(axis=0)
    i, j = np.unravel_index(fit.argmax(), fit.shape)
    return of(counts, (counts > 0).sum(), counts.sum(), DISCOUNTS[i], MORE_ROWS[j])
