"""The checks that every transform makes: on the data it is fitted to, on the sample it maps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float


def host_samples(x: Any) -> tuple[Float[np.ndarray, "n *event"], np.dtype]:
    """The samples in float64 on the host, and the dtype in which a fit stores its parameters.

    The dtype is the data's own where that is floating (float64 needs JAX's x64 mode), else JAX's
    default floating dtype.

    Raises:
        ValueError: fewer than two samples, or a value that is not finite.
        TypeError: values that are not real numbers.
    """
    raw = np.asarray(x)
    floating = jnp.issubdtype(raw.dtype, jnp.floating)
    if not (floating or np.issubdtype(raw.dtype, np.integer) or raw.dtype == bool):
        raise TypeError(f"x has dtype {raw.dtype}; a fit needs real numbers: x.astype(float)")
    if raw.ndim == 0 or raw.shape[0] < 2:
        raise ValueError(
            f"x has shape {raw.shape}; a fit needs at least two samples, shape (n, *event)"
        )
    values = raw.astype(np.float64)
    bad = values.shape[0] - int(np.isfinite(values.reshape(len(values), -1)).all(axis=1).sum())
    if bad:
        raise ValueError(
            f"x has {bad} rows with NaN or infinite values; drop them: "
            "x[np.isfinite(x).all(axis=1)]"
        )
    dtype = raw.dtype if floating else np.dtype(np.float64)
    return values, np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def check_sample(name: str, value: jax.Array, event_shape: tuple[int, ...]) -> None:
    """Refuse anything but one sample: broadcasting would give a wrong log-determinant.

    Raises:
        ValueError: `value` has another shape than `event_shape`.
    """
    if value.shape != event_shape:
        raise ValueError(
            f"{name} has shape {value.shape}; the transform maps one sample of shape "
            f"{event_shape}. For a batch use jax.vmap(transform.forward)(x) (or .inverse)"
        )


def is_concrete(*arrays: Any) -> bool:
    """Whether all arrays hold values that can be looked at, and none is traced or a mere shape."""
    return not any(isinstance(a, Tracer | jax.ShapeDtypeStruct) for a in arrays)
