"""`jaxflow score`: the log-density of each row of a table."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import typer

from jaxflow import CNF, Status
from jaxflow.cli.classes import row_conditions
from jaxflow.cli.header import Header
from jaxflow.cli.image_outputs import score_images
from jaxflow.cli.mixed import needs_mixed, note_absent, without_gaps
from jaxflow.cli.options import ClassName, Devices, DropNan, Fast, Guidance, Overwrite, Run
from jaxflow.cli.outputs import check_output, open_table
from jaxflow.cli.processes import on_devices
from jaxflow.cli.record import IMAGES, PLAN, refuse_options
from jaxflow.cli.run_directory import read_finished
from jaxflow.cli.run_flow import check_flow_options, load_flow, map_error_text
from jaxflow.cli.tables import read_row_blocks
from jaxflow.cli.terminal import finite, print_facts
from jaxflow.cli.unusual import Lowest, UnusualRow, unusual_in_table
from jaxflow.density.mixture import mix_with_error
from jaxflow.diagnostics.solves import without_raising
from jaxflow.flows.log_mass import cell_points, log_cell_mean, point_keys
from jaxflow.runtime.text import plural
from jaxflow.tables.frames import read_cells, read_frame

# Rows read and scored at a time, and names of the columns of results.
BLOCK = 65_536
SCORES = ("row", "log_prob", "ode_error", "trace_se", "status", "percentile", "log_prob_se")
# From row numbers and log-densities to further columns of the output.
MoreColumns = Callable[[np.ndarray, np.ndarray], dict[str, Any]]


def score(
    run: Run,
    table: Annotated[
        Path, typer.Argument(help="Table with the columns of the run, in any order.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="Table to write, with columns row and log_prob: .csv, .npy, .parquet."),
    ],
    class_name: ClassName = None,
    drop_nan: DropNan = False,
    header: Header = None,  # used by `with_header`
    with_error: Annotated[
        bool,
        typer.Option(
            "--with-error",
            help="Add columns ode_error and trace_se, the errors in nats, and status. A row whose "
            "solve fails has no log_prob, and the other rows are scored. In .npy files status is "
            "a number, 0 for success. For images, log_prob_se and bits_per_dim_se, the standard "
            "errors from 4 draws of noise and probes.",
        ),
    ] = False,
    marginal: Annotated[
        bool,
        typer.Option(
            "--marginal",
            help="Score the cells that are present, whatever the others are: cells may be missing "
            "where none was in the fit, and columns absent. Adds log_prob_se, the standard error "
            "in nats, 0 where exact. For runs that were fitted to mixed tables.",
        ),
    ] = False,
    keep_columns: Annotated[
        bool,
        typer.Option("--keep-columns", help="Copy all columns of the table to the output."),
    ] = False,
    percentile: Annotated[
        bool,
        typer.Option(
            "--percentile",
            help="Add a column of the share of held-out training rows, in percent, that are less "
            "likely than the row.",
        ),
    ] = False,
    unusual: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of rows to print with the lowest log-densities, and the columns that "
            "make them unusual.",
        ),
    ] = 5,
    guidance: Guidance = None,
    fast: Fast = False,
    devices: Devices = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the log-density of each row of a table.

    Log-densities are in nats: the lower, the more unusual the row. Rows are numbered from 0. The
    most unusual rows are printed: age 312 (58: +21.3) says that the log-density would rise by 21.3
    nats if the age were 58, the best of some ages of the table.

    For a run with classes it is the density given the class, from the run's class column or from
    --class. With --guidance it is the density of the samples that jaxflow sample draws with the
    same guidance; for scales other than 1 it is not the density given the class.
    """
    check_output(out, overwrite=overwrite)
    if fast and with_error:
        raise ValueError("--with-error needs an ODE solve, and --fast has none: leave one out")
    record = read_finished(run)
    check_flow_options(record, guidance, fast=fast)
    if IMAGES in record:
        refused = {"keep_columns": keep_columns, "drop_nan": drop_nan, "percentile": percentile}
        refuse_options(run, record, **refused, fast=fast, marginal=marginal)
        score_images(run, record, table, out, class_name, guidance, unusual, with_error=with_error)
        return
    if marginal and PLAN not in record:
        raise needs_mixed(run, "--marginal")
    if marginal and percentile:
        raise ValueError("--percentile compares whole rows, --marginal does not: leave one out")
    more = _more_columns(record, table, out, keep=keep_columns, percentile=percentile)
    if PLAN in record:
        refuse_options(run, record, **{"class": class_name, "fast": fast})
        if marginal and with_error:
            raise ValueError("--marginal has an error of its own, log_prob_se: drop --with-error")
        with jax.enable_x64(record["settings"]["float64"]):
            num = None if marginal else unusual
            how = {"drop_nan": drop_nan, "with_error": with_error}
            _score_mixed(load_flow(run), table, out, more, num, **how)
        return
    conditions = row_conditions(record, table, class_name)
    moments, lowest = Moments(), Lowest(unusual)
    is_double = record["settings"]["float64"]
    precision, number = jax.enable_x64(is_double), np.float64 if is_double else np.float32
    with on_devices(devices), precision:
        flow = load_flow(run, guidance, fast=fast)
        with open_table(out) as append:
            for x, row_numbers in read_row_blocks(record, table, BLOCK, drop_nan=drop_nan):
                cond = conditions(row_numbers)
                columns = _score(flow, x, cond, fast=fast, with_error=with_error)
                if with_error:
                    columns["status"] = _status(columns["status"], out)
                log_p = columns["log_prob"]
                # With no more digits than the precision of the run.
                columns["log_prob"] = log_p.astype(number)
                append({"row": row_numbers, **columns, **more(row_numbers, log_p)})
                moments.add(log_p)
                lowest.add(log_p, row_numbers, x, cond)
        quiet = flow if fast else without_raising(flow)
        rows = lowest.explain(
            lambda x, cond: _score(quiet, x, cond, fast=fast, with_error=False)["log_prob"],
            record["columns"],
        )
    _print_scores(moments, out, flow.error if fast else None, rows)


def _more_columns(
    record: dict[str, Any], table: Path, out: Path, *, keep: bool, percentile: bool
) -> MoreColumns:
    """The columns that --keep-columns and --percentile add, as a function of some rows.

    Raises ValueError if the output or the run cannot have them.
    """
    if keep and out.suffix.lower() == ".npy":
        raise ValueError(f"--keep-columns: {out} holds numbers alone; write .csv or .parquet")
    quantiles = record.get("held_out_quantiles")
    if percentile and not quantiles:
        raise ValueError(
            "--percentile needs a run with held-out rows, fitted by this version of jaxflow"
        )
    frame = read_frame(table) if keep else None

    def columns_of(rows: np.ndarray, log_p: np.ndarray) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        if percentile and quantiles:
            levels = np.linspace(0, 100, len(quantiles))
            columns["percentile"] = np.interp(log_p, quantiles, levels)
        if frame is not None:
            kept = frame[rows]
            columns |= {
                f"{name} of table" if name in SCORES else name: kept[name] for name in kept.columns
            }
        return columns

    return columns_of


def _score_mixed(
    fitted: Any,
    table: Path,
    out: Path,
    more: MoreColumns,
    num: int | None,
    *,
    drop_nan: bool,
    with_error: bool,
) -> None:
    """Score a mixed table and print its `num` most unusual rows.

    With `num` None, score the cells that are present (`--marginal`).
    """
    cells = read_cells(table, fitted.plan.null)
    row_numbers = np.arange(len(next(iter(cells.values()))))
    if drop_nan:
        names = [name for name in fitted.plan.names if name in cells]
        cells, row_numbers = without_gaps(cells, names, table)
    moments, errors = Moments(), {}
    if num is None:
        note_absent(fitted, cells, table)
        log_p, errors["log_prob_se"] = fitted.marginal(cells, jax.random.key(0))
    elif with_error:
        if fitted.continuous is not None:
            quiet = without_raising(fitted.continuous.flow)
            fitted = eqx.tree_at(lambda table: table.continuous.flow, fitted, quiet)
        answer = fitted.log_prob_with_error(cells)
        log_p = answer.value
        errors = {"ode_error": answer.ode_error, "trace_se": answer.trace_se}
        errors["status"] = _status(answer.status, out)
    else:
        log_p = fitted.log_prob(cells)
    with open_table(out) as append:
        append({"row": row_numbers, "log_prob": log_p, **errors, **more(row_numbers, log_p)})
    moments.add(log_p)
    unusual = unusual_in_table(fitted, cells, row_numbers, log_p, num or 0)
    _print_scores(moments, out, None, unusual)


def _status(status: np.ndarray, out: Path) -> Any:
    """The status of each row in words, which .npy files cannot hold."""
    if out.suffix.lower() == ".npy":
        return status
    return [Status(int(each)).name.lower() for each in status]


def _print_scores(
    moments: "Moments", out: Path, map_error: Any, unusual: Sequence[UnusualRow]
) -> None:
    failed = f", {moments.failed} failed" if moments.failed else ""
    failed += f", {moments.outside} outside the support" if moments.outside else ""
    error = "" if moments.error is None else f" +- {moments.error:.4f}"
    print_facts(
        {
            "scored": f"{plural(moments.count, 'row')}{failed}",
            "mean": f"{moments.mean:.4f}{error} nats per row, log-density",
            **({} if map_error is None else {"error": map_error_text(map_error)}),
            **{f"unusual {i}": str(row) for i, row in enumerate(unusual, 1)},
            "scores": str(out),
        },
        {
            "rows": moments.count,
            "failed": moments.failed,
            "mean": finite(moments.mean),
            "mean_se": moments.error,
            "off_by": None if map_error is None else asdict(map_error),
            "unusual": [row.as_dict() for row in unusual],
            "scores": str(out),
        },
    )


class Moments:
    """Mean and standard error of log-densities that come in blocks.

    NaN counts as a failed row, and -inf as one outside the flow's support.
    """

    def __init__(self) -> None:
        self.count, self.failed, self.outside = 0, 0, 0
        # Sums of the finite values and of their squares, from the mean of the first ones on.
        self._finite, self._centre, self._sum, self._squares = 0, 0.0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        """Add a block."""
        good = values[np.isfinite(values)]
        self.count += len(values)
        self.failed += int(np.isnan(values).sum())
        self.outside += int(np.isneginf(values).sum())
        if len(good) and not self._finite:
            self._centre = float(good.mean())
        self._finite += len(good)
        self._sum += float((good - self._centre).sum())
        self._squares += float(np.square(good - self._centre).sum())

    @property
    def mean(self) -> float:
        """Mean of the rows that did not fail: -inf if one is outside, NaN without rows."""
        if self.outside:
            return -math.inf
        return self._centre + self._sum / self._finite if self._finite else math.nan

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None for fewer than 2 finite values."""
        n = self._finite
        if n < 2 or self.outside:
            return None
        return math.sqrt(max(self._squares - self._sum**2 / n, 0.0) / (n - 1) / n)


def _score(
    flow: Any, x: np.ndarray, cond: np.ndarray | None, *, fast: bool, with_error: bool
) -> dict[str, Any]:
    """Columns of the output for these rows, except their numbers."""
    # A fixed key, so that scores by an estimated trace repeat.
    key = jax.random.key(0)
    if not with_error:
        options = {} if fast else {"key": key, "progress": None}
        return {"log_prob": log_cell_mean(flow, x, cond, **options)}
    if not isinstance(flow, CNF):
        raise ValueError("--with-error needs a continuous flow; this run has no ODE to solve")
    flow = without_raising(flow)
    points, weights = cell_points(flow, x)
    answers = [
        flow.log_prob_with_error(point, cond, key=each, progress=None)
        for point, each in zip(points, point_keys(key, len(points)), strict=True)
    ]
    if answers[0].ode_error is None or answers[0].trace_se is None:
        raise ValueError("--with-error: the solver or the trace of this run has no error estimate")
    parts = jax.tree.map(lambda *each: jnp.stack(each, axis=1), *answers)
    answer = mix_with_error(parts, jnp.asarray(weights, parts.value.dtype))
    columns = {
        "log_prob": answer.value,
        "ode_error": answer.ode_error,
        "trace_se": answer.trace_se,
    }
    numbers = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    return numbers | {"status": np.asarray(answer.status)}
