"""What a base must have, and how rows of it are drawn and scored."""

from typing import Any

import jax
from jaxtyping import Array, Float


def check_base(base: Any) -> None:
    """Whether an object can be a flow's base.

    Raises:
        TypeError: it lacks `event_shape`, `log_prob` or `sample`.
    """
    for name in ("event_shape", "log_prob", "sample"):
        if not hasattr(base, name):
            raise TypeError(f"base={base!r} has no {name}; give e.g. jaxflow.StandardNormal((d,))")


def log_prob_rows(base: Any, z: Float[Array, "rows *event"]) -> Float[Array, " rows"]:
    """The base's log-density of rows; one that has `log_prob_rows` computes them together."""
    together = getattr(base, "log_prob_rows", None)
    return jax.vmap(base.log_prob)(z) if together is None else together(z)


def sample_rows(base: Any, keys: Array) -> Float[Array, "rows *event"]:
    """An event of the base for each key; one that has `sample_rows` draws them together."""
    together = getattr(base, "sample_rows", None)
    return jax.vmap(base.sample)(keys) if together is None else together(keys)
