"""`jaxflow fit TABLE`: read the rows, train, and judge the flow by held-out rows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from jaxflow.cli.classes import find_classes, one_hot, read_labels, row_conditions, select_labels
from jaxflow.cli.mixed import kinds_as_typed, split_kinds
from jaxflow.cli.models import build_flow, build_objective
from jaxflow.cli.record import check_numbers, is_diffusion, new_record, settings_of
from jaxflow.cli.run_directory import FLOW, read_finished
from jaxflow.cli.settings import INHERITED, FitData, FitSettings
from jaxflow.cli.tables import check_small, clean_rows, hash_rows, read_rows
from jaxflow.cli.terminal import note
from jaxflow.cli.training import (
    NewRun,
    beside_simple,
    compared_results,
    ending_early,
    finish,
    held_out_results,
    note_proposal,
    train,
)
from jaxflow.data import Table, check_columns, read_table, split, table_names
from jaxflow.diffusion import prior_gap
from jaxflow.io.checkpoint import load
from jaxflow.tables.spacing import is_whole
from jaxflow.training.comparison import Comparison
from jaxflow.training.defaults import scaling, table_config
from jaxflow.training.folds import FOLD_ROWS
from jaxflow.training.from_simple import Table as TableFit
from jaxflow.training.from_simple import or_from_simple
from jaxflow.training.rows import take
from jaxflow.transforms import Proposal, propose, spread_rows

# A larger error of a diffusion model's prior, in nats per row, is noted.
MAX_PRIOR_GAP = 0.1


def inherit_settings(start: Path, settings: FitSettings, changed: list[str]) -> FitSettings:
    """Take over the settings of the run of `--from`; raises ValueError if one was `changed`."""
    of_run = read_finished(start)
    check_numbers(start, of_run, "--from")
    inherited = settings_of(of_run)
    for name in (*INHERITED, "columns", "class_column"):
        if name in changed:
            raise ValueError(
                f"--{name.replace('_', '-')} is fixed by the run of --from {start}: leave it out"
            )
    objective = settings.objective
    if inherited.schedule is not None:
        if objective not in ("auto", inherited.objective):
            raise ValueError(
                f"--objective {objective}: {start} is a diffusion model and stays one; leave "
                "--objective out"
            )
        objective = inherited.objective
    elif settings.schedule is not None:
        raise ValueError(
            f"--objective {objective}: {start} is not a diffusion model; fit one without --from"
        )
    fixed = {name: getattr(inherited, name) for name in INHERITED}
    return replace(settings, **fixed, objective=objective)


def read_table_rows(
    data: FitData, settings: FitSettings, read: Table | None = None
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Rows to fit, (n, d), their conditions, (n, classes), and the run's record.

    `read` is a table without classes that has been read already. Samples of its columns of whole
    numbers will be rounded.
    """
    table, class_column, drop_nan = data.table, data.class_column, data.drop_nan
    whole: list[str] = []
    if settings.start is not None:
        of_run = read_finished(Path(settings.start))
        x, row_numbers, num_rows = read_rows(of_run, table, drop_nan=drop_nan)
        cond = row_conditions(of_run, table)(row_numbers)
        names, chosen = of_run["columns"], of_run["columns_chosen"]
        class_column, classes = of_run.get("class_column"), of_run.get("classes")
    else:
        names = data.columns
        if class_column is not None and names is None:
            names = [name for name in table_names(table) if name != class_column]
        if class_column is not None and class_column in (names or ()):
            raise ValueError(f"{class_column} is in both --columns and --class-column: drop one")
        chosen = names is not None
        numbers = read_table(table, names) if read is None else read
        names, num_rows = list(numbers.columns), len(numbers.values)
        if not settings.float64:
            check_small(numbers.values, names, table)
        x, row_numbers = clean_rows(
            numbers.values, names, table, drop_nan=drop_nan, float64=settings.float64
        )
        if read is not None:
            columns_read = zip(names, numbers.values[row_numbers].T, strict=True)
            whole = [name for name, column in columns_read if is_whole(column)]
        classes = cond = None
        if class_column is not None:
            labels = select_labels(
                read_labels(table, class_column), row_numbers, table, class_column
            )
            classes = find_classes(labels, class_column)
            cond = one_hot(labels, classes, table)
    record = new_record(
        str(table),
        hash_rows(x),
        names,
        len(x),
        settings,
        class_column=class_column,
        classes=classes,
        class_counts=None if cond is None else cond.sum(axis=0).astype(int).tolist(),
        columns_chosen=chosen,
        rows_dropped=num_rows - len(row_numbers),
        labels_sha256=None if cond is None else hash_rows(cond),
        drop_nan=drop_nan,
        whole=whole,
    )
    return x, cond, record


def fit_by_default(
    x: np.ndarray,
    cond: np.ndarray | None,
    kind: Sequence[str],
    run: NewRun,
) -> dict[str, Any]:
    """Train on rows and their conditions; returns the record with the results.

    Ctrl-C ends the training early and keeps what was best so far. Many rows in flat space are left
    to `fit_table`, which can resume.
    """
    record, settings = run.record, run.settings
    check_columns(x, record["columns"])
    with kinds_as_typed(kind):
        proposal = propose(x, record["columns"], split_kinds(kind))
    if cond is not None:
        check_columns(cond, record["given"])
        proposal = proposal.given
    elif proposal.surface is None and len(x) > FOLD_ROWS:
        return fit_table(x, cond, run)
    note_proposal(proposal)
    with ending_early(run) as monitor:
        flow, history, comparison = jaxflow.fit_density(
            x,
            cond,
            transform=proposal,
            columns=record["columns"],
            width=settings.width,
            callback=monitor,
            **settings.options,
        )
    results = {"interrupted": monitor.interrupted, **compared_results(comparison)}
    return finish(run, flow, history, results)


def fit_table(x: np.ndarray, cond: np.ndarray | None, run: NewRun) -> dict[str, Any]:
    """Train on rows and fill the run directory; returns the record with the results."""
    record, settings = run.record, run.settings
    training, held = split(len(x), settings.validation, settings.seed, name="--validation")
    check_columns(x[training], record["columns"])
    init_key, fit_key = jax.random.split(jax.random.key(settings.seed))
    if settings.start is None:
        flow = build_flow(settings, x.shape[1], init_key, len(record["classes"] or ()))
        transform = scaling(settings.transform, x[training], record["columns"])
    else:
        # Keep its transform.
        flow, transform = load(Path(settings.start) / FLOW), None
    rows, held_rows = take(training, x, cond), take(held, x, cond)
    note_proposal(transform)
    flow, history = train(
        run,
        flow,
        *rows,
        key=fit_key,
        validation=held_rows,
        transform=transform,
        objective=build_objective(settings, flow, init_key, *rows[1:]),
    )
    alone = cond is None and settings.by_default and run.mesh is None
    if alone and isinstance(transform, Proposal):
        config = table_config(steps=settings.steps, max_seconds=settings.max_seconds)
        sizes = settings.size("width"), settings.depth
        table = TableFit(jnp.asarray(x), None, transform, *sizes, init_key, config, None, None)
        flow, history, comparison = or_from_simple(table, flow, history, training, held)
        results = compared_results(comparison)
    else:
        if cond is None and settings.start is None:
            first = transform.first if isinstance(transform, Proposal) else None
            fold = training, held
            densities = beside_simple(flow, x, first, init_key, *fold, trace_key=fit_key)
            results = compared_results(Comparison.of(densities))
        else:
            noisy = spread_rows(flow.transform, held_rows[0], init_key)
            log_p = flow.log_prob(noisy, *held_rows[1:], key=fit_key)
            results = held_out_results(np.asarray(log_p, np.float64))
    if is_diffusion(record):
        results["prior_gap"] = gap = prior_gap(flow, x[training])
        if gap > MAX_PRIOR_GAP:
            note(
                f"the base density misses the fully noised data by {gap:.2g} nats per row: the "
                "noise is too small for these units. Add --transform standardise to scale the data"
            )
    return finish(run, flow, history, results)
