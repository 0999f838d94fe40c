"""Predicted distributions of a number, as bands between quantiles."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxflow.plotting.style import BLUE, VERMILION, open_axes
from jaxflow.runtime.checks import as_matrix


def fan(
    x: ArrayLike,
    quantiles: ArrayLike,
    levels: ArrayLike,
    ax: Any = None,
    *,
    observed: ArrayLike | None = None,
) -> Any:
    """Draw bands between predicted quantiles against a condition, and observations over them.

    The outermost levels bound the lightest band. With an odd number of levels the middle one is a
    line.

    ```python
    import numpy as np
    from jaxflow import plotting

    x = np.linspace(0.0, 1.0, 20)
    quantiles = x[:, None] ** 2 + np.array([-0.2, 0.0, 0.2])
    plotting.fan(x, quantiles, [0.05, 0.5, 0.95], observed=x**2)
    ```

    Args:
        x: horizontal position of each row, (n,): a condition, or the observed target.
        quantiles: predictions, (n, k), of `ConditionalFlowDensity.predict_quantile(y, levels)`.
        levels: their levels, (k,), at least 2, in any order.
        ax: matplotlib axes; None for new ones.
        observed: targets, (n,), drawn as points; the title gives the share of them within the
            outermost band.

    Returns:
        The axes.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity.
        ImportError: matplotlib is not installed.
    """
    at, q = as_matrix(x, "x", "n"), as_matrix(levels, "levels", "k")
    values = as_matrix(quantiles, "quantiles", "n, k")
    if q.size < 2 or values.shape != (at.size, q.size):
        raise ValueError(
            f"x has shape {at.shape}, quantiles {values.shape} and levels {q.shape}; give (n,), "
            "(n, k) and (k,) with k at least 2"
        )
    rows, columns = np.argsort(at, kind="stable"), np.argsort(q)
    line, bands, q = at[rows], values[rows][:, columns], q[columns]
    ax = open_axes(ax)
    half = q.size // 2
    for i in range(half):
        low, high = bands[:, i], bands[:, -1 - i]
        share = f"{100 * (q[-1 - i] - q[i]):.3g} %"
        strength = 0.15 + 0.45 * i / max(half - 1, 1)
        ax.fill_between(line, low, high, color=BLUE, alpha=strength, linewidth=0, label=share)
    if q.size % 2:
        ax.plot(line, bands[:, half], color=BLUE, linewidth=1.4, label=f"quantile {q[half]:.3g}")
    if observed is not None:
        points = as_matrix(observed, "observed", "n")
        if points.shape != at.shape:
            raise ValueError(f"observed has shape {points.shape}; give one a row, {at.shape}")
        ax.scatter(at, points, s=6, color=VERMILION, alpha=0.7, linewidths=0, label="observed")
        inside = (points[rows] >= bands[:, 0]) & (points[rows] <= bands[:, -1])
        ax.set_title(f"{100 * inside.mean():.1f} % within {100 * (q[-1] - q[0]):.3g} % intervals")
    ax.legend(frameon=False)
    return ax
