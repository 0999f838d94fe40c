"""`jaxflow fit`: train a flow on a table and write a run directory."""

import inspect
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from jaxflow.cli import run_directory
from jaxflow.cli.config import Config
from jaxflow.cli.errors import INTERRUPTED
from jaxflow.cli.header import Header
from jaxflow.cli.images import takes_images
from jaxflow.cli.info import print_outcome
from jaxflow.cli.options import EXPERTS, Devices, DropNan, Seed, choice
from jaxflow.cli.prepare import check_by_default, prepare
from jaxflow.cli.processes import check_float64, choose_together, is_first, join_job
from jaxflow.cli.record import check_resumable
from jaxflow.cli.settings import CHOICES, STEPS, FitData, FitSettings
from jaxflow.cli.table_fit import inherit_settings
from jaxflow.cli.tables import split_names
from jaxflow.cli.terminal import note
from jaxflow.cli.training import NewRun
from jaxflow.training.fit_images import STEPS as IMAGE_STEPS

# Options of the groups in `--help`.
_table, _model, _training, _images, _expert = (
    partial(typer.Option, rich_help_panel=panel)
    for panel in ("Table", "Model", "Training", "Images", EXPERTS)
)


def fit(
    table: Annotated[
        Path,
        typer.Argument(
            help="Table, one row per sample: .csv, .tsv, .txt, .npy, .npz or .parquet. "
            "Or images: a .npz file with arrays images (n, height, width, channels) and, for "
            "classes, labels; or a folder of .png or .jpg files, in sub-folders for classes. "
            "Or a folder that jaxflow shards made; or, with --objective reverse-kl, a Python "
            "function x -> log p(x) as FILE.py:NAME."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Run directory to create, for the fitted flow, its training history and settings."
        ),
    ],
    columns: Annotated[
        str | None, _table(help="Columns to fit, such as a,b. Default: all.")
    ] = None,
    class_column: Annotated[
        str | None,
        _table(help="Column of class labels, numbers or text. Fits the density per class."),
    ] = None,
    given: Annotated[
        str | None,
        _table(
            help="Columns to condition on, such as a,b: fits the density of the other columns "
            "given these. All must be numbers."
        ),
    ] = None,
    drop_nan: DropNan = False,
    header: Header = None,
    kind: Annotated[
        list[str] | None,
        _table(
            help="Kind of a column as COLUMN=KIND: category, count, whole, date, continuous, "
            "positive, identifier (left out), periodic:360, or limits such as 0:1. In tables of "
            "numbers also lat,lon=place, x,y,z=direction, x,y,z=axis, COLUMN=interval. "
            "Repeat it for more columns."
        ),
    ] = None,
    null: Annotated[
        list[str] | None,
        _table(
            help="Word for a missing cell, beside empty cells, NA, N/A, NaN, NULL, None, ? and -. "
            "Repeat it for more words."
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Finished run to continue training, with its model, transform and columns.",
        ),
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Stop training after about this many seconds.")
    ] = None,
    seed: Seed = 0,
    config: Config = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run when the new one is done.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted run; repeat the other options."),
    ] = False,
    model: Annotated[str, choice("Kind of flow.", CHOICES["model"], _model)] = "cnf",
    transform: Annotated[
        str,
        choice(
            "Transform of the columns before the flow, included in the density.",
            CHOICES["transform"],
            _model,
        ),
    ] = "auto",
    field: Annotated[
        str, choice("Network of a continuous flow.", CHOICES["field"], _model)
    ] = "auto",
    activation: Annotated[
        str, choice("Nonlinearity of a continuous flow.", CHOICES["activation"], _model)
    ] = "auto",
    width: Annotated[
        int | None,
        _model(
            min=1,
            help="Units of a hidden layer. Default: by the rows, or 128; for images 16 channels.",
        ),
    ] = None,
    depth: Annotated[int, _model(min=1, help="Number of hidden layers.")] = 2,
    trace: Annotated[
        str, choice("Trace of the Jacobian of a continuous flow.", CHOICES["trace"], _model)
    ] = "auto",
    float64: Annotated[
        bool, _model("--float64", help="Compute in float64: slower. Default: float32.")
    ] = False,
    objective: Annotated[str, choice("How to train.", CHOICES["objective"], _training)] = "auto",
    steps: Annotated[
        int | None,
        _training(min=1, help="Largest number of training steps. Default: 4000; for images 2000."),
    ] = None,
    batch_size: Annotated[
        int | None,
        _training(min=1, help="Minibatch size. Default: by the rows, or 512; for images 64."),
    ] = None,
    learning_rate: Annotated[
        float | None, _training(help="Peak learning rate. Default: by the rows, or 0.002.")
    ] = None,
    validation: Annotated[
        float,
        _training(
            min=0.0,
            max=1.0,
            help="Fraction of rows to hold out. They choose the best weights and are scored. By "
            "default a table of at most 5,000 rows holds out each row once, in five folds.",
        ),
    ] = 0.1,
    levels: Annotated[
        int | None,
        _images(min=2, help="Number of levels. Default: by the values; 256 for files."),
    ] = None,
    flips: Annotated[
        bool, _images("--flips", help="Mirror every other image, for images that have no side.")
    ] = False,
    shifts: Annotated[
        int, _images(min=0, help="Move images by up to so many pixels in each direction.")
    ] = 0,
    ema: Annotated[
        float | None,
        _images(help="Decay of the average of the weights, from 0 to below 1. Default: 0.995."),
    ] = None,
    noise: Annotated[
        str, choice("Noise within the cells of levels.", CHOICES["noise"], _images)
    ] = "uniform",
    devices: Devices = None,
    coordinator: Annotated[
        str | None,
        _expert(
            help="Address host:port of the first of several processes, or auto on SLURM, Open MPI "
            "and Kubernetes. Start the same command in each process."
        ),
    ] = None,
    processes: Annotated[
        int | None, _expert(help="Number of processes, with --coordinator.")
    ] = None,
    process_index: Annotated[
        int | None, _expert(help="Index of this process from 0, with --coordinator.")
    ] = None,
    profile: Annotated[
        Path | None,
        _expert(
            help="Folder for a profile of some training steps, for TensorBoard, XProf or Perfetto."
        ),
    ] = None,
    compile_cache: Annotated[
        Path | None,
        _expert(help="Folder to keep compiled programs in, for later fits of the same shapes."),
    ] = None,
) -> None:
    """Fit a probability density to a table or to images.

    A mixed table, with text, dates, gaps, constants or counts, is fitted as one density by the
    kinds of its columns, which are printed; so is any table with --kind or --null. Samples then
    have labels, whole numbers and gaps as the table has. --kind COLUMN=interval fits a flow to a
    table of numbers and takes counts for continuous.

    Images are fitted by a U-Net and flow matching; with labels also per class. Their quality is
    bits per dimension: lower is better.

    Writes a run directory for the other commands. Prints the log-density of held-out rows in nats
    per row: higher is better.
    """
    # The options by name: each setting is one.
    options: dict[str, Any] = locals() | {"start": None if start is None else str(start)}
    defaults = inspect.signature(fit).parameters
    changed = [name for name in options if options[name] != defaults[name].default]
    images = objective != "reverse-kl" and takes_images(table, changed)
    options["steps"] = steps or (IMAGE_STEPS if images else STEPS)
    settings = FitSettings(**{each.name: options[each.name] for each in fields(FitSettings)})
    if start is not None:
        settings = inherit_settings(start, settings, changed)
    names, given_names = split_names(columns), split_names(given)
    data = FitData(
        table, names, class_column, given_names, kind or [], null or [], drop_nan, levels
    )
    by_default = settings.by_default and class_column is None and not (table.is_dir() or images)
    by_default = by_default and devices is None and coordinator is None and profile is None
    check_by_default(data, by_default=by_default)
    with join_job(coordinator, processes, process_index):
        folder = choose_together(
            lambda: run_directory.choose_folder(out, overwrite=overwrite, resume=resume)
        )
        record, train = prepare(data, settings, images=images, by_default=by_default)
        record |= {"header": header}
        if resume and (folder / run_directory.RECORD).exists():
            started = run_directory.read_record(folder)
            check_resumable(out, started, record)
            record |= {"started": started.get("started")}
            if not (folder / run_directory.STATE).exists():
                note("the interrupted run has no training state: training starts again")
        elif folder != out.resolve():
            # An interrupted replacement that is not resumed.
            run_directory.discard(folder)

        if compile_cache is not None:
            jax.config.update("jax_compilation_cache_dir", str(compile_cache.resolve()))
        if coordinator is not None and devices is None:
            devices = jax.device_count()
        with jax.enable_x64(settings.float64):
            if settings.float64:
                check_float64()
            record = train(NewRun(folder, record, settings, resume, devices, profile))
        if is_first():
            run_directory.put_in_place(folder, out)
            print_outcome(record, out)
            if record.get("interrupted"):
                raise typer.Exit(INTERRUPTED)
