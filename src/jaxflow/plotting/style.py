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
# Blue and vermilion of Okabe and Ito, distinguishable with any colour vision.
BLUE, VERMILION = "#0072B2", "#D55E00"
GREY = "#888888"


def pyplot() -> ModuleType:
    """Import `matplotlib.pyplot`, or raise an ImportError that says how to install it."""
    return import_extra("matplotlib.pyplot", "plot", "plotting needs matplotlib")


def density_colours(values: np.ndarray, gamma: float = GAMMA) -> dict[str, Any]:
    """Colour map of a density and its norm, from 0 to the peak."""
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(gamma, vmin=0.0, vmax=float(np.nanmax(values)) or 1.0)
    return {"cmap": DENSITY_MAP, "norm": norm}


def diagonal(ax: Any, num: int | None) -> None:
    """Draw the diagonal, and the band that holds 95 % of the shares of `num` at each place."""
    if num is not None:
        at = np.linspace(0.0, 1.0, 201)
        half = 1.96 * np.sqrt(at * (1 - at) / num)
        ax.fill_between(at, at - half, at + half, color=GREY, alpha=0.25, lw=0)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")


def open_axes(ax: Any = None) -> Any:
    """`ax`, or new axes, without a frame at the top and the right."""
    ax = pyplot().subplots()[1] if ax is None else ax
    ax.spines[["top", "right"]].set_visible(False)
    return ax
