"""Fields `f(t, x, cond=None) -> dx/dt`, one family a file.

Any function or Equinox module of that signature is a field. One that also has
`with_trace(t, x, cond=None) -> (dx/dt, trace)` brings its own exact trace.
"""

from jaxflow.dynamics.activations import ACTIVATIONS
from jaxflow.dynamics.combine import Gated, Sum
from jaxflow.dynamics.concatsquash import ConcatSquash
from jaxflow.dynamics.condition import ConditionScaling, StandardisedCondition
from jaxflow.dynamics.hollow import Hollow
from jaxflow.dynamics.linear import Linear
from jaxflow.dynamics.mlp import MLP
from jaxflow.dynamics.optional import OptionalCondition
from jaxflow.dynamics.potential import Potential
from jaxflow.dynamics.protocol import Field
from jaxflow.dynamics.residual import Residual
from jaxflow.dynamics.rounded import Rounded, unrounded

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ConcatSquash",
    "ConditionScaling",
    "Field",
    "Gated",
    "Hollow",
    "Linear",
    "OptionalCondition",
    "Potential",
    "Residual",
    "Rounded",
    "StandardisedCondition",
    "Sum",
    "unrounded",
]
