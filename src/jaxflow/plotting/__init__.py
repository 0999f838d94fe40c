"""Pictures of a flow: its density at any moment, its paths, its training, its checks.

Each function draws into the `ax` it is given, or into a new one, and returns what it drew into.
The maps of colours are even in lightness, so they survive colour blindness and grey print.
"""

from jaxflow.plotting.animation import animation
from jaxflow.plotting.corner import corner
from jaxflow.plotting.curves import history
from jaxflow.plotting.errors import calibration, coverage
from jaxflow.plotting.plane import density, density_over_time, trajectories

__all__ = [
    "animation",
    "calibration",
    "corner",
    "coverage",
    "density",
    "density_over_time",
    "history",
    "trajectories",
]
