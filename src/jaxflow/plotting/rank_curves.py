"""Ranks of truths among draws: observed against expected shares, with bands."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxflow.plotting.style import COLOURS, GREY, open_axes

# Most curves that get a label each.
MOST_LABELS = 6

Curve = tuple[Float[np.ndarray, " k"], ...]


def rank_curves(curves: Mapping[str, Curve], ax: Any = None, *, xlabel: str = "level") -> Any:
    """Draw observed minus expected shares of ranks, and the band of uniform ranks.

    The band holds entire curves with its probability, not each point by itself (Sailynoja et al.
    2022, arXiv 2103.10522). Curves of parameters first rise and then fall if the posterior is too
    narrow, and first fall if it is too wide. Curves of coverages lie above 0 if the posterior is
    too wide, and below 0 if it is too narrow.

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
