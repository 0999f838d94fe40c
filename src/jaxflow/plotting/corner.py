"""Samples of many columns, two by two."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxflow.plotting.style import BLUE, VERMILION, pyplot

# More columns than this make pictures too small to read.
MOST_COLUMNS = 12
BINS = 40


def corner(
    x: Any,
    reference: Any = None,
    *,
    columns: Sequence[str] | None = None,
    labels: tuple[str, str] = ("flow", "data"),
    axes: Any = None,
) -> Any:
    """Draw each column's histogram, and below them the scatter of each pair.

    Args:
        x: samples of a flow, (n, d), d at most 12.
        reference: data to draw behind them, (m, d); None for none.
        columns: names of the columns.
        labels: what the two are called.
        axes: matplotlib axes (d, d) to draw into; None for new ones.

    Returns:
        The axes, (d, d).

    Raises:
        ValueError: shapes or names that do not fit, numbers that are not finite.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    x = _rows(x, "x")
    dim = x.shape[1]
    if not 1 <= dim <= MOST_COLUMNS:
        raise ValueError(f"x has {dim} columns; choose at most {MOST_COLUMNS}: x[:, [0, 1, 2]]")
    sets = [(x, BLUE, labels[0])]
    if reference is not None:
        reference = _rows(reference, "reference")
        if reference.shape[1] != dim:
            raise ValueError(f"reference has {reference.shape[1]} columns, and x has {dim}")
        sets.insert(0, (reference, VERMILION, labels[1]))
    names = [f"x{i}" for i in range(dim)] if columns is None else list(columns)
    if len(names) != dim:
        raise ValueError(f"columns={names} are {len(names)} names for {dim} columns")
    if axes is None:
        size = max(1.6 * dim, 3.0)
        axes = plt.subplots(dim, dim, figsize=(size, size), squeeze=False)[1]
    axes = np.asarray(axes)
    if axes.shape != (dim, dim):
        raise ValueError(f"axes has shape {axes.shape}; {dim} columns take ({dim}, {dim})")
    # By the middle 99.8 %, so that one far row does not shrink the rest.
    low, high = np.quantile(sets[0][0], (0.001, 0.999), axis=0)
    margin = 0.05 * np.maximum(high - low, 1e-12)
    low, high = low - margin, high + margin
    for i in range(dim):
        for j in range(dim):
            ax = axes[i, j]
            if j > i:
                ax.set_axis_off()
                continue
            for rows, colour, label in sets:
                if i == j:
                    bins = np.linspace(low[i], high[i], BINS + 1)
                    style = {"histtype": "step", "density": True, "color": colour}
                    ax.hist(rows[:, i], bins=bins, label=label, **style)
                else:
                    # Fainter the more there are.
                    alpha = min(0.6, 1200 / len(rows))
                    ax.scatter(
                        rows[:, j], rows[:, i], s=2, color=colour, alpha=alpha, linewidths=0
                    )
            ax.set_xlim(low[j], high[j])
            if i != j:
                ax.set_ylim(low[i], high[i])
            if i == j:
                ax.set_yticks([])
            ax.tick_params(labelbottom=i == dim - 1, labelleft=j == 0 and i != j)
            if i == dim - 1:
                ax.set_xlabel(names[j])
            if j == 0 and i:
                ax.set_ylabel(names[i])
            ax.spines[["top", "right"]].set_visible(False)
    if reference is not None:
        axes[0, 0].legend(frameon=False, fontsize="small")
    return axes


def _rows(x: Any, name: str) -> np.ndarray:
    rows = np.asarray(x, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"{name} has shape {rows.shape}; rows (n, d) belong here")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"{name} has NaN or infinity, first in row {row}")
    return rows
