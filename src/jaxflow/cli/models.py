"""The settings of a fit, and the flow and transform they stand for."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

# Trajectories that a flow is straightened by.
PAIRS = 32_768
# What a run's flow decides where another goes on with it.
DECIDED = ("model", "field", "activation", "width", "depth", "transform", "trace", "float64")


class Model(StrEnum):
    """Kinds of flow."""

    cnf = "cnf"
    coupling = "coupling"


class Field(StrEnum):
    """Networks of a continuous flow; auto is residual for diffusion models, else mlp."""

    auto = "auto"
    mlp = "mlp"
    concatsquash = "concatsquash"
    residual = "residual"


class Activation(StrEnum):
    """Nonlinearities of a continuous flow's field; auto is swish for residual, else sin."""

    auto = "auto"
    sin = "sin"
    tanh = "tanh"
    softplus = "softplus"
    swish = "swish"
    gelu = "gelu"


class Transform(StrEnum):
    """Fixed maps from data to flow space.

    Auto looks at each column for grids and limits, and lets held-out rows choose the scaling.
    """

    auto = "auto"
    none = "none"
    standardise = "standardise"
    gaussianise = "gaussianise"
    whiten = "whiten"


class Objective(StrEnum):
    """What training minimises; staged is flow matching first, likelihood last.

    Auto is staged for a continuous flow, likelihood for a coupling flow. `ddpm` and `ncsn` make
    a diffusion model, of preserved and of exploding variance; `fm` is short for matching. `reflow`
    straightens a fitted flow; `reverse_kl` fits a function.
    """

    auto = "auto"
    likelihood = "likelihood"
    matching = "matching"
    fm = "fm"
    staged = "staged"
    ddpm = "ddpm"
    ncsn = "ncsn"
    reflow = "reflow"
    reverse_kl = "reverse-kl"

    @property
    def diffuses(self) -> bool:
        """Whether the flow is a diffusion model's."""
        return self in (Objective.ddpm, Objective.ncsn)


class Sampler(StrEnum):
    """Ways to draw samples; all but ode are a diffusion model's."""

    ode = "ode"
    ancestral = "ancestral"
    ddim = "ddim"
    heun = "heun"
    dpm = "dpm"
    langevin = "langevin"
    corrected = "corrected"


class Trace(StrEnum):
    """How a continuous flow computes the trace in its log-density."""

    auto = "auto"
    closed = "closed"
    exact = "exact"
    hutchinson = "hutchinson"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides a fit but the table; each is an option of `jaxflow fit`.

    Raises:
        ValueError: an option that the model does not have.
    """

    model: str
    field: str
    activation: str
    width: int
    depth: int
    steps: int
    batch_size: int
    learning_rate: float
    validation: float
    max_seconds: float | None
    seed: int
    transform: str
    trace: str
    objective: str
    float64: bool
    # The run whose flow goes on being trained.
    start: str | None = None

    def __post_init__(self) -> None:
        objective = Objective(self.objective)
        if objective == Objective.reflow and self.start is None:
            raise ValueError("--objective reflow straightens a fitted flow: add --from RUN")
        if objective == Objective.reverse_kl and self.start is not None:
            raise ValueError("--objective reverse-kl begins with a new flow: leave --from out")
        if objective == Objective.reverse_kl and self.transform != Transform.auto:
            raise ValueError(
                f"--transform {self.transform} is fitted to rows, and --objective reverse-kl has "
                "none: leave it out"
            )
        if self.model == Model.coupling:
            for name, value, plain in (
                ("field", self.field, Field.auto),
                ("activation", self.activation, Activation.auto),
                ("trace", self.trace, Trace.auto),
                ("objective", self.objective, Objective.auto),
            ):
                if value != plain:
                    raise ValueError(
                        f"--{name} {value} belongs to --model cnf: leave it out with --model "
                        "coupling"
                    )
        check_seed(self.seed)

    @property
    def network(self) -> str:
        """The field, where it is chosen automatically too."""
        if self.field != Field.auto:
            return self.field
        chosen = Field.residual if Objective(self.objective).diffuses else Field.mlp
        return chosen.value

    @property
    def nonlinearity(self) -> str:
        """The activation, where it is chosen automatically too."""
        if self.activation != Activation.auto:
            return self.activation
        chosen = Activation.swish if self.network == Field.residual else Activation.sin
        return chosen.value


def option_name(setting: str) -> str:
    """The option of `jaxflow fit` that a setting comes from; `from` is no name in Python."""
    return "from" if setting == "start" else setting


def check_seed(seed: int) -> None:
    """Refuse a seed that jax would wrap around.

    Raises:
        ValueError: out of range.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed {seed} must lie between 0 and {2**32 - 1}")


def build_flow(settings: Settings, dim: int, key: Any, num_classes: int = 0) -> Any:
    """An untrained flow of `dim` columns, given a class where there are any.

    Raises:
        ValueError: a size out of range, or one column for a coupling flow.
    """
    from jaxflow.bases import StandardNormal
    from jaxflow.diffusion import Denoiser, VarianceExploding, VariancePreserving, as_flow
    from jaxflow.dynamics import OptionalCondition
    from jaxflow.flows.cnf import CNF
    from jaxflow.flows.coupling import CouplingFlow

    if settings.model == Model.coupling:
        if dim == 1:
            raise ValueError("--model coupling needs at least 2 columns, got 1; use --model cnf")
        return CouplingFlow(
            dim, width=settings.width, depth=settings.depth, cond_dim=num_classes, key=key
        )
    trace = Trace(settings.trace).value
    if not Objective(settings.objective).diffuses:
        field = _network(settings, dim, num_classes, key)
        return CNF(field, base=StandardNormal((dim,)), trace=trace)
    network = _network(settings, dim, num_classes + 1 if num_classes else 0, key)
    if num_classes:
        network = OptionalCondition(network, num_classes)
    exploding = settings.objective == Objective.ncsn
    schedule = VarianceExploding() if exploding else VariancePreserving()
    return as_flow(Denoiser(network, schedule), (dim,), trace=trace)


def _network(settings: Settings, dim: int, cond_dim: int, key: Any) -> Any:
    from jaxflow.dynamics import MLP, ConcatSquash, Residual
    from jaxflow.training.usual import usual_frequency

    sizes: dict[str, Any] = {
        "width": settings.width,
        "depth": settings.depth,
        "activation": settings.nonlinearity,
        "cond_dim": cond_dim,
    }
    if settings.network == Field.residual:
        return Residual(dim, **sizes, key=key)
    if settings.network == Field.concatsquash:
        return ConcatSquash(dim, **sizes, key=key)
    is_sine = settings.nonlinearity == Activation.sin
    return MLP(dim, **sizes, frequency=usual_frequency(dim) if is_sine else 1.0, key=key)


def fit_transform(name: str, x: np.ndarray, columns: list[str]) -> Any:
    """What `jaxflow.fit` takes as its `transform`, fitted to rows (n, d) where it is named."""
    import jax.numpy as jnp

    from jaxflow.training.usual import SCALINGS
    from jaxflow.transforms import propose

    if name == Transform.auto:
        return propose(jnp.asarray(x), columns)
    return None if name == Transform.none else SCALINGS[name].fit(jnp.asarray(x))


def transform_text(transform: Any) -> str:
    """A transform in words: `dequantise, bounded, standardise`."""
    parts = getattr(transform, "parts", (transform,))
    return ", ".join("none" if part is None else type(part).__name__.lower() for part in parts)


def objective_of(name: str, flow: Any, key: Any, cond: Any) -> Any:
    """What `jaxflow.fit` takes as its `objective`; None for what suits the model.

    Key and conditions are for the pairs of a flow that is straightened.
    """
    from jaxflow.objectives import FlowMatching, Reflow, Staged, maximum_likelihood

    if name == Objective.reflow:
        rows = None if cond is None else np.resize(cond, (PAIRS, *cond.shape[1:]))
        return Reflow.of(flow, key, PAIRS, rows)
    kinds = {
        Objective.auto: None,
        Objective.ddpm: None,
        Objective.ncsn: None,
        Objective.likelihood: maximum_likelihood,
        Objective.matching: FlowMatching(),
        Objective.fm: FlowMatching(),
        Objective.staged: Staged(),
    }
    return kinds[Objective(name)]
