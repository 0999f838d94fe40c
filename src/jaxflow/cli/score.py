"""`jaxflow score`: the log-density of each row of a table."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxflow.cli import run_directory
from jaxflow.cli.classes import ClassName, conditions_of
from jaxflow.cli.distil import Fast, error_text, load_map
from jaxflow.cli.guidance import Guidance, check_guidance, guided
from jaxflow.cli.job import Devices, spread_over
from jaxflow.cli.outputs import check_output, column_file
from jaxflow.cli.reports import counted, show
from jaxflow.cli.tables import DropNan, blocks_of_run

# Rows that are read and scored at a time.
BLOCK = 65_536


def score(
    run: run_directory.Run,
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
        typer.Option(
            "--with-error",
            help="Add columns ode_error and trace_se, how far off in nats, and status; a row "
            "whose solve failed has no number and does not stop the others. In .npy status is a "
            "number, 0 for success.",
        ),
    ] = False,
    guidance: Guidance = None,
    fast: Fast = False,
    devices: Devices = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output where it exists.")
    ] = False,
) -> None:
    """Write the log-density of each row of a table, in nats: the lower, the more unusual the row.

    For a run with classes it is that of the row given its class, read from the run's column of
    labels or named by --class. With --guidance it is the density of what jaxflow sample draws
    with it, which for other scales than 1 is no conditional density.

    Row numbers count from 0 as in the table.
    """
    check_output(out, overwrite=overwrite)
    if fast and with_error:
        raise ValueError("--with-error tells the error of a solve, which --fast does without")
    record = run_directory.read_run(run)
    check_guidance(record, guidance)
    if fast and guidance is not None:
        raise ValueError("--fast follows the flow itself: leave --guidance out")
    condition_of = conditions_of(record, table, class_name)

    import jax

    from jaxflow import Status
    from jaxflow.io.checkpoint import load

    moments = Moments()
    wide = jax.enable_x64(record["settings"]["float64"])
    with spread_over(devices), wide, column_file(out) as add:
        flow = load_map(run) if fast else guided(load(run / run_directory.FLOW), guidance)
        for x, kept in blocks_of_run(record, table, BLOCK, drop_nan=drop_nan):
            columns = _scores(flow, x, condition_of(kept), fast=fast, with_error=with_error)
            if with_error and out.suffix.lower() != ".npy":
                columns["status"] = [Status(int(s)).name.lower() for s in columns["status"]]
            add({"row": kept, **columns})
            moments.add(columns["log_prob"])
    failed = f", {moments.failed} failed" if moments.failed else ""
    error = "" if moments.error is None else f" +- {moments.error:.4f}"
    show(
        {
            "scored": f"{counted(moments.count, 'row')}{failed}",
            "mean": f"{moments.mean:.4f}{error} nats a row, log-density",
            **({"off by": error_text(flow.error)} if fast else {}),
            "scores": str(out),
        },
        {
            "rows": moments.count,
            "failed": moments.failed,
            "mean": moments.mean if math.isfinite(moments.mean) else None,
            "mean_se": moments.error,
            "off_by": asdict(flow.error) if fast else None,
            "scores": str(out),
        },
    )


class Moments:
    """Mean and standard error of numbers that come block by block; NaN is a row that failed."""

    def __init__(self) -> None:
        self.count, self.failed, self.mean, self._squares = 0, 0, math.nan, 0.0

    def add(self, values: np.ndarray) -> None:
        """Count in a block (Chan, Golub and LeVeque 1979, "Updating formulae")."""
        good = values[~np.isnan(values)]
        before, n = self.count - self.failed, len(good)
        self.count, self.failed = self.count + len(values), self.failed + len(values) - n
        if not n:
            return
        mean = float(good.mean())
        off = mean - self.mean if before else 0.0
        self._squares += float(np.square(good - mean).sum()) + off**2 * before * n / (before + n)
        self.mean = self.mean + off * n / (before + n) if before else mean

    @property
    def error(self) -> float | None:
        """The standard error of the mean; None where it has none."""
        n = self.count - self.failed
        if n < 2 or not math.isfinite(self._squares):
            return None
        return math.sqrt(self._squares / (n - 1) / n)


def _scores(
    flow: Any, x: np.ndarray, cond: np.ndarray | None, *, fast: bool, with_error: bool
) -> dict[str, Any]:
    """The columns of some rows, but for their numbers."""
    import jax

    from jaxflow import CNF
    from jaxflow.diagnostics.solves import without_raising

    # The key serves flows whose trace is estimated; the same for all, so scores repeat.
    key = jax.random.key(0)
    if with_error and not isinstance(flow, CNF):
        raise ValueError("--with-error is for continuous flows; this one has no solve")
    if with_error:
        answer = without_raising(flow).log_prob_with_error(x, cond, key=key, progress=None)
        columns = {
            "log_prob": answer.value,
            "ode_error": answer.ode_error,
            "trace_se": answer.trace_se,
        }
        if any(values is None for values in columns.values()):
            raise ValueError("--with-error: the solver or the trace of this run tells none")
        numbers = {name: np.asarray(values, np.float64) for name, values in columns.items()}
        return numbers | {"status": np.asarray(answer.status)}
    log_p = flow.log_prob(x, cond) if fast else flow.log_prob(x, cond, key=key, progress=None)
    return {"log_prob": np.asarray(log_p, np.float64)}
