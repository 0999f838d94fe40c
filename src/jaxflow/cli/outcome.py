"""What a fit came to, in words."""

import shlex
from pathlib import Path
from typing import Any

from jaxflow.cli.reports import counted, show
from jaxflow.cli.targets import target_text


def held_out_text(record: dict[str, Any]) -> str:
    """The quality of a fit, with its standard error."""
    if "log_z" in record:
        return target_text(record)
    error = record["validation_se"]
    return (
        f"{record['validation']:.4f}{'' if error is None else f' +- {error:.4f}'} nats a row, "
        f"negative log-likelihood of {counted(record['rows_held_out'], 'row')} that chose the "
        "best weights"
    )


def prior_row(record: dict[str, Any]) -> dict[str, str]:
    """Of a diffusion model what its prior misses."""
    gap = record.get("prior_gap")
    return {} if gap is None else {"prior": f"misses the noised data by {gap:.2g} nats a row"}


def show_outcome(record: dict[str, Any], out: Path, table: Path) -> None:
    """Print what a fit came to, and what to do next."""
    following = shlex.join(["jaxflow", "sample", str(out), "--out", "samples.csv"])
    if "log_z" in record:
        rows = {"target": record["table"]}
    else:
        dropped = f", {record['rows_dropped']} dropped" if record["rows_dropped"] else ""
        rows = {
            "rows": f"{record['rows'] - record['rows_held_out']} for training, "
            f"{record['rows_held_out']} held out{dropped}"
        }
        if not table.is_dir():
            score = ["jaxflow", "score", str(out), str(table), "--out", "scores.csv"]
            following = shlex.join([*score, *["--drop-nan"] * bool(record["rows_dropped"])])
    show(
        rows
        | {
            "columns": ", ".join(record["columns"]),
            **({"classes": ", ".join(record["classes"])} if record["classes"] else {}),
            "transform": record["transform"],
            **prior_row(record),
            "quality" if "log_z" in record else "held-out": held_out_text(record),
            "time": f"{record['seconds']:.1f} s, {counted(record['steps'], 'step')}",
            "run": str(out),
            "next": following,
        },
        record | {"run": str(out)},
    )
