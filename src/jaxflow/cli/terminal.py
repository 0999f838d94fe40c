"""Printing: results to standard output, as text or JSON; notes to standard error."""

import json
import math
from typing import Any

import typer

_as_json = False


def use_json(enabled: bool) -> None:
    """Print the results of the command that follows as one JSON object."""
    global _as_json
    _as_json = enabled


def note(line: str) -> None:
    """Print a line to standard error."""
    typer.echo(line, err=True)


def print_result(text: str, values: dict[str, Any]) -> None:
    """Print `text` to standard output, or `values` as JSON with `--json`."""
    typer.echo(json.dumps(values, allow_nan=False) if _as_json else text)


def finite(value: float) -> float | None:
    """The number, or None in its place: JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


def print_facts(facts: dict[str, str], values: dict[str, Any]) -> None:
    """Print results as lines `label  text`, or `values` as JSON with `--json`."""
    width = max(map(len, facts))
    lines = [
        f"{typer.style(label.ljust(width), bold=True)}  {text}" for label, text in facts.items()
    ]
    print_result("\n".join(lines), values)
