"""Small tables: `FlowDensity` with its defaults beside simple densities chosen by folds.

Twenty-four tables of 60 to 5,000 rows, from scikit-learn or drawn from known densities, each in
five folds. All densities see the same rows, columns standardised by the training rows, and
give log-densities per unit of those columns. The peers choose their settings by five folds of the
training rows: a Gaussian mixture its number of components, covariance and ridge, a kernel density
its bandwidth. Figures are means over all rows, each in nats and held out once, and differences
from `FlowDensity` with their standard errors over the rows. With `--peers PYTHON`, an interpreter
that has zuko, its neural spline flow with early stopping is trained on the same folds of finished
tables.

Finished tables are kept in results/small.json and are not run again without `--again`. `--jobs`
tables run at once, a core each; the seconds of a fit are those beside the others.

    python benchmarks/small.py [--tables iris wine] [--again] [--picture small.png]
"""

import argparse
import itertools
import json
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import sem
from sklearn import datasets
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import KernelDensity
from threadpoolctl import threadpool_limits

from harness import each_on_a_core, read_results, table, write_page, write_results
from jaxflow.data import Checkerboard
from jaxflow.estimator import FlowDensity
from jaxflow.training.starts import until_worse

COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
MIXTURES = list(itertools.product(("full", "diag"), (1e-3, 1e-2, 5e-2)))
FOLDS, SPLINE, AVERAGE = 5, "zuko's NSF", "average of five flows"


def correlated(n: int, dim: int, share: float) -> np.ndarray:
    """A Gaussian whose columns have the correlation `share`."""
    factor = np.linalg.cholesky((1 - share) * np.eye(dim) + share)
    return np.random.default_rng(dim).normal(size=(n, dim)) @ factor.T


def near_singular() -> np.ndarray:
    """Six columns, three of which nearly follow from the others."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3))
    return np.concatenate([x, x @ rng.normal(size=(3, 3)) + 0.05 * rng.normal(size=x.shape)], 1)


def clusters() -> np.ndarray:
    """Three Gaussians in three columns."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 500)
    return 4 * rng.normal(size=(3, 3))[label] + (0.5 * 2.0**label)[:, None] * rng.normal(
        size=(500, 3)
    )


def copula() -> np.ndarray:
    """Gamma margins with a Gaussian copula."""
    from scipy.stats import gamma, norm

    return gamma(2.0).ppf(norm.cdf(correlated(1000, 4, 0.6)))


def mixed_scales() -> np.ndarray:
    """Log-normal, normal and exponential columns of very different units that depend."""
    z = correlated(800, 4, 0.5)
    parts = [np.exp(3 * z[:, 0]), 1e-4 * z[:, 1], 1e5 - np.log1p(np.exp(-2 * z[:, 2])), z[:, 3]]
    return np.stack(parts, axis=1)


def heavy_tails(df: float, n: int) -> np.ndarray:
    """Independent Student t columns."""
    return np.random.default_rng(3).standard_t(df, size=(n, 5))


def bounded() -> np.ndarray:
    """Shares in (0, 1) that depend."""
    return 1 / (1 + np.exp(-1.5 * correlated(600, 3, -0.3)))


def friedman() -> np.ndarray:
    """Uniform columns and a curved response."""
    x, y = datasets.make_friedman1(500, 5, noise=1.0, random_state=0)
    return np.concatenate([x, y[:, None]], axis=1)


def banana() -> np.ndarray:
    """A curved density."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=1000)
    return np.stack([x, x**2 + 0.3 * rng.normal(size=1000)], axis=1)


def funnel() -> np.ndarray:
    """A spread that depends on another column (Neal 2003)."""
    rng = np.random.default_rng(5)
    v = rng.normal(size=2000)
    return np.stack([v, np.exp(v / 2) * rng.normal(size=2000)], axis=1)


def checkerboard(n: int) -> np.ndarray:
    """Squares of constant density."""
    return np.asarray(Checkerboard().sample(n, seed=0), np.float64)


TABLES: dict[str, Callable[[], Any]] = {
    "iris": lambda: real("iris"),
    "wine": lambda: real("wine"),
    "diabetes": lambda: np.delete(real("diabetes"), 1, axis=1),
    "breast cancer, 10 columns": lambda: real("breast_cancer")[:, :10],
    "digits, 6 components": lambda: _components(real("digits"), 6),
    "Gaussian, 600 x 2": lambda: correlated(600, 2, 0.8),
    "Gaussian, 300 x 3": lambda: correlated(300, 3, 0.5),
    "Gaussian, 60 x 5": lambda: correlated(60, 5, 0.5),
    "near-singular": near_singular,
    "clusters": clusters,
    "copula, gamma margins": copula,
    "mixed scales": mixed_scales,
    "Student t, 4 degrees": lambda: heavy_tails(4.0, 400),
    "Student t, 2 degrees": lambda: heavy_tails(2.0, 1000),
    "shares": bounded,
    "friedman": friedman,
    "moons, 500": lambda: datasets.make_moons(500, noise=0.1, random_state=0)[0],
    "moons, 3000": lambda: datasets.make_moons(3000, noise=0.1, random_state=1)[0],
    "circles": lambda: datasets.make_circles(1500, noise=0.07, factor=0.5, random_state=0)[0],
    "swiss roll": lambda: datasets.make_swiss_roll(2000, noise=0.5, random_state=0)[0],
    "banana": banana,
    "funnel": funnel,
    "s curve": lambda: datasets.make_s_curve(1000, noise=0.1, random_state=0)[0],
    "checkerboard, 5000": lambda: checkerboard(5000),
}


def real(name: str) -> np.ndarray:
    """The rows of a table of scikit-learn."""
    return getattr(datasets, f"load_{name}")().data


def _components(x: np.ndarray, count: int) -> np.ndarray:
    """Principal components, whose density is curved and has modes."""
    centred = x - x.mean(axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:count].T


class ChosenMixture:
    """A Gaussian mixture whose components, covariance and ridge are chosen by folds.

    The number of components rises until two numbers in a row are no better.
    """

    def fit(self, x: np.ndarray) -> GaussianMixture:
        """The best mixture of all rows."""

        def score(mixture: GaussianMixture) -> float:
            return float(cross_val_score(mixture, x, cv=FOLDS).mean())

        counts, tried = [k for k in COMPONENTS if k * 8 <= len(x)], []
        for covariance, ridge in MIXTURES:
            settings: Any = {"covariance_type": covariance, "reg_covar": ridge, "random_state": 0}
            tried += until_worse(score, [GaussianMixture(k, **settings) for k in counts])
        return max(tried, key=lambda each: each[1])[0].fit(x)


def peers(rows: int) -> dict[str, Any]:
    """Simple densities that choose their settings by folds."""
    return {
        "Gaussian": GaussianMixture(1),
        "Gaussian mixture": ChosenMixture(),
        "Bayesian mixture": BayesianGaussianMixture(
            n_components=min(20, rows // 8), max_iter=500, random_state=0
        ),
        "kernel density": GridSearchCV(
            KernelDensity(), {"bandwidth": np.geomspace(0.05, 1.5, 15)}, cv=FOLDS
        ),
    }


def compare(name: str) -> dict[str, Any]:
    """Log-density of every row of a table by each density, held out once."""
    x = TABLES[name]()
    scores: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, list[float]] = {}
    for train, held in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        mean, scale = x[train].mean(axis=0), x[train].std(axis=0)
        fit_to, new = (x[train] - mean) / scale, (x[held] - mean) / scale
        models = {"FlowDensity": FlowDensity(random_state=0, contamination=None)}
        for name, model in (models | peers(len(train))).items():
            start = time.perf_counter()
            with warnings.catch_warnings(), threadpool_limits(1):
                warnings.simplefilter("ignore")
                # The flow finds grids and limits in the rows as they are.
                if name == "FlowDensity":
                    log_p = model.fit(x[train]).score_samples(x[held]) + np.log(scale).sum()
                else:
                    log_p = model.fit(fit_to).score_samples(new)
            scores.setdefault(name, []).append(log_p)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    flow = np.concatenate(scores["FlowDensity"])
    result = {}
    for name, parts in scores.items():
        log_p = np.concatenate(parts)
        gain = flow - log_p
        result[name] = {
            "log_density": float(log_p.mean()),
            "gain_of_flow": float(gain.mean()),
            "gain_se": float(sem(gain)),
            "seconds": float(np.median(seconds[name])),
        }
    return result


def average(x: np.ndarray) -> dict[str, float]:
    """The figures of `FlowDensity(ensemble=True)` on the same folds."""
    scores, seconds = [], []
    for train, held in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        start = time.perf_counter()
        density = FlowDensity(random_state=0, contamination=None, ensemble=True).fit(x[train])
        scores.append(density.score_samples(x[held]) + np.log(x[train].std(axis=0)).sum())
        seconds.append(time.perf_counter() - start)
    mean = float(np.concatenate(scores).mean())
    return {"log_density": mean, "seconds": float(np.median(seconds))}


def neural_spline(x: np.ndarray, python: Path, flow: dict[str, float]) -> dict[str, float]:
    """The figures of zuko's neural spline flow on the same folds."""
    arrays = {}
    for k, (train, held) in enumerate(KFold(FOLDS, shuffle=True, random_state=0).split(x)):
        mean, scale = x[train].mean(axis=0), x[train].std(axis=0)
        arrays |= {f"train_{k}": (x[train] - mean) / scale, f"held_{k}": (x[held] - mean) / scale}
    script = Path(__file__).parent / "peers" / "torch_small.py"
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "folds.npz", Path(folder) / "out.json"
        np.savez(data, **arrays)
        subprocess.run([python, script, data, "--out", out], check=True)
        result = json.loads(out.read_text())
    mean = float(np.mean(result["log_p"]))
    gain = flow["log_density"] - mean
    return {
        "log_density": mean,
        "gain_of_flow": gain,
        "seconds": float(np.median(result["seconds"])),
    }


def best_peer(result: dict[str, Any]) -> str:
    """The simple density with the highest mean."""
    simple = [n for n in result if n not in ("FlowDensity", SPLINE, AVERAGE)]
    return max(simple, key=lambda n: result[n]["log_density"])


def summarise(results: dict[str, Any]) -> str:
    """The table, a row a table of data."""
    more = [n for n in (AVERAGE, SPLINE) if any(n in result for result in results.values())]
    rows = []
    for name, result in results.items():
        best = best_peer(result)
        rows.append(
            [
                name,
                f"{result['FlowDensity']['log_density']:.3f}",
                f"{result[best]['log_density']:.3f}, {best}",
                f"{result[best]['gain_of_flow']:+.3f} +- {result[best]['gain_se']:.3f}",
                *(f"{result[n]['log_density']:.3f}" if n in result else "-" for n in more),
                f"{result['FlowDensity']['seconds']:.0f}",
            ]
        )
    header = [
        "table",
        "FlowDensity",
        "best simple density",
        "gain of the flow",
        *more,
        "seconds a fit",
    ]
    gains = [result[best_peer(result)]["gain_of_flow"] for result in results.values()]
    errors = [result[best_peer(result)]["gain_se"] for result in results.values()]
    lost = sum(g < -max(0.02, e) for g, e in zip(gains, errors, strict=True))
    won = sum(gain >= 0.05 for gain in gains)
    median = np.median([result["FlowDensity"]["seconds"] for result in results.values()])
    return (
        f"{table(header, rows)}\n\nThe flow is below the best simple density by more than 0.02 "
        f"nats and a standard error on {lost} of {len(gains)} tables, and above it by 0.05 nats "
        f"or more on {won}. A fit takes {median:.0f} s in the median."
    )


def draw(results: dict[str, Any], path: Path) -> None:
    """The gain of the flow over the best simple density, with two standard errors, by size."""
    import matplotlib.pyplot as plt

    peers = {name: result[best_peer(result)] for name, result in results.items()}
    names = sorted(peers, key=lambda name: peers[name]["gain_of_flow"])
    gains = [peers[name]["gain_of_flow"] for name in names]
    errors = [2 * peers[name]["gain_se"] for name in names]
    figure, ax = plt.subplots(figsize=(7, 0.26 * len(names) + 1), layout="constrained")
    ax.axvspan(-0.02, 0.02, color="0.9")
    ax.errorbar(gains, names, xerr=errors, fmt="o", markersize=4, capsize=2)
    ax.set_xscale("symlog", linthresh=0.1)
    ax.set_xticks([-0.1, 0, 0.1, 1], ["-0.1", "0", "0.1", "1"])
    ax.set_xlabel("FlowDensity minus the best simple density, nats per row")
    ax.grid(axis="x", color="0.9")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="FlowDensity beside simple densities.")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--again", action="store_true", help="run finished tables again")
    parser.add_argument("--ensemble", action="store_true", help=f"also the {AVERAGE}")
    parser.add_argument("--peers", type=Path, help="a Python that has zuko")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="tables run at once")
    parser.add_argument("--picture", type=Path, help="draw the gains to this file")
    parser.add_argument("--csv", type=Path, help="write the tables to this folder, and end")
    arguments = parser.parse_args()
    if arguments.csv:
        arguments.csv.mkdir(parents=True, exist_ok=True)
        for name in arguments.tables:
            x, path = np.asarray(TABLES[name]()), arguments.csv / f"{name}.csv"
            header = ",".join(f"c{j}" for j in range(x.shape[1]))
            np.savetxt(path, x, "%.9g", ",", header=header, comments="")
        return
    results = read_results("small")
    again = [name for name in arguments.tables if name not in results or arguments.again]
    # The longest first, so that no core waits for the last one.
    seconds = {name: result["FlowDensity"]["seconds"] for name, result in results.items()}
    again.sort(key=lambda name: -seconds.get(name, 0))
    for name, result in each_on_a_core(compare, again, arguments.jobs):
        if SPLINE in (kept := results.get(name, {})):
            gain = result["FlowDensity"]["log_density"] - kept[SPLINE]["log_density"]
            result[SPLINE] = kept[SPLINE] | {"gain_of_flow": gain}
        results[name] = result
        write_results("small", {name: results[name] for name in TABLES if name in results})
        best = best_peer(result)
        print(f"{name}: {result[best]['gain_of_flow']:+.3f} nats against {best}", flush=True)
    for name in arguments.tables if arguments.ensemble else ():
        if AVERAGE not in results[name] or arguments.again:
            results[name][AVERAGE] = average(TABLES[name]())
            write_results("small", results)
            print(f"{name}: {results[name][AVERAGE]}", flush=True)
    for name in arguments.tables if arguments.peers else ():
        if SPLINE not in results[name] or arguments.again:
            flow = results[name]["FlowDensity"]
            results[name][SPLINE] = neural_spline(TABLES[name](), arguments.peers, flow)
            write_results("small", results)
            print(f"{name}: {results[name][SPLINE]}", flush=True)
    summary = summarise(results)
    print(summary)
    if not set(TABLES) - set(results):
        write_page("small", summary)
    if arguments.picture:
        draw(results, arguments.picture)


if __name__ == "__main__":
    main()
