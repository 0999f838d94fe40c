"""Classifier-free guidance of a run, for samples and for their density."""

import math
from dataclasses import replace
from typing import Annotated, Any

import typer

from jaxflow.cli.models import Objective

Guidance = Annotated[
    float | None,
    typer.Option(
        help="Scale of classifier-free guidance towards the class: 0 none, 1 as learned, more "
        "insists; of diffusion models with classes."
    ),
]


def diffuses(record: dict[str, Any]) -> bool:
    """Whether a run's flow is a diffusion model."""
    return Objective(record["settings"]["objective"]).diffuses


def check_guidance(record: dict[str, Any], guidance: float | None) -> None:
    """Refuse a scale that is no number, and a run that cannot be guided.

    Raises:
        ValueError: says what to write.
    """
    if guidance is None:
        return
    if not math.isfinite(guidance):
        raise ValueError(f"--guidance {guidance} must be a finite number")
    if not diffuses(record) or record.get("classes") is None:
        raise ValueError(
            f"--guidance {guidance} needs a diffusion model with classes; fit one by "
            "jaxflow fit --objective ddpm --class-column COLUMN"
        )


def guided(flow: Any, guidance: float | None) -> Any:
    """The flow, whose field is guided where a scale is given."""
    if guidance is None:
        return flow
    from jaxflow import diffusion

    denoiser = diffusion.ClassifierFree(diffusion.denoiser_of(flow), guidance)
    return replace(flow, field=diffusion.ProbabilityFlow(denoiser))
