"""`jaxflow sample` and `jaxflow score` of runs on images."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow import plotting
from jaxflow.cli.classes import class_condition
from jaxflow.cli.images import depth, read_for_run
from jaxflow.cli.outputs import check_output, check_picture, open_table, write_picture
from jaxflow.cli.run_flow import load_flow
from jaxflow.cli.terminal import print_facts
from jaxflow.diagnostics import bits_per_dim
from jaxflow.io.atomic import atomic_write
from jaxflow.runtime.text import plural

# Draws of noise and of probes for the errors of each image.
DRAWS = 4


def sample_images(
    run: Path,
    record: dict[str, Any],
    out: Path | None,
    grid: Path | None,
    num: int,
    class_name: str | None,
    guidance: float | None,
    seed: int,
    overwrite: bool,
) -> None:
    """Draw images of one class or of each class in turn; write a picture, an array or both."""
    if out is None and grid is None:
        raise ValueError(f"{run} was fitted to images: give --grid samples.png, or --out FILE.npz")
    if out is not None:
        check_output(out, overwrite=overwrite, suffixes=(".npz",))
    if grid is not None:
        check_picture(grid, overwrite=overwrite, option="--grid")
    cond, classes = None, record["classes"]
    if class_name is not None:
        cond = np.tile(class_condition(record, class_name), (num, 1))
    elif classes is not None:
        # A row of the picture has one class, where there are as many rows.
        cond = np.eye(len(classes), dtype=np.float32)[np.sort(np.arange(num) % len(classes))]
    flow = load_flow(run, guidance)
    x = np.asarray(flow.sample(jax.random.key(seed), num, cond, progress=None))
    images = np.round(x).astype(np.uint8 if record["levels"] <= 256 else np.uint16)
    if out is not None:
        arrays: dict[str, Any] = {"images": images}
        if cond is not None:
            arrays["labels"] = np.array(classes)[cond.argmax(axis=1)]
        with atomic_write(out) as file:
            np.savez(file, **arrays)
    if grid is not None:
        wide = None if class_name or classes is None else math.ceil(num / len(classes))
        axes = plotting.grid(images, wide=wide, limits=(0, record["levels"] - 1))
        write_picture(grid, axes.figure, bbox_inches="tight")
    written = {n: str(p) for n, p in (("samples", out), ("grid", grid)) if p is not None}
    print_facts({"drawn": plural(num, "image")} | written, {"images": num} | written)


def score_images(
    run: Path,
    record: dict[str, Any],
    table: Path,
    out: Path,
    class_name: str | None,
    guidance: float | None,
    unusual: int,
    *,
    with_error: bool,
) -> None:
    """Write the bits per dimension of each image; print the mean and the most unusual images.

    With errors, the standard errors of each image from several draws of noise and of probes.
    """
    x, cond, read = read_for_run(run, record, table, class_name)
    flow, draws = load_flow(run, guidance), DRAWS if with_error else 1
    bits = bits_per_dim(flow, x, cond, key=jax.random.key(0), bits=depth(record), num_draws=draws)
    nats = x[0].size * math.log(2)
    log_p, errors = -bits.each * nats, {}
    if bits.each_se is not None:
        errors = {"log_prob_se": bits.each_se * nats, "bits_per_dim_se": bits.each_se}
    rows = np.arange(len(x))
    files = {} if read.names is None or out.suffix.lower() == ".npy" else {"file": read.names}
    with open_table(out) as append:
        append({"row": rows, **files, "log_prob": log_p, "bits_per_dim": bits.each, **errors})
    worst = np.argsort(log_p, kind="stable")[:unusual].tolist()
    names = [f"image {i}" for i in rows] if read.names is None else read.names
    lowest = {names[i]: float(bits.each[i]) for i in worst}
    print_facts(
        {
            "scored": plural(len(x), "image"),
            "mean": str(bits),
            **{
                f"unusual {k}": f"{name}: {each:.4f} bits/dim"
                for k, (name, each) in enumerate(lowest.items(), 1)
            },
            "scores": str(out),
        },
        {
            "images": len(x),
            "bits_per_dim": bits.bits,
            "standard_error": bits.standard_error,
            "unusual": [{"image": name, "bits_per_dim": each} for name, each in lowest.items()],
            "scores": str(out),
        },
    )
