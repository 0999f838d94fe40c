"""The settings of a fit, and the flow and transform they stand for."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

# Columns up to which a field of sines begins with higher frequencies, and how much higher.
FEW_COLUMNS, HIGH_FREQUENCY = 3, 4.0


class Model(StrEnum):
    """Kinds of flow."""

    cnf = "cnf"
    coupling = "coupling"


class Field(StrEnum):
    """Kinds of field of a continuous flow."""

    mlp = "mlp"
    concatsquash = "concatsquash"


class Activation(StrEnum):
    """Nonlinearities of a continuous flow's field."""

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

    Auto is staged for a continuous flow, likelihood for a coupling flow.
    """

    auto = "auto"
    likelihood = "likelihood"
    matching = "matching"
    staged = "staged"


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

    def __post_init__(self) -> None:
        if self.model == Model.coupling:
            for name, value, plain in (
                ("field", self.field, Field.mlp),
                ("activation", self.activation, Activation.sin),
                ("trace", self.trace, Trace.auto),
                ("objective", self.objective, Objective.auto),
            ):
                if value != plain:
                    raise ValueError(
                        f"--{name} {value} belongs to --model cnf; a coupling flow has no {name}"
                    )
        check_seed(self.seed)

    @property
    def eval_every(self) -> int:
        """Steps between two validations: a short fit has ten of them."""
        return max(1, min(100, self.steps // 10))


def check_seed(seed: int) -> None:
    """Refuse a seed that jax would wrap around.

    Raises:
        ValueError: out of range.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed {seed} must lie between 0 and {2**32 - 1}")


def build_flow(settings: Settings, dim: int, key: Any) -> Any:
    """An untrained flow of `dim` columns.

    Raises:
        ValueError: a size out of range, or one column for a coupling flow.
    """
    from jaxflow.bases import StandardNormal
    from jaxflow.discrete import CouplingFlow
    from jaxflow.dynamics import MLP, ConcatSquash
    from jaxflow.flow import CNF

    if settings.model == Model.coupling:
        if dim == 1:
            raise ValueError("--model coupling needs at least 2 columns, got 1; use --model cnf")
        return CouplingFlow(dim, width=settings.width, depth=settings.depth, key=key)
    width, depth, activation = settings.width, settings.depth, settings.activation
    if settings.field == Field.concatsquash:
        field = ConcatSquash(dim, width=width, depth=depth, activation=activation, key=key)
    else:
        # Sharp densities of few columns want a field that can turn quickly.
        quick = activation == Activation.sin and dim <= FEW_COLUMNS
        frequency = HIGH_FREQUENCY if quick else 1.0
        field = MLP(
            dim, width=width, depth=depth, activation=activation, frequency=frequency, key=key
        )
    return CNF(field, base=StandardNormal((dim,)), trace=Trace(settings.trace).value)


def fit_transform(name: str, x: np.ndarray, columns: list[str]) -> Any:
    """What `jaxflow.fit` takes as its `transform`, fitted to rows (n, d) where it is named."""
    import jax.numpy as jnp

    from jaxflow.transforms import Gaussianise, Standardise, Whiten, propose

    kinds = {
        Transform.standardise: Standardise,
        Transform.gaussianise: Gaussianise,
        Transform.whiten: Whiten,
    }
    if name == Transform.auto:
        return propose(jnp.asarray(x), columns)
    return None if name == Transform.none else kinds[Transform(name)].fit(jnp.asarray(x))


def transform_text(transform: Any) -> str:
    """A transform in words: `dequantise, bounded, standardise`."""
    parts = getattr(transform, "parts", (transform,))
    return ", ".join("none" if part is None else type(part).__name__.lower() for part in parts)


def objective_of(name: str) -> Any:
    """What `jaxflow.fit` takes as its `objective`."""
    from jaxflow.objectives import FlowMatching, Staged, maximum_likelihood

    kinds = {
        Objective.auto: None,
        Objective.likelihood: maximum_likelihood,
        Objective.matching: FlowMatching(),
        Objective.staged: Staged(),
    }
    return kinds[Objective(name)]
