"""`jaxflow check` of runs on images: bits per dimension, and a report with pictures."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow import plotting
from jaxflow.cli.html_report import CheckResult, history_figure, text_html
from jaxflow.cli.images import image_text, read_for_run
from jaxflow.cli.new_rows import choose_rows, held_out_only
from jaxflow.cli.record import run_split
from jaxflow.cli.run_flow import load_flow
from jaxflow.cli.tables import hash_rows
from jaxflow.cli.terminal import note
from jaxflow.diagnostics import ImageCheck, check_images
from jaxflow.runtime.text import plural

# Images in a picture of the report, trajectories, and times of each.
SHOWN, PATHS, TIMES = 64, 8, 9


def check_image_run(
    run: Path, record: dict[str, Any], table: Path, most: int, seed: int
) -> CheckResult:
    """Bound the bits per dimension of images, and compare samples with them."""
    x, cond, training = _unseen(run, record, table)
    chosen = choose_rows(len(x), most, seed)
    x, cond = x[chosen], None if cond is None else cond[chosen]
    flow, key = load_flow(run), jax.random.key(seed)
    checked = check_images(flow, x, training, cond, key=key, levels=record["levels"])
    examined = f"{plural(len(x), 'image')} of {table}"

    def report() -> tuple[dict[str, Any], dict[str, Any]]:
        figures = _figures(flow, checked, x, cond, training, record)
        sections = {"Data": [text_html(image_text(record))], "Tests": [text_html(str(checked))]}
        return sections, figures | {"Training history": history_figure(run)}

    values = {
        "problems": checked.problems,
        "verdict": [finding.text for finding in checked.findings],
        "bits_per_dim": checked.bits.bits,
        "standard_error": checked.bits.standard_error,
        "solver_error": checked.bits.solver_error,
        "images": len(x),
    }
    return CheckResult(checked, flow, examined, f"{examined}\n{checked}", values, report)


def _unseen(
    run: Path, record: dict[str, Any], table: Path
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Images to test and their conditions, and the images that the run was fitted to."""
    x, cond, _ = read_for_run(run, record, table)
    own = hash_rows(x) == record["table_sha256"]
    fitted = x if own else _fitted(run, record)
    if fitted is None:
        note(f"{record['table']} has changed or is gone: samples are compared with {table} itself")
        return x, cond, x
    training, _ = run_split(record, len(fitted))
    if not own:
        return x, cond, fitted[training]
    held = held_out_only(record, table, len(x), "image")
    return x[held], None if cond is None else cond[held], x[training]


def _fitted(run: Path, record: dict[str, Any]) -> np.ndarray | None:
    """The images that a run was fitted to, if they are still there."""
    try:
        name = None if record["classes"] is None else record["classes"][0]
        x, _, _ = read_for_run(run, record, Path(record["table"]), name)
    except (OSError, ValueError):
        return None
    return x if hash_rows(x) == record["table_sha256"] else None


def _figures(
    flow: Any,
    checked: ImageCheck,
    x: np.ndarray,
    cond: np.ndarray | None,
    training: np.ndarray,
    record: dict[str, Any],
) -> dict[str, Any]:
    """Pictures by caption; none for images that are neither grey nor in colour."""
    if record["image_shape"][-1] not in (1, 3):
        return {}
    limits = (0, record["levels"] - 1)

    def picture(images: np.ndarray, wide: int | None = None) -> Any:
        return plotting.grid(images, wide=wide, limits=limits).figure

    pairs = np.stack([checked.samples[:SHOWN], training[checked.nearest[:SHOWN]]], axis=1)
    few = checked.samples[:PATHS]
    some_cond = None if cond is None else cond[: len(few)]
    back = flow.transport(few, 1.0, 0.0, some_cond, save_at=np.linspace(1.0, 0.0, TIMES))
    paths = np.moveaxis(np.asarray(back)[::-1], 0, 1)
    return {
        "Samples": picture(checked.samples[:SHOWN]),
        "Images that were tested": picture(x[:SHOWN]),
        "Samples, each beside the nearest training image": picture(
            pairs.reshape(-1, *x.shape[1:]), 16
        ),
        "Trajectories of samples, from noise (left) to image": picture(
            paths.reshape(-1, *x.shape[1:]), TIMES
        ),
    }
