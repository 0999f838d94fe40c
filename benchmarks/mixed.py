"""Mixed tables: exact nats of `fit_table` beside the truth, and its samples beside the rows.

Known densities: 5,000 rows train and 20,000 new ones are scored. `lost` is the mean of the true
log-density minus the fitted one, in nats a row, with its standard error over the rows; 0 is the
truth, and the Gaussian given the labels and independent columns stand beside it by their folds.

Tables of statsmodels: log-densities of rows held out once in five folds, against the same two.

Of each fit 100,000 rows are drawn. An impossible row is one that the table itself refuses: an
unknown label, a number beyond its limits, a fraction in whole numbers. A column's distance is the
largest difference of two distribution functions, or half the sum of the differences of the shares
of labels, of new rows (or, of a table, its own) and samples; the largest of all columns is shown.

Of known densities also: *efficacy*, the score on new rows (accuracy of a label, R2 of a number) of
boosted trees that predict the first column from the others, trained on the rows and on as many
samples; and *nearest*, the mean distance of samples to the nearest row that was fitted over that
of new rows, in scaled columns: 1 for new rows, 0 for copies.

Finished tables are kept in results/mixed.json and are not run again without `--again`.

    python benchmarks/mixed.py [--tables cities spam] [--again]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.neighbors import NearestNeighbors

from harness import read_results, table, write_results
from jaxflow.tables import FittedTable, check_table, fit_table
from jaxflow.tables.laws import Labels
from jaxflow.tables.plan import Coded

TRAIN, NEW, DRAWN, NEAR = 5_000, 20_000, 100_000, 2_000
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
PUBLIC = ("fair", "anes96", "heart", "modechoice")


def public(name: str) -> Any:
    """A table of statsmodels."""
    import statsmodels.api as sm  # pyright: ignore[reportMissingImports]

    return getattr(sm.datasets, name).load_pandas().data


def run(name: str) -> dict[str, Any]:
    """Fit one table, and measure."""
    start, key = time.perf_counter(), jax.random.key(0)
    if name in KNOWN:
        frame, _ = KNOWN[name](np.random.default_rng(0), TRAIN)
    else:
        frame = public(name)
    fitted = fit_table(frame, key=key)
    result: dict[str, Any] = {"rows": fitted.plan.rows, "columns": len(fitted.plan.names)}
    result["seconds"] = time.perf_counter() - start
    result["plan"] = str(fitted.plan).splitlines()
    log_p = fitted.comparison.log_p
    result["held_out"] = {each: float(log_p[each].mean()) for each in log_p}
    result["gains"] = {
        each: fitted.comparison.difference(each) for each in log_p if each != "flow"
    }
    if name in KNOWN:
        new, truth = KNOWN[name](np.random.default_rng(1), NEW)
        lost = truth - fitted.log_prob(new)
        result["lost"] = [float(lost.mean()), float(lost.std() / np.sqrt(NEW))]
        result["truth"] = float(truth.mean())
        rows = [*map(fitted.plan.read, (frame, new)), fitted.draw(jax.random.key(3), TRAIN)]
        result["efficacy"] = [efficacy(fitted, each, rows[1]) for each in (rows[0], rows[2])]
        result["nearest"] = nearest(fitted, rows[2], rows[0]) / nearest(fitted, rows[1], rows[0])
        frame = new
    found = check_table(fitted, frame, key)
    result["distance"] = max(found.distances.values())
    result["problems"] = found.problems
    drawn = fitted.sample(jax.random.key(2), DRAWN)
    try:
        fitted.plan.read(drawn)
        result["impossible"] = 0
    except ValueError as error:
        result["impossible"] = str(error)
    return result


def efficacy(fitted: FittedTable, train: Coded, new: Coded) -> float:
    """Score on new rows of trees that were trained to predict the first column from the others."""
    variables = enumerate(fitted.plan.variables)
    first = next(i for i, each in variables if each.column == 0 and not each.is_gap)
    is_label = isinstance(fitted.discrete.laws[first], Labels)
    kind = HistGradientBoostingClassifier if is_label else HistGradientBoostingRegressor
    both = [np.concatenate(rows, axis=1) for rows in (train, new)]
    (x, y), (new_x, new_y) = ((np.delete(rows, first, axis=1), rows[:, first]) for rows in both)
    return float(kind(random_state=0).fit(x, y).score(new_x, new_y))


def nearest(fitted: FittedTable, rows: Coded, others: Coded) -> float:
    """Mean distance of some rows to the nearest other one; labels count as 0 or 1."""
    scale = np.nanstd(others.y, axis=0)
    points = [
        np.concatenate([fitted.discrete.encode(each.codes), np.nan_to_num(each.y / scale)], axis=1)
        for each in (rows, others)
    ]
    found: Any = NearestNeighbors(n_neighbors=1).fit(points[1]).kneighbors(points[0][:NEAR])
    return float(found[0].mean())


def show(results: dict[str, Any]) -> str:
    """The tables of results, in Markdown."""
    known, tables = [], []
    for name, r in results.items():
        gains = [f"{r['gains'][n][0]:+.3f} +- {r['gains'][n][1]:.3f}" for n in r["gains"]]
        gains = ["", *gains][-2:]
        end = [*gains, f"{r['distance']:.3f}", str(r["impossible"]), f"{r['seconds']:.0f}"]
        first = [name, str(r["rows"]), str(r["columns"])]
        if "lost" in r:
            lost = f"{r['lost'][0]:.4f} +- {r['lost'][1]:.4f}"
            scores = " ".join(f"{score:.3f}" for score in r.get("efficacy", ()))
            near = f"{r['nearest']:.2f}" if r.get("nearest") else ""
            known.append([*first, f"{r['truth']:.3f}", lost, *end, scores, near])
        else:
            tables.append([*first, f"{r['held_out']['flow']:.3f}", *end])
    gain = ["gain on Gaussian", "gain on independent", "distance", "impossible", "seconds"]
    head = ["table", "rows", "columns"]
    parts = []
    if known:
        more = ["efficacy of rows, samples", "nearest"]
        parts.append(table([*head, "truth", "lost", *gain, *more], known))
    if tables:
        parts.append(table([*head, "nats", *gain], tables))
    return "\n\n".join(parts)


def main() -> None:
    """Run the tables that have no result yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", default=[*KNOWN, *PUBLIC])
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    results = read_results("mixed")
    for name in args.tables:
        if name not in results or args.again:
            results[name] = run(name)
            write_results("mixed", results)
            print(show({name: results[name]}), flush=True)
    print(show(results))


if __name__ == "__main__":
    main()
