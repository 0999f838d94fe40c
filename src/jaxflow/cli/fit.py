"""`jaxflow fit`: a table in, a run directory out."""

import math
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxflow.cli import run_directory
from jaxflow.cli.classes import classes_of, of_rows, one_hot, read_labels
from jaxflow.cli.models import (
    Activation,
    Field,
    Model,
    Objective,
    Settings,
    Trace,
    Transform,
    build_flow,
    fit_transform,
    objective_of,
    transform_text,
)
from jaxflow.cli.outputs import write_columns
from jaxflow.cli.reports import counted, show, tell
from jaxflow.cli.tables import DropNan, digest, drop_rows, in_precision, names_of, split_names

_INTERRUPTED = 130
# Without a progress bar, a line at most this often.
_SECONDS_BETWEEN_LINES = 5.0


def fit(
    table: Annotated[
        Path,
        typer.Argument(
            help="Table of numbers, a sample a row: .csv, .tsv, .txt, .npy, .npz or .parquet."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Run directory to make: the folder that keeps the fitted flow, the history of "
            "its training and its settings."
        ),
    ],
    columns: Annotated[
        str | None, typer.Option(help="Columns to fit, such as a,b; all of them by default.")
    ] = None,
    class_column: Annotated[
        str | None,
        typer.Option(
            help="Column of labels, numbers or text: the density is fitted given the class."
        ),
    ] = None,
    model: Annotated[
        Model, typer.Option(help="Continuous flow (cnf), or coupling layers (coupling).")
    ] = Model.cnf,
    field: Annotated[
        Field,
        typer.Option(
            help="Network of the continuous flow's field; auto is residual for ddpm and ncsn, "
            "else mlp."
        ),
    ] = Field.auto,
    activation: Annotated[
        Activation,
        typer.Option(
            help="Nonlinearity of the continuous flow's field; auto is swish for residual, "
            "else sin."
        ),
    ] = Activation.auto,
    width: Annotated[int, typer.Option(help="Units of a hidden layer.")] = 128,
    depth: Annotated[int, typer.Option(help="Number of hidden layers.")] = 2,
    steps: Annotated[int, typer.Option(help="Updates of the weights.")] = 4000,
    batch_size: Annotated[int, typer.Option(help="Rows an update looks at.")] = 512,
    learning_rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 2e-3,
    validation: Annotated[
        float,
        typer.Option(help="Part of the rows held out, to choose the best weights and judge them."),
    ] = 0.1,
    max_seconds: Annotated[
        float | None, typer.Option(help="Stop training after about so many seconds.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of all random numbers; the same seed, the same flow.")
    ] = 0,
    transform: Annotated[
        Transform,
        typer.Option(
            help="Scaling of the columns before the flow, counted in the density; auto "
            "dequantises whole numbers, takes logits or logarithms of columns with limits, and "
            "lets held-out rows choose the rest."
        ),
    ] = Transform.auto,
    trace: Annotated[
        Trace,
        typer.Option(help="Trace of the continuous flow: exact, or estimated by random probes."),
    ] = Trace.auto,
    objective: Annotated[
        Objective,
        typer.Option(
            help="Train by likelihood, by flow matching (fm), or in stages: matching first, "
            "likelihood last, which is what auto means for a continuous flow. ddpm and ncsn make "
            "it a diffusion model, of preserved and of exploding variance."
        ),
    ] = Objective.auto,
    drop_nan: DropNan = False,
    float64: Annotated[
        bool, typer.Option("--float64", help="Compute in float64, slower; float32 by default.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run, once the new one is done.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with an interrupted run, given the same options."),
    ] = False,
) -> None:
    """Fit a density to a table of numbers and keep it in a run directory.

    Quality is the negative log-likelihood of held-out rows, in nats a row: lower is better.
    """
    settings = Settings(
        model=model.value,
        field=field.value,
        activation=activation.value,
        width=width,
        depth=depth,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        validation=validation,
        max_seconds=max_seconds,
        seed=seed,
        transform=transform.value,
        trace=trace.value,
        objective=objective.value,
        float64=float64,
    )
    folder = run_directory.choose_folder(out, overwrite=overwrite, resume=resume)
    x, cond, record = _read(table, columns, class_column, settings, drop_nan=drop_nan)
    if resume and (folder / run_directory.RECORD).exists():
        started = run_directory.read_record(folder)
        _check_same(out, started, record)
        record |= {"started": started.get("started")}
    elif folder != out.resolve():
        # What an earlier replacement left, when it was interrupted and not resumed.
        run_directory.discard(folder)

    # Imported here, after the refusals that need no jax.
    import jax

    with jax.enable_x64(float64):
        trained = _train(x, cond, record, settings, folder, resume=resume)
    run_directory.put_in_place(folder, out)
    _show(trained, out, table)


def _read(
    table: Path,
    columns: str | None,
    class_column: str | None,
    settings: Settings,
    *,
    drop_nan: bool,
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """The rows to fit, in the run's precision, their conditions, and the record of a run."""
    from importlib.metadata import version

    from jaxflow import __version__
    from jaxflow.data import read_table

    chosen = split_names(columns)
    if class_column is not None and chosen is None:
        chosen = [name for name in names_of(table) if name != class_column]
    if class_column is not None and class_column in (chosen or ()):
        raise ValueError(
            f"--columns names {class_column}, which --class-column takes for the class"
        )
    read = read_table(table, chosen)
    values, kept = drop_rows(read.values, read.columns, table, drop_nan=drop_nan)
    x = in_precision(values, read.columns, table, float64=settings.float64)
    classes = cond = None
    if class_column is not None:
        labels = of_rows(read_labels(table, class_column), kept, table, class_column)
        classes = classes_of(labels, class_column)
        cond = one_hot(labels, classes, table)
    return (
        x,
        cond,
        {
            "jaxflow": __version__,
            "versions": {name: version(name) for name in ("jax", "equinox", "optax", "numpy")},
            "python": sys.version.split()[0],
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "table": str(table),
            "table_sha256": digest(x),
            "class_column": class_column,
            "classes": classes,
            "labels_sha256": None if cond is None else digest(cond),
            "columns": list(read.columns),
            "columns_chosen": chosen is not None,
            "rows": len(kept),
            "rows_dropped": len(read.values) - len(kept),
            "settings": asdict(settings),
            "finished": False,
        },
    )


def _check_same(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to go on with other data or options than the run was started with."""
    advice = "resume with what it was started with, or replace it with --overwrite alone"
    if old["columns"] != new["columns"]:
        raise ValueError(
            f"{out} was started with the columns {', '.join(old['columns'])}, not "
            f"{', '.join(new['columns'])}; {advice}"
        )
    for name, value in new["settings"].items():
        # More time does not change what is trained.
        if name != "max_seconds" and old["settings"].get(name) != value:
            raise ValueError(
                f"{out} was started with --{name.replace('_', '-')} "
                f"{old['settings'].get(name)}, not {value}; {advice}"
            )
    for name in ("table_sha256", "labels_sha256"):
        if old.get(name) != new[name]:
            raise ValueError(f"{out} was started with other rows, of {old['table']}; {advice}")


def _train(
    x: np.ndarray,
    cond: np.ndarray | None,
    record: dict[str, Any],
    settings: Settings,
    folder: Path,
    *,
    resume: bool,
) -> dict[str, Any]:
    """Train and fill the run directory; the record with the results."""
    import jax

    import jaxflow
    from jaxflow.data import check_columns, split
    from jaxflow.transforms import Proposal

    training, held = split(len(x), settings.validation, settings.seed)
    check_columns(x[training], record["columns"])
    init_key, fit_key = jax.random.split(jax.random.key(settings.seed))
    flow = build_flow(settings, x.shape[1], init_key, len(record["classes"] or ()))
    given = (None, None) if cond is None else (cond[training], cond[held])
    transform = fit_transform(settings.transform, x[training], record["columns"])
    if isinstance(transform, Proposal):
        for line in transform.lines():
            tell(line)
    config = jaxflow.TrainConfig(
        steps=settings.steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        max_seconds=settings.max_seconds,
        eval_every=settings.eval_every,
    )
    state = folder / run_directory.STATE
    run_directory.write_record(folder, record)
    try:
        flow, history = jaxflow.fit(
            flow,
            x[training],
            given[0],
            key=fit_key,
            validation=(x[held], given[1]),
            transform=transform,
            config=config,
            objective=objective_of(settings.objective),
            callback=None if sys.stderr.isatty() else _lines(settings.steps),
            checkpoint=state,
            resume=resume,
        )
        log_p = np.asarray(flow.log_prob(x[held], given[1], key=fit_key), np.float64)
    except BaseException as error:
        # A state on the disk is worth keeping unless training itself failed.
        if isinstance(error, jaxflow.TrainingError | jaxflow.SolveError) or not state.exists():
            run_directory.discard(folder)
        elif isinstance(error, KeyboardInterrupt):
            tell("interrupted; go on with the same command and --resume")
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(_INTERRUPTED) from None
        raise
    record = record | {
        "finished": True,
        "rows_held_out": len(held),
        "transform": transform_text(flow.transform),
        "validation": -float(log_p.mean()),
        "validation_se": float(log_p.std(ddof=1)) / math.sqrt(len(held))
        if len(held) > 1
        else None,
        "steps": history["step"][-1],
        "seconds": history["seconds"][-1],
    }
    write_columns(folder / run_directory.HISTORY, history)
    run_directory.write_record(folder, record)
    # Last, since a run with a flow counts as finished.
    jaxflow.save(folder / run_directory.FLOW, flow, extra=record)
    state.unlink()
    return record


def _lines(steps: int) -> Callable[[dict[str, Any]], None]:
    """Progress for a log: a line now and then on standard error."""
    last = time.monotonic()

    def tell_step(row: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            tell(f"step {row['step']} of {steps}: held-out {row['validation']:.4f} nats")

    return tell_step


def held_out_text(record: dict[str, Any]) -> str:
    """The quality of a fit, with its standard error."""
    error = record["validation_se"]
    return (
        f"{record['validation']:.4f}{'' if error is None else f' +- {error:.4f}'} nats a row, "
        f"negative log-likelihood of {counted(record['rows_held_out'], 'row')} that chose the "
        "best weights"
    )


def _show(record: dict[str, Any], out: Path, table: Path) -> None:
    dropped = f", {record['rows_dropped']} dropped" if record["rows_dropped"] else ""
    scores = shlex.join(["jaxflow", "score", str(out), str(table), "--out", "scores.csv"])
    if record["rows_dropped"]:
        scores += " --drop-nan"
    show(
        {
            "rows": f"{record['rows'] - record['rows_held_out']} for training, "
            f"{record['rows_held_out']} held out{dropped}",
            "columns": ", ".join(record["columns"]),
            **({"classes": ", ".join(record["classes"])} if record["classes"] else {}),
            "transform": record["transform"],
            "held-out": held_out_text(record),
            "time": f"{record['seconds']:.1f} s, {counted(record['steps'], 'step')}",
            "run": str(out),
            "next": scores,
        }
    )
