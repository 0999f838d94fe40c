"""A target given features: `ConditionalFlowDensity` with its defaults beside regressions.

Two tables of scikit-learn, and with `--data DIR` DIR/ccpp.npz and DIR/protein.npz (array `x`, the
target last): UCI's power plant and protein structure, whose published log-densities are those of
Gal and Ghahramani (2016, arXiv 1506.02142) as measured again in yaringal/DropoutUncertaintyExps.
A tenth of the rows is the test, in three random splits. Beside the flow: least squares and
gradient boosting with normal errors of one spread, estimated on rows held out of the boosting,
and gradient boosting of quantiles, one model for each of seven levels.

Log-densities are in nats per row in the target's units, higher is better; the pinball loss is the
mean over the levels, lower is better; coverage is that of the central 90 % interval.

    python benchmarks/conditional.py [--data DIR] [--splits 3]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_pinball_loss
from sklearn.model_selection import cross_val_predict, train_test_split
from threadpoolctl import threadpool_limits

from harness import read_results, table, write_results
from jaxflow.estimator import ConditionalFlowDensity

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SETTINGS: dict[str, Any] = {"max_iter": 600, "learning_rate": 0.05, "early_stopping": True}
PUBLISHED = {"ccpp": -2.808, "protein": -2.871}


def rows_of(name: str, data: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Features and target."""
    if name == "diabetes":
        bunch: Any = datasets.load_diabetes()
        return bunch.data, bunch.target
    if name == "friedman":
        return datasets.make_friedman1(2000, 10, noise=1.0, random_state=0)
    assert data is not None
    x = np.load(data / f"{name}.npz")["x"].astype(np.float64)
    return x[:, :-1], x[:, -1]


def scores(y: np.ndarray, quantiles: np.ndarray, log_p: np.ndarray | None) -> dict[str, float]:
    """The figures of a prediction of targets (n,) by quantiles (n, levels)."""
    losses = [mean_pinball_loss(y, q, alpha=a) for a, q in zip(LEVELS, quantiles.T, strict=True)]
    inside = (quantiles[:, 0] <= y) & (y <= quantiles[:, -1])
    result = {"pinball": float(np.mean(losses)), "coverage": float(inside.mean())}
    result["width"] = float(np.mean(quantiles[:, -1] - quantiles[:, 0]))
    return result if log_p is None else result | {"log_density": float(log_p.mean())}


def normal(mean: np.ndarray, spread: float, y: np.ndarray) -> dict[str, float]:
    """The figures of a normal prediction."""
    from scipy.stats import norm

    quantiles = mean[:, None] + spread * norm.ppf(LEVELS)
    return scores(y, quantiles, norm.logpdf(y, mean, spread))


def flow(X: np.ndarray, y: np.ndarray, new: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """The flow."""
    density = ConditionalFlowDensity(random_state=0).fit(y[:, None], X)
    log_p = density.score_samples(target[:, None], new)
    return scores(target, density.predict_quantile(new, LEVELS), log_p)


def regression(model: Any) -> Any:
    """A regression with normal errors."""

    def predict(X: np.ndarray, y: np.ndarray, new: np.ndarray, target: np.ndarray) -> Any:
        spread = float((y - cross_val_predict(model, X, y, cv=5)).std())
        return normal(model.fit(X, y).predict(new), spread, target)

    return predict


def quantiles(X: np.ndarray, y: np.ndarray, new: np.ndarray, target: np.ndarray) -> Any:
    """A boosted model for each level."""
    each = [
        HistGradientBoostingRegressor(loss="quantile", quantile=level, **SETTINGS)
        for level in LEVELS
    ]
    predicted = [model.fit(X, y).predict(new) for model in each]
    return scores(target, np.sort(np.stack(predicted, axis=1), axis=1), None)


BOOSTED = HistGradientBoostingRegressor(**SETTINGS)
MODELS = {
    "ConditionalFlowDensity": flow,
    "least squares": regression(LinearRegression()),
    "boosting": regression(BOOSTED),
    "boosted quantiles": quantiles,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Conditional densities beside regressions.")
    parser.add_argument("--data", type=Path, help="folder with ccpp.npz and protein.npz")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--tables", nargs="+")
    arguments = parser.parse_args()
    names = ["diabetes", "friedman", *(PUBLISHED if arguments.data else ())]
    results = read_results("conditional")
    for name in arguments.tables or names:
        X, y = rows_of(name, arguments.data)
        results[name] = {model: [] for model in MODELS}
        for split in range(arguments.splits):
            parts = train_test_split(X, y, test_size=0.1, random_state=split)
            train_x, test_x, train_y, test_y = parts
            for model, run in MODELS.items():
                start = time.perf_counter()
                # Threads wait for each other where another program runs.
                with threadpool_limits(1):
                    figures = run(train_x, train_y, test_x, test_y)
                figures["seconds"] = time.perf_counter() - start
                results[name][model].append(figures)
                print(name, split, model, figures, flush=True)
        write_results("conditional", results)
    print(summarise(results))


def summarise(results: dict[str, Any]) -> str:
    """The table."""
    rows = []
    for name, models in results.items():
        for model, splits in models.items():
            mean = {key: np.mean([each[key] for each in splits]) for key in splits[0]}
            spread = np.std([each.get("log_density", 0.0) for each in splits], ddof=1)
            error = spread / len(splits) ** 0.5
            density = f"{mean['log_density']:.3f} +- {error:.3f}" if "log_density" in mean else "-"
            figures = (f"{mean['pinball']:.3f}", f"{mean['coverage']:.1%}", f"{mean['width']:.2f}")
            rows.append([name, model, density, *figures, f"{mean['seconds']:.0f}"])
        if name in PUBLISHED:
            rows.append([name, "dropout, published", f"{PUBLISHED[name]:.3f}", *["-"] * 4])
    return table(
        ["table", "model", "log-density", "pinball", "coverage", "width", "seconds"], rows
    )


if __name__ == "__main__":
    main()
