"""Log-densities of data against those of samples, by rank.

If rows and samples come from the same density, so do their log-densities under the flow, whatever
the flow is. A missing mode shows: the rows in it have log-densities that no sample has. Rows come
in pairs with samples, as in `two_sample`.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diagnostics.findings import (
    Finding,
    Line,
    finite,
    p_value,
    plural,
    to_host,
    untestable,
)
from jaxflow.flows.flow import Flow


class Ranks(NamedTuple):
    """Two tests of the rows' log-densities against those of as many samples.

    The p-value of the Kolmogorov-Smirnov `distance` is too large where conditions tie rows to
    samples. `below` rows are below every sample, `2^-below` the probability of as many if rows and
    samples can be exchanged. P-values below `level` count as a difference.
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
        findings = []
        threshold = f"threshold {self.level:g}"
        if self.below_p < self.level:
            text = (
                f"{self._below()} ({p_value(self.below_p)}, {threshold}): the flow does not "
                "reach these rows, as where a mode is missing"
            )
            findings.append(Finding(text, "bad"))
        if self.distance_p < self.level:
            text = (
                f"the log-densities of rows are not those of samples (KS distance "
                f"{self.distance:.2g}, {p_value(self.distance_p)}, {threshold}): the flow does "
                "not fit the data"
            )
            findings.append(Finding(text, "bad"))
        if not findings:
            text = (
                f"the log-densities of {self.num_rows:,} rows and samples show no difference "
                f"(KS {p_value(self.distance_p)}; {self._below()}, {p_value(self.below_p)}; "
                f"{threshold})"
            )
            findings.append(Finding(text, "good"))
        return findings

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
    drawn = finite(samples)
    log_q = np.full(len(samples), np.nan)
    if drawn.any():
        part = None if cond is None else cond[drawn]
        log_q[drawn] = to_host(flow.log_prob(samples[drawn], part, key))
    # Density 0 has its place among the ranks, a failed solve has none.
    known = ~np.isnan(log_prob) & ~np.isnan(log_q)
    if why := untestable(known, "pairs of row and sample"):
        return why
    return compare_ranks(log_prob[known], log_q[known], level)


def compare_ranks(
    rows: Float[np.ndarray, " n"], samples: Float[np.ndarray, " n"], level: float
) -> Ranks:
    """Test paired log-densities of rows and samples.

    Each pair may be exchanged, so the c lowest of all are rows with probability `2^-c` at most.
    """
    from scipy import stats

    test: Any = stats.ks_2samp(rows, samples, method="asymp")
    below = int(np.sum(rows < samples.min()))
    return Ranks(len(rows), float(test.statistic), float(test.pvalue), below, 0.5**below, level)
