"""`jaxflow distil`: a run's flow in a few evaluations."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxflow.cli import run_directory
from jaxflow.cli.classes import conditions
from jaxflow.cli.models import check_seed
from jaxflow.cli.reports import counted, show
from jaxflow.cli.tables import DropNan, rows_of_run

Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Use the map of jaxflow distil: a few evaluations in place of a "
        "solve, and its error told.",
    ),
]


def distil(
    run: run_directory.Run,
    table: Annotated[
        Path,
        typer.Argument(
            help="Table on whose rows the error is measured; best ones that did not fit the run."
        ),
    ],
    evaluations: Annotated[int, typer.Option(help="Evaluations of one log-density.")] = 4,
    steps: Annotated[int, typer.Option(help="Updates of the map's weights.")] = 3000,
    trajectories: Annotated[
        int, typer.Option(help="Trajectories of the flow to learn from.")
    ] = 32_768,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    drop_nan: DropNan = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run's map where there is one.")
    ] = False,
) -> None:
    """Learn a run's flow and log-density in a few evaluations; keep it beside the flow.

    jaxflow score --fast and jaxflow sample --fast use it; what it is off by is told here and
    there.
    """
    check_seed(seed)
    record = run_directory.read_run(run)
    path = run / run_directory.MAP
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; add --overwrite to replace it")
    x, kept = rows_of_run(record, table, drop_nan=drop_nan)
    cond = conditions(record, table, kept, None)

    import jax

    import jaxflow
    from jaxflow.training.distil import CONFIG

    with jax.enable_x64(record["settings"]["float64"]):
        flow = jaxflow.load(run / run_directory.FLOW)
        if not isinstance(flow, jaxflow.CNF):
            raise ValueError(f"{run} is a coupling flow, which is evaluated at once already")
        config = replace(CONFIG, steps=steps, eval_every=min(CONFIG.eval_every, steps))
        fast = jaxflow.distil(
            flow,
            x,
            cond,
            key=jax.random.key(seed),
            num_steps=evaluations,
            num_samples=trajectories,
            config=config,
        )
        jaxflow.save(path, fast, overwrite=overwrite)
    assert fast.error is not None
    show(
        {"off by": error_text(fast.error), "map": str(path)},
        {"off_by": asdict(fast.error), "map": str(path)},
    )


def load_map(run: Path) -> Any:
    """The map of a run.

    Raises:
        FileNotFoundError: there is none.
    """
    from jaxflow.io.checkpoint import load

    path = run / run_directory.MAP
    if not path.exists():
        raise FileNotFoundError(f"{path}: none yet; jaxflow distil {run} TABLE makes it")
    return load(path)


def error_text(error: Any) -> str:
    """What a map's log-densities are off by."""
    return (
        f"{error.median:.4f} nats in the median, {error.q90:.4f} in 90 %, {error.q99:.4f} in 99 % "
        f"of {counted(error.num_rows, 'row')}; {error.bias:+.4f} in the mean"
    )
