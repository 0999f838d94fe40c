"""A fitted flow as the base of another flow."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.runtime.shapes import Event, Rows, Scalar


class FlowBase(eqx.Module):
    """The density of a flow, in its data units, as a base.

    Each evaluation of the new flow also solves the fitted one, with its `ode_eval`.

    ```python
    import jax
    from jaxflow import CNF, FlowBase, StandardNormal
    from jaxflow.dynamics import MLP

    fitted = CNF(MLP(2, key=jax.random.key(0)), StandardNormal(2))
    flow = CNF(MLP(2, key=jax.random.key(1)), FlowBase(fitted))
    ```
    """

    flow: Any

    def __init__(self, flow: Any) -> None:
        """Make a base of a flow.

        Args:
            flow: a fitted `CNF`, `CouplingFlow` or `Ensemble` without conditions.

        Raises:
            TypeError: `flow` is not a flow.
            ValueError: the flow's trace is stochastic, so each call gives another density.
        """
        if not hasattr(flow, "log_prob_rows"):
            raise TypeError(f"flow={flow!r} is not a flow: give a CNF or a CouplingFlow")
        trace = flow.trace_for(training=False) if hasattr(flow, "trace_for") else None
        if hasattr(trace, "draw"):
            raise ValueError(
                f"trace={trace} gives a random log-density, and a base needs the same one at "
                "every call: give the flow trace='exact'"
            )
        for member in getattr(flow, "flows", ()):
            FlowBase(member)
        self.flow = flow

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.flow.event_shape

    def log_prob(self, x: Event) -> Scalar:
        """Log-density of one event, in nats; NaN if the solve failed."""
        return self.log_prob_rows(x[None])[0]

    def sample(self, key: PRNGKeyArray) -> Event:
        """Draw one event."""
        return self.sample_rows(key[None])[0]

    def log_prob_rows(self, x: Rows) -> Float[Array, " rows"]:
        """Log-density of rows, (rows, *event), in one solve."""
        return self.flow.log_prob_rows(x)[0]

    def sample_rows(self, keys: Array) -> Rows:
        """Draw one event for each key, in one solve."""
        return self.flow.draw_rows(keys)[0][0]
