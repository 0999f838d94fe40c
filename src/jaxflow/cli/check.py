"""`jaxflow check`: test how far the log-densities and samples of a run can be trusted."""

from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

from jaxflow import diagnostics, plotting
from jaxflow.cli.card import card_of
from jaxflow.cli.classes import RowConditions
from jaxflow.cli.header import Header
from jaxflow.cli.html_report import history_figure, numbers_report, text_html, write_report
from jaxflow.cli.image_check import check_image_run
from jaxflow.cli.image_outputs import check_image_options
from jaxflow.cli.info import run_facts
from jaxflow.cli.mixed import hash_cells, load_mixed
from jaxflow.cli.options import Devices, DropNan, Run, Seed
from jaxflow.cli.outputs import check_output, render, write_bytes
from jaxflow.cli.processes import on_devices
from jaxflow.cli.record import IMAGES, PLAN, trained_on_all
from jaxflow.cli.run_directory import FLOW, read_finished
from jaxflow.cli.run_flow import load_flow
from jaxflow.cli.tables import hash_rows, read_rows
from jaxflow.cli.terminal import note, plural, print_result
from jaxflow.data import finite_rows, split
from jaxflow.diagnostics.solves import without_raising
from jaxflow.runtime.extras import import_extra
from jaxflow.tables import FittedTable, check_table
from jaxflow.tables.frames import read_cells


def check(
    run: Run,
    table: Annotated[
        Path,
        typer.Argument(
            help="Table with the columns of the run, or images, best with rows that it was not "
            "fitted to. Of the table that it was fitted to, only the held-out rows are used."
        ),
    ],
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Picture to write, of the encoded rows and the errors: .png, .pdf or .svg."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Report to write, with data, log-densities, tests and pictures: one .html file."
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            help="Model card to write, for the Hugging Face Hub: RUN/README.md, or another .md."
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Largest number of rows to test, and of samples to draw.")
    ] = 1000,
    atol_nats: Annotated[
        float, typer.Option(help="Acceptable error of a log-density, in nats.")
    ] = 0.01,
    seed: Seed = 0,
    drop_nan: DropNan = False,
    header: Header = None,  # used by `with_header`
    devices: Devices = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace the picture, the report and the card if they exist."
        ),
    ] = False,
) -> None:
    """Test how far the results of a run can be trusted.

    Prints measurements on the rows of a table, then a verdict. Lines with !! are problems, lines
    with ?? could not be measured. Rows are numbered from 0.
    """
    outputs = {
        "picture": (picture, (".png", ".pdf", ".svg")),
        "report": (report, (".html",)),
        "card": (card, (".md",)),
    }
    for name, (path, suffixes) in outputs.items():
        if path is not None:
            check_output(path, overwrite=overwrite, suffixes=suffixes, option=f"--{name}")
        if path is not None and name != "card":
            import_extra("matplotlib", "plot", f"--{name} needs matplotlib")
    record = read_finished(run)
    if IMAGES in record:
        check_image_options(run, record, picture=picture, drop_nan=drop_nan)
        check_image_run(run, record, table, seed, rows, report=report, card=card)
        return
    if PLAN in record:
        with jax.enable_x64(record["settings"]["float64"]):
            fitted = load_mixed(run, record, picture=picture)
            _check_mixed(fitted, run, table, record, seed, rows, report=report, card=card)
        return
    x, row_numbers, _ = read_rows(record, table, drop_nan=drop_nan)
    x, row_numbers = _select_unseen(x, row_numbers, record, table)
    cond = RowConditions(record, table)(row_numbers)
    key = jax.random.key(seed)
    with on_devices(devices), jax.enable_x64(record["settings"]["float64"]):
        flow: Any = load_flow(run)
        diagnosis = diagnostics.diagnose(
            flow,
            x,
            cond=cond,
            key=key,
            num_rows=rows,
            num_samples=rows,
            atol_nats=atol_nats,
            row_numbers=row_numbers,
        )
        if report is not None:
            used = np.isin(row_numbers, diagnosis.rows)
            used_cond = None if cond is None else cond[used]
            samples = without_raising(flow).sample(key, len(diagnosis.rows), used_cond)
            samples = np.asarray(samples)
            samples = samples[finite_rows(samples)]
            transform = getattr(flow, "transform", None)
            sections, figures = numbers_report(
                record["columns"], x[used], samples, diagnosis, transform
            )
            figures["Training history"] = history_figure(run)
            examined = f"{plural(len(diagnosis.rows), 'row')} of {table}"
            facts, problems = run_facts(run, record), diagnosis.problems
            write_report(report, run, facts, examined, problems, sections, figures)
    if card is not None:
        write_bytes(card, card_of(run, record, diagnosis.solves).text(flow, FLOW).encode())
    if picture is not None:
        kind = picture.suffix[1:].lower()
        write_bytes(picture, render(diagnostics.draw(diagnosis), kind, dpi=160))
    written = {name: str(path) for name, (path, _) in outputs.items() if path is not None}
    parts = [str(diagnosis)]
    parts += [record["comparison"]["text"]] if "comparison" in record else []
    print_result(
        "\n\n".join([*parts, *(f"{name}: {path}" for name, path in written.items())]),
        {"problems": diagnosis.problems, "verdict": diagnosis.verdict, **written},
    )


def _check_mixed(
    fitted: FittedTable | None,
    run: Path,
    table: Path,
    record: dict[str, Any],
    seed: int,
    most: int,
    *,
    report: Path | None,
    card: Path | None,
) -> None:
    """Compare rows of a table of more than numbers with samples."""
    assert fitted is not None
    cells = read_cells(table, fitted.plan.null)
    if seen := hash_cells(cells) == record["table_sha256"]:
        note(f"the run was fitted to rows of {table}: give rows that it has not seen, if you can")
    count = len(next(iter(cells.values())))
    if count > most:
        chosen = np.sort(np.random.default_rng(seed).permutation(count)[:most])
        cells = {name: each.take(chosen) for name, each in cells.items()}
    found = check_table(fitted, cells, jax.random.key(seed), fitted=seen)
    examined = f"{plural(found.rows, 'row')} of {table}"
    written = {n: str(p) for n, p in (("report", report), ("card", card)) if p is not None}
    if report is not None:
        drawn = fitted.plan.write(fitted.draw(jax.random.key(seed + 1), found.rows))
        rows = fitted.plan.write(fitted.plan.read(cells))
        sections = {
            "Columns": [text_html(str(fitted.plan))],
            "Tests": [text_html(str(found))],
            "Held-out log-density": [text_html(record["comparison"]["text"])],
        }
        both = ({name: each[name].to_numpy() for name in each.columns} for each in (drawn, rows))
        figures = {"Samples and rows, a column at a time": plotting.columns(*both)}
        facts = run_facts(run, record)
        write_report(report, run, facts, examined, found.problems, sections, figures)
    if card is not None:
        write_bytes(card, card_of(run, record, None).text(fitted, FLOW).encode())
    text = f"{examined}\n{found}\n\n{record['comparison']['text']}"
    print_result(
        "\n".join([text, *(f"{name}: {path}" for name, path in written.items())]),
        {
            "problems": found.problems,
            "verdict": str(found).splitlines()[0],
            "rows": found.rows,
            **written,
        },
    )


def _select_unseen(
    x: np.ndarray, row_numbers: np.ndarray, record: dict[str, Any], table: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Of the table that the run was fitted to, the held-out rows; of another table, all rows."""
    if hash_rows(x) != record["table_sha256"]:
        return x, row_numbers
    if trained_on_all(record):
        note(
            f"the run was fitted to all rows of {table}, after folds had chosen it: these tests "
            "are too kind. Give rows that it has not seen"
        )
        return x, row_numbers
    settings = record["settings"]
    seed = record.get("split_seed", settings["seed"])
    held = np.sort(split(len(x), settings["validation"], seed)[1])
    note(
        f"the run was fitted to {table}, so only its {plural(len(held), 'held-out row')} are "
        "tested. They chose the best weights: new rows would be a fairer test"
    )
    return x[held], row_numbers[held]
