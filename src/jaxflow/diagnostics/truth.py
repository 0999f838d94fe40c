"""The true error of log-densities: the same rows again, in float64 and with tight steps."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.diagnostics.findings import Finding, Line, Quantiles, counted, on_host, quantiles
from jaxflow.dynamics.protocol import has_closed_form
from jaxflow.flows.cnf import CNF
from jaxflow.flows.flow import score_rows
from jaxflow.ode import ODE
from jaxflow.runtime.arguments import promote_dtypes

# Settings of the solves that count as the truth, and how many rows take them.
EXACT = ODE(solver="dopri5", rtol=1e-10, atol=1e-10, max_steps=2**14, throw=False)
ROWS = 64
# Events beyond which an exact trace without a closed form takes too long.
LARGEST = 256


class Truth(NamedTuple):
    """Log-densities against those of a tight float64 solve with an exact trace.

    Attributes:
        num_rows: rows that were compared.
        error: quantiles of the absolute difference, nats.
        covered: rows whose difference is within the error that the flow states for them, up to
            the rounding of the log-density itself; None where it states none.
        atol_nats: the error that was asked for.
    """

    num_rows: int
    error: Quantiles
    covered: int | None
    atol_nats: float

    def lines(self) -> list[Line]:
        """Quantiles of the true error."""
        return [("true error, nats", self.error)]

    def findings(self) -> list[Finding]:
        """Whether log-densities are as exact as was asked for."""
        size, rows = self.error.largest, counted(self.num_rows, "row")
        text = f"{rows} solved again in float64 differ by up to {size:.2g} nats"
        if size > self.atol_nats:
            return [Finding(f"{text}, where {self.atol_nats:g} were asked for", "bad")]
        if self.covered is not None:
            text += f"; the stated error held for {self.covered} of {self.num_rows}"
        return [Finding(text, "good")]


def compare_with_truth(
    flow: CNF,
    rows: Float[Array, "rows *event"],
    cond: Array | None,
    log_prob: Float[np.ndarray, " rows"],
    stated: Float[np.ndarray, " rows"] | None,
    *,
    atol_nats: float,
) -> Truth | str:
    """Solve some of the rows again; says in words why where none can be compared.

    Args:
        flow: the flow.
        rows: rows in data units.
        cond: their conditions.
        log_prob: their log-densities by the flow.
        stated: the errors that the flow states, trace and steps; None where it states none.
        atol_nats: error of a log-density that counts as good, nats.
    """
    if not has_closed_form(flow.field) and math.prod(flow.event_shape) > LARGEST:
        return f"no closed-form trace and more than {LARGEST} entries"
    some = np.unique(np.linspace(0, len(rows) - 1, ROWS).astype(int))
    try:
        truth = _in_float64(flow, rows[some], None if cond is None else cond[some])
    except (TypeError, ValueError) as error:
        return f"the field does not run in float64: {str(error).splitlines()[0]}"
    difference = np.abs(log_prob[some] - truth)
    compared = np.isfinite(difference)
    error = quantiles(difference[compared])
    if error is None:
        return "no row has a log-density both here and in float64"
    covered = None
    if stated is not None:
        last_digits = 4 * float(jnp.finfo(rows.dtype).eps) * np.maximum(1.0, np.abs(truth))
        within = difference <= stated[some] + last_digits
        covered = int(np.sum(within & compared))
    return Truth(int(compared.sum()), error, covered, atol_nats)


def _in_float64(flow: CNF, rows: Array, cond: Array | None) -> np.ndarray:
    x, c = on_host(rows), None if cond is None else on_host(cond)
    with jax.enable_x64(True):
        wide: Any = (jnp.asarray(x), None if c is None else jnp.asarray(c))
        flow, x64, c64 = promote_dtypes(replace(flow, trace="exact", ode_eval=EXACT), *wide)
        return np.asarray(score_rows(flow, x64, c64)[0])
