"""Samples with several columns, two columns at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxflow.plotting.style import layers, open_axes, pyplot
from jaxflow.runtime.checks import as_matrix

# More columns make the panels too small to read.
MAX_COLUMNS = 12
BINS = 40


def corner(
    x: ArrayLike,
    reference: ArrayLike | None = None,
    *,
    columns: Sequence[str] | None = None,
    labels: tuple[str, str] = ("flow", "data"),
    periods: Sequence[tuple[float, float] | None] | None = None,
    axes: Any = None,
) -> Any:
    """Draw the histogram of each column and, below, the scatter of each pair of columns.

    ```python
    import numpy as np
    from jaxflow import plotting

    x, data = np.random.default_rng(0).normal(size=(2, 100, 2))
    plotting.corner(x, data, columns=["a", "b"])
    ```

    Args:
        x: samples of a flow, (n, d), d at most 12.
        reference: data to draw behind them, (m, d), or None.
        columns: names of the columns; x0, x1, ... by default.
        labels: names of `x` and `reference` in the legend.
        periods: for each column that repeats, such as an angle, where a period begins and its
            length, by `jaxflow.plotting.periods(flow.transform, d)`; its axes show one period.
        axes: matplotlib axes, (d, d); None for new ones.

    Returns:
        The axes, (d, d).

    Raises:
        ValueError: shapes or names that do not fit, NaN or infinity.
        ImportError: matplotlib is not installed.
    """
    x = as_matrix(x, "x", "n, d")
    dim = x.shape[1]
    if dim > MAX_COLUMNS:
        raise ValueError(f"x has {dim} columns; choose at most {MAX_COLUMNS}: x[:, [0, 1, 2]]")
    if reference is not None:
        reference = as_matrix(reference, "reference", "n, d")
        if reference.shape[1] != dim:
            raise ValueError(f"reference has {reference.shape[1]} columns, and x has {dim}")
    sets = layers(x, reference, labels)
    names = [f"x{i}" for i in range(dim)] if columns is None else list(columns)
    if periods is not None and len(periods) != dim:
        raise ValueError(f"periods={periods} has {len(periods)} entries for {dim} columns")
    if len(names) != dim:
        raise ValueError(f"columns={names} are {len(names)} names for {dim} columns")
    if axes is None:
        size = max(1.6 * dim, 3.0)
        axes = pyplot().subplots(dim, dim, figsize=(size, size), squeeze=False)[1]
    axes = np.asarray(axes)
    if axes.shape != (dim, dim):
        raise ValueError(f"axes has shape {axes.shape}; {dim} columns need ({dim}, {dim})")
    # The middle 99.8 %: one distant row must not shrink the rest.
    low, high = np.quantile(sets[0][0], (0.001, 0.999), axis=0)
    margin = 0.05 * np.maximum(high - low, 1e-12)
    low, high = low - margin, high + margin
    for i, period in enumerate(periods or ()):
        if period is not None:
            low[i], high[i] = period[0], period[0] + period[1]
    for i, j in np.ndindex(dim, dim):
        if j > i:
            axes[i, j].set_axis_off()
            continue
        ax = open_axes(axes[i, j])
        for rows, colour, label in sets:
            if i == j:
                bins = np.linspace(low[i], high[i], BINS + 1)
                style = {"histtype": "step", "density": True, "color": colour}
                ax.hist(rows[:, i], bins=bins, label=label, **style)
            else:
                # Fainter with more rows.
                style = {"alpha": min(0.6, 1200 / len(rows)), "color": colour, "linewidths": 0}
                ax.scatter(rows[:, j], rows[:, i], s=2, **style)
        ax.set_xlim(low[j], high[j])
        if periods and periods[j] is not None:
            ax.set_xticks(np.linspace(low[j], high[j], 5)[1:-1])
        if i == j:
            ax.set_yticks([])
        else:
            ax.set_ylim(low[i], high[i])
            if periods and periods[i] is not None:
                ax.set_yticks(np.linspace(low[i], high[i], 5)[1:-1])
        ax.tick_params(labelbottom=i == dim - 1, labelleft=j == 0 and i != j)
        if i == dim - 1:
            ax.set_xlabel(names[j])
        if j == 0 and i:
            ax.set_ylabel(names[i])
    if reference is not None:
        axes[0, 0].legend(frameon=False, fontsize="small")
    return axes
