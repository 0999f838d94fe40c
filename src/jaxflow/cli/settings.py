"""The settings of a fit, each an option of `jaxflow fit`, and the values they may have."""

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxflow.cli.options import check_choice
from jaxflow.diffusion import Schedule, VarianceExploding, VariancePreserving
from jaxflow.dynamics import ACTIVATIONS as FUNCTIONS
from jaxflow.dynamics import MLP, ConcatSquash, Residual
from jaxflow.objectives import FlowMatching, Staged, maximum_likelihood
from jaxflow.trace.choice import TRACE_NAMES as TRACE_KINDS
from jaxflow.training.defaults import SCALINGS

NETWORKS = {"mlp": MLP, "concatsquash": ConcatSquash, "residual": Residual}


class Objective(NamedTuple):
    """A training objective: its help, and its `objective=` of `jaxflow.fit` or noise schedule."""

    help: str
    value: Any = None


OBJECTIVES = {
    "auto": Objective(
        "with the default model, from the best simple density (jaxflow.fit_density); else staged "
        "for cnf, likelihood for coupling"
    ),
    "likelihood": Objective("maximum likelihood", maximum_likelihood),
    "matching": Objective("flow matching", FlowMatching()),
    "fm": Objective("the same as matching", FlowMatching()),
    "staged": Objective("flow matching, then maximum likelihood", Staged()),
    "ddpm": Objective("diffusion model, variance-preserving noise", VariancePreserving()),
    "ncsn": Objective("diffusion model, variance-exploding noise", VarianceExploding()),
    "reflow": Objective("straighten the flow of --from"),
    "reverse-kl": Objective("fit a Python function, FILE.py:NAME, instead of a table"),
}

# Allowed values and their descriptions, by setting.
CHOICES = {
    "model": {"cnf": "continuous flow", "coupling": "coupling layers"},
    "field": {"auto": "residual for diffusion models, else mlp", **dict.fromkeys(NETWORKS, "")},
    "activation": {"auto": "swish for residual, else sin", **dict.fromkeys(FUNCTIONS, "")},
    "transform": {
        "auto": "dequantise integers, map bounded columns to the real line, and choose a scaling "
        "on held-out rows",
        "none": "no transform",
        **dict.fromkeys(SCALINGS, ""),
    },
    "trace": {
        **dict.fromkeys(TRACE_KINDS, ""),
        "auto": "exact, or one random probe for training in many columns",
        "hutchinson": "estimate by random probes",
    },
    "objective": {name: objective.help for name, objective in OBJECTIVES.items()},
    "noise": {"uniform": "", "truncated": "a truncated normal, often fewer bits"},
}

# Settings where training does not choose.
STEPS = 4000
SIZES = {"width": 128, "batch_size": 512, "learning_rate": 2e-3}

# Settings that a run started with --from takes over from the other run.
INHERITED = ("model", "field", "activation", "width", "depth", "transform", "trace", "float64")


class FitData(NamedTuple):
    """The options of `jaxflow fit` that say what it reads, and how."""

    table: Path
    columns: list[str] | None
    class_column: str | None
    given: list[str] | None
    kind: list[str]
    null: list[str]
    drop_nan: bool
    levels: int | None


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """All options of `jaxflow fit` that determine the result, except the data."""

    model: str
    field: str
    activation: str
    # None where `jaxflow.fit_density` chooses.
    width: int | None
    depth: int
    steps: int
    batch_size: int | None
    learning_rate: float | None
    validation: float
    max_seconds: float | None
    seed: int
    transform: str
    trace: str
    objective: str
    float64: bool
    # The run to continue from: option --from, a reserved word in Python.
    start: str | None = None
    # Images only.
    flips: bool = False
    shifts: int = 0
    ema: float | None = None
    noise: str = "uniform"

    def __post_init__(self) -> None:
        values = asdict(self)
        for name, choices in CHOICES.items():
            check_choice(f"--{name}", values[name], choices)
        if self.objective == "reflow" and self.start is None:
            raise ValueError("--objective reflow straightens a fitted flow: add --from RUN")
        if self.objective == "reverse-kl" and self.start is not None:
            raise ValueError("--objective reverse-kl trains a new flow: leave --from out")
        if self.objective == "reverse-kl" and self.transform != "auto":
            raise ValueError(
                f"--transform {self.transform} is fitted to rows, and --objective reverse-kl has "
                "none: leave it out"
            )
        for name in ("field", "activation", "trace", "objective"):
            if self.model == "coupling" and values[name] != "auto":
                raise ValueError(
                    f"--{name} {values[name]} requires --model cnf: leave it out with --model "
                    "coupling"
                )

    @property
    def by_default(self) -> bool:
        """Whether model and training are left to `jaxflow.fit_density`."""
        names = ("field", "activation", "transform", "trace", "objective")
        automatic = all(getattr(self, name) == "auto" for name in names)
        return automatic and self.model == "cnf" and self.start is None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that `jaxflow.fit_density` and `jaxflow.fit_table` share."""
        names = ("depth", "steps", "batch_size", "learning_rate", "validation", "max_seconds")
        return {name: getattr(self, name) for name in names} | {"key": jax.random.key(self.seed)}

    def size(self, name: str) -> Any:
        """A setting of `SIZES`."""
        value = getattr(self, name)
        return SIZES[name] if value is None else value

    @property
    def schedule(self) -> Schedule | None:
        """Noise schedule of a diffusion model; None for other flows."""
        value = OBJECTIVES[self.objective].value
        return value if isinstance(value, Schedule) else None

    @property
    def network(self) -> str:
        """The field, with `auto` resolved."""
        automatic = "mlp" if self.schedule is None else "residual"
        return automatic if self.field == "auto" else self.field

    @property
    def nonlinearity(self) -> str:
        """The activation, with `auto` resolved."""
        automatic = "swish" if self.network == "residual" else "sin"
        return automatic if self.activation == "auto" else self.activation


# Settings of later versions than some runs.
DEFAULTS = {each.name: each.default for each in fields(FitSettings) if each.default is not MISSING}


def option_name(setting: str) -> str:
    """Name of a setting in run.toml and, with hyphens, on the command line."""
    return "from" if setting == "start" else setting
