"""From data to the base and back: do points return to where they came from?"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.diagnostics.findings import Finding, Line, Quantiles, on_host, quantiles
from jaxflow.flows.cnf import CNF
from jaxflow.flows.coupling import CouplingFlow

# A point further away than this part of a column's spread has not returned.
RETURNED = 1e-2


class RoundTrip(NamedTuple):
    """The distance of `decode(encode(x))` from `x`.

    Attributes:
        error: quantiles over rows of the largest distance over columns, in units of each
            column's standard deviation.
    """

    error: Quantiles

    def lines(self) -> list[Line]:
        """Quantiles over rows."""
        return [("round trip, spreads", self.error)]

    def findings(self) -> list[Finding]:
        """Whether points return."""
        size = self.error.p99
        text = f"99 % of encoded points return from x -> z -> x to {size:.2g} of a column's spread"
        if size <= RETURNED:
            return [Finding(text, "good")]
        return [Finding(f"{text}: the map is not inverted; tighten ode_eval", "bad")]


def examine_round_trip(
    flow: CNF | CouplingFlow,
    rows: Float[Array, "rows *event"],
    z: Float[Array, "rows *event"],
    cond: Array | None,
) -> RoundTrip | None:
    """Carry encoded rows back; None where none of them returns at all.

    Args:
        flow: the flow; its solves must not raise.
        rows: rows in data units.
        z: the rows, encoded.
        cond: their conditions.
    """
    good = np.isfinite(on_host(z)).reshape(len(z), -1).all(axis=1)
    if not good.any():
        return None
    # All rows, so that the compiled code is shared: those that failed stand at 0.
    known = good.reshape(-1, *[1] * (z.ndim - 1))
    x, back = on_host(rows), on_host(flow.decode(jnp.where(known, z, jnp.zeros_like(z)), cond))
    back = np.where(known, back, np.nan)
    spread = x.std(axis=0)
    distance = np.abs(back - x) / np.where(spread > 0, spread, 1.0)
    error = quantiles(distance.reshape(len(x), -1).max(axis=1))
    return None if error is None else RoundTrip(error)
