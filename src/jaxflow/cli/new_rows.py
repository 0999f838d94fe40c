"""`jaxflow check` on new rows: the flow beside simple densities that see its training rows."""

from itertools import takewhile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxflow.cli.record import trained_on_all
from jaxflow.cli.tables import hash_rows, read_rows
from jaxflow.data import split
from jaxflow.training.comparison import Comparison
from jaxflow.training.from_simple import compared
from jaxflow.training.starts import before_scaling, choose_start
from jaxflow.transforms import Chain, Gaussianise, Standardise, Whiten


def compare_new_rows(
    flow: Any, record: dict[str, Any], x: Float[np.ndarray, "n d"]
) -> Comparison | None:
    """Log-densities of rows that trained nothing; the simple densities are the best for them.

    None where there is nothing to compare: the training table is gone or has changed, the rows are
    of it, or the flow has conditions or lives on a manifold.
    """
    table = Path(record["table"])
    curved = getattr(getattr(flow, "field", None), "manifold", None) is not None
    if curved or record.get("given") or record["classes"] or not table.is_file() or len(x) < 2:
        return None
    old, _, _ = read_rows(record, table, drop_nan=True)
    if hash_rows(old) != record["table_sha256"] or hash_rows(x) == record["table_sha256"]:
        return None
    settings, train = record["settings"], np.arange(len(old))
    if not trained_on_all(record):
        train, _ = split(
            len(old), settings["validation"], record.get("split_seed", settings["seed"])
        )
    parts = getattr(flow.transform, "parts", (flow.transform,))
    is_scaling = (Standardise, Gaussianise, Whiten, type(None))
    before = tuple(takewhile(lambda part: not isinstance(part, is_scaling), parts))
    rows = jnp.asarray(np.concatenate([old[train], x]))
    fold = np.arange(len(train)), np.arange(len(train), len(rows))
    first = Chain(before) if before else None
    _, folds = before_scaling(rows, first, jax.random.key(settings["seed"]), [fold])
    log_p = np.asarray(flow.log_prob(x), np.float64)
    text = f"{len(x):,} rows that trained nothing"
    return Comparison(compared(log_p, choose_start(folds)), text)
