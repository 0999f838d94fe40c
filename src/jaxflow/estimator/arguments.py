"""What users hand to an estimator, as checked arrays."""

import operator
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.utils.validation import check_array, validate_data

from jaxflow.data import check_rows, coarse_columns

# Two rows to train on, and one to judge by.
LEAST_ROWS = 3


def features_of(estimator: Any, X: Any, *, fitting: bool) -> Float[np.ndarray, "n d"]:
    """The rows of `X` in float64, their number and names of columns remembered or compared.

    Raises:
        ValueError: too few rows, other columns than those fitted to, NaN or infinity (rows and
            columns named).
        TypeError: a sparse matrix.
    """
    least = LEAST_ROWS if fitting else 1
    x = validate_data(
        estimator,
        X,
        reset=fitting,
        dtype="float64",
        ensure_all_finite=False,
        ensure_min_samples=least,
    )
    check_rows(x, "X", names_of(estimator))
    return np.asarray(x)


def conditions_of(y: Any, rows: int | None) -> Float[np.ndarray, "n c"]:
    """Conditions in float64, a row each; a vector is a column.

    Args:
        y: the conditions.
        rows: how many there have to be; None for any number.

    Raises:
        ValueError: no conditions, another number of them, text, NaN or infinity (rows named).
    """
    if y is None:
        raise ValueError(
            "a density given y requires y to be passed, but the target y is None: pass the "
            "conditions as y"
        )
    cond = check_array(
        y, dtype="float64", ensure_2d=False, ensure_all_finite=False, input_name="y"
    )
    if cond.ndim == 1:
        cond = cond[:, None]
    if rows is not None and len(cond) != rows:
        raise ValueError(f"y has {len(cond)} rows and X has {rows}: give a condition a row")
    check_rows(cond, "y")
    return np.asarray(cond)


def weights_of(sample_weight: Any, rows: int) -> Float[np.ndarray, " n"] | None:
    """Weights of rows in float64; None for none.

    Raises:
        ValueError: not one a row, NaN or infinite, negative, or all of them zero.
    """
    if sample_weight is None:
        return None
    weights = check_array(
        sample_weight, dtype="float64", ensure_2d=False, input_name="sample_weight"
    )
    if weights.shape != (rows,):
        raise ValueError(
            f"sample_weight has shape {weights.shape} for {rows} rows of X: give ({rows},)"
        )
    negative = np.flatnonzero(weights < 0)
    if negative.size:
        raise ValueError(
            f"sample_weight must not be negative: {weights[negative[0]]:g} in row {negative[0]} "
            f"({negative.size} such rows)"
        )
    if not weights.any():
        raise ValueError("sample_weight is zero in every row, so that no row would count")
    return weights


def in_precision(
    values: Float[np.ndarray, "n d"], name: str, *, float64: bool, warn: bool = False
) -> np.ndarray:
    """Finite numbers in the precision of the flow.

    Args:
        values: the numbers.
        name: what an error calls them.
        float64: whether to keep them as they are.
        warn: whether to tell where float32 is coarse for a column.

    Raises:
        ValueError: a number too large for float32.
    """
    if float64:
        return values
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    beyond = np.argwhere(~np.isfinite(single))
    if beyond.size:
        row, column = beyond[0].tolist()
        raise ValueError(
            f"{name} holds {values[row, column]:g} in row {row}, column {column}: infinity in "
            "float32; set float64=True"
        )
    if warn:
        coarse = coarse_columns(values)
        if coarse.any():
            warnings.warn(
                f"float32 is coarse for columns {np.flatnonzero(coarse).tolist()} of {name}, "
                "large numbers of small spread: subtract an offset, or set float64=True",
                stacklevel=4,
            )
    return single


def names_of(estimator: Any) -> list[str] | None:
    """The names of the columns that an estimator was fitted to; None for none."""
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def whole(name: str, value: Any) -> int:
    """A whole number, NumPy's too.

    Raises:
        TypeError: something else; names the argument.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be a whole number") from None
