"""`jaxflow check --report`: a run and its tests as one HTML file."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxflow import diagnostics, plotting
from jaxflow.cli.outputs import render, write_bytes
from jaxflow.cli.run_directory import HISTORY
from jaxflow.data import read_table
from jaxflow.diagnostics import Diagnosis

# Limits of the pair plots.
MAX_COLUMNS, MAX_ROWS = 6, 2000

STATISTICS = ("mean", "standard deviation", "minimum", "median", "maximum")

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; }
th { font-weight: 600; } th:not(:first-child), td.n { text-align: right; }
td.n { font-variant-numeric: tabular-nums; }
pre { background: #f6f6f4; padding: 1rem; white-space: pre-wrap; font-size: .85rem; }
.scroll { overflow-x: auto; } img { max-width: 100%; }
@media (prefers-color-scheme: dark) { body { background: #17171a; color: #ddd; }
  pre { background: #222; } img { background: white; } }
"""


def write_report(
    path: Path,
    run: Path,
    facts: Mapping[str, str],
    columns: Sequence[str],
    x: Float[np.ndarray, "rows columns"],
    samples: Float[np.ndarray, "samples columns"],
    diagnosis: Diagnosis,
    transform: Any = None,
) -> None:
    """Write the report on a run, described by `facts`, and on its tests with the rows `x`.

    `transform` is that of the flow, which knows the periods of columns.

    The file is complete and loads nothing else.
    """
    title = html.escape(f"{run.name}: a density by jaxflow")
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>' + title + "</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{html.escape(run.name)}</h1>",
        _table(["", ""], [[label, text] for label, text in facts.items()]),
        "<h2>Data</h2>",
        _table(
            ["column", *STATISTICS],
            [[name, *_statistics(values)] for name, values in zip(columns, x.T, strict=True)],
        ),
        "<h2>Log-density</h2>",
        *_log_density(diagnosis.solves),
        "<h2>Tests</h2>",
        f"<pre>{html.escape(str(diagnosis))}</pre>",
        "<h2>Pictures</h2>",
        *_pictures(run, columns, x, samples, diagnosis, transform),
        "</body></html>\n",
    ]
    write_bytes(path, "\n".join(parts).encode())


def _table(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    def cell(value: str | float) -> str:
        if isinstance(value, str):
            return f"<td>{html.escape(value)}</td>"
        return f'<td class="n">{value:.5g}</td>'

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header) if any(header) else ""
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _statistics(values: Float[np.ndarray, " rows"]) -> list[float]:
    values = values.astype(np.float64)
    functions = (np.mean, np.std, np.min, np.median, np.max)
    return [float(function(values)) for function in functions]


def _log_density(solves: Any) -> list[str]:
    """Statistics over the rows that were solved, and how many failed."""
    named = {"log-density, nats": solves.log_prob, "stated error, nats": solves.ode_errors}
    solved = {name: v[np.isfinite(v)] for name, v in named.items() if v is not None}
    rows = [[name, *_statistics(values)] for name, values in solved.items() if len(values)]
    failed, count = sum(map(len, solves.failed.values())), len(solves.log_prob)
    return [_table(["", *STATISTICS], rows), f"<p>{failed} of {count} rows failed.</p>"]


def _pictures(
    run: Path,
    columns: Sequence[str],
    x: np.ndarray,
    samples: np.ndarray,
    diagnosis: Diagnosis,
    transform: Any,
) -> list[str]:
    first = slice(0, MAX_COLUMNS)
    axes = plotting.corner(
        samples[:MAX_ROWS, first],
        x[:MAX_ROWS, first],
        columns=list(columns[first]),
        periods=plotting.periods(transform, x.shape[1])[first],
    )
    history = read_table(run / HISTORY)
    curves = dict(zip(history.columns, history.values.T.tolist(), strict=True))
    figures = {
        "Samples and rows, two columns at a time": axes[0, 0].figure,
        "Encoded rows and errors": diagnostics.draw(diagnosis),
        "Training history": plotting.history(curves).figure,
    }
    parts = []
    for caption, figure in figures.items():
        data = base64.b64encode(render(figure, "png", dpi=110, bbox_inches="tight")).decode()
        image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure><figcaption>{caption}</figcaption>{image}</figure>")
    return parts
