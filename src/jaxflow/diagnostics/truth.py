"""The true error of log-densities: some rows solved again in float64 with tight tolerances."""

import math
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.diagnostics.findings import (
    Finding,
    Line,
    Quantiles,
    evenly_spaced,
    judge,
    quantiles,
    take,
    to_host,
)
from jaxflow.diagnostics.solves import EXACT_TRACE
from jaxflow.dynamics.protocol import has_closed_form
from jaxflow.flows.cnf import CNF
from jaxflow.flows.flow import score_rows
from jaxflow.ode import ODE
from jaxflow.runtime.arguments import promote_dtypes

# Settings of the reference solve, and the number of its rows.
REFERENCE = ODE(solver="dopri5", rtol=1e-10, atol=1e-10, max_steps=2**14, throw=False)
ROWS = 64
# Largest event for an exact trace without a closed form.
LARGEST = 256
# Estimated errors are reliable if they hold for at least this share of the rows.
HOLDS = 0.95


class Truth(NamedTuple):
    """Log-densities compared with a tight solve in float64 and the exact trace, in nats.

    `covered` rows differ by at most their estimated error plus rounding; None without estimates.
    `noisy` says whether the compared log-densities have a stochastic trace.
    """

    num_rows: int
    error: Quantiles
    covered: int | None
    atol_nats: float
    noisy: bool = False

    def lines(self) -> list[Line]:
        """Return the quantiles."""
        return [("true error, nats", self.error)]

    def findings(self) -> list[Finding]:
        """Return whether log-densities reach the target accuracy, and estimated errors hold."""
        size = self.error.largest
        text = (
            f"{self.num_rows:,} rows solved again in float64 differ by up to {size:.2g} "
            f"nats (target {self.atol_nats:g})"
        )
        bad = f"the stochastic trace is noisy; {EXACT_TRACE}" if self.noisy else "tighten ode_eval"
        findings = [judge(size <= self.atol_nats, text, bad=bad)]
        if self.covered is not None:
            text = (
                f"the estimated error held for {self.covered} of {self.num_rows} rows ("
                f"{HOLDS:.0%} are needed)"
            )
            why = "do not rely on stated errors here; use float64, or a smoother field"
            findings.append(judge(self.covered >= HOLDS * self.num_rows, text, bad=why))
        return findings


def measure_truth(
    flow: CNF,
    rows: Float[Array, "rows *event"],
    cond: Array | None,
    log_prob: Float[np.ndarray, " rows"],
    stated: Float[np.ndarray, " rows"] | None,
    *,
    atol_nats: float,
) -> Truth | str:
    """Solve some rows again in float64; returns the reason if none can be compared.

    `log_prob` are the rows' log-densities by the flow, `stated` their estimated errors, if known.
    """
    if not has_closed_form(flow.field) and math.prod(flow.event_shape) > LARGEST:
        return f"the trace has no closed form, and an event more than {LARGEST} entries"
    some = evenly_spaced(len(rows), ROWS)
    try:
        truth = _in_float64(flow, rows[some], take(cond, some))
    except (TypeError, ValueError) as error:
        return f"the field does not run in float64: {str(error).splitlines()[0]}"
    difference = np.abs(log_prob[some] - truth)
    compared = np.isfinite(difference)
    error = quantiles(difference[compared])
    if error is None:
        return "no row has a log-density both here and in float64"
    covered = None
    if stated is not None:
        rounding = 4 * float(jnp.finfo(rows.dtype).eps) * np.maximum(1.0, np.abs(truth))
        covered = int(np.sum((difference <= stated[some] + rounding) & compared))
    return Truth(int(compared.sum()), error, covered, atol_nats, flow.needs_key())


def _in_float64(flow: CNF, rows: Array, cond: Array | None) -> np.ndarray:
    arrays = (rows,) if cond is None else (rows, cond)
    arrays = [to_host(array) for array in arrays]
    with jax.enable_x64(True):
        exact = replace(flow, trace="exact", ode_eval=REFERENCE)
        exact, *arrays = promote_dtypes(exact, *map(jnp.asarray, arrays))
        return np.asarray(score_rows(exact, *arrays)[0])
