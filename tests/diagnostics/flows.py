"""Flows that are wrong in one named way, and right ones, all in closed form, with rows for each.

Each case is a function of the number of rows and a seed, `(flow, rows, conditions)`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm

from jaxflow import CNF, ODE, CouplingFlow, DiagonalNormal, StandardNormal
from jaxflow.bases import GaussianMixture, StudentT
from jaxflow.dynamics import Linear
from jaxflow.trace import Hutchinson
from jaxflow.transforms import Bounded, Dequantise, Standardise, Whiten

KEY = jax.random.key(0)
STEPS = ODE(solver="rk4", num_steps=20)
MATRIX = np.asarray([[0.3, 0.9], [-0.2, 0.1]])


class Stated(eqx.Module):
    """`f(t, x) = g(t) A x`, NaN where `x_0 > limit`, with `trace g(t)` as its stated trace.

    `g(t) = 1 + late` after t = 0.37, and 1 before.
    """

    matrix: jax.Array
    trace: jax.Array
    limit: jax.Array
    late: jax.Array

    def __call__(self, t, x, cond=None):
        growth = 1 + self.late * (t > 0.37).astype(x.dtype)
        return jnp.where(x[0] > self.limit, jnp.nan, growth) * (self.matrix @ x)

    def with_trace(self, t, x, cond=None):
        return self(t, x), (1 + self.late * (t > 0.37).astype(x.dtype)) * self.trace


class Wave(eqx.Module):
    """`f(t, x) = cos(3 t) A x`: from 0 to 1 the linear flow of `A sin(3) / 3`."""

    matrix: jax.Array

    def __call__(self, t, x, cond=None):
        return jnp.cos(3 * t) * (self.matrix @ x)


class Stretch(eqx.Module):
    """`u = x / scale`, whose log-determinant is stated as `share` of what it is.

    Its inverse is off by the factor `back`.
    """

    scale: jax.Array
    share: float = 1.0
    back: float = 1.0

    @property
    def event_shape(self):
        return self.scale.shape

    def forward(self, x):
        return x / self.scale, -self.share * jnp.sum(jnp.log(self.scale))

    def inverse(self, u):
        return self.back * u * self.scale, self.share * jnp.sum(jnp.log(self.scale))


class Normal(eqx.Module):
    """N(0, I) in two columns, whose log-density is `off` too high and whose samples too wide."""

    off: float = 0.0
    width: float = 1.0
    event_shape: tuple[int, ...] = eqx.field(static=True, default=(2,))

    def log_prob(self, x):
        return StandardNormal(2).log_prob(x) + self.off

    def sample(self, key):
        return self.width * StandardNormal(2).sample(key)

    def cdf(self, x):
        return StandardNormal(2).cdf(x)


def field(matrix: Any = MATRIX, *, trace=None, limit=np.inf, late=0.0):
    matrix = np.asarray(matrix, float)
    trace = np.trace(matrix) if trace is None else trace
    return Stated(*map(jnp.asarray, (matrix, float(trace), limit, late)))


def cnf(velocity=None, base=None, transform=None, ode=STEPS, **settings):
    velocity = field() if velocity is None else velocity
    base = StandardNormal(2) if base is None else base
    return CNF(velocity, base, transform=transform, ode_eval=ode, **settings)


def still(base, dim=2, **settings):
    """The flow that moves nothing."""
    return cnf(field(np.zeros((dim, dim))), base, **settings)


def normal(n, seed, dim=2):
    return np.random.default_rng(seed).normal(size=(n, dim))


def linear(n, seed, matrix=MATRIX):
    """Rows of the linear flow of `matrix`."""
    return normal(n, seed, len(matrix)) @ expm(np.asarray(matrix)).T


MODES = np.asarray([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]])


def mixture(weights, width=0.7):
    """A mixture of round Gaussians, one at each mode that has a weight."""
    weights = np.asarray(weights)
    kept = weights > 0
    factors = np.tile(width * np.eye(2), (kept.sum(), 1, 1))
    return GaussianMixture(weights[kept] / weights.sum(), MODES[kept], factors)


def modes(n, seed, weights, width=0.7):
    """Rows of that mixture."""
    rng = np.random.default_rng(seed)
    return MODES[rng.choice(3, n, p=weights)] + width * rng.normal(size=(n, 2))


def over_trained(n, seed):
    """Narrow kernels around 100 training rows, and other rows."""
    centres = normal(100, seed + 100)
    factors = np.tile(0.1 * np.eye(2), (100, 1, 1))
    return still(GaussianMixture(np.full(100, 0.01), centres, factors)), normal(n, seed), None


def conditional(n, seed, *, reverse=False):
    """`x = expm(A) z + B c`, by a linear field with a condition."""
    bound = Linear(matrix=jnp.asarray(MATRIX), cond_dim=1, key=KEY)
    flow = cnf(eqx.tree_at(lambda f: f.cond, bound, 3 * jnp.ones((1, 2))))
    cond = normal(n, seed + 1, 1)
    x = np.asarray(flow.sample(jax.random.key(seed), n, cond))
    return flow, x, cond[::-1] if reverse else cond


def ones(*values):
    return jnp.asarray(values, float)


# Each with words of the problem that must be named.
WRONG: dict[str, tuple[Any, str]] = {
    "the trace's sign": (
        lambda n, s: (cnf(field(trace=-np.trace(MATRIX))), linear(n, s), None),
        "with_trace differs",
    ),
    "no trace": (lambda n, s: (cnf(field(trace=0)), linear(n, s), None), "integrates to"),
    "half of the trace": (lambda n, s: (cnf(field(trace=0.2)), linear(n, s), None), "integrates"),
    "no log-determinant": (
        lambda n, s: (cnf(transform=Stretch(ones(2, 3), 0.0)), linear(n, s) * [2, 3], None),
        "integrates to",
    ),
    "the log-determinant's sign": (
        lambda n, s: (cnf(transform=Stretch(ones(2, 3), -1.0)), linear(n, s) * [2, 3], None),
        "integrates to",
    ),
    "the mean of log-scales for their sum": (
        lambda n, s: (cnf(transform=Stretch(ones(2, 3), 0.5)), linear(n, s) * [2, 3], None),
        "integrates to",
    ),
    "an inverse that is none": (
        lambda n, s: (cnf(transform=Stretch(ones(2, 3), 1.0, 1.1)), linear(n, s) * [2, 3], None),
        "is not inverted",
    ),
    "a base without its constant": (
        lambda n, s: (cnf(base=Normal(np.log(2 * np.pi))), linear(n, s), None),
        "integrates to",
    ),
    "samples wider than the density": (
        lambda n, s: (cnf(base=Normal(0.0, 1.4)), linear(n, s), None),
        "log-densities of rows",
    ),
    "the scale": (lambda n, s: (cnf(), 1.3 * linear(n, s), None), "not N(0, I)"),
    "the mean": (lambda n, s: (cnf(), linear(n, s) + 0.5, None), "not N(0, I)"),
    "other units": (lambda n, s: (cnf(), linear(n, s) * [1, 2.54], None), "not N(0, I)"),
    "columns swapped": (lambda n, s: (cnf(), linear(n, s)[:, ::-1], None), "not N(0, I)"),
    "no correlation": (
        lambda n, s: (
            still(DiagonalNormal(jnp.zeros(2), ones(1, 1))),
            normal(n, s) @ np.linalg.cholesky([[1.0, 0.4], [0.4, 1.0]]).T,
            None,
        ),
        "coordinates 0 and 1",
    ),
    "light tails": (
        lambda n, s: (
            still(StandardNormal(2)),
            np.random.default_rng(s).standard_t(2.0, size=(n, 2)),
            None,
        ),
        "below the log-density of every sample",
    ),
    "columns large at once": (
        lambda n, s: (
            still(StandardNormal(2)),
            normal(n, s) * np.exp(0.5 * normal(n, s + 1, 1)),
            None,
        ),
        "|z|^2",
    ),
    "an eighth missing": (
        lambda n, s: (still(mixture([0.5, 0.5, 0])), modes(n, s, [0.4375, 0.4375, 0.125]), None),
        "below the log-density of every sample",
    ),
    "a twentieth missing": (
        lambda n, s: (still(mixture([0.5, 0.5, 0])), modes(n, s, [0.475, 0.475, 0.05]), None),
        "below the log-density of every sample",
    ),
    "weights of modes": (
        lambda n, s: (still(mixture([0.4, 0.4, 0.2])), modes(n, s, [0.2, 0.6, 0.2]), None),
        "distinguishes samples from data",
    ),
    "over-trained": (over_trained, "log-densities of rows"),
    "the field ignores time": (
        lambda n, s: (cnf(), linear(n, s, MATRIX * np.sin(3) / 3), None),
        "not N(0, I)",
    ),
    "coarse steps": (
        lambda n, s: (cnf(ode=ODE(solver="euler", num_steps=3)), linear(n, s), None),
        "tighten ode_eval",
    ),
    "a jump between steps": (
        lambda n, s: (cnf(field(late=2.0)), linear(n, s, MATRIX * (1 + 2 * 0.63)), None),
        "tighten ode_eval",
    ),
    "solves that fail": (lambda n, s: (cnf(field(limit=1.0)), linear(n, s), None), "failed"),
    "few probes": (
        lambda n, s: (
            cnf(field(5 * MATRIX / 3), trace=Hutchinson(4)),
            linear(n, s, 5 * MATRIX / 3),
            None,
        ),
        "stochastic trace",
    ),
    "rows of other conditions": (
        lambda n, s: conditional(n, s, reverse=True),
        "distinguishes samples from data",
    ),
    "rows rounded": (lambda n, s: (cnf(), np.round(linear(n, s)), None), "not N(0, I)"),
    "no bound": (
        lambda n, s: (
            still(DiagonalNormal(ones(1, 1), ones(1, 1))),
            np.random.default_rng(s).exponential(size=(n, 2)),
            None,
        ),
        "not N(0, I)",
    ),
}

FACTOR = np.asarray([[2.0, 0.0], [1.5, 0.5]])
RARE = [0.57, 0.4, 0.03]
RIGHT: dict[str, Any] = {
    "linear": lambda n, s: (cnf(), linear(n, s), None),
    "still": lambda n, s: (still(StandardNormal(2)), normal(n, s), None),
    "contraction": lambda n, s: (cnf(field(-np.eye(2))), linear(n, s, -np.eye(2)), None),
    "expansion": lambda n, s: (cnf(field(np.eye(2))), linear(n, s, np.eye(2)), None),
    "rotation": lambda n, s: (cnf(field([[0, -2], [2, 0]])), normal(n, s), None),
    "shear": lambda n, s: (
        cnf(field([[0, 3], [0, 0]])),
        linear(n, s, np.asarray([[0, 3.0], [0, 0]])),
        None,
    ),
    "wave": lambda n, s: (
        cnf(Wave(jnp.asarray(MATRIX))),
        linear(n, s, MATRIX * np.sin(3) / 3),
        None,
    ),
    "stretched": lambda n, s: (
        cnf(transform=Stretch(ones(2, 3))),
        linear(n, s) * [2, 3],
        None,
    ),
    "small and large units": lambda n, s: (
        cnf(transform=Standardise(ones(0, 1e6), ones(1e-4, 1e3))),
        linear(n, s) * [1e-4, 1e3] + [0, 1e6],
        None,
    ),
    "whitened": lambda n, s: (
        cnf(transform=Whiten(ones(1, 2), jnp.asarray(FACTOR))),
        linear(n, s) @ FACTOR.T + [1, 2],
        None,
    ),
    "bounded": lambda n, s: (
        still(StandardNormal(2), transform=Bounded(ones(0, 0), ones(np.inf, np.inf))),
        np.exp(normal(n, s)),
        None,
    ),
    "diagonal base": lambda n, s: (
        still(DiagonalNormal(ones(1, -3), ones(2, 0.1))),
        normal(n, s) * [2, 0.1] + [1, -3],
        None,
    ),
    "heavy tails": lambda n, s: (
        still(StudentT(ones(3, 5))),
        np.random.default_rng(s).standard_t([3.0, 5.0], size=(n, 2)),
        None,
    ),
    "modes": lambda n, s: (
        still(mixture([0.5, 0.3, 0.2])),
        modes(n, s, [0.5, 0.3, 0.2]),
        None,
    ),
    "a rare mode": lambda n, s: (still(mixture(RARE)), modes(n, s, RARE), None),
    "one column": lambda n, s: (
        cnf(field(0.5 * np.eye(1)), StandardNormal(1)),
        linear(n, s, 0.5 * np.eye(1)),
        None,
    ),
    "three columns": lambda n, s: (
        cnf(field(np.diag([0.5, 0, -0.5])), StandardNormal(3)),
        linear(n, s, np.diag([0.5, 0, -0.5])),
        None,
    ),
    "five columns": lambda n, s: (still(StandardNormal(5), 5), normal(n, s, 5), None),
    "integers": lambda n, s: (
        still(DiagonalNormal(ones(0, 0), ones(2, 2)), transform=Dequantise(jnp.ones(2))),
        np.round(2 * normal(n, s)),
        None,
    ),
    "adaptive steps": lambda n, s: (cnf(ode=ODE()), linear(n, s), None),
    "float32": lambda n, s: (
        jax.tree.map(
            lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, cnf()
        ),
        linear(n, s).astype(np.float32),
        None,
    ),
    "conditions": conditional,
    "coupling": lambda n, s: (CouplingFlow(2, width=4, num_layers=2, key=KEY), normal(n, s), None),
}
