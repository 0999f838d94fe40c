"""`jaxflow distil`: a fast approximation of a run's flow."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import jax
import typer

import jaxflow
from jaxflow.cli.classes import row_conditions
from jaxflow.cli.options import DropNan, Overwrite, Run, Seed
from jaxflow.cli.record import check_numbers
from jaxflow.cli.run_directory import MAP, read_finished
from jaxflow.cli.run_flow import load_flow, map_error_text
from jaxflow.cli.tables import read_rows
from jaxflow.cli.terminal import print_facts
from jaxflow.io.atomic import check_free
from jaxflow.training.distil import CONFIG


def distil(
    run: Run,
    table: Annotated[
        Path,
        typer.Argument(
            help="Table to measure the error on, best with rows that the run was not fitted to."
        ),
    ],
    evaluations: Annotated[
        int, typer.Option(min=1, help="Network evaluations per log-density.")
    ] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Number of training steps.")] = 3000,
    trajectories: Annotated[
        int, typer.Option(min=1, help="Number of trajectories of the flow to train on.")
    ] = 32_768,
    seed: Seed = 0,
    drop_nan: DropNan = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a fast approximation of a run's flow.

    Writes it to the run directory, for jaxflow score --fast and jaxflow sample --fast, and prints
    the error of its log-densities.
    """
    record = read_finished(run)
    check_numbers(run, record, "jaxflow distil")
    path = run / MAP
    check_free(path, overwrite=overwrite, advice="add --overwrite")
    x, row_numbers, _ = read_rows(record, table, drop_nan=drop_nan)
    cond = row_conditions(record, table)(row_numbers)
    with jax.enable_x64(record["settings"]["float64"]):
        flow = load_flow(run)
        if not isinstance(flow, jaxflow.CNF):
            raise ValueError(f"{run} is a coupling flow, which is fast already; use it as it is")
        fast = jaxflow.distil(
            flow,
            x,
            cond,
            key=jax.random.key(seed),
            num_steps=evaluations,
            num_samples=trajectories,
            config=replace(CONFIG, steps=steps, eval_every=min(CONFIG.eval_every, steps)),
        )
        jaxflow.save(path, fast, overwrite=overwrite)
    assert fast.error is not None
    print_facts(
        {"error": map_error_text(fast.error), "map": str(path)},
        {"off_by": asdict(fast.error), "map": str(path)},
    )
