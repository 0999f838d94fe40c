"""Training of any flow, with validation by its evaluation solver."""

from jaxflow.training.classifier import fit_classifier
from jaxflow.training.config import TrainConfig
from jaxflow.training.distil import distil
from jaxflow.training.fit import History, fit
from jaxflow.training.noise import fit_noise
from jaxflow.training.step import TrainingError

__all__ = [
    "History",
    "TrainConfig",
    "TrainingError",
    "distil",
    "fit",
    "fit_classifier",
    "fit_noise",
]
