"""`jaxflow fit TABLE` with the default model: `jaxflow.fit_density`, beside simple densities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxflow
from jaxflow.cli.mixed import kinds_as_typed, split_kinds
from jaxflow.cli.models import transform_text
from jaxflow.cli.settings import FitSettings
from jaxflow.cli.table_fit import fit_table
from jaxflow.cli.training import compared_results, ending_early, finish, note_proposal
from jaxflow.runtime.checks import check_columns
from jaxflow.training.folds import FOLD_ROWS
from jaxflow.transforms import propose


def fit_by_default(
    x: np.ndarray,
    cond: np.ndarray | None,
    kind: Sequence[str],
    record: dict[str, Any],
    settings: FitSettings,
    folder: Path,
    **options: Any,
) -> dict[str, Any]:
    """Train on rows and their conditions; returns the record with the results.

    Ctrl-C ends the training early and keeps what was best so far. Many rows in flat space are left
    to `fit_table`, which takes the `options` and can resume.
    """
    check_columns(x, record["columns"])
    with kinds_as_typed(kind):
        proposal = propose(x, record["columns"], split_kinds(kind))
    if cond is not None:
        check_columns(cond, record["given"])
        proposal = proposal.given
    elif proposal.surface is None and len(x) > FOLD_ROWS:
        return fit_table(x, cond, record, settings, folder, **options)
    note_proposal(proposal)
    with ending_early(folder, record, settings) as monitor:
        flow, history, comparison = jaxflow.fit_density(
            x,
            cond,
            transform=proposal,
            columns=record["columns"],
            width=settings.width,
            callback=monitor,
            **settings.options,
        )
    results = {
        "interrupted": monitor.interrupted,
        "transform": transform_text(flow.transform),
        **compared_results(comparison),
    }
    return finish(flow, history, record | results, folder)
