"""A continuous flow and its peers on one table: held-out log-density, on the same rows.

Everyone models the same coordinates. With `T` the `Standardise` or `Gaussianise` that explains
validation rows better, and `m`, `V diag(s^2) V^T` mean and shrunken covariance of `T(x)`, they are

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

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import DiagonalNormal
from jaxflow.dynamics import MLP
from jaxflow.flows.cnf import CNF
from jaxflow.flows.coupling import CouplingFlow
from jaxflow.objectives import maximum_likelihood
from jaxflow.ode import ODE
from jaxflow.trace import Hutchinson
from jaxflow.training import TrainConfig, fit
from jaxflow.transforms import Gaussianise, Standardise

CNF_NAME = "continuous flow"
TRAINING = ODE(solver="rk4", num_steps=4)
_SHRINKAGES = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
_BANDWIDTHS = tuple(np.geomspace(0.05, 2.0, 24).tolist())
_EXPONENTS = (0.0, 0.5, 1.0)

Rows = Float[np.ndarray, "_ _"]
Scores = Float[np.ndarray, " _"]


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
        ode_eval: the continuous flow's solves outside training.
    """

    exponent: float
    width: int
    depth: int
    coupling_width: int
    batch_size: int
    steps: int
    noise: float
    mixtures: tuple[tuple[int, float, float], ...]
    ode_eval: ODE = ODE(solver="tsit5", rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class Parts:
    """Something of each row for training, for choices, and for the figures reported.

    The table's rows (n, d), their coordinates, or their log-densities (n,).
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> "Parts":
        """The same change to each part."""
        return Parts(change(self.train), change(self.validation), change(self.test))


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
    """The whitened coordinates of a table's rows.

    Attributes:
        transform: `T`, column by column.
        mean: `m`, (d,).
        axes: `V`, orthonormal columns, (d, d).
        spread: `s`, standard deviations along them, (d,).
        shrinkage: part of the covariance that was replaced by a multiple of the identity.
        w: the coordinates of the rows.
        log_det: `log |det dw/dx|` of the rows.
    """

    transform: Any
    mean: Float[np.ndarray, " d"]
    axes: Float[np.ndarray, "d d"]
    spread: Float[np.ndarray, " d"]
    shrinkage: float
    w: Parts
    log_det: Parts

    @classmethod
    def fit(cls, transform: Any, parts: Parts) -> "Coordinates":
        """Take mean and covariance from training rows, the shrinkage from validation rows."""
        # All rows in one call, which is one compilation.
        rows = np.concatenate([parts.train, parts.validation, parts.test])
        both = _through(transform, jnp.asarray(rows), inverse=False)
        cuts = np.cumsum([len(parts.train), len(parts.validation)])
        u, log_det = (Parts(*np.split(np.asarray(part, np.float64), cuts)) for part in both)
        mean = u.train.mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov(u.train, rowvar=False))
        rotated = u.map(lambda part: (part - mean) @ axes)

        def shrunk(shrinkage: float) -> "Coordinates":
            # The identity has every axis, so shrinking moves the variances alone.
            target = shrinkage * variances.mean()
            spread = np.sqrt((1 - shrinkage) * np.maximum(variances, 0) + target)
            w = rotated.map(lambda part: part / spread)
            change = log_det.map(lambda part: part - np.sum(np.log(spread)))
            return cls(transform, mean, axes, spread, shrinkage, w, change)

        candidates = [shrunk(shrinkage) for shrinkage in _SHRINKAGES]
        return max(candidates, key=lambda c: float(np.mean(c.gaussian().validation)))

    def inverse(self, w: Rows) -> Rows:
        """Rows in the table's units, from their coordinates."""
        u = w * self.spread @ self.axes.T + self.mean
        x, _ = _through(self.transform, jnp.asarray(u), inverse=True)
        return np.asarray(x, np.float64)

    def gaussian(self) -> Parts:
        """Log-densities of `w ~ N(0, I)`, in the table's units."""
        log_p = self.w.map(lambda w: -0.5 * np.sum(w**2 + np.log(2 * np.pi), axis=1))
        return Parts(
            log_p.train + self.log_det.train,
            log_p.validation + self.log_det.validation,
            log_p.test + self.log_det.test,
        )

    def stretched(self, exponent: float) -> tuple[Parts, Parts]:
        """`s^a w` of the rows, and their log-determinants."""
        factors = self.spread**exponent
        return (
            self.w.map(lambda w: w * factors),
            self.log_det.map(lambda part: part + np.sum(np.log(factors))),
        )


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
    say("fitting Gaussians, kernels and mixtures")
    start = time.perf_counter()
    train = jnp.asarray(parts.train)
    tried = [Coordinates.fit(kind.fit(train), parts) for kind in (Standardise, Gaussianise)]
    tried.sort(key=lambda c: float(np.mean(c.gaussian().validation)), reverse=True)
    seconds = (time.perf_counter() - start) / len(tried)
    gaussians = [
        Result(
            f"Gaussian, {type(c.transform).__name__}",
            c.gaussian().test,
            f"shrinkage {c.shrinkage:g}",
            seconds,
        )
        for c in tried
    ]
    coordinates = tried[0]
    peers = [_mixture(coordinates, plan, seed), _kernels(coordinates), *gaussians]

    key, flow_key, coupling_key, probe_key = jax.random.split(jax.random.key(seed), 4)
    say(f"training the {CNF_NAME}")
    flow, result = _train(_continuous, CNF_NAME, coordinates, plan, key, flow_key)
    say("training the coupling flow")
    coupling = _train(_coupling, "coupling flow", coordinates, plan, key, coupling_key)[1]
    test = jnp.asarray(coordinates.stretched(plan.exponent)[0].test, jnp.float32)
    trace = _trace_errors(flow, test, probe_key)
    return [result, coupling, *peers], flow, coordinates, trace


def _train(
    build: Callable[..., Any],
    model: str,
    coordinates: Coordinates,
    plan: Plan,
    key: PRNGKeyArray,
    weights_key: PRNGKeyArray,
) -> tuple[Any, Result]:
    """Fit a flow to the stretched coordinates and score the test rows."""
    start = time.perf_counter()
    rows, log_det = coordinates.stretched(plan.exponent)
    scale = jnp.asarray(coordinates.spread**plan.exponent, jnp.float32)
    flow, history = fit(
        build(DiagonalNormal(jnp.zeros_like(scale), scale), plan, weights_key),
        jnp.asarray(rows.train, jnp.float32),
        validation=jnp.asarray(rows.validation, jnp.float32),
        key=key,
        transform=None,
        config=_config(plan),
        objective=NoisyLikelihood(plan.noise),
        progress=False,
    )
    # The trace is exact, but with a key the call is the one that validation has compiled.
    log_p = np.asarray(flow.log_prob(jnp.asarray(rows.test, jnp.float32), key=key), np.float64)
    step = int(history["step"][int(np.nanargmin(history["validation"]))])
    seconds = time.perf_counter() - start
    return flow, Result(model, log_p + log_det.test, f"step {step}", seconds)


def _continuous(base: DiagonalNormal, plan: Plan, key: PRNGKeyArray) -> CNF:
    """A flow that starts near the Gaussian; an unbounded activation can widen its tails."""
    (dim,) = base.event_shape
    return CNF(
        MLP(dim, width=plan.width, depth=plan.depth, activation="softplus", key=key),
        base,
        trace="exact",
        ode=TRAINING,
        ode_eval=plan.ode_eval,
    )


def _coupling(base: DiagonalNormal, plan: Plan, key: PRNGKeyArray) -> CouplingFlow:
    (dim,) = base.event_shape
    return CouplingFlow(dim, width=plan.coupling_width, base=base, key=key)


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
    exact, exact_seconds = _timed(lambda: flow.log_prob(x, key=key))
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


def _mixture(coordinates: Coordinates, plan: Plan, seed: int) -> Result:
    """Full covariances; components, axes and regularisation by validation."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    start = time.perf_counter()
    best: tuple[float, Scores, str] | None = None
    for components, exponent, regularisation in plan.mixtures:
        rows, log_det = coordinates.stretched(exponent)
        mixture = GaussianMixture(components, reg_covar=regularisation, random_state=seed)
        # Products this small lose many times more by threads that wait than they gain.
        with warnings.catch_warnings(), threadpool_limits(1):
            # One that has not quite converged is judged by validation like the others.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(rows.train)
        value = float(np.mean(mixture.score_samples(rows.validation) + log_det.validation))
        if best is None or value > best[0]:
            chosen = f"{components} parts, a {exponent:g}, floor {regularisation:g}"
            best = value, mixture.score_samples(rows.test) + log_det.test, chosen
    if best is None:
        raise ValueError("mixtures=() is empty; give (components, exponent, regularisation)")
    return Result("Gaussian mixture", best[1], best[2], time.perf_counter() - start)


def _kernels(coordinates: Coordinates) -> Result:
    """A Gaussian on each training row; its width and axes by validation."""
    start = time.perf_counter()
    choices: list[tuple[float, float, float]] = []
    for exponent in _EXPONENTS:
        rows, log_det = coordinates.stretched(exponent)
        values = kernel_log_density(rows.train, rows.validation, _BANDWIDTHS)
        means = np.mean(values + log_det.validation[None], axis=1)
        choices += [(float(m), exponent, h) for m, h in zip(means, _BANDWIDTHS, strict=True)]
    _, exponent, bandwidth = max(choices)
    rows, log_det = coordinates.stretched(exponent)
    log_p = kernel_log_density(rows.train, rows.test, (bandwidth,))[0] + log_det.test
    chosen = f"width {bandwidth:.2f}, a {exponent:g}"
    return Result("kernel density", log_p, chosen, time.perf_counter() - start)


def kernel_log_density(
    train: Float[np.ndarray, "m d"], x: Float[np.ndarray, "n d"], bandwidths: Sequence[float]
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


@eqx.filter_jit
def _through(transform: Any, x: Array, *, inverse: bool) -> tuple[Array, Array]:
    """Rows through one side of a transform, and its log-determinants."""
    return jax.vmap(transform.inverse if inverse else transform.forward)(x)
