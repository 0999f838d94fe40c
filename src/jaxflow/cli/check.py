"""`jaxflow check`: test how far the log-densities and samples of a run can be trusted."""

from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from jaxtyping import Int

from jaxflow import diagnostics, plotting
from jaxflow.cli.card import card_of
from jaxflow.cli.classes import row_conditions
from jaxflow.cli.header import Header
from jaxflow.cli.html_report import (
    CheckResult,
    history_figure,
    numbers_report,
    text_html,
    write_report,
)
from jaxflow.cli.image_check import check_image_run
from jaxflow.cli.info import run_facts
from jaxflow.cli.mixed import hash_cells, without_gaps
from jaxflow.cli.new_rows import choose_rows, compare_new_rows, held_out_only
from jaxflow.cli.options import Devices, DropNan, Run, Seed
from jaxflow.cli.outputs import check_output, check_picture, write_bytes, write_picture
from jaxflow.cli.processes import on_devices
from jaxflow.cli.record import IMAGES, PLAN, check_numbers, refuse_options, trained_on_all
from jaxflow.cli.run_directory import FLOW, read_finished
from jaxflow.cli.run_flow import load_flow
from jaxflow.cli.tables import hash_rows, read_rows
from jaxflow.cli.terminal import note, print_result
from jaxflow.data import finite_rows
from jaxflow.diagnostics.solves import without_raising
from jaxflow.runtime.extras import import_extra
from jaxflow.runtime.text import plural
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
    if picture is not None:
        check_picture(picture, overwrite=overwrite, option="--picture")
    if report is not None:
        check_output(report, overwrite=overwrite, suffixes=(".html",), option="--report")
        import_extra("matplotlib", "plot", "--report needs matplotlib")
    if card is not None:
        check_output(card, overwrite=overwrite, suffixes=(".md",), option="--card")
    record = read_finished(run)
    if picture is not None and PLAN not in record:
        check_numbers(run, record, "--picture")
    with on_devices(devices), jax.enable_x64(record["settings"]["float64"]):
        if IMAGES in record:
            refuse_options(run, record, drop_nan=drop_nan)
            result = check_image_run(run, record, table, rows, seed)
        elif PLAN in record:
            result = _check_mixed(run, record, table, rows, seed, drop_nan=drop_nan)
        else:
            result = _check_numbers(run, record, table, rows, seed, atol_nats, drop_nan=drop_nan)
        if report is not None:
            write_report(report, run, run_facts(run, record), result)
        if card is not None:
            text = card_of(run, record, result.solves).text(result.model, FLOW)
            write_bytes(card, text.encode())
        if picture is not None:
            if PLAN in record:
                (figure,) = result.report()[1].values()
            else:
                figure = diagnostics.draw(result.checked, record["columns"])
            write_picture(picture, figure)
    outputs = {"picture": picture, "report": report, "card": card}
    written = {name: str(path) for name, path in outputs.items() if path is not None}
    parts = [result.text]
    parts += [record["comparison"]["text"]] if "comparison" in record else []
    parts += [f"{name}: {path}" for name, path in written.items()]
    print_result("\n\n".join(parts), result.values | written)


def _check_numbers(
    run: Path,
    record: dict[str, Any],
    table: Path,
    most: int,
    seed: int,
    atol_nats: float,
    *,
    drop_nan: bool,
) -> CheckResult:
    """Examine the flow of a table of numbers."""
    x, row_numbers, _ = read_rows(record, table, drop_nan=drop_nan)
    is_new = hash_rows(x) != record["table_sha256"]
    if not is_new:
        unseen = _unseen_rows(record, table, len(x))
        x, row_numbers = x[unseen], row_numbers[unseen]
    cond = row_conditions(record, table)(row_numbers)
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
    used = np.isin(row_numbers, diagnosis.rows)
    tested, tested_cond = x[used], None if cond is None else cond[used]

    def report() -> tuple[dict[str, Any], dict[str, Any]]:
        quiet = without_raising(flow)
        samples = np.asarray(quiet.sample(key, len(tested), tested_cond))
        samples = samples[finite_rows(samples)]
        sections, figures = numbers_report(record["columns"], tested, samples, diagnosis, quiet)
        return sections, figures | {"Training history": history_figure(run)}

    values: dict[str, Any] = {"problems": diagnosis.problems, "verdict": diagnosis.verdict}
    examined = f"{plural(len(diagnosis.rows), 'row')} of {table}"
    text = str(diagnosis)
    comparison = compare_new_rows(flow, record, tested) if is_new else None
    if comparison is not None:
        text += f"\n\n{comparison}"
        values["new_rows"] = comparison.as_dict()
    return CheckResult(diagnosis, flow, examined, text, values, report, diagnosis.solves)


def _check_mixed(
    run: Path, record: dict[str, Any], table: Path, most: int, seed: int, *, drop_nan: bool
) -> CheckResult:
    """Compare the rows of a mixed table with samples."""
    fitted = load_flow(run)
    plan, key = fitted.plan, jax.random.key(seed)
    cells = read_cells(table, plan.null)
    cells = {each.name: cells[each.name] for each in plan.columns if each.name in cells}
    if drop_nan:
        cells, _ = without_gaps(cells, list(cells), table)
    if seen := hash_cells(cells) == record["table_sha256"]:
        note(f"the run was fitted to rows of {table}: give rows that it has not seen, if you can")
    chosen = choose_rows(len(next(iter(cells.values()))), most, seed)
    cells = {name: each.take(chosen) for name, each in cells.items()}
    checked = check_table(fitted, cells, key, fitted=seen)

    def report() -> tuple[dict[str, Any], dict[str, Any]]:
        drawn = plan.write(fitted.draw(jax.random.key(seed + 1), checked.rows))
        both = (
            {name: each[name].to_numpy() for name in each.columns}
            for each in (drawn, plan.write(plan.read(cells)))
        )
        sections = {
            "Columns": str(plan),
            "Tests": str(checked),
            "Held-out log-density": record["comparison"]["text"],
        }
        figures = {"Samples and rows, a column at a time": plotting.columns(*both)}
        return {heading: [text_html(text)] for heading, text in sections.items()}, figures

    examined = f"{plural(checked.rows, 'row')} of {table}"
    text = f"{examined}\n{checked}"
    verdict = str(checked).splitlines()[0]
    values = {"problems": checked.problems, "verdict": verdict, "rows": checked.rows}
    return CheckResult(checked, fitted, examined, text, values, report)


def _unseen_rows(record: dict[str, Any], table: Path, count: int) -> Int[np.ndarray, " unseen"]:
    """Of the rows that the run was fitted to, the held-out ones; all if it trained on all."""
    if not trained_on_all(record):
        return held_out_only(record, table, count)
    note(
        f"the run was fitted to all rows of {table}, after folds had chosen it: these tests are "
        "too kind. Give rows that it has not seen"
    )
    return np.arange(count)
