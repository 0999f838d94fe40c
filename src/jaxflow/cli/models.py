"""The untrained flow, the transform and the objective that the settings of a fit describe."""

from typing import Any

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxflow import CNF, CouplingFlow, StandardNormal
from jaxflow.cli.settings import NETWORKS, OBJECTIVES, FitSettings
from jaxflow.diffusion import Denoiser, as_flow
from jaxflow.dynamics import OptionalCondition
from jaxflow.objectives import Reflow
from jaxflow.training.defaults import default_frequency

# Number of trajectories that --objective reflow trains on.
REFLOW_PAIRS = 32_768


def build_flow(settings: FitSettings, dim: int, key: PRNGKeyArray, num_classes: int = 0) -> Any:
    """Build an untrained flow of `dim` columns, conditioned on the class if there are classes."""
    if settings.model == "coupling":
        if dim == 1:
            raise ValueError("--model coupling needs at least 2 columns, got 1; use --model cnf")
        return CouplingFlow(
            dim, width=settings.size("width"), depth=settings.depth, cond_dim=num_classes, key=key
        )
    trace: Any = settings.trace
    if settings.schedule is None:
        field = _build_network(settings, dim, num_classes, key)
        return CNF(field, base=StandardNormal((dim,)), trace=trace)
    network = _build_network(settings, dim, num_classes + 1 if num_classes else 0, key)
    if num_classes:
        network = OptionalCondition(network, num_classes)
    return as_flow(Denoiser(network, settings.schedule), (dim,), trace=trace)


def _build_network(settings: FitSettings, dim: int, cond_dim: int, key: PRNGKeyArray) -> Any:
    sizes: dict[str, Any] = {
        "width": settings.size("width"),
        "depth": settings.depth,
        "activation": settings.nonlinearity,
        "cond_dim": cond_dim,
    }
    if settings.network == "mlp" and settings.nonlinearity == "sin":
        sizes["frequency"] = default_frequency(dim)
    return NETWORKS[settings.network](dim, **sizes, key=key)


def transform_text(transform: Any) -> str:
    """Name a transform, such as `dequantise, bounded, standardise`."""
    parts = getattr(transform, "parts", None) or getattr(transform, "blocks", None)
    if parts:
        return ", ".join(map(transform_text, parts))
    return "none" if transform is None else type(transform).__name__.lower()


def build_objective(
    settings: FitSettings,
    flow: Any,
    key: PRNGKeyArray,
    cond: Float[np.ndarray, "rows c"] | None = None,
) -> Any:
    """The `objective` argument of `jaxflow.fit`; None is the default for the model.

    `reflow` draws trajectories of the flow, given the conditions of the training rows in turn.
    """
    if settings.objective == "reflow":
        rows = None if cond is None else np.resize(cond, (REFLOW_PAIRS, *cond.shape[1:]))
        return Reflow.of(flow, key, REFLOW_PAIRS, rows)
    return None if settings.schedule is not None else OBJECTIVES[settings.objective].value
