"""Defaults that depend on the model or the data, shared by `fit`, the estimators and the CLI."""

from typing import Any

from jaxflow.diffusion import ProbabilityFlow
from jaxflow.dynamics import OptionalCondition
from jaxflow.objectives import Denoising, Stage, Staged, maximum_likelihood
from jaxflow.objectives.protocol import Objective
from jaxflow.transforms import Gaussianise, Standardise, Whiten

# Sharp densities of few columns need a field that varies quickly: a higher frequency of the sines
# in its first layer.
FEW_COLUMNS, HIGH_FREQUENCY = 3, 4.0

SCALINGS = {"standardise": Standardise, "gaussianise": Gaussianise, "whiten": Whiten}


def default_frequency(dim: int) -> float:
    """Frequency of the first layer of sines, for events with `dim` entries."""
    return HIGH_FREQUENCY if dim <= FEW_COLUMNS else 1.0


def default_eval_every(steps: int) -> int:
    """Steps between two validations: a tenth of a short training, at most 100."""
    return max(1, min(100, steps // 10))


def default_objective(flow: Any, cond: Any) -> Objective:
    """The objective of `fit` for a flow, with or without conditions `cond`."""
    field = getattr(flow, "field", None)
    if field is None:
        return maximum_likelihood
    if not isinstance(field, ProbabilityFlow):
        return Staged()
    network = getattr(field.denoiser, "network", None)
    optional = cond is not None and isinstance(network, OptionalCondition)
    denoising = Denoising(drop=0.1 if optional else 0.0)
    # The loss is noisy to the end, so the weights are averaged over more steps.
    return Staged((Stage(denoising, 1.0, ema=0.999),))
