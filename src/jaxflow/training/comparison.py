"""`Comparison`: held-out log-densities of a flow and of simple densities."""

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float

# A smaller difference in nats is of no use, however small its error.
NEGLIGIBLE = 0.02
# Nats of this size are written with an exponent.
HUGE = 1e6


@final
@dataclass(frozen=True)
class Comparison:
    """Log-densities of the same held-out rows by a flow and by simpler densities, in nats.

    `print` shows a table of the means, the differences from the flow with their standard errors
    over the rows, and a verdict.

    ```python
    import numpy as np
    from jaxflow.training import Comparison

    rng = np.random.default_rng(0)
    simple = rng.normal(size=200)
    comparison = Comparison({"flow": simple + 0.1, "Gaussian": simple}, "200 held-out rows")
    print(comparison)
    print(comparison.difference("Gaussian"))  # mean and standard error
    ```

    Attributes:
        log_p: log-densities by the name of the density, (rows,) each, the flow's under `"flow"`.
        rows: a description of the rows.
        folds: number of folds, each of which held out other rows, before the flow trained on all
            of them; 0 if the flow trained on none of these rows.
    """

    log_p: dict[str, Float[np.ndarray, " rows"]]
    rows: str = "held-out rows"
    folds: int = 0

    @classmethod
    def of(cls, log_p: dict[str, Float[np.ndarray, " rows"]], folds: int = 0) -> "Comparison":
        """The comparison of held-out rows, with their number in words.

        Without folds these rows chose the flow's weights, and so are no test of it.
        """
        kind = "held-out rows, which also chose the best weights"
        kind = f"rows, each held out once in {folds} folds" if folds else kind
        return cls(log_p, f"{len(log_p['flow']):,} {kind}", folds)

    @classmethod
    def of_few(cls, count: int) -> "Comparison":
        """No comparison, for so few rows."""
        return cls({}, f"{count} rows, too few to hold any out")

    def mean(self, name: str = "flow") -> tuple[float, float]:
        """Mean log-density and its standard error, nats per row."""
        return _mean(self.log_p[name])

    def difference(self, name: str) -> tuple[float, float]:
        """Mean of the flow's log-density minus another's, and its standard error, nats per row."""
        return _mean(self.log_p["flow"] - self.log_p[name])

    def as_dict(self) -> dict[str, Any]:
        """The numbers of the table as plain ones, for JSON; `"text"` is the table."""
        densities = {}
        for name in self.log_p:
            mean, error = self.mean(name)
            gain, gain_error = self.difference(name)
            values = {"mean": mean, "se": error, "flow_gain": gain, "flow_gain_se": gain_error}
            # JSON has no NaN, the standard error of a single row.
            densities[name] = {n: v if math.isfinite(v) else None for n, v in values.items()}
        return {
            "rows": self.rows,
            "folds": self.folds,
            "densities": densities,
            "verdict": self.verdict,
            "text": str(self),
        }

    @property
    def verdict(self) -> str:
        """What the differences say, in a sentence; empty without another density."""
        others = [name for name in self.log_p if name != "flow"]
        if not others:
            return ""
        best = max(others, key=lambda name: self.mean(name)[0])
        gain, error = self.difference(best)
        if not math.isfinite(error):
            return "a single row does not compare densities"
        digits = ".3f" if abs(gain) < HUGE else ".4g"
        text = f"{gain:+{digits}} +- {error:{digits}} nats"
        if abs(gain) <= max(NEGLIGIBLE, 2 * error):
            return f"the {best} is as good: the flow gains {text}"
        return f"the flow is {'better' if gain > 0 else 'worse'} than the {best}: {text}"

    def __str__(self) -> str:
        if not self.log_p:
            return f"no held-out log-density: {self.rows}"
        lines = [f"log-density in nats per row, higher is better, of {self.rows}"]
        width = max(map(len, self.log_p))
        for name in self.log_p:
            mean, error = self.mean(name)
            line = f"  {name.ljust(width)}  {nats(mean):>9} +- {nats(error)}"
            if name != "flow":
                gain, gain_error = self.difference(name)
                line += f"   flow {nats(gain, '+')} +- {nats(gain_error)}"
            lines.append(line)
        return "\n".join([*lines, *([f"  {self.verdict}"] if self.verdict else [])])


def nats(value: float, sign: str = "") -> str:
    """A number of nats in words: four digits behind the point, or an exponent if it is huge."""
    return f"{value:{sign}.4f}" if abs(value) < HUGE else f"{value:{sign}.4g}"


def _mean(values: Float[np.ndarray, " rows"]) -> tuple[float, float]:
    count = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return float(values.mean()), error
