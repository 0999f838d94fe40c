"""`jaxflow score`: the log-density of each row of a table."""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from jaxflow.cli import run_directory
from jaxflow.cli.classes import ClassName, conditions
from jaxflow.cli.outputs import check_output, write_columns
from jaxflow.cli.reports import counted, show
from jaxflow.cli.tables import DropNan, rows_of_run


def score(
    run: Annotated[Path, typer.Argument(help="Run directory that jaxflow fit made.")],
    table: Annotated[
        Path, typer.Argument(help="Table with the columns the run was fitted to, in any order.")
    ],
    out: Annotated[
        Path, typer.Option(help="Table to write, columns row and log_prob: .csv, .npy, .parquet.")
    ],
    class_name: ClassName = None,
    drop_nan: DropNan = False,
    with_error: Annotated[
        bool,
        typer.Option("--with-error", help="Add columns ode_error, trace_se: how far off, nats."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output where it exists.")
    ] = False,
) -> None:
    """Write the log-density of each row of a table, in nats: the lower, the more unusual the row.

    For a run with classes it is that of the row given its class, read from the run's column of
    labels or named by --class.

    Row numbers count from 0 as in the table.
    """
    check_output(out, overwrite=overwrite)
    record = run_directory.read_run(run)
    x, kept = rows_of_run(record, table, drop_nan=drop_nan)
    cond = conditions(record, table, kept, class_name)

    import jax

    from jaxflow import CNF
    from jaxflow.checkpoint import load

    with jax.enable_x64(record["settings"]["float64"]):
        flow = load(run / run_directory.FLOW)
        # The key serves flows whose trace is estimated; the same for all, so scores repeat.
        key = jax.random.key(0)
        if with_error and not isinstance(flow, CNF):
            raise ValueError("--with-error is for continuous flows; this one has no solve")
        if with_error:
            answer = flow.log_prob_with_error(x, cond, key=key, progress=None)
            columns = {
                "log_prob": answer.value,
                "ode_error": answer.ode_error,
                "trace_se": answer.trace_se,
            }
            if any(values is None for values in columns.values()):
                raise ValueError("--with-error: the solver or the trace of this run tells none")
        else:
            columns = {"log_prob": flow.log_prob(x, cond, key=key, progress=None)}
        columns = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    log_p = columns["log_prob"]
    write_columns(out, {"row": kept, **columns})
    error = f" +- {log_p.std(ddof=1) / math.sqrt(len(x)):.4f}" if len(x) > 1 else ""
    show(
        {
            "scored": counted(len(x), "row"),
            "mean": f"{log_p.mean():.4f}{error} nats a row, log-density",
            "scores": str(out),
        }
    )
