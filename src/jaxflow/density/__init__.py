"""Log-densities along trajectories: the continuity equation, its numerical error, paths."""

from jaxflow.density.continuity import augmented_dynamics

__all__ = ["augmented_dynamics"]
