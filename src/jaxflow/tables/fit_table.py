"""`fit_table`: one exact joint density of a table of labels, counts, dates and numbers."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxflow.runtime.checks import check_count, check_share, split
from jaxflow.runtime.keys import check_key, host_seed
from jaxflow.runtime.progress import Progress
from jaxflow.tables.dependent import check_no_function
from jaxflow.tables.fit_discrete import fit_discrete
from jaxflow.tables.frames import Frame, read_cells, sort_of
from jaxflow.tables.from_gaussian import fit_continuous
from jaxflow.tables.laws import Labels
from jaxflow.tables.plan import Coded, Plan
from jaxflow.tables.start import Data
from jaxflow.tables.table import FittedTable
from jaxflow.training.comparison import Comparison
from jaxflow.training.defaults import table_config
from jaxflow.training.folds import FEWEST, FOLD_ROWS, Splits, varied_folds
from jaxflow.training.record import Callback

# Share of a large table that is held out.
SHARE = 0.1
# Share of the time limit for discrete cells, where there are continuous ones too.
DISCRETE_TIME = 0.5
# A label chooses the covariance of the continuous columns only among so many.
MAX_GROUPS = 16


def fit_table(
    frame: Frame,
    *,
    key: PRNGKeyArray,
    kinds: Mapping[str, Any] | None = None,
    null: Sequence[str] = (),
    width: int = 64,
    depth: int = 2,
    steps: int = 4000,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    validation: float = SHARE,
    max_seconds: float | None = None,
    progress: bool | None = None,
    callback: Callback | None = None,
) -> FittedTable:
    """Fit one exact joint density to a table of text, counts, dates and numbers, with gaps.

    The kind of each column is found by its cells (`print(table.plan)`):

    - dates, or text such as 2026-11-30T12:00, 30-Nov-2026, 20261130 or 11/30/2026, where one order
      of day and month fits the column: years, months, days, hours, minutes or seconds, in steps
      where all keep them;
    - text that differs in more than half of the rows or in 1,000 ways, numbers of rows from 0 or 1
      on, and whole numbers that occur once with a name such as id: an identifier, left out;
    - other text, truth values, and numbers with at most two values: a category;
    - whole numbers, if a standard deviation spans at most 100 of them or most repeat: a count from
      0 on, or from the least or to the largest number where that is frequent, where there are at
      most ten numbers, all frequent and without a gap between them, and where the column is a
      month, day, hour, minute or second by its name; numbers in coarse steps such as 0.1 likewise;
      a category where few of the numbers between the least and the largest occur, each in many
      rows, or at most 20 of which hardly two are neighbours;
    - other numbers: bounded, where they come close to both ends of a usual interval such as
      (0, 1) or have exactly 1 or 100 twice, and at an end that is the most frequent number;
      positive, where none is negative and the least is nearer to 0 than to the largest; else
      continuous. Values on a limit, and values that a hundredth of the rows share, have
      probabilities of their own. Large whole numbers, such as incomes, have a density too, which
      is about the probability of each; samples are rounded. Angles, as
      `jaxflow.transforms.propose` finds them, are cut where there is no row.

    Discrete cells are modelled one after another by small networks, and keep their smoothed
    frequencies where the networks are no better on held-out rows; continuous ones by a flow that
    starts as a Gaussian with a mean linear in the labels. Each part
    trains as long as that helps held-out rows: five folds of a table of at most 5,000 rows, a
    share of a larger one.

    ```python
    import jax
    import numpy as np
    import jaxflow

    rng = np.random.default_rng(0)
    city = rng.choice(["Oslo", "Rome"], 100, p=[0.7, 0.3])
    degrees = rng.normal(np.where(city == "Oslo", 5.0, 18.0))
    visits = rng.poisson(3.0, 100)
    frame = {"city": city, "degrees": degrees, "visits": visits}
    table = jaxflow.fit_table(frame, key=jax.random.key(0), steps=25)
    print(table)
    log_p = table.log_prob(frame)
    rows = table.sample(jax.random.key(1), 5)
    ```

    Args:
        frame: a pandas or polars frame, a mapping of columns, a `jaxflow.data.Table`, or the path
            of a file. In text files `NA`, `N/A`, `NaN`, `NULL`, `None`, `?`, `-` and empty cells
            are missing, and numbers may have a decimal comma.
        key: for the folds, the weights and the minibatches; the same key gives the same table.
        kinds: kinds of columns by name, in place of those that are found: "category", "count",
            "whole", "date", "continuous", "positive", "identifier", limits `(lower, upper)`, or a
            period of angles, such as "periodic:360".
        null: more words that stand for a missing cell.
        width: units of each hidden layer of the flow.
        depth: number of its hidden layers.
        steps: largest number of updates of the flow.
        batch_size: rows of an update; None for 128, or 512 for a large table.
        learning_rate: peak learning rate; None for 1e-3, or 2e-3 for a large table.
        validation: share of a large table to hold out.
        max_seconds: about how long to take in all, with compilation: discrete cells, then the
            flow, train until the first validation after their share of it. What is left then, such
            as the comparison, may take some seconds more; a first program that compiles longer
            than this is not cut off.
        progress: show a progress bar; None for only on a terminal.
        callback: called after each validation of the flow with a `jaxflow.training.Record`;
            return True to stop training it. What was best so far is the result.

    Returns:
        The density.

    Raises:
        ValueError, TypeError: the table or a setting is invalid; one error lists all that is wrong
            with columns. Linearly dependent columns have no density, and are named.
        TrainingError: no validation value was finite.
    """
    start = time.monotonic()
    check_key(key)
    check_share("validation", validation)
    width, depth = check_count("width", width), check_count("depth", depth)
    cells = read_cells(frame, null)
    plan = Plan.of(cells, kinds, null, sort_of(frame))
    rows = plan.read(frame)
    laws, gates = plan.laws(rows.codes), [variable.gate for variable in plan.variables]
    check_no_function(plan, rows, laws)
    count = len(rows.y)
    large = count > FOLD_ROWS
    sizes = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    config = table_config(large=large, **sizes, max_seconds=max_seconds)
    deadline = start + (math.inf if max_seconds is None else max_seconds)
    folds = _folds(plan, rows, key, validation)
    with Progress(steps, show=progress) as bar:
        now, share = time.monotonic(), DISCRETE_TIME if plan.numbers else 1.0
        end = now + share * (deadline - now)
        discrete = fit_discrete(laws, gates, rows.codes, folds, key, bar, end)
        held = discrete.held.sum(axis=1)
        parts = {"flow": held, "product of all columns": discrete.independent.sum(axis=1)}
        continuous, taken = None, 0
        if plan.numbers:
            groups = {
                j: law.count + bool(np.isnan(rows.codes[:, j]).any())
                for j, law in enumerate(laws)
                if isinstance(law, Labels) and 1 < law.count <= MAX_GROUPS
            }
            inputs = discrete.model.encode(rows.codes)
            data = Data(rows.y, plan.limits, inputs, rows.codes, groups, plan.gates)
            fitted = fit_continuous(
                data,
                folds,
                key,
                config,
                width=width,
                depth=depth,
                by_folds=not large,
                progress=bar,
                callback=callback,
                deadline=deadline,
            )
            continuous, taken = fitted.model, fitted.steps
            parts = {
                "flow": held + fitted.held,
                "Gaussian given the labels": held + fitted.start,
                "product of all columns": parts["product of all columns"] + fitted.independent,
            }
    if folds:
        out = np.concatenate([held for _, held in folds])
        shift = np.where(np.isnan(rows.y[out]), 0.0, plan.log_scales).sum(axis=1)
        log_p = {name: log_p - shift for name, log_p in parts.items()}
        comparison = Comparison.of(log_p, 0 if large else len(folds))
    else:
        comparison = Comparison.of_few(count)
    return FittedTable(plan, discrete.model, continuous, comparison, taken)


def _folds(plan: Plan, rows: Coded, key: PRNGKeyArray, share: float) -> Splits:
    """Row numbers to train on and to hold out; every continuous column varies in each fold.

    Copies of a row with continuous cells stay together: they test nothing.
    """
    count, seed = len(rows.y), host_seed(key)
    if count < FEWEST:
        return []
    if count > FOLD_ROWS:
        return [split(count, share, seed)]
    groups = np.arange(count)
    measured = np.flatnonzero(~np.isnan(rows.y).all(axis=1))
    if measured.size:
        both = np.nan_to_num(np.concatenate(rows, axis=1)[measured], nan=-1e300)
        _, first, which = np.unique(both, axis=0, return_index=True, return_inverse=True)
        groups[measured] = measured[first][which.reshape(-1)]
        groups = np.unique(groups, return_inverse=True)[1]

    def is_flat(train: np.ndarray) -> np.ndarray:
        """The columns with fewer than 3 different numbers."""
        return np.array([len(np.unique(y[~np.isnan(y)])) < 3 for y in rows.y[train].T], bool)

    folds, flat = varied_folds(groups, seed, is_flat)
    few = [plan.columns[plan.numbers[i]].name for i in np.flatnonzero(flat)]
    if few:
        raise ValueError(
            f"columns {', '.join(few)} have too few different numbers for folds: name another "
            'kind, such as kinds={"' + few[0] + '": "category"} (command line: --kind '
            f"{few[0]}=category), or leave them out"
        )
    return folds
