"""Hutchinson's stochastic estimate of the trace."""

import math
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.trace.products import inner, products

Law = Literal["rademacher", "gaussian", "orthogonal"]

# Probes that measure the variance of one.
PILOT_PROBES = 8


class Hutchinson(eqx.Module):
    """Use Hutchinson's estimate, with probes drawn once a solve and held fixed through it.

    With `S = J + J^T` and `A = S / 2`, k probes of an integrated Jacobian J of size d have the
    variance

    ```
    rademacher    sum_{i<j} S_ij^2 / k                                    entries +1 and -1
    gaussian      ||S||_F^2 / 2k
    orthogonal    2d/(d+2) (||A||_F^2 - tr(A)^2/d) / k  (d-k)/(d-1)       0 at k = d
    ```
    See `docs/traces.md`.

    Attributes:
        num_probes: probes, averaged; with two or more a log-density has a standard error.
        law: of the probes. `"orthogonal"`: a random orthonormal block times `sqrt(d)`.
        target_se: standard error wanted for a log-density, in nats. Evaluation chooses the
            number of probes for it, in the root mean square over rows, from a pilot solve with
            a few of them; training takes `num_probes`.

    Raises:
        ValueError: a setting out of range.
    """

    num_probes: int = eqx.field(static=True, default=1)
    law: Law = eqx.field(static=True, default="rademacher")
    target_se: float | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_count("num_probes", self.num_probes)
        if self.law not in get_args(Law):
            raise ValueError(f"law={self.law!r} is unknown; choose one of {get_args(Law)}")
        if self.target_se is not None and not 0 < self.target_se < float("inf"):
            raise ValueError(f"target_se={self.target_se} must be a positive number of nats")

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        """Probes for one event of this shape, (num_probes, *event).

        Raises:
            ValueError: more orthogonal probes than the event has entries.
        """
        return draw_probes(key, self.num_probes, shape, dtype, self.law)

    def estimate(
        self, divergences: Float[Array, " k"], probes: Float[Array, "k ..."], span: Any
    ) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
        """The integral of the trace and its standard error, from one integral a probe.

        One probe has no standard error: None. Orthogonal probes are draws without replacement,
        whence the factor `1 - k/d`.
        """
        return jnp.mean(divergences), standard_error(divergences, self._population(probes[0].size))

    def pilot(self) -> "Hutchinson":
        """The settings of a pilot solve, for events of more than `PILOT_PROBES` entries."""
        return Hutchinson(PILOT_PROBES, self.law)

    def number_for(self, squared_error: float, size: int) -> int:
        """Probes for `target_se`, a power of two, from a pilot's mean squared standard error."""
        assert self.target_se is not None
        population = self._population(size)
        left = 0.0 if population is None else 1.0 / population
        # Of k probes the squared error is v (1/k - left).
        variance = squared_error / (1.0 / PILOT_PROBES - left)
        wanted = 1.0 / (self.target_se**2 / variance + left) if variance > 0 else 1.0
        return 2 ** max(0, math.ceil(math.log2(wanted) - 1e-9))

    def _population(self, size: int) -> int | None:
        return size if self.law == "orthogonal" else None


def hutchinson_trace(
    field: Any,
    t: Float[Array, ""],
    x: Float[Array, "*event"],
    probes: Float[Array, "..."],
    cond: Array | None = None,
) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
    """`f(t, x)` and an unbiased estimate of `tr(df/dx)` at one point, from one pass.

    ```
    tr(A) = E[v^T A v]    for any v with E[v v^T] = I
    ```
    A probe costs one Jacobian-vector product by `jax.jvp`, so O(d) work where the exact trace
    takes d of them.

    Args:
        field: the field.
        t: time.
        x: one event of any shape.
        probes: one probe (*event), or k of them (k, *event), which are averaged.
        cond: condition of the event.

    Raises:
        ValueError: the probes do not have the event's shape.

    Hutchinson (1989), "A stochastic estimator of the trace of the influence matrix";
    Grathwohl et al. (2019), "FFJORD", arXiv 1810.01367.
    """
    f, each = probe_traces(field, t, x, probes, cond)
    return f, jnp.mean(each)


def probe_traces(
    field: Any,
    t: Float[Array, ""],
    x: Float[Array, "*event"],
    probes: Float[Array, "..."],
    cond: Array | None = None,
) -> tuple[Float[Array, "*event"], Float[Array, " k"]]:
    """`f(t, x)` and `v^T (df/dx) v` for each probe; arguments as for `hutchinson_trace`."""
    if probes.shape == x.shape:
        probes = probes[None]
    if probes.shape[1:] != x.shape or probes.shape[0] == 0:
        raise ValueError(
            f"probes have shape {probes.shape}; for an event of shape {x.shape} give {x.shape} "
            f"or {('k', *x.shape)}"
        )
    f, jv = products(field, t, x, probes, cond)
    return f, inner(probes, jv)


def draw_probes(
    key: PRNGKeyArray, count: int, shape: tuple[int, ...], dtype: Any, law: Law
) -> Array:
    """`count` probes (count, *shape) with `E[v v^T] = I`."""
    if law == "rademacher":
        return jax.random.rademacher(key, (count, *shape), dtype)
    if law == "gaussian":
        return jax.random.normal(key, (count, *shape), dtype)
    size = math.prod(shape)
    if count > size:
        raise ValueError(
            f"num_probes={count} orthogonal probes do not fit into events of shape {shape}, so "
            f"{size} entries: at num_probes={size} they are exact already; write trace='exact'"
        )
    normal = jax.random.normal(key, (size, count), accumulation_dtype(dtype))
    block = size**0.5 * jnp.linalg.qr(normal)[0].T
    return block.reshape(count, *shape).astype(dtype)


def standard_error(
    values: Float[Array, " k"], population: int | None = None
) -> Float[Array, ""] | None:
    """Standard error of the mean of exchangeable values; None for a single one.

    Args:
        values: k estimates.
        population: number of values there are to draw from, without replacement.
    """
    (count,) = values.shape
    if count == 1:
        # The one orthogonal direction of one entry is the whole population.
        return jnp.zeros((), values.dtype) if population == 1 else None
    rest = 1.0 if population is None else 1.0 - count / population
    return (rest / count) ** 0.5 * jnp.std(values, ddof=1)


def check_count(name: str, value: Any) -> None:
    """A number of probes.

    Raises:
        ValueError: it is not a whole number of at least 1.
    """
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be at least 1, a whole number")
