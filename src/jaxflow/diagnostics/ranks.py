"""Log-densities of data against those of samples, by rank.

If rows and samples come from the same density, so do their log-densities under the flow, whatever
the flow is. A missing mode shows: its rows have log-densities that no sample has. Rows and samples
come in pairs, as in `two_sample`.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diagnostics.findings import Finding, Line, p_value, take, to_host, untestable
from jaxflow.flows.flow import Flow
from jaxflow.runtime.checks import finite_rows
from jaxflow.runtime.text import plural


class Ranks(NamedTuple):
    """Two tests of the rows' log-densities against those of as many samples.

    The p-value of the Kolmogorov-Smirnov `distance` is too large where conditions tie rows to
    samples. `below` rows lie below every sample; `2^-below` is the probability of as many if rows
    and samples can be exchanged. P-values below `level` count as a difference.
    """

    num_rows: int
    distance: float
    distance_p: float
    below: int
    below_p: float
    level: float

    def lines(self) -> list[Line]:
        """Return both tests."""
        return [
            ("log p, samples", f"KS distance {self.distance:.3f}, {p_value(self.distance_p)}"),
            ("log p, lowest", f"{self._below()}, {p_value(self.below_p)}"),
        ]

    def findings(self) -> list[Finding]:
        """Return whether the log-densities of rows are those of samples."""
        below = (
            f"{self._below()} ({p_value(self.below_p, self.level)}): the flow does not reach "
            "these rows, as where a mode is missing"
        )
        distance = (
            f"the log-densities of rows are not those of samples (KS distance {self.distance:.2g}"
            f", {p_value(self.distance_p, self.level)}): the flow does not fit the data"
        )
        tests = (self.below_p, below), (self.distance_p, distance)
        differ = [Finding(text, "bad") for p, text in tests if p < self.level]
        text = (
            f"the log-densities of {self.num_rows:,} rows and samples show no difference (KS "
            f"{p_value(self.distance_p)}; {self._below()}, {p_value(self.below_p, self.level)})"
        )
        return differ or [Finding(text, "good")]

    def _below(self) -> str:
        verb = "lies" if self.below == 1 else "lie"
        return f"{plural(self.below, 'row')} {verb} below the log-density of every sample"


def measure_ranks(
    flow: Flow,
    log_prob: Float[np.ndarray, " rows"],
    samples: Float[Array, "rows *event"],
    cond: Array | None,
    *,
    key: PRNGKeyArray,
    level: float,
) -> Ranks | str:
    """Compare the rows' log-densities with those of paired samples.

    Returns the reason if too many failed or too few are left. Solves of `flow` must not raise.
    """
    drawn = finite_rows(samples)
    log_q = np.full(len(samples), np.nan)
    if drawn.any():
        log_q[drawn] = to_host(flow.log_prob(samples[drawn], take(cond, drawn), key))
    # A density of 0 has a rank, a failed solve has none.
    known = ~np.isnan(log_prob) & ~np.isnan(log_q)
    if why := untestable(known, "pairs of row and sample"):
        return why
    return compare_ranks(log_prob[known], log_q[known], level)


def compare_ranks(
    rows: Float[np.ndarray, " n"], samples: Float[np.ndarray, " n"], level: float
) -> Ranks:
    """Test paired log-densities of rows and samples.

    The two of a pair can be exchanged, so the c lowest of all are rows with probability `2^-c` at
    most.
    """
    from scipy import stats

    test: Any = stats.ks_2samp(rows, samples, method="asymp")
    below = int(np.sum(rows < samples.min()))
    return Ranks(len(rows), float(test.statistic), float(test.pvalue), below, 0.5**below, level)
