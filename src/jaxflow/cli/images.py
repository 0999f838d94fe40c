"""Runs of `jaxflow fit` on images: an array of NumPy or a folder of pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxflow
from jaxflow.cli.classes import class_condition, find_classes, normalise, one_hot
from jaxflow.cli.processes import is_first
from jaxflow.cli.record import IMAGES, new_record
from jaxflow.cli.run_directory import STATE
from jaxflow.cli.settings import FitData, FitSettings
from jaxflow.cli.tables import errors_of, hash_rows
from jaxflow.cli.terminal import note
from jaxflow.cli.training import NewRun, finish, held_out_results, resumable
from jaxflow.data import Images, read_images, split
from jaxflow.data.images import PICTURES, holds_images
from jaxflow.data.shards import RECORD as SHARDS
from jaxflow.diagnostics import bits_per_dim
from jaxflow.dynamics.convolutional import check_image
from jaxflow.runtime.text import plural
from jaxflow.training.fit_images import as_images

# Held-out images that are scored after a fit.
MOST_SCORED = 256
IMAGES_ONLY = ("levels", "flips", "shifts", "ema", "noise")
# Options of `jaxflow fit` for images; all others are for tables.
TAKEN = (
    *("table", "out", "width", "steps", "batch_size", "learning_rate", "validation", "objective"),
    *("max_seconds", "seed", "config", "overwrite", "resume", "compile_cache", *IMAGES_ONLY),
)
# Values of --objective for images, as those of `jaxflow.fit_images`.
OBJECTIVES = {"auto": "matching", "matching": "matching", "fm": "matching", "staged": "staged"}


def takes_images(table: Path, changed: Sequence[str]) -> bool:
    """Whether a fit is to images; raise ValueError for options that do not go with the data."""
    if not holds_images(table):
        if table.is_dir() and not (table / SHARDS).is_file():
            raise ValueError(
                f"{table} has no pictures ({', '.join(PICTURES)}) in it or below, and no "
                f"{SHARDS} of jaxflow shards"
            )
        for name in IMAGES_ONLY:
            if name in changed:
                raise ValueError(f"--{name} is for images, and {table} holds none: leave it out")
        return False
    for name in sorted(set(changed) - set(TAKEN)):
        raise ValueError(
            f"--{'from' if name == 'start' else name.replace('_', '-')} is for tables, and "
            f"{table} holds images: leave it out"
        )
    return True


def read_image_rows(
    data: FitData, settings: FitSettings
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """The images to fit, (n, height, width, channels), their classes one-hot, and the record."""
    table = data.table
    if settings.objective not in OBJECTIVES:
        raise ValueError(
            f"--objective {settings.objective} is for tables, and {table} holds images: "
            f"choose one of {', '.join(OBJECTIVES)}"
        )
    read = read_images(table)
    x, levels = _as_levels(table, read, data.levels)
    labels, classes, cond = _labels(read), None, None
    if labels is not None and len(set(labels.tolist())) > 1:
        classes = find_classes(labels, "labels")
        cond = one_hot(labels, classes, table)
    record = new_record(
        str(table),
        hash_rows(x),
        [],
        len(x),
        settings,
        columns_chosen=False,
        classes=classes,
        labels_sha256=None if cond is None else hash_rows(cond),
        levels=levels,
    )
    return x, cond, record | {IMAGES: list(x.shape[1:])}


def fit_image_run(x: np.ndarray, cond: np.ndarray | None, run: NewRun) -> dict[str, Any]:
    """Train on images and fill the run directory; returns the record with the results."""
    record, settings = run.record, run.settings
    training, held = split(len(x), settings.validation, settings.seed, name="--validation")
    note(image_text(record))
    key = jax.random.key(settings.seed)
    names = "width", "batch_size", "learning_rate", "flips", "shifts", "noise"
    sizes = {name: getattr(settings, name) for name in names}
    sizes |= {} if settings.ema is None else {"ema": settings.ema}

    def rows(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return x[chosen], None if cond is None else cond[chosen]

    with resumable(run) as monitor:
        flow, history = jaxflow.fit_images(
            *rows(training),
            key=key,
            levels=record["levels"],
            validation=rows(held),
            steps=settings.steps,
            objective=OBJECTIVES[settings.objective],
            max_seconds=settings.max_seconds,
            progress=None if is_first() else False,
            callback=monitor,
            checkpoint=run.folder / STATE,
            resume=run.resume,
            **sizes,
        )
    some, some_cond = rows(held[:MOST_SCORED])
    bits = bits_per_dim(flow, some, some_cond, key=key, bits=depth(record), num_draws=1)
    # A level is a unit, so the bits of an image are its log-density with noise.
    results = held_out_results(-bits.each * some[0].size * math.log(2))
    results |= {"rows_held_out": len(held), "bits_per_dim": str(bits)}
    return finish(run, flow, history, results)


def read_for_run(
    run: Path, record: dict[str, Any], table: Path, class_name: str | None = None
) -> tuple[np.ndarray, np.ndarray | None, Images]:
    """Images for a run, their conditions, and what was read; checked against the run's images."""
    read = read_images(table)
    with errors_of(table):
        check_image(read.images[0], tuple(record[IMAGES]))
    x, _ = _as_levels(table, read, record["levels"])
    classes, labels = record["classes"], _labels(read)
    if class_name is not None:
        return x, np.tile(class_condition(record, class_name), (len(x), 1)), read
    if classes is None:
        return x, None, read
    if labels is None:
        raise ValueError(
            f"{table}: no labels, and {run} has the classes {', '.join(classes)}: add an array "
            "labels, or folders of classes, or --class"
        )
    return x, one_hot(labels, classes, table), read


def depth(record: dict[str, Any]) -> int:
    """Bits that hold the levels of a run."""
    return (record["levels"] - 1).bit_length()


def image_text(record: dict[str, Any]) -> str:
    """`1797 images of 8 x 8, grey, 17 levels, 10 classes`."""
    height, width, channels = record[IMAGES]
    kind = {1: "grey", 3: "colour"}.get(channels, plural(channels, "channel"))
    classes = f", {len(record['classes'])} classes" if record["classes"] else ""
    size = f"{height} x {width}, {kind}, {record['levels']} levels{classes}"
    return f"{plural(record['rows'], 'image')} of {size}"


def _as_levels(table: Path, read: Images, levels: int | None) -> tuple[np.ndarray, int]:
    # Pictures have all levels of their files.
    levels = 256 if levels is None and read.names is not None else levels
    with errors_of(table):
        return as_images(read.images, levels)


def _labels(read: Images) -> np.ndarray | None:
    return None if read.labels is None else np.array([normalise(each) for each in read.labels])
