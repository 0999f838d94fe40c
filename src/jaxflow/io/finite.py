"""Parameters in a file that are not finite, after a failed training or damage."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from jaxflow.io.arrays import is_array
from jaxflow.io.serialisation import direct_parts, dotted, stands_in_fields

Test = Callable[[np.ndarray], np.ndarray]


def check_finite_arrays(x: Any, path: tuple = (), bad: Test | None = None) -> None:
    """Raise ValueError if a module holds an array with NaN, or infinity where it may not.

    A class whose arrays may be infinite names their fields in `infinite_fields`. Arrays outside
    modules and dataclasses are data, which may hold anything. `path` is the place of `x`, for
    errors; `bad` is the test of entries, None outside modules.
    """
    if is_array(x):
        _check_array(x, dotted(path), bad)
    elif stands_in_fields(x):
        may = getattr(type(x), "infinite_fields", ())
        for field in dataclasses.fields(x):
            test = np.isnan if field.name in may else _not_finite
            check_finite_arrays(getattr(x, field.name), (*path, GetAttrKey(field.name)), test)
    else:
        for key, part in direct_parts(x):
            if key:
                check_finite_arrays(part, (*path, *key), bad)


def _not_finite(values: np.ndarray) -> np.ndarray:
    return np.asarray(~np.isfinite(values))


def _check_array(x: Any, name: str, bad: Test | None) -> None:
    if bad is None or not jnp.issubdtype(x.dtype, np.inexact):
        return
    values = np.asarray(x)
    places = np.argwhere(bad(values))
    if len(places):
        first = tuple(places[0].tolist())
        raise ValueError(
            f"'{name}' holds NaN or infinity in {len(places)} of {values.size} entries, first "
            f"{values[first]} at {first}: the file is damaged, or was written after a training "
            "that failed; fit again, or load an earlier file"
        )
