"""Flows whose map is a formula, without a solve."""

import abc

from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import log_prob_rows
from jaxflow.flows.flow import Flow
from jaxflow.ode import Stats
from jaxflow.runtime.lanes import per_row
from jaxflow.runtime.shapes import Event, Rows, Scalar


class MapFlow(Flow):
    """A flow with an explicit map of one row in both directions: `from_base` and `to_base`."""

    @abc.abstractmethod
    def from_base(
        self, z: Event, cond: Float[Array, "*condition"] | None = None
    ) -> tuple[Event, Scalar]:
        """Map one base point to flow space: `u`, and `log |det du/dz|` in nats."""

    @abc.abstractmethod
    def to_base(
        self, u: Event, cond: Float[Array, "*condition"] | None = None
    ) -> tuple[Event, Scalar]:
        """Map one point of flow space to the base: `z`, and `log |det dz/du|` in nats."""

    def density_rows(
        self,
        u: Rows,
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool,
    ) -> tuple[Float[Array, " rows"], Stats | None]:
        """Log-density of rows in flow space, without counts; as `Flow.density_rows`."""
        z, log_det = per_row(self.to_base, u, cond, grouped=not training)
        return log_prob_rows(self.base, z, grouped=not training) + log_det, None

    def sample_rows(
        self,
        z: Rows,
        log_p: Float[Array, " rows"] | None,
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool = False,
    ) -> tuple[Rows, Float[Array, " rows"] | None, Stats | None]:
        """Carry rows of the base to flow space; as `Flow.sample_rows`."""
        u, log_det = per_row(self.from_base, z, cond, grouped=not training)
        return u, None if log_p is None else log_p - log_det, None

    def encode_rows(self, u: Rows, cond: Array | None) -> tuple[Rows, Stats | None]:
        """Carry rows of flow space to the base; as `Flow.encode_rows`."""
        return per_row(self.to_base, u, cond)[0], None
