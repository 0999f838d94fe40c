"""Between a user's data and flow space: checks of arguments, the transform, and its support."""

from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from jaxflow.ode import Stats, Status
from jaxflow.ode.status import raise_if_failed
from jaxflow.runtime.arguments import as_cond_rows, as_rows, check_finite, promote_dtypes
from jaxflow.runtime.lanes import per_row
from jaxflow.transforms import inside

# The counts of a solve; None where there is none.
S = TypeVar("S", Stats, Stats | None)


def check_arguments(
    flow: Any, x: Any, cond: Any, name: str
) -> tuple[Any, Array, Array | None, tuple[int, ...]]:
    """Check a user's arguments: flow, rows and conditions in one dtype, and the batch shape.

    Raises:
        ValueError, TypeError: a shape, dtype or value does not fit; the message names it.
    """
    rows, batch = as_rows(x, flow.event_shape, name)
    check_finite(rows, name)
    flow, rows, cond = promote_dtypes(flow, rows, as_cond_rows(cond, batch))
    return flow, rows, cond, batch


def check_inside(ok: Bool[Array, " rows"]) -> None:
    """Raise unless all rows lie in the support, where that is known.

    Raises:
        ValueError: names the first row outside.
    """
    if isinstance(ok, Tracer) or bool(ok.all()):
        return
    rows = np.flatnonzero(~np.asarray(ok))
    raise ValueError(
        f"x lies outside the support of the flow in {len(rows)} of {len(ok)} rows, first row "
        f"{rows[0]}: no point of the base maps to it. log_prob is -inf there; "
        "flow.transform.check(x) names the column and its limit"
    )


def nan_where(bad: Bool[Array, " rows"], rows: Array) -> Array:
    """The rows, NaN where `bad`."""
    return jnp.where(bad.reshape(-1, *[1] * (rows.ndim - 1)), jnp.nan, rows)


def raise_on_failure(flow: Any, values: Any, stats: Stats | None, where: str) -> Any:
    """The values; raises `SolveError` if their solve failed and the flow's settings say so."""
    ode = getattr(flow, "ode_eval", None)
    if stats is None or ode is None or not ode.throw:
        return values
    return raise_if_failed(values, stats, where)


def to_flow_space(
    transform: Any, x: Float[Array, "rows *event"], *, grouped: bool = True
) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"]]:
    """Transform rows from data to flow space; also `log |det du/dx|`.

    Outside the transform's support the latter is -inf, and with it the log-density; `u` is 0
    there and all gradients are 0.
    """
    if transform is None:
        return x, jnp.zeros(len(x), x.dtype)
    return per_row(partial(_forward, transform), x, grouped=grouped)


def _forward(transform: Any, x: Array) -> tuple[Array, Array]:
    if not hasattr(transform, "inside"):
        return transform.forward(x)
    ok, zeros = inside(transform, x), jnp.zeros(x.shape, x.dtype)
    u, log_det = transform.forward(jnp.where(ok, x, transform.inverse(zeros)[0]))
    return jnp.where(ok, u, zeros), jnp.where(ok, log_det, -jnp.inf)


def mark_outside(stats: S, log_det: Float[Array, " rows"]) -> S:
    """Set the status `OUTSIDE` for rows that `to_flow_space` found outside the support.

    No counts, and those of a joint solve, stay as they are.
    """
    if stats is None or not stats.status.ndim:
        return stats
    status = jnp.where(jnp.isneginf(log_det), int(Status.OUTSIDE), stats.status)
    return replace(stats, status=status)


def to_data_space(
    transform: Any, u: Float[Array, "rows *event"], *, grouped: bool = True
) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"]]:
    """Transform rows from flow to data space; also `log |det dx/du|`."""
    if transform is None:
        return u, jnp.zeros(len(u), u.dtype)
    return per_row(transform.inverse, u, grouped=grouped)


def with_transform(flow: Any, transform: Any) -> Any:
    """The flow with another transform."""
    return eqx.tree_at(
        lambda flow: flow.transform, flow, transform, is_leaf=lambda leaf: leaf is None
    )
