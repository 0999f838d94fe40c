"""`fit_density`: choose and train a flow for a table of numbers."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxflow.flows.log_mass import warn_of_midpoints
from jaxflow.runtime.checks import check_columns, check_count, check_share
from jaxflow.runtime.keys import check_key
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.training.defaults import table_config
from jaxflow.training.folds import FOLD_ROWS
from jaxflow.training.from_regression import by_regression
from jaxflow.training.from_simple import FittedDensity, Table, by_folds, by_hold_out
from jaxflow.training.from_surface import by_geodesics
from jaxflow.training.record import Callback
from jaxflow.training.rows import data_rows, repeat_rows
from jaxflow.transforms import Proposal, propose


def fit_density(
    x: ArrayInput,
    cond: ArrayInput | None = None,
    *,
    key: PRNGKeyArray,
    weights: ArrayInput | None = None,
    transform: Proposal | None = None,
    columns: Sequence[str] | None = None,
    kinds: Mapping[Any, str] | None = None,
    width: int | None = None,
    depth: int = 2,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    ensemble: bool = False,
    validation: float = 0.1,
    max_seconds: float | None = None,
    progress: bool | None = None,
    callback: Callback | None = None,
) -> FittedDensity:
    """Choose and train a density for a table of numbers, or of a target given conditions.

    Five folds of a table of at most 5,000 rows choose a simple density: a scaling of each column,
    then a Gaussian mixture, an average of several mixtures or Student's t. A flow starts as that
    density, with a field of 0, and trains by maximum likelihood on each fold until the rows held
    out become no more likely. The result trains on all rows for the number of steps that was best,
    which is 0 if training did not help. Each row is held out once, so `comparison` is nearly a
    test: these rows chose only the simple density and the number of steps. A kernel density is the
    result where it is surely better, as with many small clusters.

    Of a larger table a share is held out, and a flow trains as `jaxflow.fit` does by default; the
    simple density is the result if it is better on the rows held out.

    Rows on a grid, such as whole numbers, are held out with noise within their cells: the mean
    log-density of `comparison` is below that of their probabilities. `flow.log_prob` is the
    density at the middle of the cell; a warning says if that is far off (`jaxflow.log_mass`).

    Columns that live on a manifold, such as latitude and longitude, angles or unit vectors
    (`jaxflow.transforms.propose` finds them), make a flow on that manifold
    (`jaxflow.dynamics.OnManifold`): a share of the rows is held out, and the flow trains along
    geodesics, then by likelihood, from the uniform density times a Gaussian mixture of the other
    columns.

    With conditions the start is a regression, linear or by boosted trees (scikit-learn's), of each
    column's location and spread, with a Gaussian mixture of the residuals
    (`jaxflow.dynamics.LocationScale`). Each row is predicted by a regression that did not see it.
    For several columns and at least 1,000 rows a flow is trained as `jaxflow.inference` does too
    (location and spread by a network that is trained along, conditions scaled robustly, a field of
    sines, flow matching first), and is the result if rows held out are more likely.

    ```python
    import jax
    import jaxflow

    key = jax.random.key(0)
    x = jax.random.normal(key, (100, 2)) * 3 + 1
    flow, history, comparison = jaxflow.fit_density(x, key=key, steps=25)
    print(comparison)
    ```

    Args:
        x: rows, (n, d), in any units.
        cond: conditions, (n, *condition); None for the density of `x` alone.
        key: for the folds, the weights and the minibatches; the same key gives the same flow.
        weights: how often each row counts, (n,), not negative; None for once each. Weights that
            are not integers are rounded to repetitions.
        transform: transforms of the columns before the scaling, by `jaxflow.transforms.propose`;
            None for its proposal for these rows.
        columns: names of the columns, for messages, and as hints at angles and places.
        kinds: which columns are angles, places or directions, and which are not, and limits of
            columns, as for `jaxflow.transforms.propose`: `{"lat,lon": "place", "share": (0, 1)}`;
            None to find out. With conditions all columns are intervals, and a warning names
            those that are not.
        width: units of each hidden layer; None for 64, or 128 for a
            large table and on a manifold.
        depth: number of hidden layers.
        steps: largest number of updates; None for 4000.
        batch_size: rows of an update; None for 128, or 512 for a large table and on
            a manifold.
        learning_rate: peak learning rate; None for 1e-3, or 2e-3 for a large table and
            on a manifold.
        ensemble: return the average of the five folds' flows, a `jaxflow.Ensemble`, in place of a
            flow of all rows. Its density is often higher where rows are few; a log-density costs
            five solves, and there is no single map (`encode`, `quantile`).
        validation: share of a large table, or of one on a manifold, to hold out.
        max_seconds: stop training at the first validation after this many seconds.
        progress: show a progress bar; None for only on a terminal.
        callback: called after each validation with a `jaxflow.training.Record`, of the means over
            the folds where there are any; return True to stop training and keep the best so far.

    Returns:
        The flow, its training history, and its comparison with simple densities.

    Raises:
        ValueError, TypeError: bad rows (rows and columns named) or settings.
        TrainingError: no validation value was finite.
    """
    if np.ndim(x) != 2 or not np.shape(x)[1]:
        raise ValueError(f"x has shape {np.shape(x)}: give rows (n, d), as x.reshape(len(x), -1)")
    check_key(key)
    check_share("validation", validation)
    depth = check_count("depth", depth)
    rows = repeat_rows(data_rows(np.shape(x)[1:], x, cond, "x", weights))
    check_columns(np.asarray(rows.x), columns)
    if kinds and (cond is not None or transform is not None):
        raise ValueError(
            f"kinds={dict(kinds)!r} is for the density of x alone, without cond and transform: "
            "write transform=jaxflow.transforms.propose(x, columns, kinds)"
        )
    proposal = propose(rows.x, columns, kinds) if transform is None else transform
    if cond is not None and proposal.surface is not None:
        proposal = proposal.given
        warnings.warn(proposal.notes[0], stacklevel=2)
    curved = proposal.surface is not None
    large = curved or len(rows.x) > FOLD_ROWS
    settings = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    settings |= {"max_seconds": max_seconds}
    config = table_config(large=large, **settings)
    width = (128 if large else 64) if width is None else check_count("width", width)
    if ensemble and large:
        raise ValueError(
            f"ensemble=True averages the flows of five folds, and this table of {len(rows.x):,} "
            f"rows {'lives on a manifold' if curved else f'is above {FOLD_ROWS:,}'} and has none: "
            "fit it with several keys, and write jaxflow.Ensemble([first.flow, second.flow])"
        )
    table = Table(rows.x, None, proposal, width, depth, key, config, progress, callback, ensemble)
    if rows.cond is not None:
        cond = rows.cond.reshape(len(rows.x), -1)
        fitted = by_regression(table, cond, validation, settings)
    elif curved:
        fitted = by_geodesics(table, validation)
    else:
        fitted = by_hold_out(table, validation) if large else by_folds(table)
    warn_of_midpoints(fitted.flow, rows.x, cond)
    return fitted
