"""Probability paths: how a point of the base becomes a point of the data, and how fast.

A path is a function of time that gives two or three coefficients, `(alpha, sigma)` or
`(alpha, sigma, gamma)`. With base `x_0` at `t = 0`, data `x_1` at `t = 1` and `e ~ N(0, I)`

    x_t = alpha(t) x_1 + sigma(t) x_0 + gamma(t) e
    u_t = alpha'(t) x_1 + sigma'(t) x_0 + gamma'(t) e

Papers: Lipman et al. 2023, "Flow Matching for Generative Modeling" (arXiv 2210.02747); Liu et al.
2022, "Flow Straight and Fast" (arXiv 2209.03003); Albergo and Vanden-Eijnden 2022, "Building
Normalizing Flows with Stochastic Interpolants" (arXiv 2209.15571).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.bases import StandardNormal

Coefficients = tuple[Any, ...]
Schedule = Callable[[Float[Array, ""]], Any]

# By how much a path's ends may miss base and data, as a share of their scale.
END_TOLERANCE = 0.1


@final
@dataclass(frozen=True)
class Linear:
    """`x_t = t x_1 + (1 - (1 - sigma_min) t) x_0`: straight lines at constant speed.

    Rectified flow, and the conditional optimal transport of Lipman et al. 2023.

    Attributes:
        sigma_min: what is left of the base at `t = 1`, a blur of the data; 0 for none.

    Raises:
        ValueError: `sigma_min` out of range.
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min <= END_TOLERANCE:
            raise ValueError(
                f"sigma_min={self.sigma_min} must lie in [0, {END_TOLERANCE}]: it blurs the data"
            )

    def __call__(self, t: Float[Array, ""]) -> Coefficients:
        """`(alpha, sigma)` at `t`."""
        return t, 1 - (1 - self.sigma_min) * t


@final
@dataclass(frozen=True)
class Trigonometric:
    """`x_t = sin(pi t / 2) x_1 + cos(pi t / 2) x_0` (Albergo and Vanden-Eijnden 2022).

    It keeps the variance where base and data have the same.
    """

    def __call__(self, t: Float[Array, ""]) -> Coefficients:
        """`(alpha, sigma)` at `t`."""
        return jnp.sin(0.5 * jnp.pi * t), jnp.cos(0.5 * jnp.pi * t)


@final
@dataclass(frozen=True)
class VariancePreserving:
    """The path of variance-preserving diffusion, counted from noise to data.

    With `s = 1 - t`, `alpha = exp(-s^2 (beta_max - beta_min) / 4 - s beta_min / 2)` and
    `sigma = sqrt(1 - alpha^2)` (Song et al. 2021, "Score-Based Generative Modeling through
    Stochastic Differential Equations", arXiv 2011.13456). The base is a standard normal.

    Attributes:
        beta_min: rate of noise at the data.
        beta_max: rate of noise at the base.

    Raises:
        ValueError: rates that are not `0 < beta_min <= beta_max`.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_min={self.beta_min}, beta_max={self.beta_max} must be positive and in order"
            )

    def __call__(self, t: Float[Array, ""]) -> Coefficients:
        """`(alpha, sigma)` at `t`."""
        log_alpha = log_alpha_of_betas(1 - t, self.beta_min, self.beta_max)
        return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))

    def check_base(self, base: Any) -> None:
        """Refuse a base that is not a standard normal.

        Raises:
            ValueError: another base.
        """
        if not isinstance(base, StandardNormal):
            raise ValueError(
                f"a variance preserving path ends in N(0, I), and base={base!r} is another "
                f"density: write base=jaxflow.StandardNormal({tuple(base.event_shape)}), or "
                "path=Linear()"
            )


@final
@dataclass(frozen=True)
class SchroedingerBridge:
    """`x_t = t x_1 + (1 - t) x_0 + noise sqrt(t (1 - t)) e`: a Brownian bridge for each pair.

    Coupled by `Sinkhorn(2 * noise**2, relative=False)` its marginals are those of the
    Schroedinger bridge (Tong et al. 2023, "Improving and Generalizing Flow-Based Generative
    Models with Minibatch Optimal Transport", arXiv 2302.00482).

    Attributes:
        noise: standard deviation of the bridge at `t = 1/2`, times two.

    Raises:
        ValueError: `noise` is not positive.
    """

    noise: float = 0.1

    def __post_init__(self) -> None:
        if not self.noise > 0:
            raise ValueError(f"noise={self.noise} must be positive; without noise write Linear()")

    def __call__(self, t: Float[Array, ""]) -> Coefficients:
        """`(alpha, sigma, gamma)` at `t`."""
        return t, 1 - t, self.noise * jnp.sqrt(t * (1 - t))


@final
@dataclass(frozen=True)
class Path:
    """`x_t = alpha(t) x_1 + sigma(t) x_0`, by functions of your own.

    ```python
    Path(alpha=lambda t: t**2, sigma=lambda t: 1 - t**2)
    ```

    Attributes:
        alpha: the data's share, from 0 at `t = 0` to 1 at `t = 1`; a function jax can
            differentiate.
        sigma: the base's share, from 1 to 0.
    """

    alpha: Schedule
    sigma: Schedule

    def __call__(self, t: Float[Array, ""]) -> Coefficients:
        """`(alpha, sigma)` at `t`."""
        return self.alpha(t), self.sigma(t)


def log_alpha_of_betas(s: Float[Array, ""], beta_min: float, beta_max: float) -> Array:
    """`log alpha` at the diffusion's time `s`, for a rate of noise that is linear in `s`."""
    return -0.25 * s**2 * (beta_max - beta_min) - 0.5 * s * beta_min


def interpolate(
    path: Callable[..., Coefficients],
    t: Float[Array, ""],
    x0: Float[Array, "*event"],
    x1: Float[Array, "*event"],
    noise: Float[Array, "*event"],
) -> tuple[Float[Array, "*event"], Float[Array, "*event"]]:
    """The point `x_t` between a base and a data point, and its velocity `dx_t/dt`.

    Args:
        path: `t -> (alpha, sigma)` or `(alpha, sigma, gamma)`.
        t: moment.
        x0: base point.
        x1: data point.
        noise: `e` above; of no effect where the path has no `gamma`.
    """

    def coefficients(t: Array) -> Coefficients:
        return tuple(jnp.asarray(value, t.dtype) for value in path(t))

    values, slopes = jax.jvp(coefficients, (t,), (jnp.ones_like(t),))
    parts = (x1, x0, noise)[: len(values)]

    def combine(factors: Coefficients) -> Array:
        return sum((c * part for c, part in zip(factors, parts, strict=True)), jnp.zeros_like(x1))

    return combine(values), combine(slopes)


def check_path(path: Any) -> None:
    """Refuse a path that does not lead from the base to the data.

    Raises:
        TypeError: not a function of time that gives two or three coefficients.
        ValueError: its ends are not the base and the data.
    """
    advice = "write e.g. Path(alpha=lambda t: t, sigma=lambda t: 1 - t)"
    if not callable(path) or isinstance(path, type):
        raise TypeError(f"path={path!r} must be a function of time: {advice}")
    if isinstance(path, Linear):
        # Its ends are right. Importing the library makes one, and must not start jax's devices,
        # which a program may still choose.
        return
    for t, wanted in ((0.0, (0.0, 1.0, 0.0)), (1.0, (1.0, 0.0, 0.0))):
        with jax.ensure_compile_time_eval():
            values = path(jnp.asarray(t))
        if not isinstance(values, tuple) or len(values) not in (2, 3):
            raise TypeError(f"path={path!r} gives {values!r} for alpha and sigma: {advice}")
        found = np.asarray([float(value) for value in values])
        # NaN compares false.
        if not np.all(np.abs(found - wanted[: len(found)]) <= END_TOLERANCE):
            names = ", ".join(
                f"{name}({t:g})={value:.3g}"
                for name, value in zip(("alpha", "sigma", "gamma"), found, strict=False)
            )
            raise ValueError(
                f"path={path!r} has {names}, where {wanted[: len(found)]} belong: "
                f"the base is at t = 0 and the data at t = 1; {advice}"
            )


def check_path_base(path: Any, base: Any) -> None:
    """Refuse a base that the path cannot start from, by the path's own `check_base`.

    Raises:
        ValueError: the path demands another base.
    """
    check = getattr(path, "check_base", None)
    if callable(check):
        check(base)
