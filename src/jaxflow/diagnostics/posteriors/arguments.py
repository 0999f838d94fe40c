"""Checks of the arguments of posterior tests: truths, draws, log-densities, observations."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.diagnostics.findings import LEAST, to_host
from jaxflow.runtime.checks import as_matrix, check_rows


def as_pairs(
    theta: Any, draws: Any
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n k d"]]:
    """Truths, (n, d), and the draws of each, (n, k, d), as arrays of NumPy."""
    theta = as_matrix(theta, "theta", "n, d")
    draws = as_matrix(draws, "draws", "n, k, d")
    if draws.shape[0] != len(theta) or draws.shape[2] != theta.shape[1]:
        n, d = theta.shape
        raise ValueError(
            f"draws has shape {draws.shape} and theta has shape {theta.shape}: give ({n}, k, {d}),"
            " k draws for each row of theta"
        )
    check_num_pairs(len(theta))
    return theta, draws


def as_log_densities(values: Any, name: str, ndim: int) -> Float[np.ndarray, "..."]:
    """Log-densities in float64; -inf, a density of 0, is allowed, NaN is not."""
    array = to_host(jnp.asarray(values))
    axes = "(n, k)" if ndim == 2 else "(n,)"
    if array.ndim != ndim or not array.size:
        raise ValueError(f"{name} has shape {array.shape}; give {axes}, none of them 0")
    if np.isnan(array).any():
        rows = np.flatnonzero(np.isnan(array).reshape(len(array), -1).any(axis=1))
        raise ValueError(
            f"{name} has NaN in {len(rows)} rows, first row {rows[0]}: solve it again"
        )
    return array


def check_num_pairs(n: int) -> None:
    """Raise unless there are enough pairs for a test."""
    if n < LEAST:
        raise ValueError(f"theta has {n} rows, too few to test; give {LEAST} or more")


def as_rows_of(theta: Any, x: Any) -> tuple[Array, Array]:
    """Parameters and data of new pairs as floating-point arrays of jax."""
    arrays = []
    for name, values in (("theta", theta), ("x", x)):
        array = jnp.asarray(values)
        if array.ndim < 2:
            raise ValueError(f"{name} has shape {array.shape}; give rows, (n, columns)")
        array = array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)
        check_rows(array, name)
        arrays.append(array)
    theta, x = arrays
    if len(theta) != len(x):
        raise ValueError(f"theta has {len(theta)} rows and x has {len(x)}; give pairs")
    check_num_pairs(len(theta))
    return theta, x


def as_observations(observed: Any, x: Any) -> Any:
    """Observations, (m, *condition), from one or several; `x` holds data, (n, *condition)."""
    one = x.shape[1:]
    if x.ndim < 2 or not observed.size or observed.shape not in (one, (*observed.shape[:1], *one)):
        raise ValueError(
            f"observed has shape {observed.shape} and x has shape {x.shape}: give one observation "
            f"{one} or several, (m, {', '.join(map(str, one))})"
        )
    check_rows(observed.reshape(-1, *one), "observed")
    return observed.reshape(-1, *one)


@eqx.filter_jit
def summarise(summary: Callable[[Array], Any], x: Array) -> Array:
    """The numbers `summary(x_i)` of each row, (n, k)."""
    return jax.vmap(lambda one: jnp.ravel(jnp.asarray(summary(one))))(x)
