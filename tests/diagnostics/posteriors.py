"""Simulators with known posteriors, and posteriors that are wrong in one named way.

Each posterior has the interface of a conditional flow, `sample(key, shape, cond)` and
`log_prob(theta, cond)`, without training.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxflow.runtime.keys import numpy_rng

ROOT = np.sqrt(2)
# The observation of the local tests, of either simulator.
OBSERVED = {"gaussian": np.asarray([0.7, 0.7]), "moons": np.asarray([0.0, 0.0])}


def simulate(model: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of parameters from the prior, and data."""
    rng = np.random.default_rng(seed)
    if model == "gaussian":
        theta = rng.normal(size=(n, 2))
        return theta, theta + rng.normal(size=(n, 2))
    theta = rng.uniform(-1, 1, (n, 2))
    return theta, crescent(rng, n) + np.stack(
        [0.25 - abs(theta[:, 0] + theta[:, 1]) / ROOT, (theta[:, 1] - theta[:, 0]) / ROOT], 1
    )


def crescent(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Points of one moon."""
    angle, radius = rng.uniform(-np.pi / 2, np.pi / 2, shape), rng.normal(0.1, 0.01, shape)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)


def host(cond: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(cond, float), (*shape, np.shape(cond)[-1]))


class Gaussian(NamedTuple):
    """`N(m, s^2)` with `m = share x + shift sign(x_0) s`, `log s = log sqrt(1/2) + wide + turn`.

    The posterior of the prior N(0, I) and x = theta + N(0, I) has the share 1/2 and else 0. The
    turn has the sign of `x_0`.
    """

    share: float = 0.5
    shift: float = 0.0
    wide: float = 0.0
    turn: float = 0.0
    shift_turn: float = 0.0

    def moments(self, x):
        sign = np.sign(x[..., :1])
        scale = np.exp(self.wide + self.turn * sign) / ROOT
        return self.share * x + (self.shift + self.shift_turn * sign) * scale, scale

    def sample(self, key, shape, cond):
        mean, scale = self.moments(host(cond, shape))
        return mean + scale * numpy_rng(key).normal(size=mean.shape)

    def log_prob(self, theta, cond):
        mean, scale = self.moments(np.asarray(cond))
        z = (np.asarray(theta) - mean) / scale
        return -0.5 * np.sum(z**2 + np.log(2 * np.pi), -1) - 2 * np.log(scale[..., 0])


class Moons(NamedTuple):
    """The posterior of two moons; wrong at data within `radius` of the observation.

    There it is blurred by noise of standard deviation `blur`, or has one moon only. Its
    log-densities are right up to a constant for each x.
    """

    radius: float = 0.0
    blur: float = 0.0
    one: bool = False

    def near(self, x):
        return np.linalg.norm(x - OBSERVED["moons"], axis=-1) < self.radius

    def sample(self, key, shape, cond):
        rng = numpy_rng(key)
        x = host(cond, shape).reshape(-1, 2)
        theta, wrong = np.full_like(x, np.nan), self.near(x)
        todo = np.arange(len(x))
        while len(todo):
            p = crescent(rng, len(todo))
            s = p[:, 0] + 0.25 - x[todo, 0]
            inside = s >= 0
            side = np.where(self.one & wrong[todo], 1, rng.choice([-1, 1], len(todo)))
            s, t = side * s, x[todo, 1] - p[:, 1]
            drawn = np.stack([s - t, s + t], 1) / ROOT
            inside &= (abs(drawn) <= 1).all(1)
            theta[todo[inside]], todo = drawn[inside], todo[~inside]
        if self.blur:
            theta = theta + self.blur * wrong[:, None] * rng.normal(size=theta.shape)
        return theta.reshape(*shape, 2)

    def centres(self, x):
        """Points of both moons at each x, (n, 80, 2), and whether they lie inside the prior."""
        angle = np.pi * ((np.arange(40) + 0.5) / 40 - 0.5)
        s = 0.1 * np.cos(angle) + 0.25 - x[:, :1]
        t = x[:, 1:] - 0.1 * np.sin(angle)
        s, t = np.concatenate([s, -s], 1), np.concatenate([t, t], 1)
        at = np.stack([s - t, s + t], -1) / ROOT
        first = np.arange(80) < 40
        return at, (abs(at) <= 1).all(-1) & (np.where(first, s, -s) >= 0)

    def log_prob(self, theta, cond):
        theta, x = np.asarray(theta, float).reshape(-1, 2), np.asarray(cond, float).reshape(-1, 2)
        s, t = (theta[:, 0] + theta[:, 1]) / ROOT, (theta[:, 1] - theta[:, 0]) / ROOT
        p = x + np.stack([abs(s) - 0.25, -t], 1)
        radius = np.hypot(*p.T)
        with np.errstate(divide="ignore"):
            log_p = -0.5 * ((radius - 0.1) / 0.01) ** 2 - np.log(radius)
        possible = (p[:, 0] > 0) & (abs(theta) <= 1).all(1)
        log_p = np.where(possible, log_p, -np.inf)
        wrong = self.near(x)
        if self.one:
            log_p[wrong & (s < 0)] = -np.inf
        if self.blur and wrong.any():
            at, known = self.centres(x[wrong])
            squares = ((theta[wrong, None] - at) ** 2).sum(-1) / (self.blur**2 + 0.01**2)
            log_p[wrong] = np.logaddexp.reduce(np.where(known, -squares / 2, -np.inf), 1)
        return log_p.reshape(np.shape(cond)[:-1])


class Case(NamedTuple):
    model: str
    posterior: Any
    # A word of the sentences that must name it; empty for the right ones.
    word: str = ""


FAR = 9.0
RIGHT = {
    "gaussian": Case("gaussian", Gaussian()),
    "two moons": Case("moons", Moons()),
}
# Found by the global checks.
WRONG = {
    "too wide": Case("gaussian", Gaussian(wide=0.25), "too wide"),
    "too narrow": Case("gaussian", Gaussian(wide=-0.25), "too narrow"),
    "shifted": Case("gaussian", Gaussian(shift=0.3), "too high"),
    "the prior": Case("gaussian", Gaussian(share=0.0, wide=np.log(ROOT)), "too wide"),
    "a moon missing": Case("moons", Moons(FAR, one=True), "too"),
    "moons blurred": Case("moons", Moons(FAR, blur=0.05), "too wide"),
}
# Wrong in ways that cancel over data, or near the observation only.
LOCAL = {
    "wide here, narrow there": Case("gaussian", Gaussian(turn=0.3)),
    "shifted this way and that": Case("gaussian", Gaussian(shift_turn=0.4)),
    "blurred near the observation": Case("moons", Moons(0.25, blur=0.05)),
    "a moon missing near it": Case("moons", Moons(0.15, one=True)),
}
