"""Checks of a solve's arguments, before anything is traced or computed."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PyTree

from jaxflow.ode.integrate import VectorField
from jaxflow.ode.settings import ODE
from jaxflow.ode.step import State
from jaxflow.runtime.shapes import Count

Time = float | int | Float[Array, ""]

# Largest share of an interval that the rounding of its ends may change.
MOST_LOST = 1e-3


def as_time(value: Time, name: str, dtype: DTypeLike) -> Array | np.ndarray:
    """A time as an array: NumPy's if its value is known, since under jit jax's never is."""
    time = value if isinstance(value, jax.Array) else np.asarray(value)
    if time.shape != () or not _is_real(time):
        raise ValueError(f"{name} must be a single number, got shape {time.shape} {time.dtype}")
    if not isinstance(time, Tracer) and not np.isfinite(time):
        raise ValueError(f"{name}={float(time)} must be finite")
    return time.astype(dtype)


def as_times(value: ArrayLike, name: str, num_rows: Count, dtype: DTypeLike) -> Float[Array, " n"]:
    """A time for each row, from one number or from one for each row."""
    time = jnp.asarray(value)
    if time.shape not in ((), (num_rows,)) or not _is_real(time):
        raise ValueError(
            f"{name} has shape {time.shape} and y0 {num_rows} rows; give one number or "
            f"({num_rows},)"
        )
    return jnp.broadcast_to(time.astype(dtype), (num_rows,))


def check_span(t0: Any, t1: Any, dtype: DTypeLike, names: str = "t0 and t1") -> None:
    """Raise ValueError if times that are known lose a thousandth of their distance in `dtype`."""
    if isinstance(t0, Tracer) or isinstance(t1, Tracer):
        return
    start, end = np.asarray(t0, np.float64), np.asarray(t1, np.float64)
    rounded = end.astype(dtype).astype(np.float64) - start.astype(dtype).astype(np.float64)
    span = end - start
    lost = np.abs(rounded - span) > MOST_LOST * np.abs(span)
    if lost.any():
        i = np.unravel_index(np.argmax(lost), lost.shape)
        raise ValueError(
            f"{names}: {dtype} rounds the interval of length {span[i]:.6g} that begins at "
            f"{np.broadcast_to(start, lost.shape)[i]:.10g} to one of {rounded[i]:.6g}: solve from "
            "0 with f(t + t0, y, args), or in float64"
        )


def _is_real(time: Any) -> bool:
    kinds = jnp.floating, jnp.integer
    return any(jnp.issubdtype(time.dtype, kind) for kind in kinds)


def count_rows(y0: PyTree, row_args: Any) -> Count:
    """The length of the leading axis that all arrays share; raises ValueError if they differ."""
    names = {0: "y0", 1: "row_args"}
    shapes = []
    for path, leaf in jax.tree_util.tree_leaves_with_path((y0, row_args)):
        name = names[path[0].idx] + jax.tree_util.keystr(path[1:])
        if leaf.ndim == 0:
            raise ValueError(f"{name} is a single number; rows run along the leading axis")
        shapes.append((name, leaf.shape))
    first, shape = shapes[0]
    for name, other in shapes[1:]:
        if other[0] != shape[0]:
            raise ValueError(
                f"{first} of shape {shape} has {shape[0]} rows and {name} of shape {other} has "
                f"{other[0]}; give one entry a row"
            )
    return shape[0]


def check_state(y0: PyTree) -> None:
    """Raise unless the state holds arrays, all floating-point."""
    leaves = jax.tree_util.tree_leaves_with_path(y0)
    if not leaves:
        raise ValueError("y0 holds no array; give at least one")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"y0{jax.tree_util.keystr(path)} has dtype {leaf.dtype}; a state must be "
                "floating-point: write jnp.asarray(y0, float)"
            )


def check_field(f: VectorField, t0: Any, y0: State, args: Any) -> None:
    """Raise TypeError unless `f` returns the structure, shapes and dtypes of the state."""
    dynamic, static = eqx.partition(args, eqx.is_array)
    k = jax.eval_shape(
        lambda t, y, dynamic: f(t, y, eqx.combine(dynamic, static)), t0, y0, dynamic
    )
    if jax.tree.structure(k) != jax.tree.structure(y0):
        raise TypeError(
            f"f returned the structure {jax.tree.structure(k)} for a state of structure "
            f"{jax.tree.structure(y0)}; it must return dy/dt for each leaf of y0"
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(y0), jax.tree.leaves(k), strict=True)
    for (path, y), dy in pairs:
        if dy.shape != y.shape or dy.dtype != y.dtype:
            raise TypeError(
                f"f returned {dy.dtype}{list(dy.shape)} for y0{jax.tree_util.keystr(path)} of "
                f"{y.dtype}{list(y.shape)}; shapes and dtypes must agree: cast the value "
                "of f, y0 or args"
            )


def check_tolerances(ode: ODE, dtype: DTypeLike) -> None:
    """Raise ValueError if both tolerances are below the rounding of `dtype`."""
    eps = float(jnp.finfo(dtype).eps)
    if ode.adaptive and max(ode.rtol, ode.atol) < eps:
        raise ValueError(
            f"rtol={ode.rtol} and atol={ode.atol} are below the rounding of {dtype} ({eps:.1e}); "
            "loosen them or solve in float64"
        )


def check_save_at(save_at: ArrayLike | Sequence[Any], t0: Any, t1: Any, dtype: DTypeLike) -> Any:
    """The times to save at; raises ValueError unless they run in order from `t0` to `t1`."""
    times = save_at if isinstance(save_at, jax.Array) else np.asarray(save_at)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"save_at must be a 1-d array of times, got shape {times.shape}")
    check_span(times[:-1], times[1:], dtype, "save_at")
    times = times.astype(dtype)
    if not any(isinstance(t, Tracer) for t in (times, t0, t1)):
        path = np.concatenate([[t0], times, [t1]])
        if not (np.all(np.diff(path) >= 0) or np.all(np.diff(path) <= 0)):
            raise ValueError(
                f"save_at={np.asarray(times).tolist()} must run in order from t0={float(t0)} to "
                f"t1={float(t1)}"
            )
    return times
