"""Whether encoded data look like draws from N(0, I)."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxflow.diagnostics.findings import Finding, Line, p_value

# Rows below which the tests say too little.
LEAST = 20


class Normality(NamedTuple):
    """Tests of z = encode(x) against N(0, I).

    Each p-value is already corrected for the number of coordinates, or pairs, by Bonferroni.

    Attributes:
        num_rows: rows that were tested.
        distance: largest Kolmogorov-Smirnov distance of a coordinate from N(0, 1).
        coordinate: which one, counted along the flattened event.
        distance_p: its p-value.
        radius: Kolmogorov-Smirnov distance of `|z|^2` from chi-square with d degrees of freedom.
        radius_p: its p-value.
        correlation: largest correlation of two coordinates; 0 in one dimension.
        pair: which two.
        correlation_p: its p-value, by Fisher's transformation.
        level: p-values below this count as a difference.
        least: the smallest distance of a coordinate that so many rows show, about
            `sqrt(log(2 d / level) / (2 n))`.
    """

    num_rows: int
    distance: float
    coordinate: int
    distance_p: float
    radius: float
    radius_p: float
    correlation: float
    pair: tuple[int, int]
    correlation_p: float
    level: float
    least: float

    def lines(self) -> list[Line]:
        """The three tests."""
        lines: list[Line] = [
            (
                "z, a coordinate",
                f"KS distance {self.distance:.3f}, {p_value(self.distance_p)} "
                f"(coordinate {self.coordinate})",
            ),
            ("z, |z|^2", f"KS distance {self.radius:.3f}, {p_value(self.radius_p)}"),
            (
                "z, correlation",
                f"{self.correlation:+.3f}, {p_value(self.correlation_p)} "
                f"(coordinates {self.pair[0]}, {self.pair[1]})",
            ),
        ]
        return lines if self.pair[0] != self.pair[1] else lines[:2]

    def findings(self) -> list[Finding]:
        """What differs from N(0, I)."""
        i, j = self.pair
        tests = [
            (
                self.distance_p,
                f"coordinate {self.coordinate} (Kolmogorov-Smirnov distance {self.distance:.2g}",
            ),
            (self.radius_p, f"|z|^2 (distance {self.radius:.2g} from chi-square"),
            (
                self.correlation_p,
                f"coordinates {i} and {j} together (corr. {self.correlation:+.2g}",
            ),
        ]
        differ = [f"{text}, {p_value(p)})" for p, text in tests if not p >= self.level]
        if differ:
            text = f"the encoded data are not N(0, I): {', '.join(differ)}"
            return [Finding(text, "bad")]
        text = (
            f"{self.num_rows:,} encoded rows show no difference from N(0, I); they would show a "
            f"coordinate's distance of {self.least:.2g}"
        )
        return [Finding(text, "good")]


def examine_normality(z: Float[np.ndarray, "rows d"], level: float) -> Normality | str:
    """Test encoded rows; says in words why where there are too few.

    Args:
        z: encoded rows, finite.
        level: p-values below this count as a difference.
    """
    from scipy import stats

    num, dim = z.shape
    if num < LEAST:
        return f"{num} encoded rows are too few to tell"
    each = [stats.kstest(column, "norm") for column in z.T]
    worst = int(np.argmax([test.statistic for test in each]))
    radius = stats.kstest(np.sum(z**2, axis=1), "chi2", args=(dim,))
    correlation, pair, correlation_p = _correlation(z)
    return Normality(
        num_rows=num,
        distance=float(each[worst].statistic),
        coordinate=worst,
        distance_p=min(1.0, dim * float(each[worst].pvalue)),
        radius=float(radius.statistic),
        radius_p=float(radius.pvalue),
        correlation=correlation,
        pair=pair,
        correlation_p=correlation_p,
        level=level,
        least=math.sqrt(math.log(2 * dim / level) / (2 * num)),
    )


def _correlation(z: np.ndarray) -> tuple[float, tuple[int, int], float]:
    """The largest correlation, of which coordinates, and its p-value."""
    from scipy import stats

    num, dim = z.shape
    if dim == 1:
        return 0.0, (0, 0), 1.0
    with np.errstate(invalid="ignore"):
        matrix = np.nan_to_num(np.corrcoef(z, rowvar=False))
    np.fill_diagonal(matrix, 0.0)
    i, j = map(int, np.unravel_index(np.argmax(np.abs(matrix)), matrix.shape))
    found = float(matrix[i, j])
    score = math.atanh(min(abs(found), 1 - 1e-15)) * math.sqrt(num - 3)
    pairs = dim * (dim - 1) / 2
    return found, (min(i, j), max(i, j)), min(1.0, pairs * 2 * float(stats.norm.sf(score)))
