"""`jaxflow fit --given`: the density of some columns of numbers, conditional on others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxflow.cli.record import new_record
from jaxflow.cli.settings import FitData, FitSettings
from jaxflow.cli.tables import check_small, clean_rows, hash_rows
from jaxflow.data import check_rows, read_table, table_names
from jaxflow.runtime.keys import host_seed


def read_given(
    data: FitData, settings: FitSettings
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Rows to fit, (n, d), the conditions that `--given` names, (n, c), and the run's record."""
    table, columns, given = data.table, data.columns, data.given or []
    names = table_names(table)
    missing = [name for name in given if name not in names]
    if missing or not given:
        raise ValueError(f"--given: {table} has no columns {missing}; it has {', '.join(names)}")
    fitted = [name for name in names if name not in given] if columns is None else columns
    both = [name for name in given if name in fitted]
    if both or not fitted:
        why = f"{', '.join(both)} in both --columns and --given" if both else "no column is left"
        raise ValueError(f"--given {','.join(given)}: {why}")
    every = [*fitted, *given]
    try:
        values = read_table(table, every).values
    except ValueError as error:
        raise ValueError(
            f"--given {','.join(given)} is for tables of numbers. Fit this one without --given, "
            f"then draw by jaxflow sample RUN --given {given[0]}=VALUE ({error})"
        ) from None
    if not settings.float64:
        check_small(values, every, table)
    rows, row_numbers = clean_rows(
        values, every, table, drop_nan=data.drop_nan, float64=settings.float64
    )
    x, cond = rows[:, : len(fitted)], rows[:, len(fitted) :]
    record = new_record(
        str(table),
        hash_rows(x),
        fitted,
        len(x),
        settings,
        given=given,
        labels_sha256=hash_rows(cond),
        rows_dropped=len(values) - len(row_numbers),
        drop_nan=data.drop_nan,
        split_seed=host_seed(jax.random.key(settings.seed)),
    )
    return x, cond, record


def given_cells(options: Sequence[str]) -> dict[str, str]:
    """The cells of options such as `city=Oslo`, by column."""
    for option in options:
        if "=" not in option:
            raise ValueError(f"--given {option}: write --given COLUMN=VALUE, such as city=Oslo")
    return {name: cell for name, _, cell in (option.partition("=") for option in options)}


def given_condition(
    run: Path, record: dict[str, Any], options: Sequence[str]
) -> Float[np.ndarray, " given"]:
    """The condition of all samples, from options such as `a=3` and `b=2`."""
    cells, names = given_cells(options), record["given"]
    if set(cells) != set(names):
        want = " ".join(f"--given {name}=..." for name in names)
        raise ValueError(f"{run} needs a number for {', '.join(names)}, and no other: add {want}")
    try:
        condition = np.array([float(cells[name]) for name in names])
    except ValueError:
        raise ValueError(f"--given {' --given '.join(options)}: give numbers") from None
    check_rows(condition[None], columns=names)
    return condition
