"""Continuous columns that follow from other columns, which have no density given these."""

import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxflow.runtime.dependence import dependent_columns
from jaxflow.runtime.text import listed
from jaxflow.tables.labels import SHOWN
from jaxflow.tables.laws import Labels, Law
from jaxflow.tables.plan import Coded, Plan

# A column follows from others if these leave a smaller share of its spread: about the precision of
# float32.
LEAST = 1e-6


class Part(NamedTuple):
    """One entry of rows: of the column `name`, which is continuous or not."""

    name: str
    x: Float[np.ndarray, " n"]
    is_continuous: bool


def check_no_function(plan: Plan, rows: Coded, laws: Sequence[Law]) -> None:
    """Raise ValueError for columns such as `a + b`, `24 - a` or `log(a)` beside `a` and `b`.

    Columns count that are linear in numbers, in logarithms of positive columns, and in indicators
    of labels. Rows with gaps in continuous columns are left out.
    """
    complete = ~np.isnan(rows.y).any(axis=1)
    numbers = [
        Part(plan.columns[j].name, y, is_continuous=True)
        for j, y in zip(plan.numbers, rows.y[complete].T, strict=True)
    ]
    logs = [
        part._replace(x=np.log(part.x - lower))
        for part, lower, upper in zip(numbers, *plan.limits, strict=True)
        if np.isfinite(lower) and np.isinf(upper)
    ]
    discrete = _discrete_parts(plan, laws, rows.codes[complete])
    # As few rows as parts are linear by chance.
    for parts in ([*discrete, *numbers, *logs], numbers):
        parts = [part for part in parts if len(set(part.x)) > 1]
        if 1 < len(parts) < complete.sum():
            break
    else:
        return
    found: dict[str, str] = {}
    design = np.stack([part.x for part in parts], axis=1)
    for k, others in dependent_columns(design, least=LEAST).items():
        name = parts[k].name
        names = dict.fromkeys(parts[j].name for j in others if parts[j].name != name)
        if parts[k].is_continuous and names:
            found.setdefault(name, listed([*map(repr, names)]))
    if found:
        each = "; ".join(f"{name!r} from {others}" for name, others in found.items())
        options = " ".join(f"--kind {shlex.quote(f'{name}=identifier')}" for name in found)
        raise ValueError(
            f"columns follow from others: {each}. They have no density given these: {options} "
            f"(in Python kinds={dict.fromkeys(found, 'identifier')}) leaves them out"
        )


def _discrete_parts(
    plan: Plan, laws: Sequence[Law], codes: Float[np.ndarray, "n variables"]
) -> Iterator[Part]:
    """Numbers of steps, and indicators of labels."""
    for variable, law, column in zip(plan.variables, laws, codes.T, strict=True):
        name = plan.columns[variable.column].name
        if isinstance(law, Labels):
            for k in range(1, min(law.count, SHOWN)):
                yield Part(name, (column == k).astype(float), is_continuous=False)
        else:
            yield Part(name, np.nan_to_num(column), is_continuous=False)
