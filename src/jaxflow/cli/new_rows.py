"""`jaxflow check` on new rows: the flow beside simple densities that see its training rows."""

from itertools import takewhile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxflow.cli.record import run_split, trained_on_all
from jaxflow.cli.tables import hash_rows, read_rows
from jaxflow.training.comparison import Comparison
from jaxflow.training.from_simple import compared
from jaxflow.training.starts import before_scaling, choose_start
from jaxflow.transforms import Chain, Gaussianise, Standardise, Whiten


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
    rows = jnp.asarray(np.concatenate([old[train], x]))
    fold = np.arange(len(train)), np.arange(len(train), len(rows))
    first = Chain(before) if before else None
    _, folds = before_scaling(rows, first, jax.random.key(record["settings"]["seed"]), [fold])
    log_p = np.asarray(flow.log_prob(x), np.float64)
    text = f"{len(x):,} rows that trained nothing"
    return Comparison(compared(log_p, choose_start(folds)), text)
