"""The columns of a table, one by one: bars of labels, histograms of numbers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxflow.plotting.style import layers, open_axes, pyplot

# Panels in a row, most labels and bins of a panel, most panels.
WIDE, LABELS, BINS, MOST = 4, 8, 30, 24


def columns(
    x: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray] | None = None,
    *,
    labels: tuple[str, str] = ("flow", "data"),
) -> Any:
    """Draw each column of a table, beside the same column of another table.

    Text is shown as the shares of its most frequent labels, numbers and dates as histograms.
    Missing cells are left out.

    ```python
    import numpy as np
    from jaxflow import plotting

    rng = np.random.default_rng(0)
    table = {"city": rng.choice(["Oslo", "Rome"], 50), "degrees": rng.normal(size=50)}
    plotting.columns(table)
    ```

    Args:
        x: columns by name, (n,) each: text, truth values, numbers or dates.
        reference: columns of the same names to draw behind them, or None.
        labels: names of `x` and `reference` in the legend.

    Returns:
        The figure; it shows the first 24 columns.

    Raises:
        ValueError: no columns, or a column of `x` that `reference` lacks.
        ImportError: matplotlib is not installed.
    """
    names = list(x)[:MOST]
    missing = [name for name in names if reference is not None and name not in reference]
    if missing or not names:
        raise ValueError(f"reference lacks the columns {missing}" if missing else "x is empty")
    sets = layers(x, reference, labels)
    wide = min(WIDE, len(names))
    tall = math.ceil(len(names) / wide)
    size = 3.1 * wide, 2.3 * tall
    figure, axes = pyplot().subplots(tall, wide, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.flat, names, strict=False):
        open_axes(ax)
        cells = [_not_missing(np.asarray(table[name])) for table, _, _ in sets]
        is_text = any(part.dtype.kind in "OUSb" for part in cells)
        draw_panel = _draw_bars if is_text else _draw_histogram
        draw_panel(ax, cells, [(colour, label) for _, colour, label in sets])
        ax.set_title(name, fontsize="medium")
        ax.set_yticks([])
    if len(sets) > 1:
        axes[0, 0].legend(frameon=False, fontsize="small")
    return figure


def _not_missing(values: np.ndarray) -> np.ndarray:
    """The cells with a value."""
    if values.dtype.kind == "O":
        return np.array([str(v) for v in values if v is not None and v == v], object)
    return values[np.isfinite(values)] if values.dtype.kind in "fM" else values


def _draw_bars(ax: Any, cells: list[np.ndarray], style: list[tuple[str, str]]) -> None:
    texts = [part.astype(str) for part in cells]
    names, counts = np.unique(np.concatenate(texts), return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")][:LABELS]
    width, place = 0.8 / len(cells), np.arange(len(shown))
    for i, (part, (colour, label)) in enumerate(zip(texts, style, strict=True)):
        shares = [(part == name).sum() / max(len(part), 1) for name in shown]
        ax.bar(place + (i + 0.5) * width - 0.4, shares, width, color=colour, label=label)
    short = [name if len(name) < 10 else name[:8] + ".." for name in shown]
    ax.set_xticks(place, short, fontsize="small", rotation=30 if len(shown) > 3 else 0)


def _draw_histogram(ax: Any, cells: list[np.ndarray], style: list[tuple[str, str]]) -> None:
    both = np.concatenate([part.astype(np.float64) for part in cells])
    if not len(both):
        return
    # The middle 99 %: one distant row must not shrink the rest.
    low, high = np.quantile(both, (0.005, 0.995))
    values = np.unique(both)
    are_counts = len(values) <= 2 * BINS and np.all(values == np.round(values))
    if low == high and not are_counts:
        low, high = low - abs(low) / 2, high + abs(high) / 2
    bins = np.arange(low - 0.5, high + 1) if are_counts else np.linspace(low, high, BINS + 1)
    for part, (colour, label) in zip(cells, style, strict=True):
        # Dates as dates, so that the axis names them.
        dates = part.dtype.kind == "M"
        edges = bins.astype("int64").astype(part.dtype) if dates else bins
        ax.hist(part, bins=edges, density=not dates, histtype="step", color=colour, label=label)
    if any(part.dtype.kind == "M" for part in cells):
        ax.tick_params(axis="x", labelrotation=30, labelsize="small")
