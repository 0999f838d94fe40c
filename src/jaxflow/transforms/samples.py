"""Checks of inputs that all transforms share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float

from jaxflow.runtime.checks import check_rows, check_unmasked, constant_columns
from jaxflow.runtime.shapes import Event


def host_samples(x: Any, least: int = 2) -> tuple[Float[np.ndarray, "n *event"], np.dtype]:
    """The samples in float64 on the host, and the dtype in which a fit stores its parameters.

    Raises for fewer than `least` samples, or anything but finite real numbers.
    """
    check_unmasked("x", x)
    raw = np.asarray(x)
    if not (
        jnp.issubdtype(raw.dtype, jnp.floating)
        or np.issubdtype(raw.dtype, np.integer)
        or raw.dtype == bool
    ):
        raise TypeError(f"x has dtype {raw.dtype}; real numbers are needed: x.astype(float)")
    if raw.ndim == 0 or raw.shape[0] < least:
        number = {1: "one sample", 2: "two samples"}[least]
        raise ValueError(
            f"x has shape {raw.shape}; at least {number} are needed, shape (n, *event)"
        )
    values = raw.astype(np.float64)
    check_rows(values)
    return values, stored_dtype(raw)


def stored_dtype(x: Any) -> np.dtype:
    """The dtype in which JAX holds samples: their own if that is floating, else its default."""
    own = np.asarray(x).dtype
    dtype = own if jnp.issubdtype(own, jnp.floating) else np.dtype(np.float64)
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def checked_rows(x: Any, event_shape: tuple[int, ...]) -> Float[np.ndarray, "n *event"]:
    """The rows in float64 on the host, for a `check`; raises unless they are finite and fit."""
    values, _ = host_samples(x, least=1)
    if values.shape[1:] != event_shape:
        raise ValueError(
            f"x has shape {values.shape}; this transform takes rows of shape {event_shape}: "
            f"(n, {', '.join(map(str, event_shape))})"
        )
    return values


def samples_to_fit(x: Any) -> tuple[Float[np.ndarray, "n *event"], np.dtype]:
    """As `host_samples`; also raises ValueError for columns that the dtype takes for constant."""
    values, dtype = host_samples(x)
    constant = constant_columns(values, float(jnp.finfo(dtype).eps))
    if constant.any():
        own = np.asarray(x).dtype
        finest = own if jnp.issubdtype(own, jnp.floating) else values.dtype
        varies = constant & ~constant_columns(values, float(jnp.finfo(finest).eps))
        if varies.any():
            raise ValueError(
                f"{dtype} cannot tell the values of x apart in columns {places(varies)}, which "
                'are large and vary little: set jax.config.update("jax_enable_x64", True), or '
                "subtract an offset from these columns in float64"
            )
        raise ValueError(
            f"x is constant (to rounding) in columns {places(constant)}, which have no density; "
            "drop these columns"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        # A margin for quantities such as slopes, which are 1 over a part of the spread.
        lost = ~(values.std(axis=0) >= 1000 * jnp.finfo(dtype).tiny)
    if lost.any():
        raise ValueError(
            f"{dtype} cannot hold the spread of x in columns {places(lost)}: multiply them by "
            "a constant, to a standard deviation near 1"
        )
    return values, dtype


def clip_inside(x: Event, lower: Event, upper: Event) -> Event:
    """The entries, or the nearest floats strictly between the limits (-inf, inf for none).

    Above 0 that is the smallest normal number, since jax rounds smaller ones to 0.
    """
    low, high = jax.lax.stop_gradient((lower, upper))
    tiny = jnp.finfo(x.dtype).tiny
    least = jnp.maximum(jnp.nextafter(low, jnp.full_like(low, jnp.inf)), low + tiny)
    most = jnp.minimum(jnp.nextafter(high, jnp.full_like(high, -jnp.inf)), high - tiny)
    return jnp.clip(x, _moving_with(lower, least), _moving_with(upper, most))


def _moving_with(limit: Event, neighbour: Event) -> Event:
    """The float beside a limit, with the derivative of the limit, which `nextafter` lacks."""
    finite = jnp.isfinite(limit)
    limit = jnp.where(finite, limit, 0.0)
    return jnp.where(finite, limit + (neighbour - jax.lax.stop_gradient(limit)), neighbour)


def places(mask: Bool[np.ndarray, "*event"]) -> list:
    """The indices of the true entries; plain numbers if there is one axis."""
    each = np.argwhere(mask)
    return each[:, 0].tolist() if mask.ndim == 1 else list(map(tuple, each.tolist()))


def column_label(index: tuple[int, ...]) -> str:
    """How an error names a column: `3`, or `(0, 3)` for events of several axes."""
    return str(index[0] if len(index) == 1 else index)


def is_concrete(*arrays: Any) -> bool:
    """Whether all arrays have values: none is a tracer or a `jax.ShapeDtypeStruct`."""
    return not any(isinstance(a, Tracer | jax.ShapeDtypeStruct) for a in arrays)
