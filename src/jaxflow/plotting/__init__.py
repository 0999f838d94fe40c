"""Plots of a flow: density and paths in the plane, samples, training, errors, predictions.

Each function draws into the axes passed as `ax`, or into new ones, and returns what it drew into.
The colour maps are perceptually uniform: they work with any colour vision and in grey print.
"""

from jaxflow.plotting.animation import animation
from jaxflow.plotting.columns import columns
from jaxflow.plotting.corner import corner
from jaxflow.plotting.curves import history
from jaxflow.plotting.errors import calibration, coverage
from jaxflow.plotting.excess import excess
from jaxflow.plotting.explore import explore
from jaxflow.plotting.fan import fan
from jaxflow.plotting.globe import globe
from jaxflow.plotting.grid import grid
from jaxflow.plotting.periods import periods
from jaxflow.plotting.plane import density, density_over_time, trajectories
from jaxflow.plotting.rank_curves import rank_curves
from jaxflow.plotting.reliability import reliability
from jaxflow.plotting.torsions import torsions

__all__ = [
    "animation",
    "calibration",
    "columns",
    "corner",
    "coverage",
    "density",
    "density_over_time",
    "excess",
    "explore",
    "fan",
    "globe",
    "grid",
    "history",
    "periods",
    "rank_curves",
    "reliability",
    "torsions",
    "trajectories",
]
