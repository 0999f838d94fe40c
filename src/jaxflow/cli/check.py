"""`jaxflow check`: how far a run's log-densities and samples can be trusted."""

import importlib.util
import io
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxflow.cli import run_directory
from jaxflow.cli.classes import conditions
from jaxflow.cli.info import facts_of
from jaxflow.cli.job import Devices, spread_over
from jaxflow.cli.models import check_seed
from jaxflow.cli.outputs import PICTURES, check_output, write_whole
from jaxflow.cli.report import write_report
from jaxflow.cli.reports import counted, result, tell
from jaxflow.cli.tables import DropNan, digest, rows_of_run
from jaxflow.runtime.extras import install_extra


def check(
    run: run_directory.Run,
    table: Annotated[
        Path,
        typer.Argument(
            help="Table with the columns the run was fitted to, best rows that it has not seen; "
            "of the table it was fitted to, the held-out rows are taken."
        ),
    ],
    picture: Annotated[
        Path | None,
        typer.Option(help="Picture to draw of encoded rows and errors: .png, .pdf or .svg."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Report to write, with data, likelihood and pictures: one .html file."),
    ] = None,
    rows: Annotated[
        int, typer.Option(help="Rows to examine at most, and samples to compare them with.")
    ] = 1000,
    atol_nats: Annotated[
        float, typer.Option(help="Error of a log-density that counts as good, in nats.")
    ] = 0.01,
    seed: Annotated[
        int, typer.Option(help="Seed of the random numbers; the same seed, the same answer.")
    ] = 0,
    drop_nan: DropNan = False,
    devices: Devices = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace picture and report where they exist.")
    ] = False,
) -> None:
    """Examine a run on the rows of a table, and say how far it can be trusted.

    A table of numbers, then a verdict; lines with !! are problems, with ?? what could not be
    measured. Row numbers count from 0 as in the table.
    """
    if rows < 1:
        raise ValueError(f"--rows {rows} must be at least 1")
    check_seed(seed)
    for option, path, suffixes in (
        ("--picture", picture, PICTURES),
        ("--report", report, (".html",)),
    ):
        if path is not None:
            check_output(path, overwrite=overwrite, suffixes=suffixes, option=option)
            if importlib.util.find_spec("matplotlib") is None:
                raise ImportError(f"{option} needs matplotlib: {install_extra('plot')}")
    record = run_directory.read_run(run)
    x, kept = rows_of_run(record, table, drop_nan=drop_nan)
    x, kept = _unseen(x, kept, record, table)
    cond = conditions(record, table, kept, None)

    import jax

    from jaxflow.data import finite_rows
    from jaxflow.diagnostics import diagnose
    from jaxflow.diagnostics.solves import without_raising
    from jaxflow.io.checkpoint import load

    with spread_over(devices), jax.enable_x64(record["settings"]["float64"]):
        flow: Any = load(run / run_directory.FLOW)
        found = diagnose(
            flow,
            x,
            cond=cond,
            key=jax.random.key(seed),
            num_rows=rows,
            num_samples=rows,
            atol_nats=atol_nats,
            row_numbers=kept,
        )
        if report is not None:
            examined = np.isin(kept, found.rows)
            given = None if cond is None else cond[examined]
            quiet = without_raising(flow)
            drawn = np.asarray(quiet.sample(jax.random.key(seed), len(found.rows), given))
            samples, facts = drawn[finite_rows(drawn)], facts_of(run, record)
            write_report(report, run, facts, record["columns"], x[examined], samples, found)
    if picture is not None:
        _draw(found, picture)
    files = {"picture": picture, "report": report}
    written = {name: str(path) for name, path in files.items() if path is not None}
    result(
        "\n\n".join([str(found), *(f"{name}: {path}" for name, path in written.items())]),
        {"problems": found.problems, "verdict": found.verdict, **written},
    )


def _unseen(
    x: np.ndarray, kept: np.ndarray, record: dict[str, Any], table: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Of the rows that a run was fitted to, those that were held out; of others, all."""
    from jaxflow.data import split

    if digest(x) != record["table_sha256"]:
        return x, kept
    held = np.sort(split(len(x), record["settings"]["validation"], record["settings"]["seed"])[1])
    tell(
        f"the run was fitted to {table}; its {counted(len(held), 'held-out row')}, which chose "
        "the best weights, are examined: fresh rows would be better"
    )
    return x[held], kept[held]


def _draw(found: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    from jaxflow.diagnostics import draw

    figure, buffer = draw(found), io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=160)
    plt.close(figure)
    write_whole(path, buffer.getvalue())
