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
from jaxflow.cli.html_report import Found, history_figure, numbers_report, text_html, write_report
from jaxflow.cli.image_check import check_image_run
from jaxflow.cli.image_outputs import check_image_options
from jaxflow.cli.info import run_facts
from jaxflow.cli.mixed import hash_cells, load_mixed, without_gaps
from jaxflow.cli.new_rows import compare_new_rows
from jaxflow.cli.options import Devices, DropNan, Run, Seed
from jaxflow.cli.outputs import check_output, render, write_bytes
from jaxflow.cli.processes import on_devices
from jaxflow.cli.record import IMAGES, PLAN, check_numbers, run_split, trained_on_all
from jaxflow.cli.run_directory import FLOW, read_finished
from jaxflow.cli.run_flow import load_flow
from jaxflow.cli.tables import hash_rows, read_rows
from jaxflow.cli.terminal import note, plural, print_result
from jaxflow.data import finite_rows
from jaxflow.diagnostics.solves import without_raising
from jaxflow.runtime.extras import import_extra
from jaxflow.tables import check_table
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
            help="Picture to write, of the encoded rows and the errors, or of the columns of rows "
            "and samples if these are more than numbers: .png, .pdf or .svg."
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
    if picture is not None and PLAN not in record:
        check_numbers(run, record, "--picture")
    with on_devices(devices), jax.enable_x64(record["settings"]["float64"]):
        if IMAGES in record:
            check_image_options(run, record, drop_nan=drop_nan)
            found = check_image_run(run, record, table, rows, seed)
        elif PLAN in record:
            found = _check_mixed(run, record, table, rows, seed, drop_nan=drop_nan)
        else:
            found = _check_numbers(run, record, table, rows, seed, atol_nats, drop_nan=drop_nan)
        if report is not None:
            facts, problems = run_facts(run, record), found.values["problems"]
            write_report(report, run, facts, found.examined, problems, *found.report())
        if card is not None:
            text = card_of(run, record, found.solves).text(found.model, FLOW)
            write_bytes(card, text.encode())
        if picture is not None:
            if PLAN in record:
                (figure,) = found.report()[1].values()
            else:
                figure = diagnostics.draw(found.checked, record["columns"])
            write_bytes(picture, render(figure, picture.suffix[1:].lower(), dpi=160))
    written = {name: str(path) for name, (path, _) in outputs.items() if path is not None}
    parts = [found.text]
    parts += [record["comparison"]["text"]] if "comparison" in record else []
    parts += [f"{name}: {path}" for name, path in written.items()]
    print_result("\n\n".join(parts), found.values | written)


def _check_numbers(
    run: Path,
    record: dict[str, Any],
    table: Path,
    most: int,
    seed: int,
    atol_nats: float,
    *,
    drop_nan: bool,
) -> Found:
    """Examine the flow of a table of numbers."""
    x, row_numbers, _ = read_rows(record, table, drop_nan=drop_nan)
    is_new = hash_rows(x) != record["table_sha256"]
    if not is_new:
        x, row_numbers = _select_unseen(x, row_numbers, record, table)
    cond = RowConditions(record, table)(row_numbers)
    key, flow = jax.random.key(seed), load_flow(run)
    diagnosis = diagnostics.diagnose(
        flow,
        x,
        cond=cond,
        key=key,
        num_rows=most,
        num_samples=most,
        atol_nats=atol_nats,
        row_numbers=row_numbers,
    )

    def report() -> tuple[dict[str, Any], dict[str, Any]]:
        used = np.isin(row_numbers, diagnosis.rows)
        used_cond = None if cond is None else cond[used]
        samples = without_raising(flow).sample(key, len(diagnosis.rows), used_cond)
        samples = np.asarray(samples)[finite_rows(samples)]
        sections, figures = numbers_report(
            record["columns"], x[used], samples, diagnosis, without_raising(flow)
        )
        return sections, figures | {"Training history": history_figure(run)}

    values: dict[str, Any] = {"problems": diagnosis.problems, "verdict": diagnosis.verdict}
    examined = f"{plural(len(diagnosis.rows), 'row')} of {table}"
    text = str(diagnosis)
    tested = x[np.isin(row_numbers, diagnosis.rows)]
    comparison = compare_new_rows(flow, record, tested) if is_new else None
    if comparison is not None:
        text += f"\n\n{comparison}"
        values["new_rows"] = comparison.as_dict()
    return Found(diagnosis, flow, examined, text, values, report, diagnosis.solves)


def _check_mixed(
    run: Path, record: dict[str, Any], table: Path, most: int, seed: int, *, drop_nan: bool
) -> Found:
    """Compare rows of a table of more than numbers with samples."""
    fitted = load_mixed(run, record)
    plan, key = fitted.plan, jax.random.key(seed)
    cells = read_cells(table, plan.null)
    cells = {each.name: cells[each.name] for each in plan.columns if each.name in cells}
    if drop_nan:
        cells, _ = without_gaps(cells, list(cells), table)
    if seen := hash_cells(cells) == record["table_sha256"]:
        note(f"the run was fitted to rows of {table}: give rows that it has not seen, if you can")
    count = len(next(iter(cells.values())))
    if count > most:
        chosen = np.sort(np.random.default_rng(seed).permutation(count)[:most])
        cells = {name: each.take(chosen) for name, each in cells.items()}
    found = check_table(fitted, cells, key, fitted=seen)

    def report() -> tuple[dict[str, Any], dict[str, Any]]:
        drawn = plan.write(fitted.draw(jax.random.key(seed + 1), found.rows))
        both = (
            {name: each[name].to_numpy() for name in each.columns}
            for each in (drawn, plan.write(plan.read(cells)))
        )
        sections = {
            "Columns": str(plan),
            "Tests": str(found),
            "Held-out log-density": record["comparison"]["text"],
        }
        figures = {"Samples and rows, a column at a time": plotting.columns(*both)}
        return {heading: [text_html(text)] for heading, text in sections.items()}, figures

    examined = f"{plural(found.rows, 'row')} of {table}"
    text = f"{examined}\n{found}"
    verdict = str(found).splitlines()[0]
    values = {"problems": found.problems, "verdict": verdict, "rows": found.rows}
    return Found(found, fitted, examined, text, values, report)


def _select_unseen(
    x: np.ndarray, row_numbers: np.ndarray, record: dict[str, Any], table: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Of the table that the run was fitted to, the held-out rows, if there are any."""
    if trained_on_all(record):
        note(
            f"the run was fitted to all rows of {table}, after folds had chosen it: these tests "
            "are too kind. Give rows that it has not seen"
        )
        return x, row_numbers
    held = np.sort(run_split(record, len(x))[1])
    note(
        f"the run was fitted to {table}, so only its {plural(len(held), 'held-out row')} are "
        "tested. They chose the best weights: new rows would be a fairer test"
    )
    return x[held], row_numbers[held]
