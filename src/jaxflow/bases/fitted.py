"""A fitted flow as the base of another."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray


class FlowBase(eqx.Module):
    """The density of a flow, in its own data units, as a base; its parameters are not trained.

    ```python
    flow = CNF(field, FlowBase(fitted))
    ```
    Every evaluation of the new flow solves the fitted one as well, by its `ode_eval`.

    Attributes:
        flow: a fitted flow without conditions.

    Raises:
        TypeError: no flow.
        ValueError: a flow whose trace is a draw, which a density may not be.
    """

    flow: Any

    def __init__(self, flow: Any) -> None:
        if not hasattr(flow, "log_prob_rows"):
            raise TypeError(f"flow={flow!r} is no flow of jaxflow: give a CNF or a CouplingFlow")
        trace = flow.trace_for(training=False) if hasattr(flow, "trace_for") else None
        if hasattr(trace, "draw"):
            raise ValueError(
                f"trace={trace} draws the log-density, and a base needs the same one at every "
                "call: give the flow trace='exact'"
            )
        self.flow = flow

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.flow.event_shape

    def log_prob(self, x: Float[Array, "*event"]) -> Float[Array, ""]:
        """Log-density of one event, nats; NaN where the solve failed."""
        return self.log_prob_rows(x[None])[0]

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*event"]:
        """One event."""
        return self.sample_rows(key[None])[0]

    def log_prob_rows(self, x: Float[Array, "rows *event"]) -> Float[Array, " rows"]:
        """Log-density of rows, solved together."""
        return _fixed(self.flow).log_prob_rows(x)[0]

    def sample_rows(self, keys: Array) -> Float[Array, "rows *event"]:
        """An event for each key, solved together."""
        return _fixed(self.flow).draw_rows(keys)[0][0]


def _fixed(flow: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, flow
    )
