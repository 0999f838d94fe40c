"""Defaults that depend on the model or the data, shared by `fit`, the estimators and the CLI."""

from typing import Any, SupportsIndex

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxflow.diffusion import ProbabilityFlow
from jaxflow.dynamics import MLP, OptionalCondition
from jaxflow.objectives import Denoising, Stage, Staged, maximum_likelihood
from jaxflow.objectives.framed import FramedMatching
from jaxflow.objectives.protocol import Objective
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.training.config import TrainConfig
from jaxflow.training.trainable import trains
from jaxflow.transforms import Gaussianise, Standardise, Whiten, propose

# Sharp densities of few columns need a field that varies quickly: a higher frequency of the sines
# in its first layer.
FEW_COLUMNS, HIGH_FREQUENCY = 3, 4.0

# A flow with an encoder (`from_encoder.fit_encoded`) learns by matching, then by likelihood, with
# these shares of the steps, chosen by `make bench-sbi`.
ENCODED = Staged(
    (
        Stage(FramedMatching(), 0.9, ema=0.998),
        Stage(maximum_likelihood, 0.1, rate=0.4),
    )
)
# Its training on few rows, which a strong decay of the weights keeps from being learned by heart,
# and on more than MANY_ROWS.
MANY_ROWS = 5000
ON_FEW: dict[str, Any] = {"batch_size": 256, "weight_decay": 0.3}
ON_MANY: dict[str, Any] = {"batch_size": 512, "weight_decay": 0.1}
# The training of `fit_density` on a table that is small enough for folds.
ON_SMALL_TABLE: dict[str, Any] = {"batch_size": 128, "learning_rate": 1e-3}

SCALINGS = {"standardise": Standardise, "gaussianise": Gaussianise, "whiten": Whiten}


def default_frequency(dim: int) -> float:
    """Frequency of the first layer of sines, for events with `dim` entries."""
    return HIGH_FREQUENCY if dim <= FEW_COLUMNS else 1.0


def sine_network(
    dim: int,
    *,
    width: SupportsIndex,
    depth: SupportsIndex,
    cond_dim: int = 0,
    intrinsic: int | None = None,
    key: PRNGKeyArray,
) -> MLP:
    """A field of sines for events of `dim` entries, on a manifold of `intrinsic` dimensions."""
    frequency = default_frequency(dim if intrinsic is None else intrinsic)
    sizes: dict[str, Any] = {"width": width, "depth": depth, "cond_dim": cond_dim}
    return MLP(dim, **sizes, activation="sin", frequency=frequency, key=key)


def encoded_config(num_rows: int, **settings: Any) -> TrainConfig:
    """Settings of the training of `fit_encoded`, with defaults for those that are None."""
    return _with_defaults(ON_MANY if num_rows > MANY_ROWS else ON_FEW, settings)


def table_config(*, large: bool = True, **settings: Any) -> TrainConfig:
    """Settings of the training on a table, with defaults for those that are None."""
    return _with_defaults({} if large else ON_SMALL_TABLE, settings)


def _with_defaults(defaults: dict[str, Any], settings: dict[str, Any]) -> TrainConfig:
    chosen = {name: value for name, value in settings.items() if value is not None}
    return TrainConfig(**defaults | chosen)


def scaling(name: str, x: ArrayInput, columns: list[str] | None) -> Any:
    """The argument `transform` of `fit` for a name of `SCALINGS`, `"auto"` or `"none"`."""
    if name == "auto":
        return propose(jnp.asarray(x), columns).flat
    return None if name == "none" else SCALINGS[name].fit(jnp.asarray(x))


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
