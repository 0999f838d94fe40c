"""Priors of other libraries, boxes, or none: limits, log-density and draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from jaxflow.runtime.keys import numpy_rng

Draws = Float[np.ndarray, "n d"]
ALLOWED = (
    "give a box as (low, high), a distribution of NumPyro with event shape (d,), a frozen "
    "distribution of scipy or a list of them, one for each parameter, or None"
)
# NumPyro's supports that fill their limits, by the names of their classes.
FILLED = {
    *("_Real", "_RealVector", "_Interval", "_OpenInterval", "_UnitInterval", "_GreaterThan"),
    *("_GreaterThanEq", "_LessThan", "_LessThanEq", "_Positive", "_Nonnegative"),
    *("_SoftplusPositive", "_Circular"),
}
# Points at which the density of a scipy distribution is looked at for holes.
LOOKS = 4096


@dataclass(frozen=True)
class Prior:
    """A prior density of vectors.

    Attributes:
        lower: lower limits, (d,); -inf for none.
        upper: upper limits, (d,); inf for none.
        log_density: `theta (n, d) -> (n,)` in nats, -inf outside; None for a prior of which there
            are only samples.
        draw: `(key, n) -> (n, d)`; None for only samples.
        row_log_prob: log-density of one vector (d,) in jax, inside the limits; None for priors of
            scipy, which have no gradient, and for only samples.
        fills_box: whether the density is positive everywhere between the limits.
        is_uniform: whether the density is constant between the limits.
    """

    lower: Float[np.ndarray, " d"]
    upper: Float[np.ndarray, " d"]
    log_density: Callable[[Any], Any] | None = None
    draw: Callable[[PRNGKeyArray, int], Any] | None = None
    row_log_prob: Callable[[Any], Any] | None = None
    fills_box: bool = True
    is_uniform: bool = False

    def log_prob(self, theta: Any) -> Float[np.ndarray, " n"]:
        """Log-density of rows (n, d) in nats, -inf outside the support.

        Raises:
            ValueError: there are only samples of the prior.
        """
        if self.log_density is None:
            raise ValueError(f"prior=None has no density: {ALLOWED[:-9]}")
        theta = np.asarray(theta, np.float64)
        inside = self.in_box(theta)
        if not inside.any():
            return np.full(len(theta), -np.inf)
        # A density may warn or raise outside: such rows are replaced by one inside.
        safe = np.where(inside[:, None], theta, theta[inside][:1])
        value = np.asarray(self.log_density(safe), np.float64)
        return np.where(inside, value, -np.inf)

    def sample(self, key: PRNGKeyArray, num: int) -> Draws:
        """Draw rows, (num, d).

        Raises:
            ValueError: there are only samples of the prior.
        """
        if self.draw is None:
            raise ValueError(f"prior=None cannot be drawn from: {ALLOWED[:-9]}")
        return np.asarray(self.draw(key, num), np.float64)

    def gradient(self, method: str) -> Callable[[Any], Any]:
        """`row_log_prob`; raises ValueError, for the method that needs it, if there is none."""
        if self.row_log_prob is None:
            raise ValueError(
                f"{method} needs the prior's gradient: give prior as a box (low, high), or as a "
                "distribution of NumPyro in place of scipy's"
            )
        return self.row_log_prob

    def in_box(self, theta: Any) -> Bool[np.ndarray, " n"]:
        """Whether rows lie strictly between the limits."""
        theta = np.asarray(theta, np.float64)
        return np.all((theta > self.lower) & (theta < self.upper), axis=1)


def as_prior(prior: Any, dim: int) -> Prior:
    """A prior of `dim` parameters.

    ```python
    from scipy import stats
    from jaxflow.inference import as_prior

    box = as_prior(([0.0, -1.0], [1.0, 1.0]), 2)
    other = as_prior([stats.norm(0, 1), stats.gamma(2.0)], 2)
    print(other.lower, other.log_prob([[0.0, 1.0]]))
    ```

    Args:
        prior: limits `(low, high)` of a uniform density, each (d,) or a number; a distribution of
            NumPyro with event shape (d,); a frozen distribution of scipy, or a list of those, one
            for each parameter; a `Prior`; or None if there are only samples.
        dim: number of parameters.

    Returns:
        The prior.

    Raises:
        TypeError: it is none of these.
        ValueError: it is for another number of parameters, or a limit is not finite.
    """
    if isinstance(prior, Prior):
        result = prior
    elif prior is None:
        result = Prior(np.full(dim, -np.inf), np.full(dim, np.inf))
    elif hasattr(prior, "support") and hasattr(prior, "event_shape"):
        result = _numpyro(prior, dim)
    elif is_frozen(prior):
        result = _joint(prior, dim) if not hasattr(prior, "ppf") else _marginals([prior], dim)
    elif isinstance(prior, Sequence | np.ndarray) and len(prior) and is_frozen(prior[0]):
        result = _marginals(prior, dim)
    elif isinstance(prior, tuple | list) and len(prior) == 2:
        result = _box(prior[0], prior[1], dim)
    else:
        raise TypeError(f"prior={prior!r} is no prior: {ALLOWED}")
    if result.lower.shape != (dim,):
        raise ValueError(f"prior has {result.lower.size} parameters, and theta has {dim} columns")
    return result


def _box(low: Any, high: Any, dim: int) -> Prior:
    try:
        lower, upper = (
            np.broadcast_to(np.asarray(each, np.float64), (dim,)) for each in (low, high)
        )
    except ValueError:
        raise ValueError(
            f"prior=(low, high) has shapes {np.shape(low)} and {np.shape(high)}; theta has {dim} "
            "columns: give two vectors of that length"
        ) from None
    if not (np.isfinite(lower) & np.isfinite(upper) & (lower < upper)).all():
        raise ValueError(
            f"prior=({lower.tolist()}, {upper.tolist()}) must have finite limits, low below high; "
            "for a parameter without limits give a distribution of NumPyro or scipy"
        )
    constant = -np.log(upper - lower).sum()
    return Prior(
        lower,
        upper,
        lambda theta: np.full(len(theta), constant),
        lambda key, n: numpy_rng(key).uniform(lower, upper, (n, dim)),
        lambda theta: jnp.asarray(constant, theta.dtype),
        is_uniform=True,
    )


def is_frozen(prior: Any) -> bool:
    """Whether it is a distribution of scipy with fixed parameters."""
    return hasattr(prior, "logpdf") and hasattr(prior, "rvs")


def _marginals(priors: Any, dim: int) -> Prior:
    """Independent scipy distributions: one for each parameter, or one with parameters (d,)."""
    if len(priors) == 1:
        only = priors[0]
        lower, upper = (np.broadcast_to(np.asarray(e, np.float64), (dim,)) for e in only.support())
        return Prior(
            lower,
            upper,
            lambda theta: only.logpdf(theta).sum(axis=1),
            lambda key, n: only.rvs((n, dim), random_state=numpy_rng(key)),
            fills_box=not _has_hole(only),
        )
    ends = np.array([each.support() for each in priors], np.float64).reshape(len(priors), 2)
    if len(priors) != dim:
        raise ValueError(f"prior has {len(priors)} parameters, and theta has {dim} columns")

    def log_density(theta: Any) -> Any:
        each = [one.logpdf(column) for one, column in zip(priors, theta.T, strict=True)]
        return np.sum(each, axis=0)

    def draw(key: PRNGKeyArray, n: int) -> Any:
        rng = numpy_rng(key)
        return np.stack([one.rvs(n, random_state=rng) for one in priors], axis=1)

    fills = not any(map(_has_hole, priors))
    return Prior(ends[:, 0], ends[:, 1], log_density, draw, fills_box=fills)


def _has_hole(prior: Any) -> bool:
    """Whether the density is 0 at a point between quantiles, as that of a histogram can be."""
    low, high = prior.ppf(1e-4), prior.ppf(1 - 1e-4)
    share = (np.arange(LOOKS) + 0.5) / LOOKS
    points = low + (high - low) * share.reshape(-1, *(1,) * np.ndim(low))
    return bool(np.isneginf(prior.logpdf(points)).any())


def _joint(prior: Any, dim: int) -> Prior:
    """A multivariate scipy distribution, whose support scipy does not state."""

    def draw(key: PRNGKeyArray, n: int) -> Any:
        return np.asarray(prior.rvs(n, random_state=numpy_rng(key))).reshape(n, dim)

    full = type(prior).__name__ in ("multivariate_normal_frozen", "multivariate_t_frozen")
    size = np.shape(draw(jax.random.key(0), 1))[1]
    free = np.full(size, np.inf)
    return Prior(-free, free, lambda x: np.atleast_1d(prior.logpdf(x)), draw, fills_box=full)


def _numpyro(prior: Any, dim: int) -> Prior:
    if prior.event_shape != (dim,) or prior.batch_shape:
        raise ValueError(
            f"prior has event shape {prior.event_shape} and batch shape {prior.batch_shape}; "
            f"theta has {dim} columns: write prior.to_event(1) for independent parameters"
        )
    support = prior.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    lower, upper = (
        np.broadcast_to(np.asarray(getattr(support, name, limit), np.float64), (dim,))
        for name, limit in (("lower_bound", -np.inf), ("upper_bound", np.inf))
    )
    log_prob = jax.jit(jax.vmap(prior.log_prob))
    return Prior(
        lower,
        upper,
        lambda theta: log_prob(jnp.asarray(theta)),
        lambda key, n: prior.sample(key, (n,)),
        prior.log_prob,
        fills_box=type(support).__name__ in FILLED,
    )
