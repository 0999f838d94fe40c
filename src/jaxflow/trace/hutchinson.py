"""Hutchinson's stochastic estimate of the trace."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.trace.exact import evaluate

Law = Literal["rademacher", "gaussian"]


@dataclass(frozen=True)
class Hutchinson:
    """Use Hutchinson's estimate, with probes drawn once a solve and held fixed through it.

    Attributes:
        num_probes: independent probes, averaged.
        law: `"rademacher"` (entries +1 and -1) or `"gaussian"`.

    Raises:
        ValueError: a setting out of range.
    """

    num_probes: int = 1
    law: Law = "rademacher"

    def __post_init__(self) -> None:
        if self.num_probes < 1:
            raise ValueError(f"num_probes={self.num_probes} must be at least 1")
        if self.law not in get_args(Law):
            raise ValueError(f"law={self.law!r} is unknown; choose one of {get_args(Law)}")

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        """Probes for one event of this shape, (num_probes, *event)."""
        draw = jax.random.rademacher if self.law == "rademacher" else jax.random.normal
        return draw(key, (self.num_probes, *shape), dtype)


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
    takes d of them. With `S = A + A^T`, the variance of one Rademacher probe is
    `sum_{i<j} S_ij^2`, of one Gaussian probe `||S||_F^2 / 2`.

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
    if probes.shape == x.shape:
        probes = probes[None]
    if probes.shape[1:] != x.shape or probes.shape[0] == 0:
        raise ValueError(
            f"probes have shape {probes.shape}; for an event of shape {x.shape} give {x.shape} "
            f"or {('k', *x.shape)}"
        )

    def jvp(v: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda x: evaluate(field, t, x, cond), (x,), (v,))

    if probes.shape[0] == 1:
        f, jv = jvp(probes[0])
        return f, jnp.sum(probes[0] * jv)
    f, jv = jax.vmap(jvp, out_axes=(None, 0))(probes)
    return f, jnp.sum(probes * jv) / probes.shape[0]
