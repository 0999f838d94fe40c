"""Colours of all plots, and matplotlib, imported on first use."""

from types import ModuleType
from typing import Any

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


def open_axes(ax: Any = None) -> Any:
    """`ax`, or new axes, without a frame at the top and the right."""
    ax = pyplot().subplots()[1] if ax is None else ax
    ax.spines[["top", "right"]].set_visible(False)
    return ax
