"""What the results of all checks of posteriors share: findings, problems, a verdict."""

import abc

from jaxflow.diagnostics.findings import Finding, plural


class Verdict(abc.ABC):
    """A result with findings."""

    @property
    @abc.abstractmethod
    def findings(self) -> tuple[Finding, ...]:
        """A sentence for each test, with its grade."""

    @property
    def problems(self) -> tuple[str, ...]:
        """The sentences against the posterior."""
        return tuple(finding.text for finding in self.findings if finding.grade == "bad")

    def _report(self, heading: list[str], *, only_problems: bool = False) -> str:
        """The heading, the verdict in one line, then the sentences; `!!` marks a problem."""
        count = len(self.problems)
        lines = [*heading, f"verdict: {plural(count, 'problem') if count else 'no problem found'}"]
        for text, grade in self.findings:
            if grade == "bad" or not only_problems:
                lines.append(("!! " if grade == "bad" else "   ") + text)
        return "\n".join(lines)
