"""Training of flows, with validation by the evaluation solver."""

from jaxflow.training.checkpoints import Checkpoints
from jaxflow.training.classifier import fit_classifier
from jaxflow.training.comparison import Comparison
from jaxflow.training.config import TrainConfig
from jaxflow.training.distil import distil
from jaxflow.training.fit import fit
from jaxflow.training.fit_density import fit_density
from jaxflow.training.fit_images import fit_images
from jaxflow.training.from_simple import FittedDensity
from jaxflow.training.history import History
from jaxflow.training.noise import fit_noise
from jaxflow.training.record import Record
from jaxflow.training.step import TrainingError
from jaxflow.training.trainable import trainable

__all__ = [
    "Checkpoints",
    "Comparison",
    "FittedDensity",
    "History",
    "Record",
    "TrainConfig",
    "TrainingError",
    "distil",
    "fit",
    "fit_classifier",
    "fit_density",
    "fit_images",
    "fit_noise",
    "trainable",
]
