"""Continuous columns that follow from other columns, which have no density given these."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxflow.runtime.checks import listed
from jaxflow.runtime.dependence import dependent_columns
from jaxflow.tables.labels import SHOWN
from jaxflow.tables.laws import Labels, Law
from jaxflow.tables.plan import Coded, Plan

# A column follows from others if these leave a smaller share of its spread: about the precision of
# float32.
LEAST = 1e-6


def check_no_function(plan: Plan, rows: Coded, laws: Sequence[Law]) -> None:
    """Raise ValueError for columns such as `a + b`, `24 - a` or `log(a)` beside `a` and `b`.

    Linear ones, in the numbers, in the logarithms of positive columns, and in indicators of
    labels. Rows with gaps in continuous columns are left out.
    """
    complete = ~np.isnan(rows.y).any(axis=1)
    names, parts = _discrete_parts(plan, laws, rows.codes[complete])
    y, none = rows.y[complete], parts[:, :0]
    logs = np.isfinite(plan.limits[0]) & np.isinf(plan.limits[1])
    numbers = [plan.columns[j].name for j in plan.numbers]
    # The first of these that has fewer columns than rows: others are linear by chance.
    for discrete, logarithms in ((parts, logs), (none, logs), (none, logs & False)):
        more = np.log(y[:, logarithms] - plan.limits[0][logarithms])
        design = np.concatenate([discrete, y, more], axis=1)
        if len(design) > design.shape[1]:
            break
    else:
        return
    every = names[: discrete.shape[1]] + numbers
    every += [name for name, log in zip(numbers, logarithms, strict=True) if log]
    first = discrete.shape[1]
    varied = np.flatnonzero(np.ptp(design, axis=0) > 0)
    found: dict[str, list[str]] = {}
    for k, others in dependent_columns(design[:, varied], least=LEAST).items():
        name, own = every[varied[k]], [every[varied[j]] for j in others]
        if varied[k] >= first and name not in found and own != [name]:
            found[name] = list(dict.fromkeys(each for each in own if each != name))
    if found:
        each = "; ".join(f"{k!r} from {listed([*map(repr, v)])}" for k, v in found.items())
        options = " ".join(f"--kind {name}=identifier" for name in found)
        raise ValueError(
            f"columns follow from others: {each}. They have no density given these: {options} "
            f"(in Python kinds={dict.fromkeys(found, 'identifier')}) leaves them out"
        )


def _discrete_parts(
    plan: Plan, laws: Sequence[Law], codes: Float[np.ndarray, "n variables"]
) -> tuple[list[str], Float[np.ndarray, "n parts"]]:
    """Numbers of steps and indicators of labels, with the name of the column of each."""
    names, parts = [], [np.zeros((len(codes), 0))]
    for variable, law, column in zip(plan.variables, laws, codes.T, strict=True):
        if isinstance(law, Labels):
            part = (column[:, None] == np.arange(1, min(law.count, SHOWN))).astype(float)
        else:
            part = np.nan_to_num(column)[:, None]
        parts.append(part)
        names += [plan.columns[variable.column].name] * part.shape[1]
    return names, np.concatenate(parts, axis=1)
