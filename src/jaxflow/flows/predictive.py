"""Scores of a flow's predictions of one number: CRPS, and calibration of its quantiles."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Shaped

from jaxflow.flows.data_space import with_transform
from jaxflow.flows.quantiles import cdf, check_flow, check_levels, grid_step, quantile
from jaxflow.runtime.arguments import as_cond_rows, as_rows, check_finite
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.transforms import noise_of, without_noise

# Levels below and above the observation at which its score takes quantiles.
NODES = 10
# Probabilities this near to 0 and 1 add nothing to a score.
EDGE = 1e-12
# Grid points that a score sums over; of more, it integrates the density before rounding.
MOST_POINTS = 128
# Probability in each tail beyond these points.
TAIL = 1e-6
# Where a calibration curve is evaluated.
LEVELS = tuple(i / 20 for i in range(1, 20))


def crps(flow: Any, x: ArrayInput, cond: ArrayInput | None = None) -> Float[np.ndarray, "*batch"]:
    """Continuous ranked probability score of each row, in the data's units; lower is better.

    The negative of Gneiting and Raftery (2007), "Strictly proper scoring rules, prediction, and
    estimation", JASA 102, eq. 20, as an integral over quantiles `x_q`:

    ```
    CRPS = int (F(s) - 1{s >= x})^2 ds = 2 int_0^1 (1{x <= x_q} - q) (x_q - x) dq
    ```
    The integral is split at `q = F(x)`, where its integrand has a kink, and each part taken at 10
    levels by Gauss and Legendre's rule in `t`, with `t^2 (3 - 2 t)` the part's share of levels.
    Of a normal distribution the score is right to 2e-4 standard deviations up to six of them from
    the mean. A row costs 21 solves.

    A column on a grid (`Dequantise`) has the sum over its grid points instead, exact to the
    probability 1e-6 in each tail. Rows whose distribution spans more than 128 points get the score
    of the density before rounding. It differs by about `step^2 p(x) / 12` where the density is
    smooth over a step, and by less than half a step anywhere.

    ```python
    import jax
    import jaxflow
    from jaxflow.dynamics import MLP

    flow = jaxflow.CNF(MLP(1, width=8, key=jax.random.key(0)), jaxflow.StandardNormal(1))
    score = jaxflow.crps(flow, [[0.0], [1.0]])  # (2,)
    ```

    Args:
        flow: a `CNF` whose events are one number, with a base that has a `cdf`.
        x: observed numbers, (*batch, *event).
        cond: conditions, (*batch, *condition), or one vector for all rows.

    Returns:
        Scores, (*batch), float64.

    Raises:
        TypeError: `flow` is not a `CNF`, or `x` does not hold numbers.
        ValueError: as `jaxflow.cdf`.
        SolveError: a solve failed.
    """
    rows, cond, batch = _rows(flow, x, cond)
    step = grid_step(flow.transform)
    score, summed = np.empty(len(rows)), np.zeros(len(rows), bool)
    if step:
        first, last = _span(flow, rows, cond, step)
        summed = last - first <= MOST_POINTS
        if summed.any():
            ends = first[summed], last[summed]
            score[summed] = _sum(flow, rows[summed], ends, _take(cond, summed), step)
        flow = with_transform(flow, without_noise(flow.transform))
    if not summed.all():
        score[~summed] = _integral(flow, rows[~summed], _take(cond, ~summed))
    return score.reshape(batch)


def calibration_curve(
    flow: Any, x: ArrayInput, cond: ArrayInput | None = None, levels: ArrayInput = LEVELS
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Share of the observations below their predicted quantile, for each level.

    The distribution function of `cdf(flow, x, cond)`, the probability integral transform: equal
    to the level if the flow is calibrated (Gneiting, Balabdaoui and Raftery 2007, "Probabilistic
    forecasts, calibration and sharpness", JRSS B 69). On a grid (`Dequantise`) a point counts in
    proportion to the part of its probability that lies below the level (Czado, Gneiting and Held
    2009, "Predictive model assessment for count data", Biometrics 65, eq. 2).

    ```python
    import jax
    import jaxflow
    from jaxflow.dynamics import MLP

    key = jax.random.key(0)
    flow = jaxflow.CNF(MLP(1, width=8, key=key), jaxflow.StandardNormal(1))
    levels, observed = jaxflow.calibration_curve(flow, flow.sample(key, 100))
    ```

    Args:
        flow: a `CNF` whose events are one number, with a base that has a `cdf`.
        x: observed numbers, (*batch, *event); not those of the fit.
        cond: conditions, (*batch, *condition), or one vector for all rows.
        levels: in (0, 1), (k,).

    Returns:
        The levels and the observed shares, each (k,). Of n rows a share has the standard error
        `sqrt(level (1 - level) / n)`. `jaxflow.plotting.reliability` draws them.

    Raises:
        TypeError: `flow` is not a `CNF`, or `x` or `levels` do not hold numbers.
        ValueError: as `jaxflow.cdf`; there are no rows; or a level is not in (0, 1).
        SolveError: a solve failed.
    """
    at = check_levels(levels, "levels").reshape(-1)
    rows, cond, _ = _rows(flow, x, cond)
    if not len(rows):
        raise ValueError("x has no rows; give the observed numbers to compare with")
    step = grid_step(flow.transform)
    high = cdf(flow, rows, cond)[:, None]
    low = cdf(flow, rows - step, cond)[:, None] if step else high
    mass = high - low
    part = np.clip((at - low) / np.where(mass > 0, mass, 1.0), 0.0, 1.0)
    return at, np.where(mass > 0, part, high <= at).mean(axis=0)


def _rows(
    flow: Any, x: Any, cond: Any
) -> tuple[Float[np.ndarray, "n *event"], Shaped[np.ndarray, "n ..."] | None, tuple[int, ...]]:
    """Rows and conditions as arrays of NumPy, and the shape of the batch."""
    check_flow(flow, x, cond)
    with jax.enable_x64(True):
        rows, batch = as_rows(x, flow.event_shape, "x")
        check_finite(rows, "x")
        cond = as_cond_rows(cond, batch)
    values = np.asarray(rows, np.float64)
    noise = noise_of(flow.transform)
    if noise is not None and len(values):
        noise.check(values)
    return values, None if cond is None else np.asarray(cond), batch


def _take(cond: Any, rows: Any) -> Any:
    return None if cond is None else cond[rows]


def _integral(flow: Any, x: Float[np.ndarray, "n *event"], cond: Any) -> Float[np.ndarray, " n"]:
    """The score of a density, by the quantiles on both sides of the observation."""
    t, weight = np.polynomial.legendre.leggauss(NODES)
    t, weight = (t + 1) / 2, weight / 2
    share, weight = t**2 * (3 - 2 * t), weight * 6 * t * (1 - t)
    p = np.clip(cdf(flow, x, cond), EDGE, 1 - EDGE)[:, None]
    levels = np.concatenate([p * share, 1 - (1 - p) * (1 - share)], axis=1)
    levels = np.clip(levels, EDGE, 1 - EDGE)
    below, above = np.split(levels, 2, axis=1)
    num = levels.shape[1]
    found = quantile(flow, levels.reshape(-1), None if cond is None else np.repeat(cond, num, 0))
    low, high = np.split(found.reshape(levels.shape), 2, axis=1)
    x = x.reshape(len(x), 1)
    parts = p * below * (x - low) + (1 - p) * (1 - above) * (high - x)
    return 2 * np.sum(weight * parts, axis=1)


def _span(
    flow: Any, x: Float[np.ndarray, "n *event"], cond: Any, step: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """First and last grid points of each row's distribution and observation."""
    ends = [quantile(flow, np.full(len(x), level), cond) for level in (TAIL, 1 - TAIL)]
    low, high, x = (part.reshape(len(x)) for part in (*ends, x))
    return np.minimum(low, x) / step, np.maximum(high, x) / step


def _sum(
    flow: Any,
    x: Float[np.ndarray, "n *event"],
    ends: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
    cond: Any,
    step: float,
) -> Float[np.ndarray, " n"]:
    """The score of a distribution on a grid, by its distribution function between the points."""
    first, last = ends
    count = np.rint(last - first).astype(int)
    row = np.repeat(np.arange(len(x)), count)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    points = (step * (first[row] + place)).reshape(-1, *x.shape[1:])
    reached = (points - x[row]).reshape(-1) >= -step / 2
    p = cdf(flow, points, _take(cond, row))
    return np.asarray(step * np.bincount(row, (p - reached) ** 2, minlength=len(x)))
