"""Fields `f(t, x, cond=None) -> dx/dt`: the right-hand sides of a flow's ODE.

Any function or Equinox module with this signature is a field (`Field`). A field with a method
`with_trace(t, x, cond=None) -> (dx/dt, trace)` supplies its exact trace in closed form.
"""

from jaxflow.dynamics.activations import ACTIVATIONS
from jaxflow.dynamics.combine import Gated, Sum
from jaxflow.dynamics.concatsquash import ConcatSquash
from jaxflow.dynamics.condition import ConditionScaling, EncodedCondition, StandardisedCondition
from jaxflow.dynamics.convolutional import Convolutional
from jaxflow.dynamics.dit import DiT
from jaxflow.dynamics.encoders import (
    ObservationEncoder,
    SeriesEncoder,
    SetEncoder,
)
from jaxflow.dynamics.gaussian_velocity import GaussianVelocity
from jaxflow.dynamics.guided import GuidedField
from jaxflow.dynamics.hollow import Hollow
from jaxflow.dynamics.linear import Linear
from jaxflow.dynamics.location_scale import LocationScale, Moments, Regression
from jaxflow.dynamics.mlp import MLP
from jaxflow.dynamics.on_manifold import OnManifold
from jaxflow.dynamics.optional import OptionalCondition
from jaxflow.dynamics.potential import Potential
from jaxflow.dynamics.protocol import Field
from jaxflow.dynamics.residual import Residual
from jaxflow.dynamics.robust_scaling import RobustScaling
from jaxflow.dynamics.rounded import Rounded, unrounded
from jaxflow.dynamics.trees import Trees
from jaxflow.dynamics.unet import UNet

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ConcatSquash",
    "ConditionScaling",
    "Convolutional",
    "DiT",
    "EncodedCondition",
    "Field",
    "Gated",
    "GaussianVelocity",
    "GuidedField",
    "Hollow",
    "Linear",
    "LocationScale",
    "Moments",
    "ObservationEncoder",
    "OnManifold",
    "OptionalCondition",
    "Potential",
    "Regression",
    "Residual",
    "RobustScaling",
    "Rounded",
    "SeriesEncoder",
    "SetEncoder",
    "StandardisedCondition",
    "Sum",
    "Trees",
    "UNet",
    "unrounded",
]
