"""Arguments and parameters of an estimator, checked."""

import operator
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, PRNGKeyArray
from sklearn.utils.validation import check_array, validate_data

from jaxflow.bases import StandardNormal
from jaxflow.flows.cnf import CNF
from jaxflow.objectives import FlowMatching, Staged, maximum_likelihood
from jaxflow.runtime.checks import check_choice, check_rows, check_unmasked, coarse_columns
from jaxflow.training.defaults import SCALINGS, sine_network

# Two rows to train on and one to validate on.
MIN_ROWS = 3
OBJECTIVES = {
    "auto": None,
    "likelihood": maximum_likelihood,
    "matching": FlowMatching(),
    "staged": Staged(),
}


def check_features(estimator: Any, X: Any, *, fitting: bool) -> Float[np.ndarray, "n d"]:
    """The rows of `X` in float64; columns are recorded while fitting, else compared."""
    check_unmasked("X", X)
    try:
        x = validate_data(
            estimator,
            X,
            reset=fitting,
            dtype="float64",
            ensure_all_finite=False,
            ensure_min_samples=MIN_ROWS if fitting else 1,
        )
    except ValueError as error:
        if "could not convert" not in str(error):
            raise
        raise ValueError(
            f"{error}. {_first_text(X)} holds text, and {type(estimator).__name__} takes numbers: "
            "drop it, or fit the whole table by jaxflow.fit_table"
        ) from None
    try:
        check_rows(x, "X", feature_names(estimator))
    except ValueError as error:
        if not (fitting and np.isnan(x).any()):
            raise
        raise ValueError(
            f"{error}; or fit the whole table by jaxflow.fit_table, where NaN is a missing cell"
        ) from None
    return np.asarray(x)


def _first_text(X: Any) -> str:
    """The first column of `X` that is not of numbers."""
    names, values = getattr(X, "columns", None), np.asarray(X, object)
    for number, column in enumerate(values.T):
        try:
            column.astype(float)
        except ValueError:
            return f"column {number if names is None else repr(str(names[number]))}"
    return "a column"


def check_conditions(y: Any, rows: int | None) -> Float[np.ndarray, "n c"]:
    """Conditions in float64, (n, c), with n = `rows` unless that is None; a vector is a column."""
    if y is None:
        raise ValueError(
            "a conditional density requires y to be passed, but the target y is None: pass the "
            "conditions as y"
        )
    check_unmasked("y", y)
    cond = check_array(
        y, dtype="float64", ensure_2d=False, ensure_all_finite=False, input_name="y"
    )
    cond = cond[:, None] if cond.ndim == 1 else cond
    if rows is not None and len(cond) != rows:
        raise ValueError(f"y has {len(cond)} rows and X has {rows}: give one condition per row")
    check_rows(cond, "y")
    return np.asarray(cond)


def condition_names(y: Any) -> list[str] | None:
    """Names of the columns of a data frame; None for others, and where they are not all text."""
    names: list[Any] = list(getattr(y, "columns", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


def to_precision(
    values: Float[np.ndarray, "n d"], name: str, *, float64: bool, warn: bool = False
) -> Float[np.ndarray, "n d"]:
    """Finite numbers in float32, or unchanged with `float64`.

    With `warn`, warns of columns that vary too little for float32.
    """
    if float64:
        return values
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    overflow = np.argwhere(~np.isfinite(single))
    if overflow.size:
        row, column = overflow[0].tolist()
        raise ValueError(
            f"{name} holds {values[row, column]:g} in row {row}, column {column}: infinity in "
            "float32; set float64=True"
        )
    if warn and (coarse := coarse_columns(values)).any():
        warnings.warn(
            f"float32 is coarse for columns {np.flatnonzero(coarse).tolist()} of {name}: their "
            "spread is small against their size. Subtract an offset, or set float64=True",
            stacklevel=4,
        )
    return single


def feature_names(estimator: Any) -> list[str] | None:
    """Names of the columns in the fit; None for arrays without names."""
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def as_int(name: str, value: Any) -> int:
    """An integer of Python or NumPy as int."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be an integer") from None


def make_flow(width: Any, depth: Any, dim: int, cond_dim: int, key: PRNGKeyArray) -> CNF:
    """An untrained continuous flow whose field is an MLP of sines."""
    width, depth = 128 if width is None else as_int("width", width), as_int("depth", depth)
    field = sine_network(dim, width=width, depth=depth, cond_dim=cond_dim, key=key)
    return CNF(field, StandardNormal((dim,)))


def make_options(steps: Any, batch_size: Any, learning_rate: Any) -> dict[str, Any]:
    """The settings of `jaxflow.fit_density`; None for those that it chooses."""
    return {
        "steps": None if steps is None else as_int("steps", steps),
        "batch_size": None if batch_size is None else as_int("batch_size", batch_size),
        "learning_rate": None if learning_rate is None else float(learning_rate),
    }


def check_choices(objective: Any, scaling: Any) -> None:
    """Raise ValueError unless both names are known."""
    check_choice("objective", objective, OBJECTIVES)
    check_choice("scaling", scaling, ("auto", *SCALINGS, None))
