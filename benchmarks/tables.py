"""Held-out log-density of flows, mixtures, kernels and Gaussians on three real tables.

`breast_cancer` (569 x 30) and `digits` (1797 x 64, with uniform noise) come with scikit-learn,
`magic_gamma` (UCI, CC BY 4.0, 19,020 x 10, columns standardised by the training rows) is array
`x` of `tables/magic_gamma.npz` below `--data`. Rows are split 80/10/10. Figures are mean
log-densities of the test rows in nats per row, higher is better; all choices fall on the
validation rows. On `magic_gamma` the peers see the coordinates of the transform that
`jaxflow.fit` chose for the flow, and count its log-determinant.

The small tables overfit. There, flows are trained on noisy rows, and all models see the same
coordinates: with `T` the `Standardise` or `Gaussianise` that explains validation rows better
behind a Gaussian, and `m`, `V diag(s^2) V^T` mean and shrunken covariance of `T(x)`,

    w = diag(1/s) V^T (T(x) - m),    log p(x) = log p_w(w) - sum(log s) + log |det dT/dx|

Models may stretch the axes to `s^a w`: 0 makes all alike, 1 keeps the natural widths.

    python benchmarks/tables.py [--tables breast_cancer digits] [--data DIR] [--seed 0]
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

import jaxflow
from harness import table, write_results
from jaxflow.bases import DiagonalNormal
from jaxflow.data import breast_cancer, digits
from jaxflow.dynamics import MLP
from jaxflow.objectives import maximum_likelihood
from jaxflow.transforms import Gaussianise, Standardise

SHRINKAGES = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
MAGIC_CONFIG = {"steps": 2000, "batch_size": 1000, "eval_every": 200}


class Parts(NamedTuple):
    """An array for the training, the validation and the test rows."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def map(self, change: Callable[..., Any], *others: "Parts") -> "Parts":
        return Parts(*map(change, self, *others))


class View(NamedTuple):
    """Coordinates of the rows, with their log-determinants."""

    name: str
    rows: Parts
    log_det: Parts


@dataclass(frozen=True)
class Result:
    """Log-densities of the test rows, what validation chose, and seconds for all of it."""

    log_p: np.ndarray
    chosen: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Settings for a small table, chosen on validation rows.

    `exponent` is `a` for the flows; `noise` is in standard deviations of the base; a mixture is
    (components, `a`, floor of its covariances).
    """

    exponent: float
    depth: int
    batch_size: int
    steps: int
    noise: float
    mixtures: tuple[tuple[int, float, float], ...]


PLANS = {
    "breast_cancer": Plan(
        exponent=0.5,
        depth=1,
        batch_size=128,
        steps=2000,
        noise=0.5,
        mixtures=(
            *((k, 0.0, r) for k in (1, 2, 3, 4, 6, 8, 12) for r in (0.1, 0.2, 0.3, 0.5)),
            *((k, 1.0, r) for k in (2, 3, 4) for r in (1e-4, 1e-3)),
        ),
    ),
    "digits": Plan(
        exponent=1.0,
        depth=2,
        batch_size=256,
        steps=1000,
        noise=0.4,
        mixtures=(
            *((k, 1.0, r) for k in (4, 6, 8, 10, 12, 16) for r in (0.05, 0.1, 0.2, 0.3)),
            *((k, 0.0, r) for k in (8, 12, 16) for r in (0.3, 0.5)),
        ),
    ),
}


def split_rows(x: np.ndarray, seed: int) -> Parts:
    """Permute the rows and cut them after 80 % and 90 %."""
    order = np.random.default_rng(seed).permutation(len(x))
    return Parts(*np.split(x[order], [int(0.8 * len(x)), int(0.9 * len(x))]))


def through(transform: Any, parts: Parts) -> tuple[Parts, Parts]:
    """Rows and log-determinants of a transform, in float64."""
    # All rows in one call: one compilation.
    both = jax.jit(jax.vmap(lambda x: transform.forward(x)))(jnp.concatenate(parts))
    cuts = np.cumsum([len(parts.train), len(parts.validation)])
    u, log_det = (Parts(*np.split(np.asarray(part, np.float64), cuts)) for part in both)
    return u, log_det


@dataclass(frozen=True)
class Coordinates:
    """The whitened coordinates `w` of a small table, with `T`, `m`, `V` and `s`."""

    transform: Any
    mean: np.ndarray
    axes: np.ndarray
    spread: np.ndarray
    shrinkage: float
    w: Parts
    log_det: Parts

    @classmethod
    def fit(cls, transform: Any, parts: Parts) -> "Coordinates":
        """Take mean and covariance from training rows, the shrinkage from validation rows."""
        u, log_det = through(transform, parts)
        mean = u.train.mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov(u.train, rowvar=False))
        rotated = u.map(lambda part: (part - mean) @ axes)

        def shrink(shrinkage: float) -> "Coordinates":
            # The identity has every axis, so shrinking moves the variances alone.
            target = shrinkage * variances.mean()
            spread = np.sqrt((1 - shrinkage) * np.maximum(variances, 0) + target)
            w = rotated.map(lambda part: part / spread)
            change = log_det.map(lambda part: part - np.sum(np.log(spread)))
            return cls(transform, mean, axes, spread, shrinkage, w, change)

        candidates = [shrink(shrinkage) for shrinkage in SHRINKAGES]
        return max(candidates, key=lambda c: c.gaussian().validation.mean())

    def gaussian(self) -> Parts:
        """Log-densities of `w ~ N(0, I)`, in the table's units."""
        log_p = self.w.map(lambda w: -0.5 * np.sum(w**2 + np.log(2 * np.pi), axis=1))
        return log_p.map(np.add, self.log_det)

    def stretched(self, exponent: float) -> View:
        """The coordinates `s^a w`."""
        factors = self.spread**exponent
        log_det = self.log_det.map(lambda part: part + np.sum(np.log(factors)))
        return View(f"a {exponent:g}", self.w.map(lambda w: w * factors), log_det)


@dataclass(frozen=True)
class NoisyLikelihood:
    """Maximum likelihood of rows with fresh noise at each step: `-mean log p(x + noise s e)`.

    Noise regularises small tables (Rothfuss et al. 2019, arXiv 1907.08982); `s` is the scale of
    the base.
    """

    noise: float

    def __call__(self, flow: Any, x: Any, cond: Any, key: Any) -> Any:
        noise_key, key = jax.random.split(key)
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        return maximum_likelihood(flow, x + self.noise * flow.base.scale[None] * noise, cond, key)


def train(flow: Any, rows: Parts, key: Any, **options: Any) -> tuple[Any, np.ndarray, str]:
    """Fit a flow; returns it, its test log-densities and its best step."""
    rows = rows.map(lambda part: jnp.asarray(part, jnp.float32))
    flow, history = jaxflow.fit(
        flow, rows.train, validation=rows.validation, key=key, progress=False, **options
    )
    # The trace is exact; with a key the call shares the code compiled for validation.
    log_p = np.asarray(flow.log_prob(rows.test, key=key), np.float64)
    return flow, log_p, f"step {history['step'][int(np.nanargmin(history['validation']))]}"


@dataclass
class Kernels:
    """`log mean_i N(x; x_i, h^2 I)` over training rows `x_i`.

    scikit-learn's `KernelDensity` sums in a tree, and is off by many nats in the tails of 30
    columns.
    """

    bandwidth: float

    def fit(self, train: np.ndarray) -> None:
        self.train = train

    def score_samples(self, x: np.ndarray) -> np.ndarray:
        parts = np.array_split(x, range(500, len(x), 500))
        return np.concatenate([self._score(part) for part in parts])

    def _score(self, x: np.ndarray) -> np.ndarray:
        squares = (x**2).sum(1)[:, None] + (self.train**2).sum(1) - 2 * x @ self.train.T
        exponents = -0.5 * squares / self.bandwidth**2
        peak = exponents.max(axis=1)
        mean = np.mean(np.exp(exponents - peak[:, None]), axis=1)
        constant = x.shape[1] * np.log(self.bandwidth * np.sqrt(2 * np.pi))
        return peak + np.log(mean) - constant


def best_of(models: Iterable[tuple[str, View, Any]]) -> Result:
    """Fit scikit-learn models; the test log-densities of the one best on validation rows."""
    start, best, chosen, log_p = time.perf_counter(), -np.inf, "", np.empty(0)
    for name, view, model in models:
        # Threads slow such small products down.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(view.rows.train)
            value = np.mean(model.score_samples(view.rows.validation) + view.log_det.validation)
            if value > best:
                best, chosen = value, f"{name}, {view.name}"
                log_p = model.score_samples(view.rows.test) + view.log_det.test
    return Result(log_p, chosen, time.perf_counter() - start)


def compare_small(x: np.ndarray, plan: Plan, seed: int, steps: int | None) -> dict[str, Result]:
    """All models in the whitened coordinates."""
    parts = split_rows(x.astype(np.float32), seed)
    start, results = time.perf_counter(), {}
    fitted = [Coordinates.fit(kind.fit(parts.train), parts) for kind in (Standardise, Gaussianise)]
    fitted.sort(key=lambda c: c.gaussian().validation.mean(), reverse=True)
    for c in fitted:
        seconds = (time.perf_counter() - start) / len(fitted)
        name = f"Gaussian, {type(c.transform).__name__}"
        results[name] = Result(c.gaussian().test, f"shrinkage {c.shrinkage:g}", seconds)
    best = fitted[0]
    views = {exponent: best.stretched(exponent) for exponent in (0.0, 0.5, 1.0)}
    results["Gaussian mixture"] = best_of(
        (f"{k} parts, floor {r:g}", views[a], GaussianMixture(k, reg_covar=r, random_state=seed))
        for k, a, r in plan.mixtures
    )
    results["kernel density"] = best_of(
        (f"width {h:.2f}", view, Kernels(h))
        for view in views.values()
        for h in np.geomspace(0.05, 2.0, 24).tolist()
    )
    view, dim = views[plan.exponent], x.shape[1]
    scale = jnp.asarray(best.spread**plan.exponent, jnp.float32)
    base = DiagonalNormal(jnp.zeros_like(scale), scale)
    key, flow_key, coupling_key, _ = jax.random.split(jax.random.key(seed), 4)
    # Starts near the Gaussian; an unbounded activation can widen its tails.
    field = MLP(dim, width=128, depth=plan.depth, activation="softplus", key=flow_key)
    solver = jaxflow.ODE(solver="rk4", num_steps=4)
    exact = jaxflow.ODE(solver="tsit5", rtol=1e-4, atol=1e-4)
    steps = steps or plan.steps
    config = jaxflow.TrainConfig(
        steps=steps,
        batch_size=plan.batch_size,
        learning_rate=2e-3,
        weight_decay=1e-2,
        ema=0.98,
        eval_every=min(100, steps),
        patience=4,
        solver_error=0.1,
    )
    for name, flow in {
        "continuous flow": jaxflow.CNF(field, base, trace="exact", ode=solver, ode_eval=exact),
        "coupling flow": jaxflow.CouplingFlow(dim, width=64, base=base, key=coupling_key),
    }.items():
        start = time.perf_counter()
        _, log_p, step = train(
            flow,
            view.rows,
            key,
            transform=None,
            config=config,
            objective=NoisyLikelihood(plan.noise),
        )
        results[name] = Result(log_p + view.log_det.test, step, time.perf_counter() - start)
    return results


def compare_magic(x: np.ndarray, seed: int, steps: int | None) -> dict[str, Result]:
    """All models in the coordinates of the flow's transform."""
    parts = split_rows(x, seed)
    mean, scale = parts.train.mean(axis=0), parts.train.std(axis=0)
    parts = parts.map(lambda part: ((part - mean) / scale).astype(np.float32))
    dim, key = x.shape[1], jax.random.key(seed)
    config = jaxflow.TrainConfig(**MAGIC_CONFIG | ({"steps": steps} if steps else {}))
    flow = jaxflow.CNF(MLP(dim, width=128, depth=2, key=key), base=jaxflow.StandardNormal((dim,)))
    start = time.perf_counter()
    flow, log_p, _ = train(flow, parts, key, config=config, objective=maximum_likelihood)
    transform = flow.transform
    name = type(transform).__name__
    results = {"continuous flow": Result(log_p, name, time.perf_counter() - start)}
    start, coupling = time.perf_counter(), jaxflow.CouplingFlow(dim, key=key)
    _, log_p, step = train(coupling, parts, key, config=config, transform=transform)
    results["coupling flow"] = Result(log_p, step, time.perf_counter() - start)
    view = View(name, *through(transform, parts))
    for family, models in {
        "Gaussian": {"full covariance": GaussianMixture(1)},
        "Gaussian mixture": {
            f"{n} components": GaussianMixture(n, random_state=0, reg_covar=1e-4)
            for n in (10, 20, 40, 80, 160)
        },
        "kernel density": {f"width {h:g}": Kernels(h) for h in (0.2, 0.3, 0.4)},
    }.items():
        results[family] = best_of((name, view, model) for name, model in models.items())
    return results


def summary(results: dict[str, Result]) -> dict[str, dict[str, Any]]:
    """Means with standard errors, alone and against the continuous flow row by row."""
    reference = results["continuous flow"].log_p
    return {
        name: {
            "log_density": float(r.log_p.mean()),
            "se": standard_error(r.log_p),
            "against_cnf": float((r.log_p - reference).mean()),
            "against_cnf_se": standard_error(r.log_p - reference),
            "chosen": r.chosen,
            "seconds": r.seconds,
        }
        for name, r in sorted(results.items(), key=lambda item: -item[1].log_p.mean())
    }


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description="Held-out log-density on three real tables.")
    names = ("breast_cancer", "digits", "magic_gamma")
    parser.add_argument("--tables", nargs="+", default=names, choices=names)
    parser.add_argument("--data", type=Path, help="folder that holds tables/magic_gamma.npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="training steps, to shorten the run")
    arguments = parser.parse_args()
    seed, steps, results = arguments.seed, arguments.steps, {}
    for name in arguments.tables:
        if name == "magic_gamma":
            path = (arguments.data or Path()) / "tables" / "magic_gamma.npz"
            if not path.exists():
                print("magic_gamma skipped: give --data DIR", file=sys.stderr)
                continue
            x = np.load(path, allow_pickle=False)["x"]
            results[name] = summary(compare_magic(x, seed, steps))
        else:
            x = (breast_cancer() if name == "breast_cancer" else digits(seed)).values
            results[name] = summary(compare_small(x, PLANS[name], seed, steps))
        rows = [
            [
                model,
                f"{r['log_density']:.3f} +- {r['se']:.3f}",
                f"{r['against_cnf']:+.3f} +- {r['against_cnf_se']:.3f}",
                r["chosen"],
                f"{r['seconds']:.0f}",
            ]
            for model, r in results[name].items()
        ]
        print(table([name, "log-density, nats", "against the flow", "chosen", "seconds"], rows))
    print(f"written to {write_results('tables', results)}")


if __name__ == "__main__":
    main()
