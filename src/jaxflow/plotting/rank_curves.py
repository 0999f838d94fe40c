"""Ranks of truths among draws: observed against expected shares, with bands."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxflow.plotting.style import BLUE, GREY, VERMILION, open_axes

# Colours of curves in turn, of Okabe and Ito, and most curves that get a label each.
COLOURS, MOST_LABELS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#56B4E9", "#E69F00"), 6

Curve = tuple[Float[np.ndarray, " k"], ...]


def rank_curves(curves: Mapping[str, Curve], ax: Any = None, *, xlabel: str = "level") -> Any:
    """Draw observed minus expected shares of ranks, and the band of uniform ranks.

    A band holds a whole curve with its probability, not each point alone (Sailynoja et al. 2022,
    arXiv 2103.10522). Of parameters, a curve that rises first and falls then is that of a
    posterior too narrow, one that falls first that of one too wide. Of coverages, a curve above 0
    is that of a posterior too wide, one below 0 that of one too narrow.

    ```python
    import jax
    from jaxflow import diagnostics, plotting

    theta = jax.random.normal(jax.random.key(0), (200, 1))
    draws = jax.random.normal(jax.random.key(1), (200, 99, 1))
    found = diagnostics.sbc(theta, draws, key=jax.random.key(2))
    plotting.rank_curves({test.name: found.bands(test) for test in found.tests})
    ```

    Args:
        curves: for each name expected and observed shares, and the band's lower and upper shares,
            (k,) each, as `Calibration.bands` returns them.
        ax: matplotlib axes; None for new ones.
        xlabel: label of the horizontal axis.

    Returns:
        The axes.

    Raises:
        ValueError: there are no curves.
        ImportError: matplotlib is not installed.
    """
    if not curves:
        raise ValueError("curves is empty; give {name: (expected, observed, low, high)}")
    ax = open_axes(ax)
    at, _, low, high = next(iter(curves.values()))
    ax.fill_between(at, low - at, high - at, color=GREY, alpha=0.25, lw=0)
    ax.axhline(0.0, color=GREY, linewidth=1)
    largest = float(np.abs([low - at, high - at]).max())
    for i, (name, (at, observed, *_)) in enumerate(curves.items()):
        ax.plot(at, observed - at, color=COLOURS[i % len(COLOURS)], linewidth=1.6, label=name)
        largest = max(largest, float(np.abs(observed - at).max()))
    # Room for the legend.
    ax.set(xlim=(0, 1), ylim=(-1.1 * largest, 1.5 * largest))
    ax.set(xlabel=xlabel, ylabel="observed minus expected share")
    if len(curves) <= MOST_LABELS:
        ax.legend(frameon=False, loc="upper left", ncols=2)
    return ax
