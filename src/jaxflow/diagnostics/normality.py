"""Tests of encoded rows against N(0, I)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.diagnostics.findings import (
    TESTS,
    Finding,
    Line,
    flatten,
    p_value,
    to_host,
    untestable,
)
from jaxflow.runtime.arguments import promote_dtypes
from jaxflow.runtime.checks import finite_rows


class Normality(NamedTuple):
    """Tests of `z = encode(x)` against N(0, I), corrected (Bonferroni) for coordinates or pairs.

    `distance` is the largest Kolmogorov-Smirnov distance of a coordinate from N(0, 1), and
    `radius` that of `|z|^2` from chi-square. `correlation` is the largest one of a pair, 0 in one
    dimension; its p-value is by Fisher's transformation. P-values below `level` count as a
    difference. `least` is the smallest distance of a coordinate that this many rows reveal with
    six other tests, about `sqrt(log(14 d / level) / (2 n))`.
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
        """Return the three tests; the correlation needs two coordinates."""
        i, j = self.pair
        one, radius, two = map(p_value, (self.distance_p, self.radius_p, self.correlation_p))
        which = f"coordinate {self.coordinate}"
        lines: list[Line] = [
            ("z, a coordinate", f"KS distance {self.distance:.3f}, {one} ({which})"),
            ("z, |z|^2", f"KS distance {self.radius:.3f}, {radius}"),
            ("z, correlation", f"{self.correlation:+.3f}, {two} (coordinates {i}, {j})"),
        ]
        return lines if i != j else lines[:2]

    def findings(self) -> list[Finding]:
        """Return how the rows differ from N(0, I)."""
        i, j = self.pair
        tests = (
            (self.distance_p, f"coordinate {self.coordinate} (distance {self.distance:.2g}"),
            (self.radius_p, f"|z|^2 (distance {self.radius:.2g} from chi-square"),
            (self.correlation_p, f"coordinates {i} and {j} (corr. {self.correlation:+.2g}"),
        )
        differ = [f"{text}, {p_value(p)})" for p, text in tests if not p >= self.level]
        if differ:
            text = f"the encoded data are not N(0, I): {', '.join(differ)}"
            why = f"threshold {self.level:g}: the flow does not fit the data"
            return [Finding(f"{text}, {why}", "bad")]
        text = (
            f"{self.num_rows:,} encoded rows show no difference from N(0, I) ("
            f"{p_value(min(p for p, _ in tests))} or more, threshold {self.level:g}); a distance "
            f"of {self.least:.2g} in a coordinate would show"
        )
        return [Finding(text, "good")]


def normal_scores(base: Any, z: Float[Array, "rows *event"]) -> Float[np.ndarray, "rows d"] | None:
    """Transform `z ~ base` to N(0, I) by `ndtri(cdf(z))`; None for a base without `cdf`."""
    from scipy.special import ndtri

    cdf = getattr(base, "cdf", None)
    if cdf is None:
        return None
    rounding = np.finfo(float)
    with jax.enable_x64(True):
        base, wide = promote_dtypes(base, jnp.asarray(to_host(z)))
        try:
            p = flatten(jax.vmap(base.cdf)(wide))
        except NotImplementedError:
            # Some of NumPyro's distributions.
            return None
    return np.asarray(ndtri(np.clip(p, rounding.tiny, 1 - rounding.epsneg)))


def measure_normality(z: Float[np.ndarray, "rows d"], level: float) -> Normality | str:
    """Test rows against N(0, I); returns the reason if too many failed or too few are left."""
    from scipy import stats

    solved = finite_rows(z)
    if why := untestable(solved, "encoded rows"):
        return why
    z = z[solved]
    num, dim = z.shape
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
        least=math.sqrt(math.log(2 * TESTS * dim / level) / (2 * num)),
    )


def _correlation(z: np.ndarray) -> tuple[float, tuple[int, int], float]:
    """The largest correlation, its coordinates, and its p-value."""
    from scipy import stats

    num, dim = z.shape
    if dim == 1:
        return 0.0, (0, 0), 1.0
    with np.errstate(invalid="ignore"):
        matrix = np.nan_to_num(np.corrcoef(z, rowvar=False))
    np.fill_diagonal(matrix, 0.0)
    i, j = map(int, np.unravel_index(np.argmax(np.abs(matrix)), matrix.shape))
    largest = float(matrix[i, j])
    score = math.atanh(min(abs(largest), 1 - 1e-15)) * math.sqrt(num - 3)
    pairs = dim * (dim - 1) / 2
    return largest, (min(i, j), max(i, j)), min(1.0, pairs * 2 * float(stats.norm.sf(score)))
