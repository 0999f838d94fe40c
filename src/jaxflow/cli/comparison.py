"""A continuous flow and its peers on one table: held-out log-density, on the same rows.

Everyone models the same coordinates. With `T` the transform that `jaxflow.fit` would choose, and
`m`, `V diag(s^2) V^T` mean and shrunken covariance of `T(x)`, they are

```
w = diag(1/s) V^T (T(x) - m),    log p(x) = log p_w(w) - sum(log s) + log |det dT/dx|
```
so the Gaussian of full covariance is `N(0, I)` here, and every log-density counts the whole map.
Models may stretch the axes to `s^a w`: 0 makes all alike, 1 keeps the natural widths.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import DiagonalNormal
from jaxflow.discrete import CouplingFlow
from jaxflow.dynamics import MLP
from jaxflow.flow import CNF
from jaxflow.objectives import maximum_likelihood
from jaxflow.ode import ODE
from jaxflow.trace import Hutchinson
from jaxflow.training import TrainConfig, fit
from jaxflow.transforms import Standardise, candidate_transforms

CNF_NAME = "continuous flow"
_SHRINKAGES = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
_BANDWIDTHS = tuple(np.geomspace(0.05, 2.0, 24).tolist())
_EXPONENTS = (0.0, 0.5, 1.0)

Rows = Float[np.ndarray, "n d"]
Scores = Float[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is tried on a table.

    Attributes:
        exponent: `a` of the flows' axes `s^a w`.
        width: units of a hidden layer of the continuous flow's field.
        depth: number of its hidden layers.
        coupling_width: units of a hidden layer of the coupling layers.
        batch_size: rows of a minibatch.
        steps: updates at most; validation stops earlier.
        noise: of the noise added to training rows, in standard deviations of the base.
        mixtures: what the mixture may be: (components, exponent, regularisation).
    """

    exponent: float
    width: int
    depth: int
    coupling_width: int
    batch_size: int
    steps: int
    noise: float
    mixtures: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Parts:
    """Rows of a table, (n, d), for training, for choices, and for the figures reported."""

    train: Rows
    validation: Rows
    test: Rows


@dataclass(frozen=True)
class Result:
    """What one model reached.

    Attributes:
        model: its name.
        log_p: log-densities of the test rows, nats, in the table's units, (n,).
        chosen: what validation chose.
        seconds: for fitting, choices and compilation included.
    """

    model: str
    log_p: Scores
    chosen: str
    seconds: float


@dataclass(frozen=True)
class NoisyLikelihood:
    """Maximum likelihood of rows blurred anew at each step: `-mean log p(x + noise scale e)`.

    `e` is standard normal, `scale` the base's. Against overfitting of small tables; Rothfuss et
    al. (2019), "Noise Regularization for Conditional Density Estimation", arXiv 1907.08982.
    """

    noise: float

    def __call__(
        self, flow: Any, x: Float[Array, "rows d"], cond: Array | None, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The loss, and the metrics of `maximum_likelihood`."""
        noise_key, key = jax.random.split(key)
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        blurred = x + self.noise * flow.base.scale[None] * noise
        return maximum_likelihood(flow, blurred, cond, key)


@dataclass(frozen=True)
class Coordinates:
    """The whitened coordinates `w` of a table's rows.

    Attributes:
        transform: `T`, column by column.
        mean: `m`, (d,).
        axes: `V`, orthonormal columns, (d, d).
        spread: `s`, standard deviations along them, (d,).
        shrinkage: part of the covariance that was replaced by a multiple of the identity.
    """

    transform: Any
    mean: Float[np.ndarray, " d"]
    axes: Float[np.ndarray, "d d"]
    spread: Float[np.ndarray, " d"]
    shrinkage: float

    @classmethod
    def fit(cls, transform: Any, parts: Parts) -> "Coordinates":
        """Take mean and covariance from training rows, the shrinkage from validation rows."""
        u, _ = _through(transform.forward, parts.train)
        mean, cov = u.mean(axis=0), np.cov(u, rowvar=False)
        variances, axes = np.linalg.eigh(cov)

        def shrunk(shrinkage: float) -> "Coordinates":
            # The identity has every axis, so shrinking moves the variances alone.
            target = variances.mean()
            spread = np.sqrt((1 - shrinkage) * np.maximum(variances, 0) + shrinkage * target)
            return cls(transform, mean, axes, spread, shrinkage)

        candidates = [shrunk(shrinkage) for shrinkage in _SHRINKAGES]
        return max(candidates, key=lambda c: float(np.mean(c.gaussian(parts.validation))))

    def forward(self, x: Rows) -> tuple[Rows, Scores]:
        """`w` of each row, and `log |det dw/dx|`."""
        u, log_det = _through(self.transform.forward, x)
        w = (u - self.mean) @ self.axes / self.spread
        return w, log_det - np.sum(np.log(self.spread))

    def inverse(self, w: Rows) -> Rows:
        """Rows in the table's units."""
        return _through(self.transform.inverse, w * self.spread @ self.axes.T + self.mean)[0]

    def gaussian(self, x: Rows) -> Scores:
        """Log-densities of the Gaussian `w ~ N(0, I)`, in the table's units."""
        w, log_det = self.forward(x)
        return log_det - 0.5 * np.sum(w**2 + np.log(2 * np.pi), axis=1)

    def stretch(self, exponent: float) -> tuple[Float[np.ndarray, " d"], float]:
        """Factors `s^a` of the axes, and the log-determinant of stretching by them."""
        return self.spread**exponent, float(exponent * np.sum(np.log(self.spread)))


def split_rows(x: Rows, seed: int) -> Parts:
    """A random order of the rows by NumPy's generator, cut after 80 % and 90 %."""
    order = np.random.default_rng(seed).permutation(len(x))
    first, second = int(0.8 * len(x)), int(0.9 * len(x))
    return Parts(x[order[:first]], x[order[first:second]], x[order[second:]])


def compare(
    parts: Parts, plan: Plan, seed: int, say: Callable[[str], None]
) -> tuple[list[Result], CNF, Coordinates, dict[str, float]]:
    """Fit everyone, the continuous flow first.

    Args:
        parts: float32 rows.
        plan: what is tried.
        seed: of weights and minibatches.
        say: told what begins.

    Returns:
        The results, the continuous flow (of coordinates `s^a w`), the coordinates, and the exact
        trace against Hutchinson's estimate on the test rows.
    """
    start = time.perf_counter()
    # The last candidate is the one that explains held-out rows best behind a Gaussian.
    transform = list(
        candidate_transforms(jnp.asarray(parts.train), jnp.asarray(parts.validation)).values()
    )[-1]
    name = type(transform).__name__
    coordinates = Coordinates.fit(transform, parts)
    gaussian_seconds = time.perf_counter() - start
    factors, log_stretch = coordinates.stretch(plan.exponent)
    (train, _), (held, _), (test, log_det) = (
        coordinates.forward(x) for x in (parts.train, parts.validation, parts.test)
    )
    key, flow_key, peer_key, probe_key = jax.random.split(jax.random.key(seed), 4)

    results, flows = [], []
    for build in (_continuous, _coupling):
        say(f"training the {CNF_NAME if build is _continuous else 'coupling flow'}")
        start = time.perf_counter()
        untrained = build(factors, plan, flow_key if build is _continuous else peer_key)
        rows = [jnp.asarray(w * factors, jnp.float32) for w in (train, held, test)]
        config = _config(plan)
        flow, history = fit(
            untrained,
            rows[0],
            validation=rows[1],
            key=key,
            transform=None,
            config=config,
            objective=NoisyLikelihood(plan.noise),
            progress=False,
        )
        seconds = time.perf_counter() - start
        log_p = np.asarray(flow.log_prob(rows[2]), np.float64) + log_stretch + log_det
        best = int(np.argmin(history["validation"]))
        chosen = f"step {history['step'][best]} of {plan.steps}"
        model = CNF_NAME if build is _continuous else "coupling flow"
        results.append(Result(model, log_p, chosen, seconds))
        flows.append((flow, rows[2]))

    say("fitting mixtures, kernels and Gaussians")
    flow, rows_test = flows[0]
    trace = _trace_errors(flow, rows_test, probe_key)
    results.append(_mixture(coordinates, parts, plan, seed))
    results.append(_kernels(coordinates, parts))
    results.append(
        Result(
            f"Gaussian ({name})",
            coordinates.gaussian(parts.test),
            f"shrinkage {coordinates.shrinkage:g}",
            gaussian_seconds,
        )
    )
    if not isinstance(transform, Standardise):
        start = time.perf_counter()
        plain = Coordinates.fit(Standardise.fit(jnp.asarray(parts.train)), parts)
        results.append(
            Result(
                "Gaussian (Standardise)",
                plain.gaussian(parts.test),
                f"shrinkage {plain.shrinkage:g}",
                time.perf_counter() - start,
            )
        )
    return results, flow, coordinates, trace


def _continuous(factors: Float[np.ndarray, " d"], plan: Plan, key: PRNGKeyArray) -> CNF:
    """A flow that starts as the Gaussian; an unbounded activation can widen its tails."""
    scale = jnp.asarray(factors, jnp.float32)
    field = MLP(len(scale), width=plan.width, depth=plan.depth, activation="softplus", key=key)
    return CNF(
        field,
        base=DiagonalNormal(jnp.zeros_like(scale), scale),
        trace="exact",
        ode=ODE(solver="rk4", num_steps=4),
        ode_eval=ODE(solver="tsit5", rtol=1e-4, atol=1e-4),
    )


def _coupling(factors: Float[np.ndarray, " d"], plan: Plan, key: PRNGKeyArray) -> CouplingFlow:
    scale = jnp.asarray(factors, jnp.float32)
    base = DiagonalNormal(jnp.zeros_like(scale), scale)
    return CouplingFlow(len(scale), width=plan.coupling_width, base=base, key=key)


def _config(plan: Plan) -> TrainConfig:
    return TrainConfig(
        steps=plan.steps,
        batch_size=plan.batch_size,
        learning_rate=2e-3,
        weight_decay=1e-2,
        ema=0.98,
        eval_every=min(100, plan.steps),
        patience=4,
        solver_error=0.1,
    )


def _trace_errors(flow: CNF, x: Float[Array, "n d"], key: PRNGKeyArray) -> dict[str, float]:
    """The exact log-density and Hutchinson's estimate of it, row by row, and their times."""
    estimating = replace(flow, trace=Hutchinson(num_probes=1))
    exact, exact_seconds = _timed(lambda: flow.log_prob(x))
    estimate, estimate_seconds = _timed(lambda: estimating.log_prob(x, key=key))
    error = estimate - exact
    return {
        "exact_mean": float(exact.mean()),
        "hutchinson_mean": float(estimate.mean()),
        "mean_error": float(error.mean()),
        "mean_error_se": _standard_error(error),
        "row_sd": float(error.std(ddof=1)),
        "exact_seconds": exact_seconds,
        "hutchinson_seconds": estimate_seconds,
    }


def _timed(score: Callable[[], Array]) -> tuple[Scores, float]:
    """Values, and the time of a call after the one that compiles."""
    values = np.asarray(score(), np.float64)
    start = time.perf_counter()
    jax.block_until_ready(score())
    return values, time.perf_counter() - start


def _mixture(coordinates: Coordinates, parts: Parts, plan: Plan, seed: int) -> Result:
    """Full covariances; components, axes and regularisation by validation."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    start = time.perf_counter()
    best: tuple[float, Scores, str] | None = None
    for components, exponent, regularisation in plan.mixtures:
        train, held, test, log_det, log_det_test = _stretched(coordinates, parts, exponent)
        mixture = GaussianMixture(components, reg_covar=regularisation, random_state=seed)
        with warnings.catch_warnings():
            # One that has not quite converged is judged by validation like the others.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(train)
        value = float(np.mean(mixture.score_samples(held) + log_det))
        if best is None or value > best[0]:
            chosen = f"{components} components, a {exponent:g}, regularisation {regularisation:g}"
            best = value, mixture.score_samples(test) + log_det_test, chosen
    if best is None:
        raise ValueError("mixtures=() is empty; give (components, exponent, regularisation)")
    return Result("Gaussian mixture", best[1], best[2], time.perf_counter() - start)


def _kernels(coordinates: Coordinates, parts: Parts) -> Result:
    """A Gaussian on each training row; its width and axes by validation."""
    start = time.perf_counter()
    choices: list[tuple[float, float, float]] = []
    for exponent in _EXPONENTS:
        train, held, _, log_det, _ = _stretched(coordinates, parts, exponent)
        values = kernel_log_density(train, held, _BANDWIDTHS) + log_det[None]
        choices += [
            (float(value), exponent, bandwidth)
            for value, bandwidth in zip(values.mean(axis=1), _BANDWIDTHS, strict=True)
        ]
    _, exponent, bandwidth = max(choices)
    train, _, test, _, log_det = _stretched(coordinates, parts, exponent)
    log_p = kernel_log_density(train, test, (bandwidth,))[0] + log_det
    chosen = f"bandwidth {bandwidth:.2f}, a {exponent:g}"
    return Result("kernel density", log_p, chosen, time.perf_counter() - start)


def kernel_log_density(
    train: Rows, x: Rows, bandwidths: Sequence[float]
) -> Float[np.ndarray, "bandwidths n"]:
    """`log mean_i N(x; x_i, h^2 I)` of rows x over training rows x_i, at each bandwidth h."""
    d = train.shape[1]
    squares = np.sum(x**2, axis=1)[:, None] + np.sum(train**2, axis=1)[None] - 2 * x @ train.T

    def at(h: float) -> Scores:
        exponents = -0.5 * squares / h**2
        peak = exponents.max(axis=1)
        mean = np.mean(np.exp(exponents - peak[:, None]), axis=1)
        return peak + np.log(mean) - d * np.log(h) - 0.5 * d * np.log(2 * np.pi)

    return np.stack([at(h) for h in bandwidths])


def _stretched(coordinates: Coordinates, parts: Parts, exponent: float) -> tuple:
    """`s^a w` of the three parts, and the log-determinants of validation and test rows."""
    factors, log_stretch = coordinates.stretch(exponent)
    (train, _), (held, log_det), (test, log_det_test) = (
        coordinates.forward(x) for x in (parts.train, parts.validation, parts.test)
    )
    return (
        train * factors,
        held * factors,
        test * factors,
        log_det + log_stretch,
        log_det_test + log_stretch,
    )


def summary(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Means over the test rows with standard errors, alone and against the continuous flow."""
    reference = next(r for r in results if r.model == CNF_NAME).log_p
    for result in results:
        difference = result.log_p - reference
        yield {
            "model": result.model,
            "log_density": float(result.log_p.mean()),
            "se": _standard_error(result.log_p),
            "against_cnf": float(difference.mean()),
            "against_cnf_se": _standard_error(difference),
            "chosen": result.chosen,
            "seconds": result.seconds,
        }


def _standard_error(values: Scores) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def _through(map_: Callable[[Array], tuple[Array, Array]], x: Rows) -> tuple[Rows, Scores]:
    """Rows through one side of a transform, and its log-determinants, in float64."""
    y, log_det = jax.jit(jax.vmap(map_))(jnp.asarray(x, jnp.float32))
    return np.asarray(y, np.float64), np.asarray(log_det, np.float64)
