"""Check a field's closed-form trace against its dense Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxflow.dynamics.protocol import Field, evaluate
from jaxflow.trace import exact_trace, has_closed_form, prepare

TIMES = (0.0, 0.37, 1.0)


def check_trace(
    field: Field,
    x: ArrayLike,
    cond: ArrayLike | None = None,
    *,
    times: tuple[float, ...] = TIMES,
    tolerance: float | None = None,
) -> float:
    """Check a field's `with_trace` against its dense Jacobian. Use it in tests of your fields.

    At each time and row, `with_trace` of the field and of its `prepare()` must return the field's
    value and `tr(df/dx)`. The check is sharper in float64: call
    `jax.config.update("jax_enable_x64", True)` first.

    ```python
    import jax
    from jaxflow.diagnostics import check_trace
    from jaxflow.dynamics import MLP
    x = jax.random.normal(jax.random.key(1), (20, 5))
    print(check_trace(MLP(5, key=jax.random.key(0)), x))
    ```

    Args:
        field: a field with `with_trace(t, x, cond=None) -> (f, trace)`.
        x: rows, (rows, *event), in the precision of the check.
        cond: conditions of the rows, (rows, *condition).
        times: times of the comparison.
        tolerance: largest allowed difference, relative to `max(1, |f|, sum_i |df_i/dx_i|)`.
            Default: 1e-10 in float64, 1e-4 in float32.

    Returns:
        The largest relative difference.

    Raises:
        ValueError: the field has no `with_trace`, or it is wrong; the text names the worst row.
    """
    name = type(field).__name__
    if not has_closed_form(field):
        raise ValueError(
            f"field={name} has no with_trace to check: give it a method "
            "with_trace(t, x, cond=None) -> (f, trace)"
        )
    x = jnp.asarray(x)
    if x.ndim == 0 or not len(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x has shape {x.shape} and dtype {x.dtype}; give floating-point rows")
    if tolerance is None:
        tolerance = 1e-10 if x.dtype == jnp.float64 else 1e-4

    fields = {"with_trace": field}
    if (prepared := prepare(field)) is not field:
        fields["prepare().with_trace"] = prepared
    quantities = [f"{part} of {method}" for method in fields for part in ("value", "trace")]

    def compare(t: Array, x: Array, cond: Array | None) -> list[Array]:
        f = evaluate(field, t, x, cond)
        jacobian = jax.jacfwd(lambda x: evaluate(field, t, x, cond))(x)
        diagonal = jnp.diagonal(jacobian.reshape(x.size, x.size))
        trace, size = jnp.sum(diagonal), jnp.sum(jnp.abs(diagonal))
        scale = jnp.maximum(1.0, jnp.maximum(jnp.max(jnp.abs(f)), size))
        errors = []
        for each in fields.values():
            value, own = exact_trace(each, t, x, cond)
            errors += [jnp.max(jnp.abs(value - f)), jnp.abs(own - trace.astype(own.dtype))]
        return [error / scale.astype(error.dtype) for error in errors]

    compare_rows = jax.jit(jax.vmap(compare, in_axes=(None, 0, 0)))
    worst = 0.0
    for t in times:
        errors = compare_rows(jnp.asarray(t, x.dtype), x, cond)
        for quantity, error in zip(quantities, errors, strict=True):
            error = np.asarray(error, np.float64)
            row = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
            if not error[row] <= tolerance:
                raise ValueError(
                    f"the {quantity} of {name} disagrees with the field: worst in row {row} at "
                    f"t={t:g}, by {error[row]:.3g} (relative, allowed {tolerance:g}); "
                    f"x[{row}]={np.asarray(x[row]).tolist()}"
                )
            worst = max(worst, float(error[row]))
    return worst
