"""The call that all objectives share: `loss, metrics = objective(flow, x, cond, key, weights)`.

`x` (rows, *event) are data in the units of the flow, `cond` (rows, *condition) their conditions or
None, `key` is for random numbers, and `weights` (rows,) say how often each row counts. `fit`
passes `weights` only if its caller gave weights. `loss` is a scalar to minimise; `metrics` are
scalars by name, which are reported if one is not finite.

In a loop of your own the flow has its transform, and `x` are data in their own units. `fit` maps
the data to flow space once and passes the flow without its transform, unless that is trained.

Optional attributes of an objective:
    `simulation_free`: True if training solves no ODE.
    `raw_conditions`: True if `fit` must not standardise conditions.
    `check_transform(transform)`: raise ValueError for a transform that it cannot train with.
    `held_out(flow, cond, key, weights) -> (value, share of samples left out)`: replaces the
        held-out negative log-density as the validation value; `weights` as above. NaN if there
        is no value.
"""

import inspect
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from jaxflow.runtime.shapes import Scalar

Weights = Float[Array, " rows"] | None
Loss = tuple[Scalar, dict[str, Array]]
Objective = Callable[..., Loss]


def check_objective(objective: Any, weighted: bool) -> None:
    """Raise TypeError unless the objective takes the arguments that `fit` passes to it."""
    check_function("objective", objective, "maximum_likelihood")
    for stage in getattr(objective, "parts", ()):  # of Staged
        check_objective(stage.objective, weighted)
    names = ("flow", "x", "cond", "key", "weights")[: 5 if weighted else 4]
    try:
        signature = inspect.signature(objective)
    except ValueError:  # of a function in C
        return
    try:
        signature.bind(*names)
    except TypeError:
        reason = ", since fit has weights" if weighted else ""
        raise TypeError(
            f"objective={objective!r} takes {signature}, and is called with "
            f"({', '.join(names)}){reason}: write objective({', '.join(names)}) -> (loss, metrics)"
        ) from None


def check_function(name: str, value: Any, advice: str) -> None:
    """Raise TypeError unless `value` is a function; a class without its `()` is not one."""
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name}={value!r} is not a function: write {name}={advice}")
