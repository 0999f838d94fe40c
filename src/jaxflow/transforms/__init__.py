"""Maps from data space to flow space, with log-determinants that enter the density.

A transform (`Transform`) has `event_shape`, `forward(x) -> (u, log|det du/dx|)` and
`inverse(u) -> (x, log|det dx/du|)` for one sample; vectorise with `jax.vmap`. `fit`
trains its parameters only if `train` names the transform.
"""

from typing import Any

from jaxflow.runtime.moved import moved_name
from jaxflow.transforms.angles import Angles
from jaxflow.transforms.blocks import Blocks
from jaxflow.transforms.bounded import Bounded
from jaxflow.transforms.chain import Chain
from jaxflow.transforms.choose import candidate_transforms
from jaxflow.transforms.dequantise import Dequantise, noise_of, spread_rows, without_noise
from jaxflow.transforms.gaussianise import Gaussianise
from jaxflow.transforms.latlon import LatLon
from jaxflow.transforms.levels import LevelScores
from jaxflow.transforms.noise import CellNoise, TruncatedNormal
from jaxflow.transforms.pixels import pixels
from jaxflow.transforms.propose import Proposal, propose
from jaxflow.transforms.protocol import Transform, image_shape, inside
from jaxflow.transforms.rotations import RotationMatrix
from jaxflow.transforms.standardise import Standardise
from jaxflow.transforms.unit_length import UnitLength
from jaxflow.transforms.whiten import Whiten

__all__ = [
    "Angles",
    "Blocks",
    "Bounded",
    "CellNoise",
    "Chain",
    "Dequantise",
    "Gaussianise",
    "LatLon",
    "LevelScores",
    "Proposal",
    "RotationMatrix",
    "Standardise",
    "Transform",
    "TruncatedNormal",
    "UnitLength",
    "Whiten",
    "pixels",
    "propose",
    "without_noise",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
