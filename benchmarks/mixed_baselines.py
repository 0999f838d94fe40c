"""What `mixed.py` compares with: a tree of columns, Gaussian mixtures by class, and a copula.

The first two are exact densities of the rows that `fit_table` models, in its codes: they sum over
labels, whole numbers and gaps, and integrate over continuous cells, to 1. The copula only draws.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.special import logsumexp, ndtri

from jaxflow.tables.plan import Coded
from mixed_columns import Column, Node, Scale, mixture, nodes_of, pick

# Settings of the tree, of which held-out rows choose: bins of a column, rows of smoothing.
BINS, SMOOTH = (5, 10, 20), (1.0, 5.0, 20.0)
# Most classes, and the share of rows that choose.
MOST_CLASSES, HELD = 20, 0.2
# Gaps are left out if more rows than this share have none, and else filled by the mean.
COMPLETE = 0.3


class Tree:
    """A tree of the columns, each given one other (Chow and Liu 1968), by their states."""

    def __init__(self, nodes: Sequence[Node], rows: Coded, smooth: float) -> None:
        self.nodes = nodes
        self.widths = [part.shape[1] for part in rows]
        states = [node.split(rows)[0] for node in self.nodes]
        sizes = [len(node.possible) for node in self.nodes]
        n, d = len(rows.y), len(self.nodes)
        shares = []
        for node, state, size in zip(self.nodes, states, sizes, strict=True):
            counts = (np.bincount(state, minlength=size) + 0.5) * node.possible
            shares.append(counts / counts.sum())
        weight = np.zeros((d, d))
        for i in range(d):
            for j in range(i):
                joint = self._joint(states, sizes, i, j) / n
                both = np.outer(joint.sum(axis=1), joint.sum(axis=0))
                # Chance alone gives (states - 1)^2 / 2n nats.
                chance = ((np.array(joint.shape) - 1).prod()) / (2 * n)
                some = joint > 0
                found = (joint[some] * np.log(joint[some] / both[some])).sum() - chance
                weight[i, j] = weight[j, i] = found
        # Least weights are largest gains; 0 would be no edge.
        spanning = minimum_spanning_tree(np.tril(weight.max() + 1 - weight, -1))
        self.order, before = breadth_first_order(spanning, 0, directed=False)
        self.parents = {int(j): int(before[j]) for j in self.order}
        self.tables = {}
        for j, parent in self.parents.items():
            if parent < 0:
                self.tables[j] = shares[j][None]
                continue
            joint = self._joint(states, sizes, parent, j) + smooth * shares[j]
            self.tables[j] = joint / joint.sum(axis=1, keepdims=True)

    @staticmethod
    def _joint(states: list[np.ndarray], sizes: list[int], i: int, j: int) -> np.ndarray:
        both = np.bincount(states[i] * sizes[j] + states[j], minlength=sizes[i] * sizes[j])
        return both.reshape(sizes[i], sizes[j]).astype(float)

    def log_prob(self, rows: Coded) -> np.ndarray:
        """Log-density of rows, in codes."""
        split = [node.split(rows) for node in self.nodes]
        log_p = np.zeros(len(rows.y))
        for j, parent in self.parents.items():
            before = 0 if parent < 0 else split[parent][0]
            with np.errstate(divide="ignore"):
                log_p += np.log(self.tables[j][before, split[j][0]]) + split[j][1]
        return log_p

    def sample(self, num: int, rng: np.random.Generator) -> Coded:
        """Draw rows."""
        rows = Coded(*(np.full((num, width), np.nan) for width in self.widths))
        drawn: dict[int, np.ndarray] = {}
        for j, parent in self.parents.items():
            before = np.zeros(num, int) if parent < 0 else drawn[parent]
            drawn[j] = pick(self.tables[j][before], rng)
            self.nodes[j].fill(rows, drawn[j], rng)
        return rows


def halves(rows: Coded) -> tuple[Coded, Coded]:
    """Rows to fit, and rows to choose by."""
    order = np.random.default_rng(0).permutation(len(rows.y))
    cut = int(HELD * len(order))
    train, held = (Coded(*(part[i] for part in rows)) for i in (order[cut:], order[:cut]))
    return train, held


def fit_tree(columns: Sequence[Column], rows: Coded, *, numbers: bool = True) -> Tree:
    """A tree with the bins and smoothing that held-out rows choose."""
    train, held = halves(rows)
    scores = {}
    for bins in BINS:
        nodes = nodes_of(columns, train, bins, numbers=numbers)
        for smooth in SMOOTH:
            scores[bins, smooth] = Tree(nodes, train, smooth).log_prob(held).mean()
    bins, smooth = max(scores, key=lambda each: scores[each])
    return Tree(nodes_of(columns, rows, bins, numbers=numbers), rows, smooth)


class Classes:
    """Discrete cells by a tree, continuous ones by a Gaussian mixture for each class.

    A class is a label of the discrete variable `by`; -1 for one class.
    """

    def __init__(self, tree: Tree, columns: Sequence[Column], rows: Coded, by: int) -> None:
        self.tree, self.by = tree, by
        self.scales = [Scale(each.lower, each.upper) for each in columns if each.y >= 0]
        if not self.scales:
            return
        u, _ = self._scaled(rows)
        self.mean, self.std = np.nanmean(u, axis=0), np.nanstd(u, axis=0) + 1e-12
        z, label = (u - self.mean) / self.std, self._label(rows)
        complete = ~np.isnan(z).any(axis=1)
        if complete.mean() > COMPLETE:
            z, label = z[complete], label[complete]
        z = np.nan_to_num(z)
        own = {int(each): z[label == each] for each in np.unique(label)}
        self.pooled = mixture(z)
        self.mixtures = {k: mixture(part) for k, part in own.items() if len(part) > 5 * z.shape[1]}

    def log_prob(self, rows: Coded) -> np.ndarray:
        """Log-density of rows, in codes."""
        return self.tree.log_prob(rows) + self.log_density(rows)

    def log_density(self, rows: Coded) -> np.ndarray:
        """Log-density of the continuous cells given the others."""
        log_p = np.zeros(len(rows.y))
        if not self.scales:
            return log_p
        u, log_slope = self._scaled(rows)
        z, label, here = (u - self.mean) / self.std, self._label(rows), ~np.isnan(u)
        log_p += log_slope - np.where(here, np.log(self.std), 0.0).sum(axis=1)
        keys = np.column_stack([label, here])
        for key in np.unique(keys, axis=0):
            index, seen = np.flatnonzero((keys == key).all(axis=1)), key[1:].astype(bool)
            if seen.any():
                parts: Any = self.mixtures.get(int(key[0]), self.pooled)
                each = [
                    stats.multivariate_normal(mean[seen], cov[np.ix_(seen, seen)]).logpdf(
                        z[np.ix_(index, seen)]
                    )
                    for mean, cov in zip(parts.means_, parts.covariances_, strict=True)
                ]
                each = np.reshape(each, (len(parts.weights_), -1))
                log_p[index] += logsumexp(each, axis=0, b=parts.weights_[:, None])
        return log_p

    def sample(self, num: int, rng: np.random.Generator) -> Coded:
        """Draw rows."""
        rows = self.tree.sample(num, rng)
        if not self.scales:
            return rows
        label, z = self._label(rows), np.zeros(rows.y.shape)
        for each in np.unique(label):
            index = np.flatnonzero(label == each)
            parts = self.mixtures.get(int(each), self.pooled)
            parts.random_state = int(rng.integers(2**31))
            z[index] = rng.permutation(parts.sample(len(index))[0])
        for node in self.tree.nodes:
            if (k := node.column.y) >= 0:
                y = self.scales[k].inverse(self.mean[k] + self.std[k] * z[:, k])
                value = node.column.value
                gone = rows.codes[:, value] != 0 if value >= 0 else np.zeros(num, bool)
                gap = node.column.gap
                gone |= rows.codes[:, gap] == 1 if gap >= 0 else False
                rows.y[:, k] = np.where(gone, np.nan, y)
        return rows

    def _label(self, rows: Coded) -> np.ndarray:
        if self.by < 0:
            return np.zeros(len(rows.y), int)
        return np.nan_to_num(rows.codes[:, self.by], nan=-1.0).astype(int)

    def _scaled(self, rows: Coded) -> tuple[np.ndarray, np.ndarray]:
        both = [scale(y) for scale, y in zip(self.scales, rows.y.T, strict=True)]
        u, log_slopes = (np.stack(part, axis=1) for part in zip(*both, strict=True))
        return u, np.nan_to_num(log_slopes).sum(axis=1)


def fit_classes(columns: Sequence[Column], rows: Coded) -> Classes:
    """Mixtures by the class that held-out rows choose."""
    train, held = halves(rows)
    labels = [c.value for c in columns if c.y < 0 and 1 < c.count <= MOST_CLASSES]
    tree = fit_tree(columns, rows, numbers=False)
    by = max(
        (-1, *labels),
        key=lambda each: Classes(tree, columns, train, each).log_density(held).mean(),
    )
    return Classes(tree, columns, rows, by)


class Copula:
    """Normal scores of the columns with one correlation; it draws cells of the rows themselves.

    Labels are ordered by their code, and gaps come first.
    """

    def __init__(self, columns: Sequence[Column], rows: Coded) -> None:
        self.columns, self.rows, n = columns, rows, len(rows.y)
        rng, self.orders, scores = np.random.default_rng(0), [], np.zeros((n, len(columns)))
        for i, column in enumerate(columns):
            keys = [rng.random(n), column.ordered(rows)]
            keys += [-rows.codes[:, column.gap]] if column.gap >= 0 else []
            self.orders.append(np.lexsort(keys))
            scores[self.orders[-1], i] = ndtri((np.arange(n) + 0.5) / n)
        self.root = np.linalg.cholesky(
            np.atleast_2d(np.corrcoef(scores.T)) + 1e-9 * np.eye(len(columns))
        )

    def sample(self, num: int, rng: np.random.Generator) -> Coded:
        """Draw rows."""
        z = rng.normal(size=(num, len(self.columns))) @ self.root.T
        places = np.minimum(
            (stats.norm.cdf(z) * len(self.rows.y)).astype(int), len(self.rows.y) - 1
        )
        drawn = Coded(*(np.full((num, part.shape[1]), np.nan) for part in self.rows))
        for column, order, place in zip(self.columns, self.orders, places.T, strict=True):
            for part, number in ((0, column.gap), (0, column.value), (1, column.y)):
                if number >= 0:
                    drawn[part][:, number] = self.rows[part][order[place], number]
        return drawn
