"""The verdict of a check: its findings in words, with the problems counted."""

import abc
from collections.abc import Sequence

from jaxflow.diagnostics.findings import Finding
from jaxflow.runtime.text import plural

_MARKS = {"good": "   ", "bad": "!! ", "unknown": "?? "}


class Verdict(abc.ABC):
    """A result whose `findings` a subclass defines."""

    @property
    @abc.abstractmethod
    def findings(self) -> tuple[Finding, ...]:
        """A sentence for each test, with its grade."""

    @property
    def problems(self) -> tuple[str, ...]:
        """The text of every finding of grade `bad`."""
        return problems_of(self.findings)


def problems_of(findings: Sequence[Finding]) -> tuple[str, ...]:
    """The text of every finding of grade `bad`."""
    return tuple(finding.text for finding in findings if finding.grade == "bad")


def verdict_lines(findings: Sequence[Finding], *, only_problems: bool = False) -> list[str]:
    """The verdict in one line, then the findings: `!!` marks a problem, `??` an unknown."""
    count, unknown = len(problems_of(findings)), sum(each.grade == "unknown" for each in findings)
    verdict = plural(count, "problem") if count else "no problem found"
    verdict += f", {unknown} not measured" if unknown else ""
    shown = [each for each in findings if each.grade == "bad" or not only_problems]
    return [f"verdict: {verdict}", *(_MARKS[each.grade] + each.text for each in shown)]
