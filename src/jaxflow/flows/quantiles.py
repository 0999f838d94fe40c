"""Quantiles and distribution function of a flow in one dimension.

There the solution of the ODE rises with its start, since trajectories do not cross. So it carries
quantiles of the base to quantiles of the data, and probabilities back.
"""

import math
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxflow.bases import cdf_rows, icdf_rows
from jaxflow.flows.cnf import CNF
from jaxflow.flows.data_space import to_data_space, with_transform
from jaxflow.runtime.arguments import as_rows, check_finite
from jaxflow.runtime.precision import cast_floats
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.transforms import inside, noise_of, without_noise
from jaxflow.transforms.dequantise import OFF_GRID

# Largest tolerances of the solves. Where the flow makes the base 1000 times narrower, an error of
# the solve is 1000 times larger at the base.
TOLERANCE = 1e-8


def quantile(flow: Any, q: ArrayInput, cond: ArrayInput | None = None) -> Float[np.ndarray, "..."]:
    """The number that a sample of `flow` is below with probability `q`, without sampling.

    The quantile of the base, carried to the data: `x = decode(base.icdf(q))`. In one dimension
    trajectories keep their order. Where a column is on a grid (`Dequantise`), the quantile is the
    grid's: the least point whose probability with all below it reaches `q`.

    Solves run in float64 with tolerances of at most 1e-8 (fixed steps stay as they are), whatever
    the precision of the flow. Not for use under jit.

    ```python
    import jax
    import jaxflow
    from jaxflow.dynamics import MLP

    field = MLP(1, width=8, cond_dim=2, key=jax.random.key(0))
    flow = jaxflow.CNF(field, jaxflow.StandardNormal(1))
    median = jaxflow.quantile(flow, [0.5, 0.5], [[0.0, 1.0], [2.0, 1.0]])  # (2, 1)
    ```

    Args:
        flow: a `CNF` whose events are one number, with a base that has a `cdf`.
        q: levels in (0, 1), (*batch).
        cond: conditions, (*batch, *condition), or one vector for all levels.

    Returns:
        Quantiles in the data's units, (*batch, *event), float64.

    Raises:
        TypeError: `flow` is not a `CNF`, or `q` does not hold numbers.
        ValueError: events are not one number, a level is not in (0, 1), the base has no `cdf`,
            or `cond` does not fit.
        SolveError: a solve failed.
    """
    check_flow(flow, q, cond)
    levels = check_levels(q, "q")
    with jax.enable_x64(True):
        flow = _in_float64(flow)
        rising = _centre(flow)[1]
        flat = (levels if rising else 1 - levels).reshape(-1)
        start = np.asarray(icdf_rows(flow.base, jnp.asarray(flat)))
        return np.array(flow.decode(start.reshape(*levels.shape, *flow.event_shape), cond))


def cdf(flow: Any, x: ArrayInput, cond: ArrayInput | None = None) -> Float[np.ndarray, "*batch"]:
    """Probability that a sample of `flow` is at most `x`, without sampling.

    `base.cdf(encode(x))`; 0 below the support and 1 above it. On a grid (`Dequantise`) it
    includes all of the cell of the last point that is not above `x`. Solves as `quantile`.

    ```python
    import jax
    import jaxflow
    from jaxflow.dynamics import MLP

    flow = jaxflow.CNF(MLP(1, width=8, key=jax.random.key(0)), jaxflow.StandardNormal(1))
    p = jaxflow.cdf(flow, [[0.0], [1.0]])  # (2,)
    ```

    Args:
        flow: a `CNF` whose events are one number, with a base that has a `cdf`.
        x: numbers, (*batch, *event).
        cond: conditions, (*batch, *condition), or one vector for all rows.

    Returns:
        Probabilities, (*batch), float64.

    Raises:
        TypeError: `flow` is not a `CNF`, or `x` does not hold numbers.
        ValueError: events are not one number, `x` or `cond` has the wrong shape or non-finite
            rows, or the base has no `cdf`.
        SolveError: a solve failed.
    """
    check_flow(flow, x, cond)
    with jax.enable_x64(True):
        flow = _in_float64(flow)
        rows, batch = as_rows(x, flow.event_shape, "x")
        check_finite(rows, "x")
        ends = upper_ends(flow.transform, np.asarray(rows, np.float64))
        flow = with_transform(flow, without_noise(flow.transform))
        centre, rising = _centre(flow)
        known = np.asarray(_inside(flow.transform, ends))
        column = ends.reshape(len(ends))
        safe = np.where(known, column, centre).reshape(*batch, *flow.event_shape)
        z = np.asarray(flow.encode(safe, cond)).reshape(ends.shape)
        p = np.asarray(cdf_rows(flow.base, jnp.asarray(z)))
    p = np.where(known, p if rising else 1 - p, np.where(column < centre, 0.0, 1.0))
    return p.reshape(batch)


def check_levels(q: Any, name: str) -> Float[np.ndarray, "*batch"]:
    """Levels in float64; raises unless all are numbers in (0, 1)."""
    try:
        levels = np.asarray(q)
    except ValueError:
        levels = np.asarray("of unequal length")
    if levels.dtype.kind not in "iuf":
        raise TypeError(f"{name}={q!r} must be a number in (0, 1), or an array of such numbers")
    levels = levels.astype(np.float64)
    wrong = levels[~((levels > 0) & (levels < 1))]
    if wrong.size:
        raise ValueError(
            f"{name} holds {wrong[0]:g}; a level must lie strictly between 0 and 1, such as 0.5"
        )
    return levels


def check_flow(flow: Any, *values: Any) -> None:
    """Raise unless `flow` is a `CNF` of one number, and no value is a tracer."""
    if not isinstance(flow, CNF):
        raise TypeError(
            f"flow={type(flow).__name__} may not keep the order of numbers: give a jaxflow.CNF of "
            "one column, such as the attribute `exact` of a FlowMap"
        )
    if math.prod(flow.event_shape) != 1:
        raise ValueError(
            f"flow has events of shape {flow.event_shape}; quantiles and cdf are those of one "
            "number: fit one column, with the others as conditions"
        )
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((flow, values))):
        raise ValueError(
            "quantiles and cdf are computed in float64 from known values, and an argument is "
            "unknown under jit: call them outside jax.jit, jax.vmap and jax.grad"
        )


def grid_step(transform: Any) -> float:
    """Spacing of the grid of a single column; 0 if it has none."""
    noise = noise_of(transform)
    return 0.0 if noise is None else float(noise.step.reshape(()))


def upper_ends(
    transform: Any, rows: Float[np.ndarray, "n *event"]
) -> Float[np.ndarray, "n *event"]:
    """The upper end of the cell of the last grid point that is not above each row.

    Rows stay as they are without a grid.
    """
    noise, step = noise_of(transform), grid_step(transform)
    if noise is None or not step:
        return rows
    origin = float(noise.origin.reshape(()))
    # A grid point may be off by its rounding.
    return origin + step * (np.floor((rows - origin) / step + OFF_GRID) + 0.5)


def _in_float64(flow: CNF) -> CNF:
    """The flow in float64, with tight tolerances."""
    ode = flow.ode_eval
    if ode.adaptive:
        ode = replace(ode, rtol=min(ode.rtol, TOLERANCE), atol=min(ode.atol, TOLERANCE))
    return cast_floats(replace(flow, ode_eval=ode), jnp.float64)


def _centre(flow: CNF) -> tuple[float, bool]:
    """The point of data space at 0 of flow space, and whether the transform rises."""
    transform = without_noise(flow.transform)
    if transform is None:
        return 0.0, True
    ends = jnp.asarray([0.0, 1.0]).reshape(2, *flow.event_shape)
    low, high = np.asarray(to_data_space(transform, ends)[0]).reshape(2).tolist()
    if not (low < high or low > high):
        raise ValueError(
            f"transform={transform} maps 0 and 1 of flow space to {low} and {high}: a transform "
            "of one column must rise or fall"
        )
    return low, low < high


@eqx.filter_jit
def _inside(transform: Any, rows: Any) -> Array:
    return jax.vmap(lambda x: inside(transform, x))(rows)
