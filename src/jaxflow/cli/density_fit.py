"""`jaxflow fit TABLE` with the default model: `jaxflow.fit_density`, beside simple densities."""

from pathlib import Path
from typing import Any

import numpy as np

import jaxflow
from jaxflow.cli.models import transform_text
from jaxflow.cli.settings import FitSettings
from jaxflow.cli.training import compared_results, ending_early, finish, note_proposal
from jaxflow.runtime.checks import check_columns
from jaxflow.training.folds import FOLD_ROWS
from jaxflow.transforms import Proposal, propose


def default_proposal(
    x: np.ndarray, record: dict[str, Any], kinds: dict[str, Any]
) -> Proposal | None:
    """What is proposed for the columns of a table, with the kinds that the user gave.

    None for many rows in flat space, which `jaxflow.fit` trains on as well, and can resume.
    """
    check_columns(x, record["columns"])
    proposal = propose(x, record["columns"], kinds)
    alone = proposal.surface is None and not record.get("given")
    return None if alone and len(x) > FOLD_ROWS else proposal


def fit_by_default(
    x: np.ndarray,
    cond: np.ndarray | None,
    proposal: Proposal,
    record: dict[str, Any],
    settings: FitSettings,
    folder: Path,
) -> dict[str, Any]:
    """Train on rows and what they are given; returns the record with the results.

    Ctrl-C ends the training early and keeps what was best so far.
    """
    if cond is not None:
        check_columns(cond, record["given"])
        proposal = proposal.given
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
