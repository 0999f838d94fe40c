"""Parameters of an estimator, checked, as a flow, an objective and settings."""

from typing import Any

from jaxtyping import PRNGKeyArray

from jaxflow.bases import StandardNormal
from jaxflow.estimator.arguments import as_int
from jaxflow.flows.cnf import CNF
from jaxflow.objectives import FlowMatching, Staged, maximum_likelihood
from jaxflow.training.defaults import SCALINGS, sine_network

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


def make_options(steps: Any, batch_size: Any, learning_rate: Any) -> dict[str, Any]:
    """The settings of `jaxflow.fit_density`; None for those that it chooses."""
    return {
        "steps": None if steps is None else as_int("steps", steps),
        "batch_size": None if batch_size is None else as_int("batch_size", batch_size),
        "learning_rate": None if learning_rate is None else float(learning_rate),
    }


def check_choices(objective: Any, scaling: Any) -> None:
    """Raise ValueError unless both names are known."""
    allowed = {"objective": list(OBJECTIVES), "scaling": ["auto", *SCALINGS, None]}
    for name, value in (("objective", objective), ("scaling", scaling)):
        if not isinstance(value, str | None) or value not in allowed[name]:
            choices = ", ".join(map(repr, allowed[name]))
            raise ValueError(f"{name}={value!r} is unknown; choose {choices}")
