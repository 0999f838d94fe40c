"""What an estimator's parameters stand for: an untrained flow, a transform, a training."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxflow.bases import StandardNormal
from jaxflow.dynamics import MLP
from jaxflow.estimator.arguments import whole
from jaxflow.flows.cnf import CNF
from jaxflow.objectives import FlowMatching, Staged, maximum_likelihood
from jaxflow.training import TrainConfig
from jaxflow.training.usual import SCALINGS, usual_eval_every, usual_frequency
from jaxflow.transforms import propose

OBJECTIVES = {
    "auto": None,
    "likelihood": maximum_likelihood,
    "matching": FlowMatching(),
    "staged": Staged(),
}


def untrained(width: Any, depth: Any, dim: int, cond_dim: int, key: PRNGKeyArray) -> CNF:
    """A continuous flow of `dim` columns with a field of sines.

    Raises:
        ValueError: a size out of range.
        TypeError: a size that is no whole number.
    """
    field = MLP(
        dim,
        width=whole("width", width),
        depth=whole("depth", depth),
        cond_dim=cond_dim,
        activation="sin",
        frequency=usual_frequency(dim),
        key=key,
    )
    return CNF(field, StandardNormal((dim,)))


def scaling_of(name: Any, x: np.ndarray, columns: list[str] | None) -> Any:
    """What `jaxflow.fit` takes as its `transform`, fitted to training rows where it is named.

    Raises:
        ValueError: an unknown name, or rows that the transform cannot be fitted to.
    """
    if name is None:
        return None
    _check_choice("scaling", name, ("auto", *SCALINGS))
    if name == "auto":
        return propose(x, columns)
    return SCALINGS[name].fit(jnp.asarray(x))


def objective_of(name: Any) -> Any:
    """What `jaxflow.fit` takes as its `objective`.

    Raises:
        ValueError: an unknown name.
    """
    _check_choice("objective", name, tuple(OBJECTIVES))
    return OBJECTIVES[name]


def config_of(steps: Any, batch_size: Any, learning_rate: Any) -> TrainConfig:
    """The settings of a training; a short one has ten validations.

    Raises:
        ValueError: a setting out of range.
        TypeError: one that is no number.
    """
    steps = whole("steps", steps)
    return TrainConfig(
        steps=steps,
        batch_size=whole("batch_size", batch_size),
        learning_rate=float(learning_rate),
        eval_every=usual_eval_every(steps),
    )


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        choices = ", ".join(map(repr, allowed)) + (" or None" if name == "scaling" else "")
        raise ValueError(f"{name}={value!r} is unknown; choose {choices}")
