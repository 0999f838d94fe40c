"""Colours of all plots, and matplotlib, imported on first use."""

from types import ModuleType
from typing import Any

import numpy as np

from jaxflow.runtime.extras import import_extra

Number = float | int

DENSITY_MAP = "magma"
# Darkest colour of the density map, and a light one for text on it.
DARK, LIGHT = "#000004", "#e8e6f0"
# Exponent of the density map; below 1 it shows low densities beside the peaks.
GAMMA = 0.6
# Colours of curves in turn, of Okabe and Ito: distinguishable with any colour vision.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#888888"
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")


def pyplot() -> ModuleType:
    """Import `matplotlib.pyplot`, or raise an ImportError that says how to install it."""
    return import_extra("matplotlib.pyplot", "plot", "plotting needs matplotlib")


def density_colours(values: np.ndarray, gamma: float = GAMMA) -> dict[str, Any]:
    """Keywords of a picture: the colour map of a density, from 0 to its peak."""
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(gamma, vmin=0.0, vmax=float(np.nanmax(values)) or 1.0)
    return {"cmap": DENSITY_MAP, "norm": norm}


def diagonal(ax: Any, num: int | None) -> None:
    """Draw the diagonal and the band that holds 95 % of shares of `num` rows, pointwise."""
    if num is not None:
        at = np.linspace(0.0, 1.0, 201)
        half = 1.96 * np.sqrt(at * (1 - at) / num)
        ax.fill_between(at, at - half, at + half, color=GREY, alpha=0.25, lw=0)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")


def layers(x: Any, reference: Any, labels: tuple[str, str]) -> list[tuple[Any, str, str]]:
    """Data, colour and label of what is drawn from back to front: `reference` if any, then `x`."""
    front = (x, BLUE, labels[0])
    return [front] if reference is None else [(reference, VERMILION, labels[1]), front]


def open_axes(ax: Any = None) -> Any:
    """`ax`, or new axes, without a frame at the top and the right."""
    ax = pyplot().subplots()[1] if ax is None else ax
    ax.spines[["top", "right"]].set_visible(False)
    return ax
