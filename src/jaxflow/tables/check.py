"""Compare a fitted table with rows that it has not seen."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, PRNGKeyArray
from scipy import stats

from jaxflow.tables.frames import Frame
from jaxflow.tables.laws import Labels
from jaxflow.tables.table import FittedTable

# A column differs if equal distributions would differ so much in one of so many checks.
CHANCE = 1000.0
# Standard errors by which the mean log-densities of rows and samples may differ.
SIGNIFICANT = 4.0


@dataclass(frozen=True)
class TableCheck:
    """How samples of a fitted table compare with rows; `print` shows it, the verdict first.

    Attributes:
        rows: number of rows.
        log_p: mean log-density of the rows, nats.
        standard_error: its standard error.
        gap: mean log-density of the rows minus that of samples, nats.
        gap_error: its standard error.
        distances: for each column, its gaps and its atoms, the largest difference of two
            distribution functions, or half the sum of the differences of shares of labels.
        p_values: for each of them the probability of so large a difference by chance.
        fitted: whether the table was fitted to the rows, which are then more likely than others:
            a positive `gap` is no problem.
    """

    rows: int
    log_p: float
    standard_error: float
    gap: float
    gap_error: float
    distances: dict[str, float]
    p_values: dict[str, float]
    fitted: bool = False

    @property
    def problems(self) -> list[str]:
        """The differences that chance does not explain, in words."""
        least = 1 / (CHANCE * max(len(self.p_values), 1))
        wrong = [name for name, p in self.p_values.items() if p < least]
        found = [
            f"{name}: samples differ from rows by {self.distances[name]:.3f}" for name in wrong
        ]
        expected = self.fitted and self.gap > 0
        if abs(self.gap) > SIGNIFICANT * self.gap_error and not expected:
            text = f"rows are {abs(self.gap):.3f} +- {self.gap_error:.3f} nats "
            found.append(text + ("more" if self.gap > 0 else "less") + " likely than samples")
        return found

    def __str__(self) -> str:
        verdict = "; ".join(self.problems) or "no difference between rows and samples"
        lines = [
            f"verdict: {verdict}",
            f"log-density of {self.rows:,} rows: {self.log_p:.4f} +- {self.standard_error:.4f} "
            "nats",
            f"rows minus samples: {self.gap:+.4f} +- {self.gap_error:.4f} nats"
            + (", of rows that were fitted" if self.fitted else ""),
            "distance of samples and rows by column, and its probability by chance:",
        ]
        width = max(map(len, self.distances))
        lines += [
            f"  {name.ljust(width)}  {distance:.4f}  p = {self.p_values[name]:.2g}"
            for name, distance in self.distances.items()
        ]
        return "\n".join(lines)


def check_table(
    table: FittedTable, frame: Frame, key: PRNGKeyArray, *, fitted: bool = False
) -> TableCheck:
    """Compare rows with as many samples: log-densities, and each column by itself.

    ```python
    import jax
    import numpy as np
    import jaxflow

    rng = np.random.default_rng(0)
    def draw():
        return {"city": rng.choice(["Oslo", "Rome"], 60), "visits": rng.poisson(2.0, 60)}
    table = jaxflow.fit_table(draw(), key=jax.random.key(0), steps=25)
    print(jaxflow.tables.check_table(table, draw(), jax.random.key(1)))
    ```

    Args:
        table: the fitted table.
        frame: rows, best some that the table was not fitted to.
        key: for the samples.
        fitted: whether the table was fitted to these rows.

    Returns:
        The comparison.

    Raises:
        ValueError: as `FittedTable.log_prob`.
    """
    rows = table.plan.read(frame)
    count = len(rows.y)
    drawn = table.draw(key, count)
    ours, theirs = (table.log_prob_coded(each) for each in (rows, drawn))
    compare = [_by_label if isinstance(law, Labels) else _by_order for law in table.discrete.laws]
    compare += [_by_order] * len(table.plan.numbers)
    names = table.plan.variable_names + [table.plan.columns[j].name for j in table.plan.numbers]
    columns = (np.concatenate(each, axis=1).T for each in (rows, drawn))
    distances, p_values = {}, {}
    for name, by, *both in zip(names, compare, *columns, strict=True):
        known = [each[~np.isnan(each)] for each in both]
        distances[name], p_values[name] = by(*known) if all(map(len, known)) else (0.0, 1.0)
    error = math.hypot(ours.std(), theirs.std()) / math.sqrt(count)
    return TableCheck(
        count,
        float(ours.mean()),
        float(ours.std() / math.sqrt(count)),
        float(ours.mean() - theirs.mean()),
        error,
        distances,
        p_values,
        fitted,
    )


def _by_label(
    ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " m"]
) -> tuple[float, float]:
    """Half the sum of the differences of frequencies, and its probability by chance."""
    labels = np.unique(np.concatenate([ours, theirs]))
    counts = np.stack([(each[:, None] == labels).sum(axis=0) for each in (ours, theirs)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    distance = 0.5 * float(np.abs(shares[0] - shares[1]).sum())
    # Rare labels count together: the approximation by chi-square needs a few of each.
    rare = counts.sum(axis=0) < 10
    kept = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    kept = kept[:, kept.sum(axis=0) > 0]
    if kept.shape[1] < 2:
        return distance, 1.0
    found: Any = stats.chi2_contingency(kept)
    return distance, float(found.pvalue)


def _by_order(
    ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " m"]
) -> tuple[float, float]:
    """The largest difference of the distribution functions (Kolmogorov and Smirnov)."""
    found: Any = stats.ks_2samp(ours, theirs)
    return float(found.statistic), float(found.pvalue)
