"""The rows that `jaxflow check` tests: held-out ones of the run's own table, or new ones."""

from itertools import takewhile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxflow.cli.record import run_split, trained_on_all
from jaxflow.cli.tables import hash_rows, read_rows
from jaxflow.cli.terminal import note
from jaxflow.cli.training import beside_simple
from jaxflow.runtime.text import plural
from jaxflow.training.comparison import Comparison
from jaxflow.transforms import Chain, Gaussianise, Standardise, Whiten


def held_out_only(
    record: dict[str, Any], table: Path, count: int, noun: str = "row"
) -> Int[np.ndarray, " held"]:
    """Of the `count` rows that the run was fitted to, the numbers of the held-out ones."""
    held = np.sort(run_split(record, count)[1])
    note(
        f"the run was fitted to {table}, so only its {plural(len(held), f'held-out {noun}')} are "
        f"tested. They chose the best weights: new {noun}s would be a fairer test"
    )
    return held


def choose_rows(count: int, most: int, seed: int) -> Int[np.ndarray, " chosen"]:
    """The numbers of at most `most` of `count` rows, at random, in order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def compare_new_rows(
    flow: Any, record: dict[str, Any], x: Float[np.ndarray, "n d"]
) -> Comparison | None:
    """Log-densities of rows of a new table; the simple densities are the best for these rows.

    None where there is nothing to compare: the training table is gone or has changed, `x` is that
    table, or the flow has conditions or lives on a manifold.
    """
    table = Path(record["table"])
    curved = getattr(getattr(flow, "field", None), "manifold", None) is not None
    if curved or record.get("given") or record["classes"] or not table.is_file() or len(x) < 2:
        return None
    old, _, _ = read_rows(record, table, drop_nan=True)
    if hash_rows(old) != record["table_sha256"] or hash_rows(x) == record["table_sha256"]:
        return None
    train = np.arange(len(old)) if trained_on_all(record) else run_split(record, len(old))[0]
    parts = getattr(flow.transform, "parts", (flow.transform,))
    is_scaling = (Standardise, Gaussianise, Whiten, type(None))
    before = tuple(takewhile(lambda part: not isinstance(part, is_scaling), parts))
    first, key = Chain(before) if before else None, jax.random.key(record["settings"]["seed"])
    rows = np.concatenate([old[train], x])
    fold = np.arange(len(train)), np.arange(len(train), len(rows))
    log_p = beside_simple(flow, rows, first, key, *fold)
    return Comparison(log_p, f"{len(x):,} rows that trained nothing")
