"""The round trip from data to base and back."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.diagnostics.findings import (
    Finding,
    Line,
    Quantiles,
    column_scale,
    flatten,
    judge,
    quantiles,
)
from jaxflow.flows.cnf import CNF
from jaxflow.flows.coupling import CouplingFlow
from jaxflow.runtime.checks import finite_rows

# Largest acceptable distance, in standard deviations of a column.
ALLOWED = 1e-2


class RoundTrip(NamedTuple):
    """The distance of `decode(encode(x))` from `x`, the largest over columns, over rows.

    In standard deviations of each column.
    """

    error: Quantiles

    def lines(self) -> list[Line]:
        """Return the quantiles."""
        return [("round trip, spreads", self.error)]

    def findings(self) -> list[Finding]:
        """Return whether points return."""
        text = (
            f"99 % of rows return from x -> z -> x to {self.error.p99:.2g} standard deviations "
            f"of a column (allowed {ALLOWED:g})"
        )
        return [
            judge(self.error.p99 <= ALLOWED, text, bad="the map is not inverted; tighten ode_eval")
        ]


def measure_round_trip(
    flow: CNF | CouplingFlow,
    rows: Float[Array, "rows *event"],
    z: Float[Array, "rows ..."],
    cond: Array | None,
) -> RoundTrip | str:
    """Decode the encoded rows `z`; returns the reason if no row returns.

    Solves of `flow` must not raise.
    """
    solved = finite_rows(z)
    # Failed rows are decoded from 0: all batches share the compiled code.
    mask = solved.reshape(-1, *[1] * (z.ndim - 1))
    x, back = flatten(rows), flatten(flow.decode(jnp.where(mask, z, jnp.zeros_like(z)), cond))
    distance = np.abs(back - x) / column_scale(x)
    error = quantiles(np.where(solved, distance.max(axis=1), np.nan))
    return "every row failed" if error is None else RoundTrip(error)
