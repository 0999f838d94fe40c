"""`jaxflow shards`, and `jaxflow fit FOLDER`: tables that do not fit in memory."""

from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

from jaxflow import TrainConfig
from jaxflow.cli.models import build_flow, build_objective
from jaxflow.cli.options import DropNan
from jaxflow.cli.record import new_record
from jaxflow.cli.settings import FitData, FitSettings
from jaxflow.cli.tables import join_names, split_names
from jaxflow.cli.terminal import print_facts
from jaxflow.cli.training import NewRun, finish, note_proposal, train
from jaxflow.data import Shards
from jaxflow.data.permutation import shuffled
from jaxflow.runtime.text import plural
from jaxflow.training.defaults import scaling
from jaxflow.training.stream import SAMPLE_ROWS, num_validation_rows


def shards(
    tables: Annotated[
        list[Path], typer.Argument(help="Tables with the same columns: .parquet, .csv, .npy, ...")
    ],
    out: Annotated[Path, typer.Option(help="Folder to create, for jaxflow fit FOLDER.")],
    columns: Annotated[
        str | None, typer.Option(help="Columns to keep, such as a,b. Default: all.")
    ] = None,
    drop_nan: DropNan = False,
) -> None:
    """Convert tables that do not fit in memory for jaxflow fit.

    Writes float32 files from which jaxflow fit reads random rows in bounded memory.
    """
    written = Shards.convert(tables, out, split_names(columns), drop_nan=drop_nan)
    dropped = f", {written.dropped} with NaN or infinity dropped" if written.dropped else ""
    print_facts(
        {
            "rows": plural(len(written), "row") + dropped,
            "columns": ", ".join(written.columns),
            "shards": f"{out}, {plural(len(written.files), 'file')}",
            "next": f"jaxflow fit {out} --out RUN",
        },
        {
            "rows": len(written),
            "files": len(written.files),
            "shards": str(out),
            "rows_dropped": written.dropped,
            "columns": list(written.columns),
        },
    )


def shards_record(data: FitData, settings: FitSettings) -> dict[str, Any]:
    """The record of a fit to shards that begins; raises ValueError for other options of tables."""
    rows = Shards.open(data.table)
    names = list(rows.columns)
    unsupported = {
        "columns": None if data.columns == names else join_names(data.columns),
        "class-column": data.class_column,
        "drop-nan": "" if data.drop_nan else None,
        "from": settings.start,
    }
    for option, value in unsupported.items():
        if value is not None:
            raise ValueError(
                f"{f'--{option} {value}'.rstrip()}: not possible for shards such as {data.table}. "
                "Leave it out; jaxflow shards has --columns and --drop-nan"
            )
    return new_record(str(data.table), rows.fingerprint(), names, len(rows), settings)


def fit_shards(folder: Path, run: NewRun) -> dict[str, Any]:
    """Train on shards and fill the run directory; returns the record with the results."""
    data, settings = Shards.open(folder), run.settings
    init_key, fit_key = jax.random.split(jax.random.key(settings.seed))
    flow = build_flow(settings, len(data.columns), init_key)
    sample = shuffled(np.arange(min(SAMPLE_ROWS, len(data))), len(data), [settings.seed])
    transform = scaling(settings.transform, data.rows(sample)[0], run.record["columns"])
    note_proposal(transform)
    flow, history = train(
        run,
        flow,
        data,
        key=fit_key,
        validation=settings.validation,
        transform=transform,
        objective=build_objective(settings, flow, init_key),
    )
    results = {
        "rows_held_out": num_validation_rows(len(data), settings.validation, TrainConfig()),
        "validation": float(np.nanmin(history["validation"])),
        "validation_se": None,
    }
    return finish(run, flow, history, results)
