"""The eight simulators of sbibm that have reference posteriors, written from their definitions.

Lueckmann, Boelts, Greenberg, Goncalves and Macke 2021, "Benchmarking simulation-based inference",
arXiv 2101.04653, appendix T. Each task has its prior as `fit_posterior` takes it, a simulator in
NumPy, and the log-density of its prior and simulator in jax, which the paper's references and
importance weights need.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import stats

Rng = np.random.Generator


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        prior: as `jaxflow.inference.fit_posterior` takes it.
        draw: `(rng, n) -> theta` (n, d).
        simulate: `(rng, theta) -> x` (n, k).
        log_likelihood: `(theta, x)` of one pair, in jax; of an epidemic and of the generalised
            linear model up to a constant of x.
    """

    prior: Any
    draw: Callable[[Rng, int], np.ndarray]
    simulate: Callable[[Rng, np.ndarray], np.ndarray]
    log_likelihood: Callable[[Any, Any], Any]


def box(low: float, high: float, dim: int) -> tuple[Any, Any]:
    """A uniform prior and its draws."""
    limits = (np.full(dim, low), np.full(dim, high))
    return limits, lambda rng, n: rng.uniform(low, high, (n, dim))


def normal_of(theta: Any, x: Any, scale: float) -> Any:
    return jnp.sum(jax.scipy.stats.norm.logpdf(x, theta, scale))


# 1 and 2: Gaussian with a Gaussian, and with a uniform prior.
SPREAD = math.sqrt(0.1)


def gaussian(rng: Rng, theta: np.ndarray) -> np.ndarray:
    return theta + SPREAD * rng.normal(size=theta.shape)


# 3: simple likelihood, complex posterior.
def _slcp(theta: Any, np: Any) -> tuple[Any, Any, Any, Any]:
    a, b, c, d, e = (theta[..., i, None] for i in range(5))
    return (a, b), c**2, d**2, np.tanh(e)


def slcp(rng: Rng, theta: np.ndarray) -> np.ndarray:
    (a, b), s, t, rho = _slcp(theta, np)
    z = rng.normal(size=(2, len(theta), 4))
    second = rho * z[0] + np.sqrt(1 - rho**2) * z[1]
    return np.stack([a + s * z[0], b + t * second], axis=-1).reshape(len(theta), 8)


def slcp_log(theta: Any, x: Any) -> Any:
    (a, b), s, t, rho = _slcp(theta, jnp)
    x = x.reshape(4, 2)
    u, v = (x[:, 0] - a) / s, (x[:, 1] - b) / t
    # sech instead of 1 - tanh^2, which loses all digits.
    free = 1 / jnp.cosh(theta[4]) ** 2
    square = (u**2 - 2 * rho * u * v + v**2) / free
    return jnp.sum(-0.5 * square - jnp.log(s * t) - 0.5 * jnp.log(free) - math.log(2 * math.pi))


# 4: a generalised linear model with a smooth filter; x are its sufficient statistics.
def _glm() -> tuple[np.ndarray, np.ndarray]:
    """The design matrix (100, 10) and the prior's precision (10, 10)."""
    stimulus = np.random.RandomState(42).randn(100).astype(np.float32).astype(np.float64)
    columns = [np.concatenate([np.zeros(j), stimulus[: 100 - j]]) for j in range(9)]
    second = np.linalg.matrix_power(np.eye(9) - np.eye(9, k=-1), 2)
    second = second + np.diag(np.sqrt(np.arange(9) / 9))
    precision = np.zeros((10, 10))
    precision[0, 0], precision[1:, 1:] = 0.5, second.T @ second
    return np.stack([np.ones(100), *columns], axis=1), precision


DESIGN, PRECISION = _glm()
# Its stub takes a covariance for an integer.
NORMAL: Any = stats.multivariate_normal
GLM_PRIOR = NORMAL(np.zeros(10), np.linalg.inv(PRECISION))


def glm(rng: Rng, theta: np.ndarray) -> np.ndarray:
    spikes = rng.uniform(size=(len(theta), 100)) < 1 / (1 + np.exp(-theta @ DESIGN.T))
    return spikes @ DESIGN


def glm_log(theta: Any, x: Any) -> Any:
    return jnp.dot(x, theta) - jnp.sum(jax.nn.softplus(jnp.asarray(DESIGN) @ theta))


# 5: a mixture of a wide and a narrow Gaussian.
def mixture(rng: Rng, theta: np.ndarray) -> np.ndarray:
    scale = np.where(rng.uniform(size=(len(theta), 1)) < 0.5, 1.0, 0.1)
    return theta + scale * rng.normal(size=theta.shape)


def mixture_log(theta: Any, x: Any) -> Any:
    return jnp.logaddexp(normal_of(theta, x, 1.0), normal_of(theta, x, 0.1)) - math.log(2)


# 6: two moons.
def two_moons(rng: Rng, theta: np.ndarray) -> np.ndarray:
    a, r = rng.uniform(-np.pi / 2, np.pi / 2, len(theta)), rng.normal(0.1, 0.01, len(theta))
    moon = np.stack([r * np.cos(a) + 0.25, r * np.sin(a)], axis=1)
    total, difference = theta[:, 0] + theta[:, 1], theta[:, 1] - theta[:, 0]
    return moon + np.stack([-np.abs(total), difference], axis=1) / np.sqrt(2)


def two_moons_log(theta: Any, x: Any) -> Any:
    total, difference = theta[0] + theta[1], theta[1] - theta[0]
    a, b = x[0] + jnp.abs(total) / math.sqrt(2) - 0.25, x[1] - difference / math.sqrt(2)
    r = jnp.hypot(a, b)
    log_p = jax.scipy.stats.norm.logpdf(r, 0.1, 0.01) - jnp.log(math.pi * r)
    return jnp.where(a > 0, log_p, -jnp.inf)


# 7 and 8: an epidemic, and predators and prey, in logarithms, by Runge and Kutta's fourth order.
def solve(slope: Callable[[Any], Any], u: Any, saved: float, step: float) -> Any:
    """The solution at 0, saved, ..., 9 saved: (10, *u.shape)."""

    def one(u: Any, _: None) -> tuple[Any, None]:
        a = slope(u)
        b = slope(u + step / 2 * a)
        c = slope(u + step / 2 * b)
        return u + step / 6 * (a + 2 * b + 2 * c + slope(u + step * c)), None

    def stretch(u: Any, _: None) -> tuple[Any, Any]:
        return jax.lax.scan(one, u, length=round(saved / step))[0], u

    return jax.lax.scan(stretch, u, length=10)[1]


def infected(theta: Any) -> Any:
    """Infected share of a million people on days 0, 17, ..., 153: (10,)."""
    beta, gamma = theta

    def slope(u: Any) -> Any:
        # Of the susceptible share, and of the logarithm of the infected share.
        return jnp.stack([-beta * jnp.exp(u[1]) * u[0], beta * u[0] - gamma])

    start = jnp.asarray([1 - 1e-6, math.log(1e-6)], theta.dtype)
    return jnp.exp(solve(slope, start, 17.0, 0.25)[:, 1])


def sir(rng: Rng, theta: np.ndarray) -> np.ndarray:
    share = np.asarray(jax.jit(jax.vmap(infected))(jnp.asarray(theta)), np.float64)
    return rng.binomial(1000, np.clip(share, 0.0, 1.0)).astype(np.float64)


def sir_log(theta: Any, x: Any) -> Any:
    share = jnp.clip(infected(theta), 1e-30, 1 - 1e-7)
    return jnp.sum(x * jnp.log(share) + (1000 - x) * jnp.log1p(-share))


def populations(theta: Any) -> Any:
    """Logarithms of prey and predators at 0, 2.1, ..., 18.9: (20,), the prey first."""
    a, b, c, d = theta

    def slope(u: Any) -> Any:
        return jnp.stack([a - b * jnp.exp(u[1]), d * jnp.exp(u[0]) - c])

    start = jnp.asarray([math.log(30.0), 0.0], theta.dtype)
    return jnp.clip(solve(slope, start, 2.1, 0.01).T.reshape(-1), math.log(1e-10), math.log(1e4))


def lotka_volterra(rng: Rng, theta: np.ndarray) -> np.ndarray:
    u = np.asarray(jax.jit(jax.vmap(populations))(jnp.asarray(theta)), np.float64)
    return np.exp(u + 0.1 * rng.normal(size=u.shape))


def lotka_volterra_log(theta: Any, x: Any) -> Any:
    return normal_of(populations(theta), jnp.log(x), 0.1)


def log_normal(loc: list[float], scale: list[float]) -> tuple[Any, Any]:
    """A prior of independent positive numbers and its draws."""
    prior = dist.LogNormal(jnp.asarray(loc), jnp.asarray(scale)).to_event(1)
    return prior, lambda rng, n: np.exp(rng.normal(loc, scale, (n, len(loc))))


def _normal_prior(scale: float, dim: int) -> tuple[Any, Any]:
    prior = dist.Normal(jnp.zeros(dim), scale).to_event(1)
    return prior, lambda rng, n: scale * rng.normal(size=(n, dim))


def _linear(theta: Any, x: Any) -> Any:
    return normal_of(theta, x, SPREAD)


TASKS = {
    "two_moons": Task(*box(-1, 1, 2), two_moons, two_moons_log),
    "slcp": Task(*box(-3, 3, 5), slcp, slcp_log),
    "bernoulli_glm": Task(GLM_PRIOR, lambda rng, n: GLM_PRIOR.rvs(n, rng), glm, glm_log),
    "gaussian_linear": Task(*_normal_prior(SPREAD, 10), gaussian, _linear),
    "gaussian_linear_uniform": Task(*box(-1, 1, 10), gaussian, _linear),
    "gaussian_mixture": Task(*box(-10, 10, 2), mixture, mixture_log),
    "sir": Task(*log_normal([math.log(0.4), math.log(0.125)], [0.5, 0.2]), sir, sir_log),
    "lotka_volterra": Task(
        *log_normal([-0.125, -3.0, -0.125, -3.0], [0.5] * 4), lotka_volterra, lotka_volterra_log
    ),
}
