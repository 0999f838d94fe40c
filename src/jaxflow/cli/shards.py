"""`jaxflow shards`, and `jaxflow fit FOLDER`: tables that do not fit in memory."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxflow.cli.inputs import record_of
from jaxflow.cli.models import Settings, build_flow, fit_transform, objective_of, transform_text
from jaxflow.cli.reports import counted, show
from jaxflow.cli.tables import DropNan, split_names
from jaxflow.cli.training import keep, tell_proposal, train


def shards(
    tables: Annotated[
        list[Path], typer.Argument(help="Tables with the same columns: .parquet, .csv, .npy, ...")
    ],
    out: Annotated[Path, typer.Option(help="Folder to make, for jaxflow fit FOLDER.")],
    columns: Annotated[
        str | None, typer.Option(help="Columns to keep, such as a,b; all of them by default.")
    ] = None,
    drop_nan: DropNan = False,
) -> None:
    """Write tables as shards, from which jaxflow fit reads rows at random in bounded memory."""
    from jaxflow.data import Shards

    written = Shards.convert(tables, out, split_names(columns), drop_nan=drop_nan)
    numbers = {"rows": len(written), "files": len(written.files), "shards": str(out)}
    numbers["rows_dropped"] = written.dropped
    dropped = f", {written.dropped} with NaN or infinity left out" if written.dropped else ""
    show(
        {
            "rows": counted(len(written), "row") + dropped,
            "columns": ", ".join(written.columns),
            "shards": f"{out}, {counted(len(written.files), 'file')}",
            "next": f"jaxflow fit {out} --out RUN",
        },
        numbers | {"columns": list(written.columns)},
    )


def shards_record(
    folder: Path,
    settings: Settings,
    columns: str | None,
    class_column: str | None,
    *,
    drop_nan: bool,
) -> dict[str, Any]:
    """The record that a fit of shards begins with.

    Raises:
        ValueError: options that choose columns, which `jaxflow shards` chose; `--from`.
    """
    from jaxflow.data import Shards

    found = Shards.open(folder)
    names = list(found.columns)
    if split_names(columns) == names:
        columns = None
    for name, value in (("columns", columns), ("class-column", class_column)):
        if value is not None:
            raise ValueError(
                f"--{name} {value}: {folder} holds shards, which are fitted whole; choose columns "
                "by jaxflow shards --columns"
            )
    if drop_nan:
        raise ValueError(f"--drop-nan: {folder} holds shards; drop rows by jaxflow shards")
    if settings.start is not None:
        raise ValueError(
            f"--from {settings.start} goes on with a table, and {folder} holds shards"
        )
    return record_of(str(folder), found.fingerprint(), names, len(found), settings)


def fit_shards(
    folder: Path, record: dict[str, Any], settings: Settings, run: Path, **how: Any
) -> dict[str, Any]:
    """Train on shards and fill the run directory; the record with the results."""
    import jax

    from jaxflow import TrainConfig
    from jaxflow.data import Shards
    from jaxflow.data.permutation import shuffled
    from jaxflow.training.stream import SAMPLE, held_count

    found = Shards.open(folder)
    init_key, fit_key = jax.random.split(jax.random.key(settings.seed))
    flow = build_flow(settings, len(found.columns), init_key)
    sample = shuffled(np.arange(min(SAMPLE, len(found))), len(found), [settings.seed])
    transform = fit_transform(settings.transform, found.rows(sample)[0], record["columns"])
    tell_proposal(transform)
    flow, history = train(
        flow,
        found,
        None,
        record,
        settings,
        run,
        **how,
        key=fit_key,
        validation=settings.validation,
        transform=transform,
        objective=objective_of(settings.objective, flow, init_key, None),
    )
    results = {
        "rows_held_out": held_count(len(found), settings.validation, TrainConfig()),
        "transform": transform_text(flow.transform),
        "validation": float(np.nanmin(history["validation"])),
        "validation_se": None,
    }
    return keep(flow, history, record | results, run)
