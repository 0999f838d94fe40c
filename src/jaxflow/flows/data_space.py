"""Between a user's data and flow space: checks of arguments, the transform, and its support."""

import contextlib
import math
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from jaxflow.ode import SolveError, Stats, Status
from jaxflow.ode.status import raise_if_failed
from jaxflow.runtime.arguments import as_cond_rows, as_rows, check_finite, promote_dtypes
from jaxflow.runtime.chunking import map_chunks
from jaxflow.runtime.lanes import lanes_for, per_row
from jaxflow.runtime.precision import (
    accumulation_dtype,
    in_float64,
    is_single,
    widest_dtype,
)
from jaxflow.transforms import image_shape, inside
from jaxflow.transforms.protocol import check_strict

# The counts of a solve; None where there is none.
S = TypeVar("S", Stats, Stats | None)


def check_arguments(
    flow: Any,
    x: Any,
    cond: Any,
    name: str,
    *,
    keep_float64: bool = False,
    of_base: bool = False,
) -> tuple[Any, Any, Array | None, tuple[int, ...]]:
    """Check a user's arguments: flow, rows and conditions in one dtype, and the batch shape.

    With `keep_float64` and a transform, NumPy's float64 rows stay float64, so that
    `transform_rows` can subtract their offsets first. Rows `of_base` are points of the base.
    """
    keep_float64 = keep_float64 and flow.transform is not None
    shape = tuple(flow.base.event_shape) if of_base else flow.event_shape
    rows, batch = as_rows(x, shape, name, keep_float64=keep_float64)
    check_finite(rows, name)
    if not of_base:
        # An ensemble has no transform; its flows check the rows.
        check_strict(getattr(flow, "transform", None), rows)
    arrays = rows if isinstance(rows, jax.Array) else jnp.zeros((), float)
    flow, arrays, cond = promote_dtypes(flow, arrays, as_cond_rows(cond, batch))
    return flow, arrays if isinstance(rows, jax.Array) else rows, cond, batch


def check_inside(ok: Bool[Array, " rows"], name: str = "x") -> None:
    """Raise unless all rows of the argument `name` lie in the support, where that is known."""
    if isinstance(ok, Tracer) or bool(ok.all()):
        return
    rows = np.flatnonzero(~np.asarray(ok))
    raise ValueError(
        f"{name} lies outside the support of the flow in {len(rows)} of {len(ok)} rows, first row "
        f"{rows[0]}: no point of the base maps to it. log_prob is -inf there; "
        f"flow.transform.check({name}) names the column and its limit"
    )


def nan_where(bad: Bool[Array, " rows"], rows: Array) -> Array:
    """The rows, NaN where `bad`."""
    return jnp.where(bad.reshape(-1, *[1] * (rows.ndim - 1)), jnp.nan, rows)


def raise_on_failure(flow: Any, values: Any, stats: Stats | None, where: str) -> Any:
    """The values; raises `SolveError` if their solve failed, unless `ode_eval.throw` is False.

    A flow without a solve has no `stats`: it fails where a value is NaN.
    """
    if stats is None:
        return _raise_if_nan(values, where)
    ode = getattr(flow, "ode_eval", None)
    return raise_if_failed(values, stats, where) if ode is not None and ode.throw else values


def _raise_if_nan(values: Any, where: str) -> Any:
    wrong = jnp.any(jnp.stack([jnp.any(jnp.isnan(leaf)) for leaf in jax.tree.leaves(values)]))
    text = (
        f"{where} is NaN: a row, a condition or a parameter of the flow is NaN, or so large that "
        "the map overflows"
    )
    if isinstance(wrong, Tracer):
        return eqx.error_if(values, wrong, text)
    if wrong:
        raise SolveError(text)
    return values


def to_flow_space(
    transform: Any, x: Float[Array, "rows *event"], *, grouped: bool = True, dtype: Any = None
) -> tuple[Float[Array, "rows ..."], Float[Array, " rows"]]:
    """Transform rows from data to flow space; also `log |det du/dx|`.

    Outside the transform's support `log |det|` is -inf, `u` is 0 and all gradients are 0.
    Results in float32 are computed in float64 and rounded, except in training, where `grouped` is
    False. `dtype` is that of the results; None for that of `x`.
    """
    if transform is None:
        return x, jnp.zeros(x.shape[:1], x.dtype)
    dtype = dtype or x.dtype
    if not (grouped and is_single(dtype)):
        return per_row(partial(_forward, transform), x, grouped=grouped)
    wide = accumulation_dtype(dtype)

    def forward(x: Array) -> tuple[Array, Array]:
        u, log_det = in_float64(lambda inputs: _forward(*inputs), wide, (transform, x))
        return u.astype(dtype), log_det

    return per_row(forward, x)


def transform_rows(flow: Any, rows: Any) -> tuple[Array, Array]:
    """`to_flow_space` of any number of rows from `check_arguments`, chunk by chunk.

    NumPy's float64 rows are rounded to the dtype of the flow after the transform.
    """
    if flow.transform is None:
        return to_flow_space(None, rows)
    size = math.prod(flow.event_shape)
    precision, dtype = contextlib.nullcontext(), rows.dtype
    if isinstance(rows, np.ndarray):
        precision, dtype = jax.enable_x64(True), widest_dtype(flow)
    move = partial(transform_chunk, dtype, flow.transform)
    with precision:
        return map_chunks(move, (rows,), row_size=size, lanes=lanes_for(size))


@eqx.filter_jit
def transform_chunk(dtype: Any, transform: Any, x: Array, key: None = None) -> tuple[Array, Array]:
    """`to_flow_space` of a chunk of rows, which may be float64 for a float32 flow."""
    return to_flow_space(transform, x, dtype=dtype)


def _forward(transform: Any, x: Array) -> tuple[Array, Array]:
    if not hasattr(transform, "inside"):
        return transform.forward(x)
    ok, zeros = inside(transform, x), jnp.zeros(image_shape(transform), x.dtype)
    u, log_det = transform.forward(jnp.where(ok, x, transform.inverse(zeros)[0]))
    return jnp.where(ok, u, zeros), jnp.where(ok, log_det, -jnp.inf)


def add_log_det(
    log_p: Float[Array, " rows"], stats: S, log_det: Float[Array, " rows"]
) -> tuple[Float[Array, " rows"], S]:
    """Log-densities in data units and their counts, from those in flow space.

    `log_det` is that of `to_flow_space`.
    """
    return log_p + log_det.astype(log_p.dtype), mark_outside(stats, log_det)


def mark_outside(stats: S, log_det: Float[Array, " rows"]) -> S:
    """Set the status `OUTSIDE` in rows outside the support, where `log_det` is -inf.

    None, and the one status of a joint solve, stay as they are.
    """
    if stats is None or not stats.status.ndim:
        return stats
    status = jnp.where(jnp.isneginf(log_det), int(Status.OUTSIDE), stats.status)
    return replace(stats, status=status)


def to_data_space(
    transform: Any, u: Float[Array, "rows *event"], *, grouped: bool = True
) -> tuple[Float[Array, "rows ..."], Float[Array, " rows"]]:
    """Transform rows from flow to data space; also `log |det dx/du|`."""
    if transform is None:
        return u, jnp.zeros(u.shape[:1], u.dtype)
    return per_row(transform.inverse, u, grouped=grouped)


def with_transform(flow: Any, transform: Any) -> Any:
    """The flow with another transform."""
    return eqx.tree_at(
        lambda flow: flow.transform, flow, transform, is_leaf=lambda leaf: leaf is None
    )
