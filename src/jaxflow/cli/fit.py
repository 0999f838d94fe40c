"""`jaxflow fit`: a table in, a run directory out."""

import inspect
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxflow.cli import run_directory
from jaxflow.cli.config import Config
from jaxflow.cli.guidance import diffuses
from jaxflow.cli.inputs import check_same, read_inputs, settings_from
from jaxflow.cli.job import (
    Coordinator,
    Devices,
    Processes,
    ProcessIndex,
    agreed_path,
    check_float64,
    is_first,
    job,
)
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
from jaxflow.cli.outcome import show_outcome
from jaxflow.cli.reports import tell
from jaxflow.cli.shards import fit_shards, shards_record
from jaxflow.cli.tables import (
    DropNan,
    split_names,
)
from jaxflow.cli.targets import fit_target, target_record
from jaxflow.cli.training import keep, tell_proposal, train

# Nats a row that a diffusion's prior may miss without a word.
MOST_PRIOR_GAP = 0.1


def fit(
    table: Annotated[
        Path,
        typer.Argument(
            help="Table of numbers, a sample a row: .csv, .tsv, .txt, .npy, .npz or .parquet; a "
            "folder that jaxflow shards made, for more than fits in memory; with --objective "
            "reverse-kl a function x -> log p(x) of Python, as FILE.py:NAME."
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
            "it a diffusion model, of preserved and of exploding variance; reflow straightens "
            "the flow of --from; reverse-kl needs a target in place of a table."
        ),
    ] = Objective.auto,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Finished run whose flow, columns and classes to go on with; its options of "
            "model and transform hold.",
        ),
    ] = None,
    config: Config = None,
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
    devices: Devices = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process_index: ProcessIndex = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a profile of the steps between two validations, for TensorBoard, "
            "XProf or Perfetto."
        ),
    ] = None,
    compile_cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps compiled programs for later fits of such shapes."),
    ] = None,
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
        start=None if start is None else str(start),
    )
    if start is not None:
        usual = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
        given = {**asdict(settings), "columns": columns, "class_column": class_column}
        chosen = [name for name, value in given.items() if value != usual.get(name)]
        settings = settings_from(start, settings, chosen)
    with job(coordinator, processes, process_index):
        folder = agreed_path(
            lambda: run_directory.choose_folder(out, overwrite=overwrite, resume=resume)
        )
        if objective == Objective.reverse_kl:
            if class_column is not None:
                raise ValueError(
                    f"--class-column {class_column} names a column of a table, and --objective "
                    "reverse-kl has none: leave it out"
                )
            x = cond = None
            record = target_record(str(table), settings, split_names(columns))
        elif table.is_dir():
            x = cond = None
            record = shards_record(table, settings, columns, class_column, drop_nan=drop_nan)
        else:
            x, cond, record = read_inputs(
                table, columns, class_column, settings, drop_nan=drop_nan
            )
        if resume and (folder / run_directory.RECORD).exists():
            started = run_directory.read_record(folder)
            check_same(out, started, record)
            record |= {"started": started.get("started")}
        elif folder != out.resolve():
            # What an earlier replacement left, when it was interrupted and not resumed.
            run_directory.discard(folder)

        # Imported here, after the refusals that need no jax.
        import jax

        if compile_cache is not None:
            jax.config.update("jax_compilation_cache_dir", str(compile_cache.resolve()))
        if coordinator is not None and devices is None:
            devices = jax.device_count()
        how = {"resume": resume, "mesh": devices, "profile": profile}
        with jax.enable_x64(settings.float64):
            check_float64(settings.float64)
            if objective == Objective.reverse_kl:
                trained = fit_target(str(table), record, settings, folder, **how)
            elif x is None:
                trained = fit_shards(table, record, settings, folder, **how)
            else:
                trained = _train(x, cond, record, settings, folder, **how)
        if is_first():
            run_directory.put_in_place(folder, out)
            show_outcome(trained, out, table)


def _train(
    x: np.ndarray,
    cond: np.ndarray | None,
    record: dict[str, Any],
    settings: Settings,
    folder: Path,
    **how: Any,
) -> dict[str, Any]:
    """Train and fill the run directory; the record with the results."""
    import jax

    from jaxflow.data import check_columns, split
    from jaxflow.diffusion import prior_gap
    from jaxflow.io.checkpoint import load

    training, held = split(len(x), settings.validation, settings.seed)
    check_columns(x[training], record["columns"])
    init_key, fit_key = jax.random.split(jax.random.key(settings.seed))
    if settings.start is None:
        flow = build_flow(settings, x.shape[1], init_key, len(record["classes"] or ()))
        transform = fit_transform(settings.transform, x[training], record["columns"])
    else:
        # With the transform that it has.
        flow, transform = load(Path(settings.start) / run_directory.FLOW), None
    given = (None, None) if cond is None else (cond[training], cond[held])
    tell_proposal(transform)
    flow, history = train(
        flow,
        x[training],
        given[0],
        record,
        settings,
        folder,
        **how,
        key=fit_key,
        validation=(x[held], given[1]),
        transform=transform,
        objective=objective_of(settings.objective, flow, init_key, given[0]),
    )
    log_p = np.asarray(flow.log_prob(x[held], given[1], key=fit_key), np.float64)
    results = {
        "rows_held_out": len(held),
        "transform": transform_text(flow.transform),
        "validation": -float(log_p.mean()),
        "validation_se": float(log_p.std(ddof=1)) / math.sqrt(len(held))
        if len(held) > 1
        else None,
    }
    if diffuses(record):
        results["prior_gap"] = gap = prior_gap(flow, x[training])
        if gap > MOST_PRIOR_GAP:
            tell(
                f"the prior misses the noised data by {gap:.2g} nats a row: the noise does not "
                "cover the data, scale them (--transform standardise)"
            )
    return keep(flow, history, record | results, folder)
