"""Problems whose ends are known, for work against precision.

One of each class of DETEST (Hull, Enright, Fellen and Sedgwick 1972, "Comparing numerical methods
for ordinary differential equations"), and the flow of eight Gaussians to their base with the
log-density along. The truth is a closed form, but for E2: a reference at 3e-14 by SciPy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import ellipj

from jaxflow.data.toys import EightGaussians

# Set before anything is computed: errors of 1e-10 need it.
jax.config.update("jax_enable_x64", True)


@dataclass(frozen=True)
class Problem:
    """A field, where it starts, and how far an end is from the truth."""

    f: Callable[[Any, Any], Any]
    y0: Any
    t0: float
    t1: float
    error: Callable[[Any], float]


def ends_at(truth: Any) -> Callable[[Any], float]:
    """The largest error of an entry."""
    return lambda y1: float(np.max(np.abs(np.asarray(y1) - truth)))


def growth(t, y):
    return y * jnp.cos(t)


def rigid_body(t, y):
    return jnp.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]])


def diffusion(t, y):
    inner = jnp.pad(y, 1)
    return inner[:-2] - 2 * y + inner[2:]


def diffusion_from_the_edge(size: int, t: float) -> np.ndarray:
    """Its end from the first unit vector, by eigenvectors."""
    matrix = np.eye(size, k=1) + np.eye(size, k=-1) - 2 * np.eye(size)
    rates, modes = np.linalg.eigh(matrix)
    return modes @ (np.exp(rates * t) * modes[0])


def orbit(t, y):
    cube = (y[0] ** 2 + y[1] ** 2) ** 1.5
    return jnp.stack([y[2], y[3], -y[0] / cube, -y[1] / cube])


def kepler(e: float, t: float) -> np.ndarray:
    """Place and velocity at time `t` after the nearest point, of eccentricity `e`."""
    anomaly = t
    for _ in range(50):
        anomaly -= (anomaly - e * np.sin(anomaly) - t) / (1 - e * np.cos(anomaly))
    c, s, b = np.cos(anomaly), np.sin(anomaly), np.sqrt(1 - e**2)
    return np.asarray([c - e, b * s, -s / (1 - e * c), b * c / (1 - e * c)])


def van_der_pol(t, y):
    return jnp.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]])


def reference(f: Any, y0: np.ndarray, t1: float) -> np.ndarray:
    """The end by another implementation, DOP853 of SciPy, at the tightest that it allows."""
    field = jax.jit(f)
    return solve_ivp(field, (0.0, t1), y0, method="DOP853", rtol=3e-14, atol=1e-15).y[:, -1]


TOY = EightGaussians()


def mixture_flow(t, state):
    """The flow of straight paths from `N(0, I)` to the mixture, exactly, and its divergence.

    Given the centre `c_k`, `x` is `N(t c_k, v I)` with `v = (1 - t)^2 + t^2 std^2`, and moves by
    `u_k = c_k + v' / (2 v) (x - t c_k)`. The field is the mean of `u_k` over what `x` tells of k.
    """
    x, _ = state
    v = (1 - t) ** 2 + t**2 * TOY.std**2
    rate = (t * TOY.std**2 - (1 - t)) / v
    offset = x[:, None, :] - t * TOY.centres
    weight = jax.nn.softmax(-jnp.sum(offset**2, axis=-1) / (2 * v), axis=-1)[..., None]
    u = TOY.centres + rate * offset
    dx = jnp.sum(weight * u, axis=1)
    slope = -offset / v
    mean_slope = jnp.sum(weight * slope, axis=1)
    spread = jnp.sum(weight * slope * u, axis=(1, 2)) - jnp.sum(mean_slope * dx, axis=1)
    return dx, 2 * rate + spread


def score_error(x: np.ndarray) -> Callable[[Any], float]:
    """The largest error of log p over the rows that started as data at `x`."""
    truth = TOY.log_prob(x)

    def error(end: Any) -> float:
        z, change = (np.asarray(leaf) for leaf in end)
        base = -0.5 * np.sum(z**2, axis=1) - np.log(2 * np.pi)
        return float(np.max(np.abs(base + change - truth)))

    return error


ROWS = TOY.sample(100, seed=0).astype(np.float64)
PROBLEMS = {
    "A3, growth": Problem(growth, np.ones(1), 0.0, 20.0, ends_at(np.exp(np.sin(20.0)))),
    "B5, rigid body": Problem(
        rigid_body, np.asarray([0.0, 1.0, 1.0]), 0.0, 20.0, ends_at(ellipj(20.0, 0.51)[:3])
    ),
    "C4, diffusion": Problem(
        diffusion, np.eye(51)[0], 0.0, 20.0, ends_at(diffusion_from_the_edge(51, 20.0))
    ),
    "D5, orbit": Problem(
        orbit, np.asarray([0.1, 0.0, 0.0, 19**0.5]), 0.0, 20.0, ends_at(kepler(0.9, 20.0))
    ),
    "E2, van der Pol": Problem(
        van_der_pol,
        np.asarray([2.0, 0.0]),
        0.0,
        20.0,
        ends_at(reference(van_der_pol, np.asarray([2.0, 0.0]), 20.0)),
    ),
    "flow (x, log p)": Problem(
        mixture_flow, (ROWS, np.zeros(len(ROWS))), 1.0, 0.0, score_error(ROWS)
    ),
}
