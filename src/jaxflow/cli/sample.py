"""`jaxflow sample`: new rows from a fitted density."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from jaxflow.cli import run_directory
from jaxflow.cli.models import check_seed
from jaxflow.cli.outputs import check_output
from jaxflow.cli.reports import counted, show


def sample(
    run: Annotated[Path, typer.Argument(help="Run directory that jaxflow fit made.")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv, .npy or .parquet.")],
    num: Annotated[int, typer.Option("--num", "-n", help="Number of rows to draw.")] = 1000,
    seed: Annotated[
        int, typer.Option(help="Seed of the random numbers; the same seed, the same rows.")
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output where it exists.")
    ] = False,
) -> None:
    """Draw new rows from the fitted density, in the units of the table it was fitted to."""
    if num < 1:
        raise ValueError(f"--num {num} must be at least 1")
    check_seed(seed)
    check_output(out, overwrite=overwrite)
    record = run_directory.read_run(run)

    import jax

    from jaxflow.checkpoint import load
    from jaxflow.data import write_table

    with jax.enable_x64(record["settings"]["float64"]):
        flow = load(run / run_directory.FLOW)
        x = np.asarray(flow.sample(jax.random.key(seed), num, progress=None))
    write_table(out, x, record["columns"], overwrite=overwrite)
    show({"drawn": counted(num, "row"), "samples": str(out)})
