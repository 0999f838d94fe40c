"""The result of `diagnose`: numbers, a table of them, and a verdict in words."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from jaxflow.diagnostics.findings import HEAD, Finding, Line, Part, Quantiles, as_table
from jaxflow.diagnostics.mass import Mass
from jaxflow.diagnostics.normality import Normality
from jaxflow.diagnostics.ranks import Ranks
from jaxflow.diagnostics.round_trip import RoundTrip
from jaxflow.diagnostics.slope import Slope
from jaxflow.diagnostics.solves import Solves
from jaxflow.diagnostics.truth import Truth
from jaxflow.diagnostics.two_sample import C2ST, MMD
from jaxflow.diagnostics.uniformity import Uniformity
from jaxflow.diagnostics.verdict import Verdict, verdict_lines
from jaxflow.runtime.text import plural

# Tests of fewer rows miss a Kolmogorov-Smirnov distance of 1/6 in a coordinate.
WEAK = 200


@dataclass(frozen=True, eq=False)
class Diagnosis(Verdict):
    """The result of `diagnose`. A part is None if it was not measured; `skipped` says why.

    ```python
    import jax
    from jaxflow import CouplingFlow
    from jaxflow.diagnostics import diagnose
    key = jax.random.key(0)
    diagnosis = diagnose(CouplingFlow(2, key=key), jax.random.normal(key, (100, 2)), key=key)
    for finding in diagnosis.findings:
        print(finding.grade, finding.text)
    ```

    Attributes:
        num_rows: rows of the data.
        rows: numbers of the rows that were examined.
        num_samples: samples drawn.
        failed_samples: samples whose solve failed.
        precision: dtype of the flow and the data.
        solves: failures, costs and estimated errors of the rows' log-densities.
        truth: log-densities compared with a tight solve in float64.
        mass: the integral of the density.
        round_trip: whether points return from data to base to data.
        slope: the field's Lipschitz constant along trajectories, and its trace's error.
        normality: the encoded data compared with N(0, I).
        uniformity: the encoded data compared with the base of a flow on a manifold.
        mmd: samples compared with data, by a kernel.
        c2st: samples compared with data, by a classifier.
        ranks: log-densities of data compared with those of samples.
        num_tests: number of p-values, for which each of them is corrected.
        level: corrected p-values below this count as a difference.
        skipped: reason for each part that was not measured, by its name.
        encoded: the examined rows at the base, flattened, (rows, d); for a base with a `cdf` as
            normal scores, which are N(0, I) if the flow is right. NaN where a solve failed.
    """

    num_rows: int
    rows: Int[np.ndarray, " rows"]
    num_samples: int
    failed_samples: int
    precision: str
    solves: Solves
    truth: Truth | None
    mass: Mass | None
    round_trip: RoundTrip | None
    slope: Slope | None
    normality: Normality | None
    uniformity: Uniformity | None
    mmd: MMD | None
    c2st: C2ST | None
    ranks: Ranks | None
    num_tests: int
    level: float
    skipped: dict[str, str]
    encoded: Float[np.ndarray, "rows d"] = field(repr=False)

    @property
    def parts(self) -> list[Part]:
        """The parts that were measured, in the order of the verdict."""
        parts: list[Part | None] = [
            *(self.solves, self.truth, self.mass, self.round_trip, self.slope),
            *self._tests,
        ]
        return [part for part in parts if part is not None]

    @property
    def _tests(self) -> tuple[Normality | Uniformity | MMD | C2ST | Ranks | None, ...]:
        return self.normality, self.uniformity, self.mmd, self.c2st, self.ranks

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The sentences of the verdict: each has a number, its threshold, and a grade."""
        findings = [finding for part in self.parts for finding in part.findings()]
        if self.failed_samples:
            text = f"{self.failed_samples:,} of {self.num_samples:,} samples failed"
            findings.append(Finding(text, "bad"))
        fewest = min((test.num_rows for test in self._tests if test is not None), default=WEAK)
        if fewest < WEAK:
            text = f"only {plural(fewest, 'row')}: the tests against data are weak; give {WEAK}"
            findings.append(Finding(f"{text} or more", "unknown"))
        findings += [Finding(f"{name}: {why}", "unknown") for name, why in self.skipped.items()]
        return tuple(findings)

    @property
    def verdict(self) -> tuple[str, ...]:
        """The text of every finding."""
        return tuple(finding.text for finding in self.findings)

    def __str__(self) -> str:
        """A table, the verdict in one line, then all findings: `!!` problem, `??` not measured."""
        dim = self.encoded.shape[1]
        size = (
            f"{len(self.rows):,} of {self.num_rows:,}, {plural(dim, 'column')}, {self.precision}; "
            f"{self.num_samples:,} samples"
        )
        lines: list[Line] = [("rows", size)]
        if self.num_tests:
            threshold = f"{plural(self.num_tests, 'p-value')}, corrected for their number (Holm)"
            lines.append(("tests", f"{threshold}; threshold {self.level:g}"))
        lines += [line for part in self.parts for line in part.lines()]
        by_row = [line for line in lines if isinstance(line[1], Quantiles)]
        table = [line for line in lines if not isinstance(line[1], Quantiles)]
        table += [("", HEAD), *by_row] if by_row else []
        return "\n".join([*as_table(table), "", *verdict_lines(self.findings)])
