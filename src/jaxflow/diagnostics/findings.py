"""How an examination speaks: findings with a grade, quantiles, and numbers of rows."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.runtime.precision import accumulation_dtype

Grade = Literal["good", "bad", "unknown"]

# Rows that a sentence names at most.
_NAMED = 5


class Finding(NamedTuple):
    """A sentence of the verdict.

    Attributes:
        text: the sentence.
        grade: `"good"`, `"bad"`, or `"unknown"` where nothing could be measured.
    """

    text: str
    grade: Grade


class Quantiles(NamedTuple):
    """Quantiles over rows: the median, 90 %, 99 %, and the largest."""

    median: float
    p90: float
    p99: float
    largest: float

    def __str__(self) -> str:
        return "".join(f"{v:>10,.0f}" if 1000 <= v < 1e6 else f"{v:>10.3g}" for v in self)


HEAD = "".join(f"{name:>10}" for name in ("median", "90 %", "99 %", "largest"))
# A line of the table: its label, and what stands beside it.
Line = tuple[str, str | Quantiles]


@runtime_checkable
class Part(Protocol):
    """What was measured of one thing."""

    def lines(self) -> list[Line]:
        """Its numbers, labelled, for the table."""
        ...

    def findings(self) -> list[Finding]:
        """Its sentences, for the verdict."""
        ...


def quantiles(values: Array | np.ndarray | None) -> Quantiles | None:
    """Quantiles of the values that are not NaN; None where there are none."""
    if values is None:
        return None
    known = on_host(values)
    known = known[~np.isnan(known)]
    if not known.size:
        return None
    # An observed value each, so that half of the rows really are at most the median.
    found = np.quantile(known, [0.5, 0.9, 0.99, 1.0], method="inverted_cdf")
    return Quantiles(*map(float, found))


def on_host(values: Array | np.ndarray) -> Float[np.ndarray, "..."]:
    """The values in NumPy's float64, from any precision."""
    values = jnp.asarray(values)
    if jnp.issubdtype(values.dtype, jnp.floating):
        # NumPy has no bfloat16.
        values = values.astype(accumulation_dtype(values.dtype))
    return np.asarray(values).astype(np.float64)


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def named(rows: Sequence[int]) -> str:
    """`row 3`, `rows 3, 7`, `rows 0, 1, 2, 3, 4 and 7 more`."""
    first = ", ".join(map(str, rows[:_NAMED]))
    more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    return f"row{'' if len(rows) == 1 else 's'} {first}{more}"


def p_value(value: float) -> str:
    """`p = 0.03`, `p < 1e-16`."""
    return f"p = {value:.2g}" if value >= 1e-16 else "p < 1e-16"


def generator(key: PRNGKeyArray) -> np.random.Generator:
    """NumPy's generator from a random key of jax."""
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,), np.uint32)))
