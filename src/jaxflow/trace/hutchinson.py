"""Hutchinson's stochastic estimate of the trace."""

import math
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Num, PRNGKeyArray

from jaxflow.dynamics.protocol import Field
from jaxflow.runtime.checks import check_choice, check_count
from jaxflow.runtime.linear_algebra import orthonormal
from jaxflow.runtime.precision import accumulation_dtype, as_floats
from jaxflow.trace.products import inner, products

Law = Literal["rademacher", "gaussian", "orthogonal"]

# Probes of the pilot solve, from whose spread the variance of one probe is estimated.
PILOT_PROBES = 8
# Fewer Rademacher probes do not show their error: k of them agree on the most strongly coupled
# pair of entries with probability 2^(1 - k), and then the pair does not show.
LEAST_SIGNS = 8


class Hutchinson(eqx.Module):
    """Hutchinson's estimate `mean_i v_i^T J v_i`, with probes drawn once a solve.

    With `S = J + J^T` and `A = S / 2`, k probes of an integrated Jacobian J of size d have the
    variance

    ```
    rademacher    sum_{i<j} S_ij^2 / k                                    entries +1 and -1
    gaussian      ||S||_F^2 / 2k
    orthogonal    2d/(d+2) (||A||_F^2 - tr(A)^2/d) / k  (d-k)/(d-1)       0 at k = d
    ```
    derived in `docs/traces.md`. The standard error is wider than the sample's by the factor
    `1 + 7/k` (Rademacher: `1 + max(7/k, 150/k^2)`), with which `value +- q se`, q the 97.5 %
    point of Student's t with k - 1 degrees of freedom, covers the exact trace in 93 % of draws or
    more also where the k outcomes are skewed or of few values (`tests/trace/test_coverage.py`).

    Attributes:
        num_probes: number of probes. A log-density has a standard error with two or more, and
            with eight or more of law `"rademacher"`.
        law: distribution of the probes. `"orthogonal"` is a random orthonormal block times
            `sqrt(d)`.
        target_se: target for the standard error of a log-density in nats, in the root mean square
            over rows. Evaluation then chooses the number of probes by a pilot solve. Training
            ignores it and uses `num_probes`.

    Raises:
        ValueError: a setting is out of range.

    Example:
        ```python
        import jax
        import jax.numpy as jnp
        from jaxflow import CNF, Hutchinson, StandardNormal
        from jaxflow.dynamics import MLP

        flow = CNF(MLP(3, width=8, key=jax.random.key(0)), StandardNormal(3), trace=Hutchinson(8))
        log_p = flow.log_prob(jnp.ones((5, 3)), key=jax.random.key(1))
        ```
    """

    num_probes: int = eqx.field(static=True, default=1)
    law: Law = eqx.field(static=True, default="rademacher")
    target_se: float | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_count("num_probes", self.num_probes)
        check_choice("law", self.law, get_args(Law))
        if self.target_se is not None and not 0 < self.target_se < float("inf"):
            raise ValueError(f"target_se={self.target_se} must be a positive number of nats")

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Draw the probes of one event; see `Estimator.draw`.

        Returns:
            Probes, (num_probes, *shape).

        Raises:
            ValueError: more orthogonal probes than the event has entries.
        """
        return draw_probes(key, self.num_probes, shape, dtype, self.law)

    def estimate(
        self, divergences: Float[Array, " k"], probes: Float[Array, "k ..."], span: ArrayLike
    ) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
        """The mean over probes and its standard error; see `Estimator.estimate`.

        Returns:
            The estimate, and its standard error or None for a single probe or fewer than eight
            Rademacher probes. Rademacher probes with equal outcomes have an infinite one: either
            the Jacobian is diagonal or the signs agree by chance. Orthogonal probes are draws
            without replacement: their squared error has the factor `1 - k/d`.
        """
        return jnp.mean(divergences), probe_error(divergences, self.law, probes[0].size)

    def pilot(self) -> "Hutchinson":
        """The settings of a pilot solve, for events of more than `PILOT_PROBES` entries."""
        return Hutchinson(PILOT_PROBES, self.law)

    def number_for(self, squared_error: float, size: int) -> int:
        """Number of probes for `target_se`, rounded up to a power of two.

        Args:
            squared_error: mean squared standard error of the pilot.
            size: number of entries of an event.

        Returns:
            The number of probes.
        """
        assert self.target_se is not None
        left = 1.0 / size if self.law == "orthogonal" else 0.0
        # k probes have the squared error v (1/k - left), and state a wider one.
        squared_error = squared_error / widening(PILOT_PROBES, self.law) ** 2
        variance = squared_error / (1.0 / PILOT_PROBES - left)
        wanted = 1.0 / (self.target_se**2 / variance + left) if variance > 0 else 1.0
        return 2 ** max(0, math.ceil(math.log2(wanted) - 1e-9))


def hutchinson_trace(
    field: Field,
    t: Float[Array, ""],
    x: Num[Array, "*event"],
    probes: Num[Array, "..."],
    cond: Array | None = None,
) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
    """`f(t, x)` and an unbiased estimate of `tr(df/dx)` at one point.

    ```
    tr(A) = E[v^T A v]    for any v with E[v v^T] = I
    ```
    A probe costs one Jacobian-vector product (`jax.jvp`); the exact trace takes d of them.
    Hutchinson (1989), "A stochastic estimator of the trace of the influence matrix"; Grathwohl
    et al. (2019), "FFJORD", arXiv 1810.01367.

    Args:
        field: the field.
        t: time.
        x: one event of any shape; integers count as floats.
        probes: one probe (*event), or k of them (k, *event), whose estimates are averaged.
        cond: condition of the event.

    Returns:
        The field's value, (*event), and the estimate.

    Raises:
        ValueError: the probes do not have the event's shape.

    Example:
        ```python
        import jax
        import jax.numpy as jnp
        from jaxflow import Hutchinson, hutchinson_trace

        x = jnp.ones(5)
        probes = Hutchinson(3).draw(jax.random.key(0), x.shape, x.dtype)
        f, trace = hutchinson_trace(lambda t, x: jnp.sin(x), jnp.asarray(0.0), x, probes)
        ```
    """
    x = as_floats(x)
    f, each = probe_traces(field, t, x, jnp.asarray(probes, x.dtype), cond)
    return f, jnp.mean(each)


def probe_traces(
    field: Field,
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
    key: PRNGKeyArray, count: int, shape: tuple[int, ...], dtype: DTypeLike, law: Law
) -> Array:
    """`count` probes (count, *shape) with `E[v v^T] = I`."""
    if law == "rademacher":
        return jax.random.rademacher(key, (count, *shape), dtype)
    if law == "gaussian":
        return jax.random.normal(key, (count, *shape), dtype)
    size = math.prod(shape)
    if count > size:
        raise ValueError(
            f"num_probes={count} orthogonal probes do not fit into events of shape {shape}, which "
            f"have {size} entries; num_probes={size} is already exact: write trace='exact'"
        )
    normal = jax.random.normal(key, (size, count), accumulation_dtype(dtype))
    block = size**0.5 * orthonormal(normal).T
    return block.reshape(count, *shape).astype(dtype)


def widening(count: int, law: Law) -> float:
    """Factor on the standard error of the mean of `count` outcomes.

    Their sample variance is too small where a rare outcome carries much of the variance, as for a
    Jacobian of rank one or of few entries. The factor makes up for it; it was fitted to the laws
    in `tests/trace/test_coverage`.
    """
    rare = 150.0 / count**2 if law == "rademacher" else 0.0
    return 1.0 + max(7.0 / count, rare)


def standard_error(
    values: Float[Array, " k"], population: int | None = None
) -> Float[Array, ""] | None:
    """Standard error of the mean of exchangeable values; None for a single one.

    `population` is the number of values to draw from if they are drawn without replacement.
    """
    (count,) = values.shape
    if count == 1:
        # The one orthogonal direction of one entry is the entire population.
        return jnp.zeros((), values.dtype) if population == 1 else None
    rest = 1.0 if population is None else 1.0 - count / population
    return (rest / count) ** 0.5 * jnp.std(values, ddof=1)


def probe_error(values: Float[Array, " k"], law: Law, size: int) -> Float[Array, ""] | None:
    """Widened standard error of the mean of the outcomes of k probes of events of `size` entries.

    None if the probes are too few to show it, 0 if they are exact.
    """
    (count,) = values.shape
    if law != "rademacher":
        error = standard_error(values, size if law == "orthogonal" else None)
        return None if error is None else widening(count, law) * error
    if size == 1:
        # v^2 = 1.
        return jnp.zeros((), values.dtype)
    error = standard_error(values)
    if error is None or count < LEAST_SIGNS:
        return None
    # Different outcomes that differ by rounding are equal.
    rounding = 16 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    equal = jnp.max(values) - jnp.min(values) <= rounding
    return jnp.where(equal, jnp.inf, widening(count, law) * error)
