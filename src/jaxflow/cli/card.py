"""`jaxflow check --card`: the model card of a run."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.cli.images import image_text
from jaxflow.cli.record import IMAGES
from jaxflow.cli.target_fit import target_text
from jaxflow.io.card import ModelCard
from jaxflow.runtime.text import plural


def card_of(run: Path, record: dict[str, Any], solves: Any) -> ModelCard:
    """The card of a finished run; `solves` are the solves of its checked rows, or None."""
    source = Path(record["table"]).name
    if "log_z" in record:
        data, notes = f"no rows: the log-density {source}", f"The fit: {target_text(record)}."
    else:
        kept = f"{plural(record['rows'], 'row')}, {record['rows_held_out']} of them held out"
        data = f"{source}, {kept}"
        notes = "The held-out rows also chose the best weights."
    if record.get("classes"):
        column = record["class_column"] or "labels"
        notes += f" Classes of {column}: {', '.join(record['classes'])}."
    if IMAGES in record:
        data = f"{source}: {image_text(record)}, {record['rows_held_out']} of them held out"
        notes += f" Held-out images: {record['bits_per_dim']}."
    return ModelCard(
        title=run.resolve().name,
        data=data,
        columns=record["columns"],
        held_out=record.get("validation"),
        held_out_se=record.get("validation_se"),
        held_out_rows=record.get("rows_held_out"),
        error="not measured" if solves is None else _error_text(solves),
        notes=notes,
    )


def _error_text(solves: Any) -> str:
    """How exact the log-densities of the checked rows are."""
    if not solves.has_solve:
        return "none but rounding: the density is in closed form"
    rows = plural(len(solves.log_prob), "row")
    failed = f"; {sum(map(len, solves.failed.values()))} failed" if solves.failed else ""
    errors = np.empty(0) if solves.ode_errors is None else solves.ode_errors
    errors = errors[np.isfinite(errors)]
    if not len(errors):
        return f"not estimated for {rows}{failed}"
    middle, most = np.median(errors), errors.max()
    return f"estimated over {rows}, median {middle:.2g} and at most {most:.2g} nats{failed}"
