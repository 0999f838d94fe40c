"""Tables of `mixed.py`: six known densities, and public tables with labels, counts and gaps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

Drawn = tuple[dict[str, Any], np.ndarray]


def cities(rng: np.random.Generator, n: int) -> Drawn:
    """A label, a count, a number of another spread for each label, and a share."""
    label = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    mean, scale = np.array([5.0, 18.0, 9.0])[label], np.array([2.0, 0.5, 1.0])[label]
    rate, x = np.array([1.0, 4.0, 2.0])[label], rng.normal(mean, scale)
    visits, score = rng.poisson(rate), rng.normal(0.5 * (x - mean))
    share = 1 / (1 + np.exp(-score))
    log_p = np.log(np.array([0.5, 0.3, 0.2])[label]) + stats.norm.logpdf(x, mean, scale)
    log_p += stats.poisson.logpmf(visits, rate)
    log_p += stats.norm.logpdf(score, 0.5 * (x - mean)) - np.log(share * (1 - share))
    names = np.array(["Oslo", "Rome", "Bonn"])
    return {"city": names[label], "degrees": x, "visits": visits, "share": share}, log_p


def labels(rng: np.random.Generator, n: int) -> Drawn:
    """Five labels: a network with an exclusive or."""
    a, b = rng.random(n) < 0.4, rng.random(n) < 0.5
    c = np.where(rng.random(n) < 0.9, a ^ b, ~(a ^ b))
    d = np.where(c[:, None], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7])
    d_label = (rng.random(n)[:, None] > np.cumsum(d, axis=1)).sum(axis=1)
    p_e = np.array([[0.2, 0.5, 0.8], [0.9, 0.5, 0.1]])[a.astype(int), d_label]
    e = rng.random(n) < p_e
    log_p = np.log(np.where(a, 0.4, 0.6)) + np.log(0.5) + np.log(np.where(c == (a ^ b), 0.9, 0.1))
    log_p += np.log(d[np.arange(n), d_label]) + np.log(np.where(e, p_e, 1 - p_e))
    return {"a": a, "b": b, "c": c, "d": np.array(["x", "y", "z"])[d_label], "e": e}, log_p


def spam(rng: np.random.Generator, n: int) -> Drawn:
    """Amounts that are often exactly 0, more so without a subscription."""
    paid = rng.random(n) < 0.3
    zero = np.where(paid, 0.1, 0.6)
    is_zero, size = rng.random(n) < zero, rng.normal(np.where(paid, 2.0, 0.5), 0.7)
    amount = np.where(is_zero, 0.0, np.exp(size))
    log_p = np.log(np.where(paid, 0.3, 0.7)) + np.log(np.where(is_zero, zero, 1 - zero))
    log_p += np.where(is_zero, 0.0, stats.norm.logpdf(size, np.where(paid, 2.0, 0.5), 0.7) - size)
    return {"paid": paid, "amount": amount}, log_p


def gaps(rng: np.random.Generator, n: int) -> Drawn:
    """Three correlated numbers and a label, with gaps that the label tells of."""
    cov = np.array([[1.0, 0.7, 0.3], [0.7, 1.0, 0.5], [0.3, 0.5, 1.0]])
    # A gap is drawn first, so that the density of the cells left is the Gaussian's.
    gap = rng.random((n, 2)) < 0.2
    absent = np.column_stack([gap, np.zeros(n, bool)])
    p_label = np.where(gap[:, 0], 0.8, 0.3)
    label = rng.random(n) < p_label
    mean = 2.0 * label[:, None] * np.array([1.0, -0.5, 0.0])
    x = mean + rng.normal(size=(n, 3)) @ np.linalg.cholesky(cov).T
    log_p = np.log(np.where(gap, 0.2, 0.8)).sum(axis=1)
    log_p += np.log(np.where(label, p_label, 1 - p_label))
    for pattern in np.unique(absent, axis=0):
        rows, here = (absent == pattern).all(axis=1), ~pattern
        part: Any = cov[np.ix_(here, here)]
        log_p[rows] += stats.multivariate_normal(cov=part).logpdf((x - mean)[np.ix_(rows, here)])
    x[absent] = np.nan
    return {"ill": label, "x": x[:, 0], "y": x[:, 1], "z": x[:, 2]}, log_p


def bananas(rng: np.random.Generator, n: int) -> Drawn:
    """A curved density that bends up or down by the label."""
    up = rng.random(n) < 0.5
    x = rng.normal(size=n)
    mean = np.where(up, 1.0, -1.0) * (x**2 - 1)
    y = rng.normal(mean, 0.4)
    log_p = np.log(0.5) + stats.norm.logpdf(x) + stats.norm.logpdf(y, mean, 0.4)
    return {"bend": np.where(up, "up", "down"), "x": x, "y": y}, log_p


def counts(rng: np.random.Generator, n: int) -> Drawn:
    """Counts with long tails, a rating that depends on them, and a number that depends on both."""
    visits = rng.negative_binomial(2.0, 0.25, n)
    chance = 1 / (1 + np.exp(1.0 - 0.3 * visits))
    rating = 1 + rng.binomial(4, chance)
    mean = np.log1p(visits) + 0.3 * rating
    time_spent = rng.normal(mean, 0.5)
    log_p = stats.nbinom.logpmf(visits, 2.0, 0.25) + stats.binom.logpmf(rating - 1, 4, chance)
    log_p += stats.norm.logpdf(time_spent, mean, 0.5)
    return {"visits": visits, "rating": rating, "minutes": time_spent}, log_p


KNOWN: dict[str, Callable[[np.random.Generator, int], Drawn]] = {
    each.__name__: each for each in (cities, labels, spam, gaps, bananas, counts)
}
PUBLIC = ("fair", "anes96", "modechoice", "diamonds", "storms", "credit", "wage", "crash")
# The column that is predicted from the others.
TARGETS = {
    "cities": "city",
    "labels": "c",
    "spam": "paid",
    "gaps": "ill",
    "bananas": "bend",
    "counts": "minutes",
    "fair": "rate_marriage",
    "anes96": "vote",
    "modechoice": "choice",
    "diamonds": "price",
    "storms": "wind",
    "credit": "card",
    "wage": "wage",
    "crash": "dead",
}


def public(name: str, folder: Path) -> pd.DataFrame:
    """A table that `peers/tables.py` wrote."""
    return pd.read_csv(folder / f"{name}.csv")
