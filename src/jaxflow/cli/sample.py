"""`jaxflow sample`: new rows from a fitted density."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxflow.cli import run_directory
from jaxflow.cli.classes import ClassName, condition
from jaxflow.cli.distil import Fast, load_map
from jaxflow.cli.guidance import Guidance, check_guidance, diffuses, guided
from jaxflow.cli.job import Devices, spread_over
from jaxflow.cli.models import Sampler, check_seed
from jaxflow.cli.outputs import check_output
from jaxflow.cli.reports import counted, show


def sample(
    run: run_directory.Run,
    out: Annotated[Path, typer.Option(help="Table to write: .csv, .npy or .parquet.")],
    num: Annotated[int, typer.Option("--num", "-n", help="Number of rows to draw.")] = 1000,
    class_name: ClassName = None,
    sampler: Annotated[
        Sampler,
        typer.Option(
            help="ode follows the density of jaxflow score; the others are a diffusion model's: "
            "DDPM's ancestral, ddim, heun, dpm (DPM-Solver++), langevin (annealed), corrected "
            "(ancestral and Langevin steps in turn)."
        ),
    ] = Sampler.ode,
    steps: Annotated[
        int | None, typer.Option(help="Steps of a diffusion model's sampler; each has its own.")
    ] = None,
    guidance: Guidance = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the random numbers; the same seed, the same rows.")
    ] = 0,
    fast: Fast = False,
    devices: Devices = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output where it exists.")
    ] = False,
) -> None:
    """Draw new rows from the fitted density, in the units of the table it was fitted to.

    A run with classes draws those of --class; a diffusion model draws of all without it.
    """
    if num < 1:
        raise ValueError(f"--num {num} must be at least 1")
    check_seed(seed)
    check_output(out, overwrite=overwrite)
    record = run_directory.read_run(run)
    if fast and (sampler != Sampler.ode or guidance is not None):
        raise ValueError("--fast follows the flow itself: leave --sampler and --guidance out")
    check_guidance(record, guidance)
    if sampler != Sampler.ode and not diffuses(record):
        raise ValueError(
            f"--sampler {sampler.value} is for diffusion models, and {run} is none; fit one by "
            "jaxflow fit --objective ddpm or ncsn"
        )
    needed = "--guidance" if guidance is not None else "--fast" if fast else None
    cond = _condition(record, class_name, needed)
    if steps is not None and steps < 1:
        raise ValueError(f"--steps {steps} must be at least 1")
    if steps is not None and sampler == Sampler.ode:
        raise ValueError(f"--steps {steps} belongs to a --sampler with steps, and ode has none")

    import jax

    from jaxflow.data import write_table
    from jaxflow.io.checkpoint import load

    with spread_over(devices), jax.enable_x64(record["settings"]["float64"]):
        key = jax.random.key(seed)
        if fast:
            x = np.asarray(load_map(run).sample(key, num, cond))
        else:
            flow = load(run / run_directory.FLOW)
            x = np.asarray(_draw(guided(flow, guidance), key, num, cond, sampler, steps))
    write_table(out, x, record["columns"], overwrite=overwrite)
    show({"drawn": counted(num, "row"), "samples": str(out)}, {"rows": num, "samples": str(out)})


def _condition(
    record: dict[str, Any], class_name: str | None, needed: str | None
) -> np.ndarray | None:
    """The condition to sample at.

    Args:
        record: the run's.
        class_name: `--class`.
        needed: an option that needs a class; None where there is none.

    Raises:
        ValueError: a class that is not there, or is needed.
    """
    if class_name is not None:
        return condition(record, class_name)
    # A diffusion model knows what no class is.
    if record.get("classes") is None or (diffuses(record) and needed is None):
        return None
    why = "this run has classes" if needed is None else f"{needed} needs a class"
    raise ValueError(f"{why}: add --class, one of {', '.join(record['classes'])}")


def _draw(
    flow: Any,
    key: Any,
    num: int,
    cond: np.ndarray | None,
    sampler: Sampler,
    steps: int | None,
) -> Any:
    from jaxflow import diffusion

    if sampler == Sampler.ode:
        return flow.sample(key, num, cond, progress=None)
    rule, usual = {
        Sampler.ancestral: (diffusion.Ancestral(), 200),
        Sampler.ddim: (diffusion.DDIM(), 50),
        Sampler.heun: (diffusion.Heun(), 20),
        Sampler.dpm: (diffusion.DPMSolver(), 25),
        Sampler.langevin: (diffusion.Langevin(4, 0.7), 100),
        Sampler.corrected: (diffusion.PredictorCorrector(), 100),
    }[sampler]
    return diffusion.draw(
        flow,
        key,
        num,
        cond,
        sampler=rule,
        num_steps=steps or usual,
        progress=None,
    )
