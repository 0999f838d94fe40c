"""`jaxflow sample`: new rows from a fitted density."""

from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import polars as pl
import typer

from jaxflow.cli.classes import class_condition, draw_classes
from jaxflow.cli.given import given_cells, given_condition
from jaxflow.cli.image_outputs import sample_images
from jaxflow.cli.mixed import needs_mixed, note_absent
from jaxflow.cli.options import (
    ClassName,
    Devices,
    Fast,
    Guidance,
    Overwrite,
    Run,
    Seed,
    check_choice,
    choice,
)
from jaxflow.cli.outputs import check_output, open_table
from jaxflow.cli.processes import on_devices
from jaxflow.cli.record import IMAGES, PLAN, is_diffusion, refuse_options
from jaxflow.cli.run_directory import read_finished
from jaxflow.cli.run_flow import check_flow_options, load_flow
from jaxflow.cli.terminal import print_facts
from jaxflow.data import write_table
from jaxflow.data.delimited import first_line
from jaxflow.diffusion import SAMPLERS, draw
from jaxflow.runtime.text import plural
from jaxflow.tables.frames import read_cells, read_frame

# Diffusion samplers are described by the first line of their docstring.
CHOICES = {"ode": "the ODE whose density is jaxflow score"} | {
    name: str(getattr(build, "func", build).__doc__).splitlines()[0].rstrip(".")
    for name, build in SAMPLERS.items()
}


def sample(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option(help="Table to write: .csv, .npy or .parquet; for images .npz."),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(help="Picture to write of images side by side: .png, .pdf or .svg."),
    ] = None,
    num: Annotated[
        int | None,
        typer.Option("--num", "-n", min=1, help="Number of rows. Default: 1000; 64 images."),
    ] = None,
    class_name: ClassName = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            help="Cell of the rows to draw, as COLUMN=VALUE, for runs that were fitted with "
            "--given or to mixed tables. Repeat it for more columns."
        ),
    ] = None,
    fill: Annotated[
        Path | None,
        typer.Option(
            help="Table whose gaps to fill by draws, given the other cells of the row, for runs "
            "that were fitted to mixed tables. All rows and columns are written."
        ),
    ] = None,
    sampler: Annotated[
        str, choice("How to draw; all but ode are for diffusion models.", CHOICES)
    ] = "ode",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Noise levels of a diffusion sampler. Default: depends on it."),
    ] = None,
    header: Annotated[
        bool,
        typer.Option(
            "--header/--no-header",
            help="Whether the first line of a .csv file has the names of the columns.",
        ),
    ] = True,
    guidance: Guidance = None,
    seed: Seed = 0,
    fast: Fast = False,
    devices: Devices = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw new rows from a fitted density.

    The rows are in the units of the table that the run was fitted to. Without --class a run with
    classes draws them as often as they were, and writes them in their column; a diffusion model
    draws from all classes together, and images are drawn from each class in turn.
    """
    check_choice("--sampler", sampler, CHOICES)
    record = read_finished(run)
    check_flow_options(record, guidance, fast=fast)
    if IMAGES in record:
        refused = {"given": given, "sampler": sampler != "ode", "steps": steps, "fast": fast}
        refuse_options(run, record, **refused, fill=fill)
        sample_images(run, record, out, grid, num or 64, class_name, guidance, seed, overwrite)
        return
    if grid is not None or out is None:
        raise ValueError(f"{run} was fitted to a table: give --out FILE, and no --grid")
    check_output(out, overwrite=overwrite)
    if fill is not None and (num is not None or given):
        raise ValueError(f"--fill {fill} draws its own rows: leave --num and --given out")
    num = num or 1000
    if PLAN in record:
        refused = {"class": class_name, "sampler": sampler != "ode", "steps": steps, "fast": fast}
        refuse_options(run, record, **refused)
        with jax.enable_x64(record["settings"]["float64"]):
            fitted = load_flow(run)
            if fill is None:
                cells = given_cells(given or ())
                source = fitted.condition(cells) if cells else fitted
                frame = source.sample(jax.random.key(seed), num)
            else:
                with first_line(fill, is_header=record.get("header")):
                    frame = _fill(fitted, fill, seed)
            _write(out, frame, header=header)
        _print(len(frame), out)
        return
    if fill is not None:
        raise needs_mixed(run, f"--fill {fill}")
    if given and not record.get("given"):
        raise ValueError(
            f"--given {given[0]}: {run} was fitted to numbers alone; fit it with --given, --kind "
            "or --class-column"
        )
    if sampler != "ode" and fast:
        raise ValueError(f"--fast cannot be combined with --sampler {sampler}: leave one out")
    if sampler != "ode" and not is_diffusion(record):
        raise ValueError(
            f"--sampler {sampler} needs a diffusion model, and {run} is not one; fit one by "
            "jaxflow fit --objective ddpm"
        )
    if steps is not None and sampler == "ode":
        raise ValueError(f"--steps {steps} needs a diffusion --sampler; ode chooses its own steps")
    labels = cond = None
    if class_name is not None:
        cond = class_condition(record, class_name)
    elif record.get("given"):
        cond = given_condition(run, record, given or ())
    elif record.get("classes") and (fast or guidance is not None or not is_diffusion(record)):
        labels, cond = draw_classes(record, num, seed)
    with on_devices(devices), jax.enable_x64(record["settings"]["float64"]):
        flow, key = load_flow(run, guidance, fast=fast), jax.random.key(seed)
        if fast:
            x = flow.sample(key, num, cond)
        elif sampler == "ode":
            x = flow.sample(key, num, cond, progress=None)
        else:
            stepper = SAMPLERS[sampler]()
            count = steps or stepper.default_steps
            x = draw(flow, key, num, cond, sampler=stepper, num_steps=count, progress=None)
        x = np.asarray(x)
    names, whole_numbers = record["columns"], record.get("whole") or ()
    if out.suffix.lower() == ".npy" and not whole_numbers and labels is None:
        write_table(out, x, names, overwrite=overwrite)
    else:
        columns = {} if labels is None else {record["class_column"]: labels}
        columns |= {
            name: np.round(column).astype(np.int64) if name in whole_numbers else column
            for name, column in zip(names, x.T, strict=True)
        }
        _write(out, pl.DataFrame(columns), header=header)
    _print(num, out)


def _print(num: int, out: Path) -> None:
    print_facts(
        {"drawn": plural(num, "row"), "samples": str(out)}, {"rows": num, "samples": str(out)}
    )


def _fill(fitted: Any, table: Path, seed: int) -> pl.DataFrame:
    """The table with its gaps filled; columns outside the density stay as they are."""
    cells = read_cells(table, fitted.plan.null)
    note_absent(fitted, cells, table)
    filled = fitted.impute(cells, jax.random.key(seed))
    return read_frame(table).with_columns(filled.get_columns())


def _write(out: Path, frame: pl.DataFrame, *, header: bool) -> None:
    if out.suffix.lower() == ".npy" and not all(dtype.is_numeric() for dtype in frame.dtypes):
        raise ValueError(f"{out}: the columns are not all numbers; write .csv or .parquet")
    with open_table(out, header=header) as append:
        append({name: frame[name] for name in frame.columns})
