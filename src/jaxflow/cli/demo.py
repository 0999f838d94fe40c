"""`jaxflow demo`: flows of two example data sets, in figures and pictures."""

import json
import os
import platform
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jaxtyping import Float

from jaxflow import CNF, StandardNormal, TrainConfig, plotting
from jaxflow import fit as fit_flow
from jaxflow.cli.options import Overwrite, Seed
from jaxflow.cli.outputs import write_bytes, write_picture
from jaxflow.cli.record import versions
from jaxflow.cli.terminal import note, print_result
from jaxflow.data import EightGaussians, digits
from jaxflow.dynamics import MLP
from jaxflow.objectives import maximum_likelihood
from jaxflow.plotting.style import pyplot
from jaxflow.runtime.extras import import_extra
from jaxflow.training import Comparison

PICTURES = {"8 gaussians": "eight_gaussians.png", "digits": "digits.png"}
RESULTS, TEXT = "results.json", "results.md"
FILES = (*PICTURES.values(), RESULTS, TEXT)

Scores = Float[np.ndarray, " rows"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and results.")] = Path("demo"),
    overwrite: Overwrite = False,
    seed: Seed = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Train for a few steps: all files, poor quality.")
    ] = False,
) -> None:
    """Train flows on two example data sets and draw them.

    The data are 8 gaussians, whose true density is known, and 1797 images of digits. Needs
    scikit-learn and matplotlib.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out must name a folder")
    present = [name for name in FILES if (out / name).exists()]
    if present and not overwrite:
        raise FileExistsError(
            f"{out} holds {', '.join(present)}; add --overwrite to replace them, or choose "
            "another --out"
        )
    for package in ("matplotlib", "sklearn"):
        import_extra(package, "demo", f"the demo needs {package}")
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(False):
        results = [
            _fit_eight_gaussians(out, seed, quick=quick),
            _fit_digits(out, seed, quick=quick),
        ]
    record = versions() | {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "seed": seed,
        "quick": quick,
        "seconds": time.perf_counter() - start,
        "results": results,
    }
    text = _to_markdown(record)
    pictures = "".join(f"\n![]({name})\n" for name in PICTURES.values())
    write_bytes(out / TEXT, f"# jaxflow demo\n\n{text}\n{pictures}".encode())
    # Last: the demo is finished once this file exists.
    write_bytes(out / RESULTS, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    print_result(f"{text}\n\n{', '.join(FILES)} in {out}", record | {"out": str(out)})


def _fit_eight_gaussians(out: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    """Fit samples of a known density; compare with it on fresh samples."""
    note("8 gaussians: training")
    truth = EightGaussians()
    train, validation, test = (truth.sample(20_000, seed=3 * seed + i) for i in range(3))
    config = TrainConfig(
        steps=30 if quick else 1200, learning_rate=5e-3, eval_every=30 if quick else 200
    )
    options = {"config": config, "objective": maximum_likelihood, "transform": None}
    flow, fitted = _fit(train, validation[:4000], seed, 64, **options)
    edge = truth.radius + 4.5 * truth.std
    figure = plotting.density_over_time(
        flow,
        jax.random.key(seed),
        n=150,
        limits=(-edge, edge, -edge, edge),
        resolution=32 if quick else 128,
    )
    write_picture(out / PICTURES["8 gaussians"], figure, facecolor=figure.get_facecolor())
    log_p = np.asarray(flow.log_prob(test), np.float64)
    comparison = _compare(log_p, truth.log_prob(test), "true density")
    return {"data": "8 gaussians", "columns": 2, "rows": len(train)} | fitted | comparison


def _fit_digits(out: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    """Fit images; compare with a Gaussian of full covariance on held-out images."""
    note("digits: training")
    x = digits(seed).values.astype(np.float32)
    x = x[np.random.default_rng(seed).permutation(len(x))]
    train, validation, test = np.split(x, [int(0.8 * len(x)), int(0.9 * len(x))])
    config = TrainConfig(
        steps=10 if quick else 1500, batch_size=256, eval_every=10 if quick else 100
    )
    flow, fitted = _fit(train, validation, seed, 16 if quick else 128, config=config)
    samples = np.asarray(flow.sample(jax.random.key(seed), 40))
    figure = _draw_digits(test[:40], samples)
    write_picture(out / PICTURES["digits"], figure, facecolor=figure.get_facecolor())
    log_p = np.asarray(flow.log_prob(test), np.float64)
    reference = gaussian_log_density(flow.transform, train, test)
    comparison = _compare(log_p, reference, "Gaussian")
    return {"data": "digits", "columns": x.shape[1], "rows": len(train)} | fitted | comparison


def _fit(
    train: np.ndarray, validation: np.ndarray, seed: int, width: int, **options: Any
) -> tuple[CNF, dict[str, Any]]:
    """Fit a continuous flow; also returns its steps and seconds."""
    start, dim = time.perf_counter(), train.shape[1]
    key = jax.random.key(seed)
    flow = CNF(MLP(dim, width=width, depth=2, key=key), base=StandardNormal((dim,)))
    flow, history = fit_flow(
        flow, train, validation=validation, key=key, progress=False, **options
    )
    seconds = time.perf_counter() - start
    return flow, {"steps": history["step"][-1], "seconds": seconds}


def gaussian_log_density(
    transform: Any, train: Float[np.ndarray, "n dim"], test: Float[np.ndarray, "rows dim"]
) -> Scores:
    """Log-density of a Gaussian with shrunken full covariance, behind the flow's transform."""
    covariance = import_extra("sklearn.covariance", "demo", "the demo needs scikit-learn")
    forward = jax.vmap(lambda x: transform.forward(x))
    u, _ = forward(jnp.asarray(train))
    v, log_det = (np.asarray(part, np.float64) for part in forward(jnp.asarray(test)))
    gaussian = covariance.LedoitWolf().fit(np.asarray(u, np.float64))
    squares = gaussian.mahalanobis(v) - np.linalg.slogdet(gaussian.precision_)[1]
    return log_det - 0.5 * (squares + v.shape[1] * np.log(2 * np.pi))


def _compare(log_p: Scores, reference: Scores, name: str) -> dict[str, Any]:
    """Means over rows with standard errors; the difference is taken row by row."""
    comparison = Comparison({"flow": log_p, name: reference})
    return {
        "log_density": comparison.mean(),
        "reference": name,
        "reference_log_density": comparison.mean(name),
        "difference": comparison.difference(name),
        "test_rows": len(log_p),
    }


def _draw_digits(data: Float[np.ndarray, "40 64"], samples: Float[np.ndarray, "40 64"]) -> Any:
    figure, axes = pyplot().subplots(1, 2, figsize=(11, 2.75), layout="constrained")
    for ax, images, title in zip(axes, (data, samples), ("held-out", "samples"), strict=True):
        plotting.grid(images.reshape(40, 8, 8), ax, wide=10, limits=(0, 17))
        ax.set_title(title, fontsize=11)
    return figure


def _to_markdown(record: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| data | rows x columns | flow | compared with | flow - other | steps | seconds |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for r in record["results"]:
        flow, other, difference = (
            f"{r[name][0]:.3f} +- {r[name][1]:.3f}"
            for name in ("log_density", "reference_log_density", "difference")
        )
        lines.append(
            f"| {r['data']} | {r['rows']} x {r['columns']} | {flow} | {r['reference']}: {other} "
            f"| {difference} | {r['steps']} | {r['seconds']:.0f} |"
        )
    return "\n".join(lines) + (
        "\n\nMean log-density of test rows in nats per row, with its standard error: higher is "
        "better.\nThe Gaussian has a shrunken full covariance, behind the flow's transform. "
        f"float32, seed {record['seed']}, {record['machine']}, {record['seconds']:.0f} s."
    )
