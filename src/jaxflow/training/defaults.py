"""Defaults that depend on the model or the data, shared by `fit`, the estimators and the CLI."""

from typing import Any

from jaxflow.diffusion import ProbabilityFlow
from jaxflow.dynamics import OptionalCondition
from jaxflow.objectives import Denoising, Stage, Staged, maximum_likelihood
from jaxflow.objectives.protocol import Objective
from jaxflow.training.trainable import trains
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


def default_objective(flow: Any, cond: Any, train: Any = ("field",)) -> Objective:
    """The objective of `fit` for a flow, with or without conditions `cond`."""
    field = getattr(flow, "field", None)
    if field is None or beyond_field(train):
        return maximum_likelihood
    if not isinstance(field, ProbabilityFlow):
        return Staged()
    network = getattr(field.denoiser, "network", None)
    optional = cond is not None and isinstance(network, OptionalCondition)
    denoising = Denoising(drop=0.1 if optional else 0.0)
    # The loss is noisy to the end, so the weights are averaged over more steps.
    return Staged((Stage(denoising, 1.0, ema=0.999),))


def beyond_field(train: Any) -> list[str]:
    """The parts besides the field that are trained."""
    return [part for part in ("base", "transform") if trains(train, part)]


def check_trains_likelihood(objective: Objective, train: Any) -> None:
    """Raise ValueError if the objective would shrink a trained base or transform to a point.

    The loss of a regression on velocities falls to 0 where the base is a point.
    """
    parts = [stage.objective for stage in getattr(objective, "parts", ())] or [objective]
    if beyond_field(train) and any(getattr(part, "simulation_free", False) for part in parts):
        raise ValueError(
            f"objective={objective} is no likelihood, and its loss falls to 0 where a trained "
            f"{' or '.join(beyond_field(train))} shrinks to a point: fit the field alone first, "
            "then write fit(..., train=..., objective=jaxflow.objectives.maximum_likelihood)"
        )
