"""Probability paths from base to data: the points in between, and their velocities.

A path is a function of time that returns two or three coefficients, `(alpha, sigma)` or
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
from jaxtyping import Array

from jaxflow.bases import StandardNormal
from jaxflow.runtime.shapes import Event, Scalar

Coefficients = tuple[Any, ...]
TimeFunction = Callable[[Scalar], Any]

# Largest deviation of a path's ends from base and data, relative to their scale.
END_TOLERANCE = 0.1


@final
@dataclass(frozen=True)
class Linear:
    """`x_t = t x_1 + (1 - (1 - sigma_min) t) x_0`: straight lines at constant speed.

    Rectified flow (Liu et al. 2022), and the optimal transport path of Lipman et al. 2023, eq. 20.

    ```python
    from jaxflow.density.paths import Linear
    from jaxflow.objectives import FlowMatching

    objective = FlowMatching(path=Linear(sigma_min=1e-3))
    ```

    Attributes:
        sigma_min: share of the base that remains at `t = 1` and blurs the data, from 0 (no
            blur) to 0.1.

    Raises:
        ValueError: `sigma_min` is out of range.
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min <= END_TOLERANCE:
            raise ValueError(
                f"sigma_min={self.sigma_min} must lie in [0, {END_TOLERANCE}]: it blurs the data"
            )

    def __call__(self, t: Scalar) -> Coefficients:
        """`(alpha, sigma)` at `t`."""
        return t, 1 - (1 - self.sigma_min) * t


@final
@dataclass(frozen=True)
class Trigonometric:
    """`x_t = sin(pi t / 2) x_1 + cos(pi t / 2) x_0` (Albergo and Vanden-Eijnden 2022).

    The variance is constant in time if base and data have the same variance.

    ```python
    from jaxflow.density.paths import Trigonometric
    from jaxflow.objectives import FlowMatching

    objective = FlowMatching(path=Trigonometric())
    ```
    """

    def __call__(self, t: Scalar) -> Coefficients:
        """`(alpha, sigma)` at `t`."""
        return jnp.sin(0.5 * jnp.pi * t), jnp.cos(0.5 * jnp.pi * t)


@final
@dataclass(frozen=True)
class VariancePreserving:
    """The path of variance-preserving diffusion, in the direction from noise to data.

    With `s = 1 - t`, `alpha = exp(-s^2 (beta_max - beta_min) / 4 - s beta_min / 2)` and
    `sigma = sqrt(1 - alpha^2)` (Song et al. 2021, "Score-Based Generative Modeling through
    Stochastic Differential Equations", arXiv 2011.13456, eq. 33). The base must be a standard
    normal.

    ```python
    from jaxflow.density.paths import VariancePreserving
    from jaxflow.objectives import FlowMatching

    objective = FlowMatching(path=VariancePreserving(beta_max=15.0))
    ```

    Attributes:
        beta_min: noise rate at the data, `t = 1`.
        beta_max: noise rate at the base, `t = 0`.

    Raises:
        ValueError: not `0 < beta_min <= beta_max`.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_min={self.beta_min}, beta_max={self.beta_max} must satisfy "
                "0 < beta_min <= beta_max"
            )

    def __call__(self, t: Scalar) -> Coefficients:
        """`(alpha, sigma)` at `t`."""
        log_alpha = log_alpha_of_betas(1 - t, self.beta_min, self.beta_max)
        return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))

    def check_base(self, base: Any) -> None:
        """Raise unless `base` is a standard normal.

        Raises:
            ValueError: names the base to use instead.
        """
        if not isinstance(base, StandardNormal):
            raise ValueError(
                f"base={base!r} must be a standard normal for a variance-preserving path: write "
                f"base=jaxflow.StandardNormal({tuple(base.event_shape)}), or path=Linear()"
            )


@final
@dataclass(frozen=True)
class SchroedingerBridge:
    """`x_t = t x_1 + (1 - t) x_0 + noise sqrt(t (1 - t)) e`: a Brownian bridge for each pair.

    With the coupling `Sinkhorn(2 * noise**2, relative=False)` its marginals are those of the
    Schroedinger bridge (Tong et al. 2023, "Improving and Generalizing Flow-Based Generative
    Models with Minibatch Optimal Transport", arXiv 2302.00482).

    ```python
    from jaxflow.density.paths import SchroedingerBridge
    from jaxflow.objectives import FlowMatching, Sinkhorn

    path = SchroedingerBridge(noise=0.5)
    coupling = Sinkhorn(2 * path.noise**2, relative=False)
    objective = FlowMatching(path=path, coupling=coupling)
    ```

    Attributes:
        noise: twice the standard deviation of the bridge at `t = 1/2`, positive.

    Raises:
        ValueError: `noise` is not positive.
    """

    noise: float = 0.1

    def __post_init__(self) -> None:
        if not self.noise > 0:
            raise ValueError(f"noise={self.noise} must be positive; without noise write Linear()")

    def __call__(self, t: Scalar) -> Coefficients:
        """`(alpha, sigma, gamma)` at `t`."""
        return t, 1 - t, self.noise * jnp.sqrt(t * (1 - t))


@final
@dataclass(frozen=True)
class Path:
    """`x_t = alpha(t) x_1 + sigma(t) x_0`, from two functions of time.

    ```python
    from jaxflow.density.paths import Path
    from jaxflow.objectives import FlowMatching

    path = Path(alpha=lambda t: t**2, sigma=lambda t: 1 - t**2)
    objective = FlowMatching(path=path)
    ```

    Attributes:
        alpha: share of the data, from 0 at `t = 0` to 1 at `t = 1`; differentiable by jax.
        sigma: share of the base, from 1 to 0; differentiable by jax.
    """

    alpha: TimeFunction
    sigma: TimeFunction

    def __call__(self, t: Scalar) -> Coefficients:
        """`(alpha, sigma)` at `t`."""
        return self.alpha(t), self.sigma(t)


def log_alpha_of_betas(s: Scalar, beta_min: float, beta_max: float) -> Array:
    """`log alpha` at the diffusion time `s`, for a noise rate that is linear in `s`."""
    return -0.25 * s**2 * (beta_max - beta_min) - 0.5 * s * beta_min


def interpolate(
    path: Callable[..., Coefficients], t: Scalar, x0: Event, x1: Event, noise: Event
) -> tuple[Event, Event]:
    """The point `x_t` between a base point and a data point, and its velocity `u_t = dx_t/dt`.

    ```python
    import jax.numpy as jnp
    from jaxflow.density.paths import Linear, interpolate

    x0, x1 = jnp.zeros(2), jnp.ones(2)
    x, u = interpolate(Linear(), jnp.asarray(0.25), x0, x1, noise=jnp.zeros(2))
    print(x, u)  # [0.25 0.25] [1. 1.]
    ```

    Args:
        path: `t -> (alpha, sigma)` or `t -> (alpha, sigma, gamma)`, differentiable by jax.
        t: time, in [0, 1].
        x0: base point, (*event).
        x1: data point, (*event).
        noise: `e ~ N(0, I)`, (*event); unused by a path without `gamma`.

    Returns:
        `x_t` and `u_t`, (*event).
    """

    def coefficients(t: Array) -> Coefficients:
        return tuple(jnp.asarray(value, t.dtype) for value in path(t))

    values, slopes = jax.jvp(coefficients, (t,), (jnp.ones_like(t),))
    parts = (x1, x0, noise)[: len(values)]

    def combine(factors: Coefficients) -> Array:
        return sum((c * part for c, part in zip(factors, parts, strict=True)), jnp.zeros_like(x1))

    return combine(values), combine(slopes)


def check_path(path: Any) -> None:
    """Raise unless `path` is a function of time that leads from the base to the data."""
    advice = "write e.g. Path(alpha=lambda t: t, sigma=lambda t: 1 - t)"
    if not callable(path) or isinstance(path, type):
        raise TypeError(f"path={path!r} must be a function of time: {advice}")
    if isinstance(path, Linear):
        # Correct by construction. `import jaxflow` makes one, and evaluating it would initialise
        # jax's devices before the program can choose them.
        return
    for t, ends in ((0.0, (0.0, 1.0, 0.0)), (1.0, (1.0, 0.0, 0.0))):
        with jax.ensure_compile_time_eval():
            values = path(jnp.asarray(t))
        if not isinstance(values, tuple) or len(values) not in (2, 3):
            raise TypeError(
                f"path={path!r} returns {values!r}; it must return (alpha, sigma) or "
                f"(alpha, sigma, gamma): {advice}"
            )
        actual, expected = np.asarray([float(value) for value in values]), ends[: len(values)]
        # `not <=`, since NaN compares false.
        if not np.all(np.abs(actual - expected) <= END_TOLERANCE):
            names = ", ".join(
                f"{name}({t:g})={value:.3g}"
                for name, value in zip(("alpha", "sigma", "gamma"), actual, strict=False)
            )
            raise ValueError(
                f"path={path!r} has {names}; expected {expected}, since the base is at t = 0 and "
                f"the data at t = 1: {advice}"
            )


def check_path_base(path: Any, base: Any) -> None:
    """Raise if the path has a method `check_base` that rejects `base`."""
    check = getattr(path, "check_base", None)
    if callable(check):
        check(base)
