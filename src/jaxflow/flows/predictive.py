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

# Levels below the median whose quantiles begin the panels of a score; those above mirror them. The
# first four are RATIO apart and show how heavy a tail is.
RATIO = 100.0
LOWER = (1e-8, 1e-6, 1e-4, 1e-2, 0.05, 0.15, 0.3)
# Largest estimated error of a panel, and largest rise of its integrand times its width: in widths
# of the middle 70 % of the distribution, or relative to the panel's integral if that is larger.
PANEL_ERROR = 1e-6
PANEL_RISE = 0.05
# Bisections after which a panel has the width of rounding.
MOST_SPLITS = 48
# Grid points that a score sums over; of more, it integrates the density before rounding.
MOST_POINTS = 128
# Probability in each tail beyond these points.
TAIL = 1e-6
# Where a calibration curve is evaluated.
LEVELS = tuple(i / 20 for i in range(1, 20))


def crps(flow: Any, x: ArrayInput, cond: ArrayInput | None = None) -> Float[np.ndarray, "*batch"]:
    """Continuous ranked probability score of each row, in the data's units; lower is better.

    The negative of Gneiting and Raftery (2007), "Strictly proper scoring rules, prediction, and
    estimation", JASA 102, eq. 20, of the distribution function `F`:

    ```
    CRPS = int (F(s) - 1{s >= x})^2 ds
    ```
    The integral over `s` is taken by Simpson's rule in panels between quantiles and `x`, which
    split until the error of each is below 1e-6 of the width of the middle 70 % of the distribution
    or of the panel's share, also where modes lie far apart. Of a normal distribution the score is
    right to 1e-5 standard deviations, of a Cauchy distribution to 2e-4 of the score. Tails beyond
    the levels 1e-8 and 1 - 1e-8 count as powers; if the probability of one falls no faster than
    `|s|^(-1/2)`, the score is inf. A row costs about 75 solves, and several
    times as many where tails are heavy.

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
    """The score of a density, by panels between its quantiles and the observation."""
    levels = np.array([*LOWER, 0.5, *(1 - q for q in reversed(LOWER))])
    n, num = len(x), len(levels)
    own = None if cond is None else np.repeat(cond, num, 0)
    ends = quantile(flow, np.tile(levels, n), own).reshape(n, num)
    width = ends[:, -6] - ends[:, 5]
    column = x.reshape(n, 1)
    # The observation is an end of two panels; it splits one, or adds one beyond the last quantile.
    place = np.sum(ends < column, axis=1)[:, None]
    z = np.sort(np.concatenate([ends, column], axis=1), axis=1)
    k = np.arange(num + 1)
    p = np.concatenate([levels, [0.0]])[np.where(k > place, k - 1, k)]
    p = np.where(k == place, cdf(flow, x, cond)[:, None], p)
    row, above = np.repeat(np.arange(n), num), (k[:-1] >= place).reshape(-1)
    a, b, f_a, f_b = (each.reshape(-1) for each in (z[:, :-1], z[:, 1:], p[:, :-1], p[:, 1:]))
    panels = (row, above, a, b, (f_a - above) ** 2, (f_b - above) ** 2)

    def square(panels: Any, share: float) -> Any:
        row, above, a, b = panels[:4]
        points = (a + share * (b - a)).reshape(-1, *x.shape[1:])
        return (cdf(flow, points, _take(cond, row)) - above) ** 2

    score = _tails(ends) + _tails(-ends[:, ::-1])
    middle = square(panels, 0.5)
    for split in range(MOST_SPLITS):
        row, above, a, b, g_a, g_b = panels
        left, right = square(panels, 0.25), square(panels, 0.75)
        coarse = (b - a) / 6 * (g_a + 4 * middle + g_b)
        fine = (b - a) / 12 * (g_a + 4 * left + 2 * middle + 4 * right + g_b)
        error, rise = np.abs(fine - coarse) / 15, (b - a) * np.abs(g_b - g_a)
        size = np.maximum(width[row], fine)
        done = (error <= PANEL_ERROR * size) & (rise <= PANEL_RISE * size)
        done |= ~np.isfinite(score[row]) | (split == MOST_SPLITS - 1)
        score += np.bincount(row[done], fine[done], minlength=n)
        if done.all():
            break
        halves = (
            (row, above, a, (a + b) / 2, g_a, middle),
            (row, above, (a + b) / 2, b, middle, g_b),
        )
        panels = tuple(np.concatenate([u[~done], v[~done]]) for u, v in zip(*halves, strict=True))
        middle = np.concatenate([left[~done], right[~done]])
    return score


def _tails(ends: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """The score's part below the first quantile if its tail is a power; inf where that diverges.

    Of `F(s) = (c / |s|)^(1 / power)` the gaps between levels RATIO apart grow by `RATIO^power`.
    """
    gaps = np.diff(ends[:, :4], axis=1)
    # Of two growths the smaller: a narrow mode far out is not a tail.
    growth = np.min(gaps[:, :2] / np.maximum(gaps[:, 1:], np.finfo(float).tiny), axis=1)
    growth = np.maximum(growth, 1 + 1e-6)
    power = np.log(growth) / np.log(RATIO)
    part = LOWER[0] ** 2 * gaps[:, 0] * growth / (growth - 1) * power / np.maximum(2 - power, 1e-9)
    return np.where(power > 1.999, np.inf, part)


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
