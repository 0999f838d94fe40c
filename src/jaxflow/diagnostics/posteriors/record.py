"""`Calibration`: tests of the ranks of truths among draws, with a table and a picture."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxflow.diagnostics.corrected import holm
from jaxflow.diagnostics.findings import Finding, Line, as_table, judge, p_value
from jaxflow.diagnostics.posteriors.uniform import band, counts_of, uniform_p
from jaxflow.diagnostics.verdict import Verdict, verdict_lines
from jaxflow.plotting.rank_curves import rank_curves
from jaxflow.plotting.style import pyplot
from jaxflow.runtime.text import plural

HEAD = f"{'in 50 %':>8}{'in 90 %':>9}{'mean rank':>11}   p-value"


class RankTest(NamedTuple):
    """Ranks of truths among their draws.

    Attributes:
        name: what is ranked.
        kind: `"parameter"`; or `"coverage"`, where the rank counts the draws further in than the
            truth, which gives the level of the smallest region that holds it.
        ranks: from 0 to `num_draws`, uniform if truths are draws like the others.
        num_draws: draws of each truth.
    """

    name: str
    kind: Literal["parameter", "coverage"]
    ranks: Int[np.ndarray, " n"]
    num_draws: int

    @property
    def levels(self) -> Float[np.ndarray, " n"]:
        """The ranks as numbers in (0, 1)."""
        return (self.ranks + 0.5) / (self.num_draws + 1)

    def inside(self, share: float) -> float:
        """Share of truths in the central intervals, or regions, that hold `share` of the draws."""
        u = self.levels if self.kind == "coverage" else 2 * np.abs(self.levels - 0.5)
        return float(np.mean(u < share))

    def reading(self) -> str:
        """How the posterior is wrong, by the largest departure from uniform ranks."""
        u, n = self.levels - 0.5, len(self.ranks)
        shift = float(np.mean(u) * np.sqrt(12 * n))
        if self.kind == "coverage":
            wide, narrow = "too wide", "too narrow, or at the wrong place"
            return wide if shift < 0 else narrow
        spread = float((np.mean(u**2) - 1 / 12) * np.sqrt(180 * n))
        if abs(spread) > abs(shift):
            return "too narrow" if spread > 0 else "too wide"
        return "too low" if shift > 0 else "too high"


@dataclass(frozen=True, eq=False)
class Calibration(Verdict):
    """Tests of a posterior by ranks of the true parameters; `print` it, and `plot` it.

    ```python
    import jax
    from jaxflow import diagnostics

    theta = jax.random.normal(jax.random.key(0), (200, 1))
    draws = 2.0 * jax.random.normal(jax.random.key(1), (200, 99, 1))
    print(diagnostics.sbc(theta, draws, key=jax.random.key(2)))  # theta 0: too wide
    ```

    Attributes:
        tests: the ranks, one `RankTest` for each p-value.
        level: corrected p-values below this count as a difference.
    """

    tests: tuple[RankTest, ...]
    level: float

    @cached_property
    def p(self) -> Float[np.ndarray, " tests"]:
        """P-values of the tests, corrected for their number (Holm)."""
        return holm(np.asarray([uniform_p(test.ranks, test.num_draws) for test in self.tests]))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """A sentence for each test, with its grade."""
        findings = []
        for test, p in zip(self.tests, self.p, strict=True):
            reading = test.reading() if p < self.level else "no difference"
            text = f"{test.name}: {reading} ({p_value(p, self.level)})"
            findings.append(judge(p >= self.level, text))
        return tuple(findings)

    def bands(self, test: RankTest) -> tuple[Float[np.ndarray, " k"], ...]:
        """Curve of a test and its band: `(expected, observed, low, high)` shares, (k,) each.

        They are shares of ranks that are at most j, for j from 0 to k - 1. All curves of a correct
        posterior stay in their bands with probability 1 - `level` at least.
        """
        n, k = len(test.ranks), test.num_draws
        low, high = band(n, k, self.level / len(self.tests))
        expected = np.arange(1, k + 1) / (k + 1)
        return expected, counts_of(test.ranks, k) / n, low / n, high / n

    def plot(self, axes: Any = None) -> Any:
        """Draw the curves of all tests with their bands, one panel for each kind of test.

        Args:
            axes: matplotlib axes, one for each kind; None for new ones.

        Returns:
            The figure.
        """
        kinds = [kind for kind in ("parameter", "coverage") if self._of(kind)]
        if axes is None:
            size = (5.4 * len(kinds), 4.0)
            axes = pyplot().subplots(1, len(kinds), figsize=size, layout="constrained")[1]
        axes = np.atleast_1d(axes)
        for kind, ax in zip(kinds, axes, strict=True):
            curves = {test.name: self.bands(test) for test in self._of(kind)}
            is_rank = kind == "parameter"
            rank_curves(curves, ax, xlabel="rank, share of draws" if is_rank else "level")
            ax.set_title("Ranks of the parameters" if is_rank else "Coverage of the regions")
        return axes[0].figure

    def __str__(self) -> str:
        """A table, the verdict, and a sentence for each problem."""
        n, k = len(self.tests[0].ranks), self.tests[0].num_draws
        lines: list[Line] = [
            ("pairs", f"{n:,}, with {plural(k, 'draw')} each"),
            ("tests", f"{plural(len(self.tests), 'p-value')}, corrected for their number (Holm)"),
            ("", HEAD),
        ]
        for test, p in zip(self.tests, self.p, strict=True):
            shares = f"{test.inside(0.5):8.3f}{test.inside(0.9):9.3f}{np.mean(test.levels):11.3f}"
            lines.append((test.name, f"{shares}   {p_value(p)}"))
        verdict = verdict_lines(self.findings, only_problems=True)
        return "\n".join([*as_table(lines), "", *verdict])

    def _of(self, kind: str) -> list[RankTest]:
        return [test for test in self.tests if test.kind == kind]
