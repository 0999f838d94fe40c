"""Colours that all pictures share, and matplotlib where it is installed."""

from types import ModuleType

Number = float | int

DENSITY_MAP = "magma"
# The darkest colour of the density's map, and a light one for letters on it.
DARK, LIGHT = "#000004", "#e8e6f0"
# Below 1, so that thin parts of a density can be seen beside its peaks.
GAMMA = 0.6
# Okabe and Ito's blue and vermilion, which everyone can tell apart.
BLUE, VERMILION = "#0072B2", "#D55E00"
GREY = "#888888"


def pyplot() -> ModuleType:
    """`matplotlib.pyplot`.

    Raises:
        ImportError: matplotlib is not installed; says how to install it.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'jaxflow-cnf[plot]'") from error
    return pyplot
