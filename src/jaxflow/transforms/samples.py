"""Input checks shared by all transforms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from jaxflow.runtime.checks import check_rows as check_finite


def host_samples(x: Any, least: int = 2) -> tuple[Float[np.ndarray, "n *event"], np.dtype]:
    """The samples in float64 on the host, and the dtype in which a fit stores its parameters.

    The dtype is the data's own if that is floating (float64 needs JAX's x64 mode), else JAX's
    default floating dtype.

    Raises:
        ValueError: there are fewer than `least` samples, or a value is not finite.
        TypeError: the values are not real numbers.
    """
    raw = np.asarray(x)
    floating = jnp.issubdtype(raw.dtype, jnp.floating)
    if not (floating or np.issubdtype(raw.dtype, np.integer) or raw.dtype == bool):
        raise TypeError(f"x has dtype {raw.dtype}; real numbers are needed: x.astype(float)")
    if raw.ndim == 0 or raw.shape[0] < least:
        number = {1: "one sample", 2: "two samples"}[least]
        raise ValueError(
            f"x has shape {raw.shape}; at least {number} are needed, shape (n, *event)"
        )
    values = raw.astype(np.float64)
    check_finite(values)
    dtype = raw.dtype if floating else np.dtype(np.float64)
    return values, np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def checked_rows(x: Any, event_shape: tuple[int, ...]) -> Float[np.ndarray, "n *event"]:
    """The rows in float64 on the host, for a transform's `check`.

    Raises:
        ValueError: a value is not finite, or the rows have another shape than `event_shape`.
        TypeError: the values are not real numbers.
    """
    values, _ = host_samples(x, least=1)
    if values.shape[1:] != event_shape:
        raise ValueError(
            f"x has shape {values.shape}; this transform takes rows of shape {event_shape}: "
            f"(n, {', '.join(map(str, event_shape))})"
        )
    return values


def check_sample(name: str, value: jax.Array, event_shape: tuple[int, ...]) -> None:
    """Check that `value` is one sample: broadcasting would give a wrong log-determinant.

    Raises:
        ValueError: `value` has another shape than `event_shape`.
    """
    if value.shape != event_shape:
        raise ValueError(
            f"{name} has shape {value.shape}; the transform maps one sample of shape "
            f"{event_shape}. For a batch use jax.vmap(transform.forward)(x) (or .inverse)"
        )


def column_label(index: tuple[int, ...]) -> str:
    """How an error names a column: `3`, or `(0, 3)` for events of several axes."""
    return str(index[0] if len(index) == 1 else index)


def is_concrete(*arrays: Any) -> bool:
    """Whether all arrays hold values, so none is a tracer or a `jax.ShapeDtypeStruct`."""
    return not any(isinstance(a, Tracer | jax.ShapeDtypeStruct) for a in arrays)
