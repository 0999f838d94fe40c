"""How samples of a mixed table compare with rows: columns, pairs, efficacy, copies, limits."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.neighbors import NearestNeighbors

from jaxflow.tables.cells import Cells

# Bins of a number beside a label, rows whose neighbours are searched, resamples of an error.
BINS, NEAR, RESAMPLES = 10, 2_000, 20


class Views(NamedTuple):
    """The cells of tables as numbers: labels (-1 for a gap), and numbers (NaN for a gap)."""

    labels: dict[str, np.ndarray]
    numbers: dict[str, np.ndarray]

    @classmethod
    def of(cls, frames: Sequence[pd.DataFrame]) -> list["Views"]:
        """Views of tables with the same columns; gaps of numbers are labels too."""
        every = pd.concat(frames, ignore_index=True)
        ends = np.cumsum([0, *map(len, frames)])
        labels, numbers = {}, {}
        for name in every.columns:
            column = every[name]
            if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
                numbers[name] = column.to_numpy(float)
                if column.isna().any():
                    labels[f"{name}, gaps"] = column.isna().to_numpy(int)
            else:
                labels[name] = pd.factorize(column)[0]
        parts = itertools.pairwise(ends)
        return [
            cls(*({name: each[a:b] for name, each in part.items()} for part in (labels, numbers)))
            for a, b in parts
        ]

    def take(self, index: np.ndarray) -> "Views":
        """Some rows."""
        return Views(*({name: each[index] for name, each in part.items()} for part in self))


def errors(rows: Views, drawn: Views) -> tuple[float, float]:
    """Mean error of columns and of pairs, each from 0 to 1, as SDMetrics defines them.

    Columns: the largest difference of distribution functions, or of labels half the sum of the
    differences of their shares. Pairs: half the difference of rank correlations, or half the sum
    of the differences of the shares of both cells, a number in deciles.
    """
    columns = [_tv(rows.labels[n], drawn.labels[n]) for n in rows.labels]
    known = {n: [v[~np.isnan(v)] for v in (x, drawn.numbers[n])] for n, x in rows.numbers.items()}
    columns += [float(stats.ks_2samp(*both).statistic) for both in known.values()]
    binned = [dict(each.labels) for each in (rows, drawn)]
    for name, x in rows.numbers.items():
        edges = np.unique(np.nanquantile(x, np.arange(1, BINS) / BINS))
        for part, each in zip(binned, (x, drawn.numbers[name]), strict=True):
            part[name] = np.where(np.isnan(each), -1, np.searchsorted(edges, each))
    pairs, names = [], list(binned[0])
    for i, a in enumerate(names):
        for b in names[:i]:
            if a in rows.numbers and b in rows.numbers:
                both = [_correlation(v.numbers[a], v.numbers[b]) for v in (rows, drawn)]
                pairs.append(abs(both[0] - both[1]) / 2)
            else:
                pairs.append(_tv(*(each[a] * 10_000 + each[b] for each in binned)))
    return float(np.mean(columns)), float(np.mean(pairs)) if pairs else 0.0


def compared(rows: Views, drawn: dict[str, Views]) -> dict[str, Any]:
    """`errors` of each set of samples, and of the first one minus each with standard errors.

    The standard errors come from rows that are drawn again.
    """
    rng, count = np.random.default_rng(0), len(next(iter((rows.labels | rows.numbers).values())))
    found: dict[str, Any] = {name: list(errors(rows, each)) for name, each in drawn.items()}
    again = [rows.take(rng.integers(0, count, count)) for _ in range(RESAMPLES)]
    each = {name: np.array([errors(r, views) for r in again]) for name, views in drawn.items()}
    first = next(iter(drawn))
    spread = {name: (each[first] - each[name]).std(axis=0).tolist() for name in drawn}
    return {"errors": found, "errors_se": spread}


def _tv(ours: np.ndarray, theirs: np.ndarray) -> float:
    values, place = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
    parts = place[: len(ours)], place[len(ours) :]
    shares = [np.bincount(part, minlength=len(values)) / len(part) for part in parts]
    return 0.5 * float(np.abs(shares[0] - shares[1]).sum())


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    known = ~np.isnan(a) & ~np.isnan(b)
    if known.sum() < 3 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return 0.0
    found: Any = stats.spearmanr(a[known], b[known])
    return float(found.statistic)


def efficacy(target: str, train: Views, new: Views) -> float:
    """Accuracy or R2 on new rows of boosted trees trained on others to predict a column."""
    is_label = target in train.labels
    kind = HistGradientBoostingClassifier if is_label else HistGradientBoostingRegressor
    both = []
    for each in (train, new):
        every = each.labels | each.numbers
        y = every.pop(target)
        x = np.column_stack([v for name, v in every.items() if not name.startswith(f"{target},")])
        known = ~np.isnan(y)
        both.append((x[known], y[known]))
    return float(kind(random_state=0).fit(*both[0]).score(*both[1]))


def nearest(rows: Views, others: Views) -> float:
    """Mean distance of some rows to the nearest other one; labels count as 0 or 1."""
    points = []
    for each in (rows, others):
        parts = []
        for name, x in each.numbers.items():
            scale = np.nanstd(others.numbers[name]) or 1.0
            parts.append(np.nan_to_num(x / scale)[:, None])
        for name, label in each.labels.items():
            parts.append((label[:, None] == np.unique(others.labels[name])) / np.sqrt(2))
        points.append(np.concatenate(parts, axis=1))
    found: Any = NearestNeighbors(n_neighbors=1).fit(points[1]).kneighbors(points[0][:NEAR])
    return float(found[0].mean())


def impossible(rows: pd.DataFrame, drawn: pd.DataFrame) -> int:
    """Number of samples that break a rule which every row of the table keeps.

    A label of the table; a gap only where it has some; whole numbers where all are; none negative
    or positive where none is; none beyond 1 or 100 where the largest is close to it.
    """
    wrong = np.zeros(len(drawn), bool)
    for name in rows.columns:
        column, new = rows[name], drawn[name]
        gap = new.isna().to_numpy()
        if not column.isna().any():
            wrong |= gap
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            known = set(Cells.of(name, column.to_numpy()).text)
            wrong |= ~gap & ~np.isin(Cells.of(name, new.to_numpy()).text.astype(str), [*known])
            continue
        x, y = column.dropna().to_numpy(float), new.to_numpy(float)
        if (x == np.round(x)).all():
            wrong |= ~gap & (y != np.round(y))
        for low, high in ((0.0, np.inf), (-np.inf, 0.0), (0.0, 1.0), (0.0, 100.0)):
            near = not 0 < high < np.inf or x.max() > 0.99 * high
            if low <= x.min() and x.max() <= high and near:
                wrong |= (y < low) | (y > high)
    return int(wrong.sum())
