"""Whether a field's own trace is the trace of its Jacobian."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxflow.dynamics.protocol import evaluate
from jaxflow.trace import exact_trace, has_closed_form, prepare

TIMES = (0.0, 0.37, 1.0)


def check_trace(
    field: Any,
    x: Any,
    cond: Any = None,
    *,
    times: tuple[float, ...] = TIMES,
    tolerance: float | None = None,
) -> float:
    """Compare a field's `with_trace` with its dense Jacobian; for the tests of your own fields.

    ```python
    check_trace(MyField(...), jax.random.normal(key, (20, 5)))
    ```
    At each time and row, `with_trace` of the field and of its `prepare()` must give the field's
    value and `tr(df/dx)`. Float64 shows more: `jax.config.update("jax_enable_x64", True)`.

    Args:
        field: a field with `with_trace(t, x, cond=None) -> (f, trace)`.
        x: rows, (rows, *event), in the precision of the check.
        cond: conditions of the rows, (rows, *condition).
        times: where to compare.
        tolerance: allowed difference, relative to the largest of 1, `|f|` and
            `sum_i |df_i/dx_i|`; by default 1e-10 in float64, 1e-4 in float32.

    Returns:
        The largest relative difference.

    Raises:
        ValueError: the field has no `with_trace`, or it disagrees; names the worst row.
    """
    if not has_closed_form(field):
        raise ValueError(
            f"field={type(field).__name__} has no with_trace to check: give it a method "
            "with_trace(t, x, cond=None) -> (f, trace)"
        )
    x = jnp.asarray(x)
    if x.ndim == 0 or not len(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x has shape {x.shape} and dtype {x.dtype}; give floating-point rows")
    if tolerance is None:
        tolerance = 1e-10 if x.dtype == jnp.float64 else 1e-4

    faces = {"with_trace": field}
    if (prepared := prepare(field)) is not field:
        faces["prepare().with_trace"] = prepared
    names = [f"the {part} of {face}" for face in faces for part in ("value", "trace")]

    def compare(t: Array, x: Array, cond: Array | None) -> list[Array]:
        f = evaluate(field, t, x, cond)
        jacobian = jax.jacfwd(lambda x: evaluate(field, t, x, cond))(x)
        diagonal = jnp.diagonal(jacobian.reshape(x.size, x.size))
        trace = jnp.sum(diagonal)
        scale = jnp.maximum(1.0, jnp.maximum(jnp.max(jnp.abs(f)), jnp.sum(jnp.abs(diagonal))))
        errors = []
        for each in faces.values():
            value, own = exact_trace(each, t, x, cond)
            errors += [jnp.max(jnp.abs(value - f)), jnp.abs(own - trace.astype(own.dtype))]
        return [error / scale.astype(error.dtype) for error in errors]

    rows = jax.jit(jax.vmap(compare, in_axes=(None, 0, 0)))
    worst = 0.0
    for t in times:
        for what, error in zip(names, rows(jnp.asarray(t, x.dtype), x, cond), strict=True):
            error = np.asarray(error, np.float64)
            row = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
            if not error[row] <= tolerance:
                raise ValueError(
                    f"{what} of {type(field).__name__} disagrees with the field: worst in row "
                    f"{row} at t={t:g}, by {error[row]:.3g} (relative, allowed {tolerance:g}); "
                    f"x[{row}]={np.asarray(x[row]).tolist()}"
                )
            worst = max(worst, float(error[row]))
    return worst
