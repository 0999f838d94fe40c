"""Log-densities along trajectories: the continuity equation, its numerical error, paths."""

from jaxflow.density.change_of_variables import dense_log_det
from jaxflow.density.continuity import augmented_dynamics

__all__ = ["augmented_dynamics", "dense_log_det"]
