"""Parameters of an estimator as a flow, a transform, an objective and a configuration."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxflow.bases import StandardNormal
from jaxflow.estimator.arguments import as_int
from jaxflow.flows.cnf import CNF
from jaxflow.objectives import FlowMatching, Staged, maximum_likelihood
from jaxflow.training import TrainConfig
from jaxflow.training.defaults import (
    SCALINGS,
    default_eval_every,
    scaling,
    sine_network,
    table_config,
)

OBJECTIVES = {
    "auto": None,
    "likelihood": maximum_likelihood,
    "matching": FlowMatching(),
    "staged": Staged(),
}


def make_flow(width: Any, depth: Any, dim: int, cond_dim: int, key: PRNGKeyArray) -> CNF:
    """An untrained continuous flow whose field is an MLP of sines."""
    width, depth = 128 if width is None else as_int("width", width), as_int("depth", depth)
    field = sine_network(dim, width=width, depth=depth, cond_dim=cond_dim, key=key)
    return CNF(field, StandardNormal((dim,)))


def make_transform(name: Any, x: Float[np.ndarray, "n d"], columns: list[str] | None) -> Any:
    """The `transform` of `jaxflow.fit` for a `scaling`, fitted to the training rows `x`."""
    if name is None:
        return None
    _check_choice("scaling", name, ("auto", *SCALINGS))
    return scaling(name, x, columns)


def make_objective(name: Any) -> Any:
    """The `objective` of `jaxflow.fit` for a name."""
    _check_choice("objective", name, tuple(OBJECTIVES))
    return OBJECTIVES[name]


def make_config(steps: Any, batch_size: Any, learning_rate: Any) -> TrainConfig:
    """The training configuration; ten validations if there are fewer than 1000 steps."""
    config = table_config(**make_options(steps, batch_size, learning_rate))
    return replace(config, eval_every=default_eval_every(config.steps))


def make_options(steps: Any, batch_size: Any, learning_rate: Any) -> dict[str, Any]:
    """The settings of `jaxflow.fit_density`; None for those that it chooses."""
    return {
        "steps": None if steps is None else as_int("steps", steps),
        "batch_size": None if batch_size is None else as_int("batch_size", batch_size),
        "learning_rate": None if learning_rate is None else float(learning_rate),
    }


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        choices = ", ".join(map(repr, allowed)) + (" or None" if name == "scaling" else "")
        raise ValueError(f"{name}={value!r} is unknown; choose {choices}")
