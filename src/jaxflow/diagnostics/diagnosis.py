"""What an examination of a flow found: numbers, a table of them, and a verdict in words."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from jaxflow.diagnostics.findings import HEAD, Finding, Line, Part, Quantiles, counted
from jaxflow.diagnostics.mass import Mass
from jaxflow.diagnostics.normality import Normality
from jaxflow.diagnostics.round_trip import RoundTrip
from jaxflow.diagnostics.slope import Slope
from jaxflow.diagnostics.solves import Solves
from jaxflow.diagnostics.truth import Truth
from jaxflow.diagnostics.two_sample import C2ST, MMD

_MARKS = {"good": "   ", "bad": "!! ", "unknown": "?? "}


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` found; a part is None where it could not be measured, `skipped` says why.

    Attributes:
        num_rows: rows of the data.
        rows: numbers of the rows that were examined, counted from 0 in the data.
        num_samples: samples that were drawn.
        failed_samples: samples whose solve failed.
        precision: the dtype of the flow and the data.
        solves: failures, costs and stated errors of the rows' log-densities.
        truth: log-densities against a tight solve in float64.
        mass: the integral of the density.
        round_trip: whether points return from data to base to data.
        slope: the field's Lipschitz constant along trajectories, and its own trace.
        normality: the encoded data against N(0, I).
        mmd: samples against data, by a kernel.
        c2st: samples against data, by a classifier.
        skipped: what was not measured, and why.
        encoded: the examined rows at the base, flattened, (rows, d); NaN where a solve failed.
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
    mmd: MMD | None
    c2st: C2ST | None
    skipped: dict[str, str]
    encoded: Float[np.ndarray, "rows d"] = field(repr=False)

    @property
    def parts(self) -> list[Part]:
        """What was measured, in the order of the verdict."""
        every: list[Part | None] = [
            *(self.solves, self.truth, self.mass, self.round_trip, self.slope),
            *(self.normality, self.mmd, self.c2st),
        ]
        return [part for part in every if part is not None]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The sentences of the verdict, each with its grade."""
        found = [finding for part in self.parts for finding in part.findings()]
        if self.failed_samples:
            text = f"{self.failed_samples:,} of {self.num_samples:,} samples failed"
            found.append(Finding(text, "bad"))
        found += [Finding(f"{name}: {why}", "unknown") for name, why in self.skipped.items()]
        return tuple(found)

    @property
    def verdict(self) -> tuple[str, ...]:
        """What is to be thought of the flow, in plain sentences."""
        return tuple(finding.text for finding in self.findings)

    @property
    def problems(self) -> tuple[str, ...]:
        """The sentences of the verdict that speak against the flow."""
        return tuple(finding.text for finding in self.findings if finding.grade == "bad")

    def __str__(self) -> str:
        """A table of the numbers, then the verdict; `!!` is a problem, `??` not measured."""
        dim = self.encoded.shape[1]
        lines: list[Line] = [
            (
                "rows",
                f"{len(self.rows):,} of {self.num_rows:,}, {dim} column{'s' * (dim != 1)}, "
                f"{self.precision}; {self.num_samples:,} samples",
            )
        ]
        lines += [line for part in self.parts for line in part.lines()]
        width = max(len(name) for name, _ in lines)
        plain = [line for line in lines if not isinstance(line[1], Quantiles)]
        each = [line for line in lines if isinstance(line[1], Quantiles)]
        table = [("", HEAD), *each] if each else []
        shown = [f"{name.ljust(width)}  {text}" for name, text in [*plain, *table]]
        marks = [_MARKS[finding.grade] + finding.text for finding in self.findings]
        unknown = sum(finding.grade == "unknown" for finding in self.findings)
        number = counted(len(self.problems), "problem") if self.problems else "no problem found"
        rest = f", {unknown} not measured" if unknown else ""
        return "\n".join([*shown, "", f"verdict: {number}{rest}", *marks])
