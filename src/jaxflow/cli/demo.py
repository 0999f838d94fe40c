"""`jaxflow demo`: a continuous flow in pictures, and in figures beside other densities."""

import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxflow.cli.outputs import write_whole
from jaxflow.cli.reports import tell
from jaxflow.runtime.extras import install_extra

EIGHT, DIGITS, RESULTS, TEXT = "eight_gaussians.png", "digits.png", "results.json", "results.md"
FILES = (EIGHT, DIGITS, RESULTS, TEXT)

_FRESH_ROWS = 20_000
# Fresh rows are scored so many at a time, like validation rows, to share their compiled code.
_BATCH = 1000
_NOTE = (
    "Mean log-density of the test rows, nats a row in the table's own units, higher is better, "
    "with the standard error over rows; the difference to the continuous flow is taken row by "
    "row. All rows are split 80/10/10 by one permutation. Everyone gets the same coordinates, "
    "counted in every log-density: the transform of the columns that explains validation rows "
    "better behind a Gaussian, then principal axes, of widths s^a for a spread s; the last "
    "Gaussian has the other transform instead. All choices fall on the same validation rows "
    "(floor: what is added to a mixture's covariances). Digits carry uniform noise, which makes "
    "them continuous."
)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and results.")] = Path("demo"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of an earlier demo.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few steps: all of the output, no quality.")
    ] = False,
) -> None:
    """Train flows on 8 gaussians and two real tables, and compare them with other densities.

    Needs scikit-learn and matplotlib: pip install '.[demo]' in a checkout of jaxflow.
    """
    _check_folder(out, overwrite=overwrite)
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed {seed} must lie between 0 and {2**32 - 1}")
    _check_installed()

    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    with _jax_settings(quick=quick):
        record = _describe(seed, quick=quick)
        record["eight_gaussians"] = _eight_gaussians(out, seed, quick=quick)
        record["tables"] = [_table(name, out, seed, quick=quick) for name in _TABLES]
    record["seconds"] = time.perf_counter() - start
    write_whole(out / TEXT, _markdown(record).encode())
    # Last, so that it stands for a finished demo.
    write_whole(out / RESULTS, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    _show(record)
    typer.echo(f"{record['seconds']:.0f} s; {', '.join(FILES)} in {out}")


@contextmanager
def _jax_settings(*, quick: bool) -> Iterator[None]:
    """Float32, whatever the program around has set; a quick demo compiles without optimising."""
    import jax

    option = "jax_disable_most_optimizations"
    before = jax.config.read(option)
    jax.config.update(option, quick or before)
    try:
        with jax.enable_x64(False):
            yield
    finally:
        jax.config.update(option, before)


def _check_folder(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out names a folder")
    present = [name for name in FILES if (out / name).exists()]
    if present and not overwrite:
        raise FileExistsError(
            f"{out} holds {', '.join(present)}; add --overwrite to replace them, or choose "
            "another --out"
        )


def _check_installed() -> None:
    for module in ("matplotlib", "sklearn"):
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"the demo needs {module}: {install_extra('demo')}")


def _describe(seed: int, *, quick: bool) -> dict[str, Any]:
    from importlib.metadata import version

    from jaxflow import __version__

    names = ("jax", "jaxlib", "equinox", "optax", "numpy", "scikit-learn")
    return {
        "jaxflow": __version__,
        "versions": {name: version(name) for name in names},
        "python": platform.python_version(),
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
        },
        "precision": "float32",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "quick": quick,
    }


def _eight_gaussians(out: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    """Maximum likelihood on 8 gaussians, whose true density gives the divergence."""
    import jax
    import numpy as np

    from jaxflow import CNF, ODE, StandardNormal, TrainConfig, fit, plotting
    from jaxflow.data import EightGaussians
    from jaxflow.dynamics import MLP
    from jaxflow.objectives import maximum_likelihood

    tell("8 gaussians: training the continuous flow")
    start = time.perf_counter()
    truth = EightGaussians()
    train, fresh = truth.sample(20_000, seed), truth.sample(_FRESH_ROWS, seed + 1)
    flow_key, fit_key, path_key = jax.random.split(jax.random.key(seed), 3)
    ode = ODE(solver="rk4", num_steps=6)
    flow = CNF(
        MLP(2, width=64, key=flow_key),
        base=StandardNormal((2,)),
        ode=ode,
        ode_eval=ode if quick else ODE(solver="tsit5", rtol=1e-4, atol=1e-4),
    )
    config = TrainConfig(
        steps=30 if quick else 1200,
        learning_rate=5e-3,
        eval_every=30 if quick else 200,
        validation_rows=_BATCH,
    )
    flow, history = fit(
        flow,
        train,
        key=fit_key,
        transform=None,
        config=config,
        objective=maximum_likelihood,
        progress=False,
    )
    seconds = time.perf_counter() - start
    batches = np.split(fresh, _FRESH_ROWS // _BATCH)
    log_p = np.concatenate([np.asarray(flow.log_prob(x, key=fit_key)) for x in batches])
    gaps = truth.log_prob(fresh) - log_p.astype(np.float64)
    tell("8 gaussians: drawing")
    edge = truth.radius + 4.5 * truth.std
    figure = plotting.density_over_time(
        flow, path_key, n=150, limits=(-edge, edge, -edge, edge), resolution=32 if quick else 128
    )
    _save(figure, out / EIGHT)
    return {
        "kl": float(gaps.mean()),
        "kl_se": float(gaps.std(ddof=1) / len(gaps) ** 0.5),
        "fresh_rows": len(gaps),
        "entropy": truth.entropy(),
        "steps": history["step"][-1],
        "seconds": seconds,
    }


_TABLES = ("breast cancer", "digits")


def _table(name: str, out: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    """One table: everyone's held-out log-density, and for digits a picture of samples."""
    import numpy as np

    from jaxflow.cli.comparison import compare, split_rows, summary
    from jaxflow.data import breast_cancer, digits

    table = breast_cancer() if name == "breast cancer" else digits(seed)
    parts = split_rows(table.values.astype(np.float32), seed)
    results, flow, coordinates, trace = compare(
        parts, _plan(name, quick=quick), seed, lambda what: tell(f"{name}: {what}")
    )
    if name == "digits":
        _draw_digits(out / DIGITS, parts.test, flow, coordinates, seed)
    return {
        "table": name,
        "columns": table.values.shape[1],
        "rows": {p: len(getattr(parts, p)) for p in ("train", "validation", "test")},
        "transform": type(coordinates.transform).__name__,
        "models": list(summary(results)),
        "trace": trace,
    }


def _plan(name: str, *, quick: bool) -> Any:
    """Chosen by validation rows: of seeds 0, 1 and 2 for breast cancer, of seed 0 for digits."""
    from dataclasses import replace

    from jaxflow.cli.comparison import TRAINING, Plan

    plans = {
        "breast cancer": Plan(
            exponent=0.5,
            width=128,
            depth=1,
            coupling_width=64,
            batch_size=128,
            steps=2000,
            noise=0.5,
            mixtures=(
                *((k, 0.0, r) for k in (1, 2, 3, 4, 6, 8, 12) for r in (0.1, 0.2, 0.3, 0.5)),
                *((k, 1.0, r) for k in (2, 3, 4) for r in (1e-4, 1e-3)),
            ),
        ),
        "digits": Plan(
            exponent=1.0,
            width=128,
            depth=2,
            coupling_width=64,
            batch_size=256,
            steps=1000,
            noise=0.4,
            mixtures=(
                *((k, 1.0, r) for k in (4, 6, 8, 10, 12, 16) for r in (0.05, 0.1, 0.2, 0.3)),
                *((k, 0.0, r) for k in (8, 12, 16) for r in (0.3, 0.5)),
            ),
        ),
    }
    plan = plans[name]
    if not quick:
        return plan
    # One solver for all, which saves the compilation of the others.
    return replace(plan, steps=10, width=16, mixtures=plan.mixtures[:1], ode_eval=TRAINING)


def _draw_digits(path: Path, data: Any, flow: Any, coordinates: Any, seed: int) -> None:
    """Test rows beside samples of the flow, as images."""
    import jax
    import numpy as np
    from matplotlib import pyplot as plt

    rows, columns = 4, 10
    samples = np.asarray(flow.sample(jax.random.key(seed + 1), rows * columns), np.float64)
    samples = coordinates.inverse(samples / np.asarray(flow.base.scale, np.float64))
    figure, axes = plt.subplots(1, 2, figsize=(11, 2.75), facecolor="white")
    for ax, images, title in zip(
        axes, (data[: rows * columns], samples), ("held-out data", "samples"), strict=True
    ):
        # A pixel of ground between two images.
        tiles = np.zeros((rows, columns, 9, 9))
        tiles[:, :, :8, :8] = np.clip(images, 0, 17).reshape(rows, columns, 8, 8)
        ax.imshow(
            tiles.transpose(0, 2, 1, 3).reshape(rows * 9, columns * 9)[:-1, :-1], cmap="magma"
        )
        ax.set_title(title, fontsize=11)
        ax.set_axis_off()
    figure.tight_layout(pad=0.4)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    import io

    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor=figure.get_facecolor())
    plt.close(figure)
    write_whole(path, buffer.getvalue())


_HEAD = ("model", "log-density", "against the flow", "chosen on validation", "seconds")


def _cells(model: dict[str, Any]) -> tuple[str, ...]:
    against = (
        f"{model['against_cnf']:+.2f} ± {model['against_cnf_se']:.2f}"
        if model["against_cnf_se"]
        else ""
    )
    return (
        model["model"],
        f"{model['log_density']:.2f} ± {model['se']:.2f}",
        against,
        model["chosen"],
        f"{model['seconds']:.1f}",
    )


def _sentence(record: dict[str, Any]) -> str:
    eight = record["eight_gaussians"]
    return (
        f"8 gaussians: KL(data, flow) = {eight['kl']:.4f} ± {eight['kl_se']:.4f} nats "
        f"({eight['fresh_rows']} fresh samples; {eight['steps']} steps, "
        f"{eight['seconds']:.0f} s)"
    )


def _title(table: dict[str, Any]) -> str:
    rows = table["rows"]
    return (
        f"{table['table']}: {table['columns']} columns, {rows['train']} rows for training, "
        f"{rows['validation']} for choices, {rows['test']} for the test; {table['transform']}"
    )


def _trace_sentence(trace: dict[str, float]) -> str:
    return (
        f"Hutchinson's trace, one probe, on the test rows: mean {trace['hutchinson_mean']:.2f}, "
        f"exact {trace['exact_mean']:.2f} nats in the flow's coordinates (difference "
        f"{trace['mean_error']:+.2f} ± {trace['mean_error_se']:.2f}); a row is off by "
        f"{trace['row_sd']:.2f} (standard deviation); {1e3 * trace['hutchinson_seconds']:.0f} ms "
        f"against {1e3 * trace['exact_seconds']:.0f} ms"
    )


def _markdown(record: dict[str, Any]) -> str:
    machine = record["machine"]
    lines = ["# jaxflow demo", "", _sentence(record) + ".", "", f"![]({EIGHT})", "", _NOTE, ""]
    for table in record["tables"]:
        lines += [f"## {_title(table)}", ""]
        lines += [f"| {' | '.join(_HEAD)} |", "| --- | ---: | ---: | --- | ---: |"]
        lines += [f"| {' | '.join(_cells(model))} |" for model in table["models"]]
        lines += ["", _trace_sentence(table["trace"]) + ".", ""]
        if table["table"] == "digits":
            lines += [f"![]({DIGITS})", ""]
    lines.append(
        f"jaxflow {record['jaxflow']}, jax {record['versions']['jax']}, Python "
        f"{record['python']}, {machine['system']} {machine['architecture']}, "
        f"{machine['cores']} cores, float32, seed {record['seed']}, {record['seconds']:.0f} s"
        f"{', quick' if record['quick'] else ''}."
    )
    return "\n".join(lines) + "\n"


def _show(record: dict[str, Any]) -> None:
    """The same on standard output: lines drawn on a terminal, plain columns elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # A pipe has no width; a table must not be cut to the 80 columns that rich then assumes.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(_sentence(record))
    for table in record["tables"]:
        shown = Table(
            title=_title(table),
            title_justify="left",
            box=box.SIMPLE_HEAD if console.is_terminal else None,
        )
        for name in _HEAD:
            right = name in ("log-density", "against the flow", "seconds")
            shown.add_column(name, justify="right" if right else "left", no_wrap=right)
        for model in table["models"]:
            shown.add_row(*_cells(model))
        console.print()
        console.print(shown)
        console.print(_trace_sentence(table["trace"]))
