"""The probability of a value on a grid: the density integrated over its cell."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxflow.flows.ensemble import members
from jaxflow.flows.importance import log_means
from jaxflow.runtime.precision import as_floats
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.transforms.dequantise import noise_of, spread_with_log_prob

# Points in a cell: Gauss and Legendre's for each of up to four columns, else Sobol's.
GAUSS, SOBOL, BITS = {1: 8, 2: 5, 3: 4, 4: 3}, 64, 30
# Largest number of columns on a grid that are integrated by so few points.
MOST_COLUMNS = 32
# Rows that show how far the midpoint rule is off, and the nats from which it is worth a warning.
SHOWN, TOO_FAR = 256, 0.05


class MidpointWarning(UserWarning):
    """`flow.log_prob` is far from the probability of rows on a grid: `log_mass` has it."""


def log_mass(
    flow: Any,
    x: ArrayInput,
    key: PRNGKeyArray,
    cond: ArrayInput | None = None,
    *,
    num_draws: int = 64,
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """`log P(x)` of rows on a grid, in nats: the density integrated over each row's cell.

    The integral is the mean of `p(x + step v) step / q(v | x)` over noise `v ~ q(v | x)`, uniform
    or learned (`jaxflow.fit_noise`). `log_prob` evaluates the density at the centre of the cell
    only. For continuous entries (step 0) the result remains a density.

    ```python
    import jax, jax.numpy as jnp, jaxflow
    from jaxflow.dynamics import MLP
    from jaxflow.transforms import Dequantise

    field = MLP(1, width=8, key=jax.random.key(0))
    flow = jaxflow.CNF(field, jaxflow.StandardNormal(1), transform=Dequantise([1.0]))
    x = jnp.asarray([[0.0], [1.0]])
    log_p, standard_error = jaxflow.log_mass(flow, x, jax.random.key(1), num_draws=4)
    ```

    Args:
        flow: a flow whose transform starts with a `Dequantise`.
        x: rows on the grid, (rows, *event).
        key: for the noise, and for a stochastic trace.
        cond: conditions, (rows, *condition), or one for all rows.
        num_draws: points in each cell, at least 2.

    Returns:
        `log P(x)`, (rows,), and its standard error, (rows,); -inf and 0 where the density is 0.

    Raises:
        ValueError: the flow has no grid, a value is off the grid, or `num_draws` is less than 2.
    """
    noise = noise_of(flow.transform)
    if noise is None:
        raise ValueError(
            f"transform={flow.transform} has no grid to integrate over, and log_prob is a "
            "density: start the transform with a Dequantise"
        )
    if num_draws < 2:
        raise ValueError(f"num_draws={num_draws} must be at least 2")
    noise.check(x)
    x = jnp.asarray(x)
    noise_key, trace_key = jax.random.split(key)
    each = []
    for draw in jax.random.split(noise_key, num_draws):
        inside, log_q = spread_with_log_prob(noise, x, draw)
        log_p = flow.log_prob(inside, cond, trace_key)
        each.append(np.asarray(log_p, float) - np.asarray(log_q, float))
    return log_means(np.stack(each, axis=1))[:2]


def log_cell_mean(
    flow: Any,
    x: ArrayInput,
    cond: ArrayInput | None = None,
    *,
    key: PRNGKeyArray | None = None,
    **options: Any,
) -> Float[np.ndarray, " n"]:
    """`log_prob(x, cond, key, **options)` of the mean density of each row's cell, in nats, (n,).

    For scores, which should not be random: the points in the cell are fixed. Rows without a grid,
    or of more than `MOST_COLUMNS` columns on one, have `log_prob` itself.
    """
    points, weights = cell_points(flow, x)
    keys = [{}] * len(points)
    if key is not None:
        keys = [{"key": each} for each in point_keys(key, len(points))]
    each = [
        np.asarray(flow.log_prob(point, cond, **options, **own), np.float64)
        for point, own in zip(points, keys, strict=True)
    ]
    return np.logaddexp.reduce(np.stack(each) + np.log(weights)[:, None], axis=0)


def cell_points(flow: Any, x: ArrayInput) -> tuple[list[Any], Float[np.ndarray, " k"]]:
    """Points in the cell of each row, k arrays (n, d), and their weights, which sum to 1.

    Rows of jax stay in jax; others become NumPy's, in float64.
    """
    grid = noise_of(members(flow)[0].transform)
    step = np.zeros(0) if grid is None else np.asarray(grid.step, np.float64)
    columns = np.flatnonzero(step) if step.ndim == 1 else []
    if not 0 < len(columns) <= MOST_COLUMNS:
        return [x], np.ones(1)
    offsets, weights = _unit_cell(len(columns))
    steps = np.zeros((len(offsets), len(step)))
    steps[:, columns] = step[columns] * offsets
    rows: Any = np.asarray(x, np.float64) if not isinstance(x, jax.Array) else as_floats(x)
    return [rows + each.astype(rows.dtype) for each in steps], weights


def point_keys(key: PRNGKeyArray, count: int) -> Any:
    """A key for each point of a cell, whose probes are its own; the key itself for one point."""
    return [key] if count == 1 else jax.random.split(key, count)


@functools.cache
def _unit_cell(dim: int) -> tuple[Float[np.ndarray, "k dim"], Float[np.ndarray, " k"]]:
    """Points in (-1/2, 1/2)^dim and their weights."""
    if dim in GAUSS:
        nodes, weights = np.polynomial.legendre.leggauss(GAUSS[dim])
        points = np.stack(np.meshgrid(*[nodes / 2] * dim), axis=-1).reshape(-1, dim)
        return points, functools.reduce(np.multiply.outer, [weights / 2] * dim).reshape(-1)
    from scipy.stats import qmc  # slow to import

    # A digital shift by NumPy's numbers: the same points with every version of scipy.
    digits = (qmc.Sobol(dim, scramble=False).random(SOBOL) * 2**BITS).astype(np.int64)
    digits ^= np.random.default_rng(0).integers(0, 2**BITS, dim)
    return (digits + 0.5) / 2**BITS - 0.5, np.full(SOBOL, 1 / SOBOL)


def warn_of_midpoints(flow: Any, x: Any, cond: Any, stacklevel: int = 2) -> None:
    """Warn if the midpoint rule of `log_prob` is off by `TOO_FAR` nats on average over rows."""
    rows = slice(None, None, -(-len(x) // SHOWN))
    x, cond = np.asarray(x, np.float64)[rows], None if cond is None else cond[rows]
    if len(cell_points(flow, x)[1]) == 1:
        return
    middle = np.asarray(flow.log_prob(x, cond), np.float64)
    excess = float((middle - log_cell_mean(flow, x, cond)).mean())
    if abs(excess) > TOO_FAR:
        warnings.warn(
            "flow.log_prob takes the density at the middle of each cell of the grid, which is "
            f"{abs(excess):.2f} nats too {'high' if excess > 0 else 'low'} on average over "
            f"{len(x)} rows; write jaxflow.log_mass(flow, x, key) for their probabilities",
            MidpointWarning,
            stacklevel=stacklevel + 1,
        )
