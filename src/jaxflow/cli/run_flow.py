"""The flow of a run as `score` and `sample` use it: exact, guided, or the fast approximation."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxflow.cli.record import IMAGES, is_diffusion
from jaxflow.cli.run_directory import FLOW, MAP
from jaxflow.diffusion import ClassifierFree, ProbabilityFlow, denoiser_of
from jaxflow.dynamics import GuidedField
from jaxflow.io.checkpoint import load
from jaxflow.runtime.text import plural


def check_flow_options(record: dict[str, Any], guidance: float | None, *, fast: bool) -> None:
    """Raise ValueError if the run does not support `--guidance` or `--fast`."""
    if guidance is None:
        return
    if fast:
        raise ValueError("--fast cannot be combined with --guidance: leave one out")
    if not math.isfinite(guidance):
        raise ValueError(f"--guidance {guidance} must be a finite number")
    if not (is_diffusion(record) or IMAGES in record) or record.get("classes") is None:
        raise ValueError(
            f"--guidance {guidance} needs a diffusion model with classes, or images with labels; "
            "fit one by jaxflow fit --objective ddpm --class-column COLUMN"
        )


def load_flow(run: Path, guidance: float | None = None, *, fast: bool = False) -> Any:
    """Load the flow, optionally with guidance, or the fast approximation by `jaxflow distil`."""
    if fast:
        path = run / MAP
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: not found; create it with jaxflow distil {run} TABLE"
            )
        return load(path)
    flow = load(run / FLOW)
    if guidance is None:
        return flow
    if not isinstance(flow.field, ProbabilityFlow):
        return replace(flow, field=GuidedField(flow.field, guidance))
    return replace(flow, field=ProbabilityFlow(ClassifierFree(denoiser_of(flow), guidance)))


def map_error_text(error: Any) -> str:
    """Describe the error of the log-densities of a fast approximation, a `MapError`."""
    return (
        f"median {error.median:.4f} nats, 90 % of {plural(error.num_rows, 'row')} within "
        f"{error.q90:.4f}, 99 % within {error.q99:.4f}; mean {error.bias:+.4f}"
    )
