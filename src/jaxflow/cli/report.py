"""`jaxflow check --report`: a run and its examination as one HTML file."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.cli import run_directory
from jaxflow.cli.outputs import write_whole

# Columns of the pairs that are drawn, and rows.
MOST_COLUMNS, MOST_ROWS = 6, 2000

MOMENTS = ("mean", "standard deviation", "least", "median", "greatest")

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
    x: np.ndarray,
    samples: np.ndarray,
    found: Any,
) -> None:
    """Write a run's report; it needs no other file and loads nothing.

    Args:
        path: the file.
        run: the run directory.
        facts: what the run is, label -> words.
        columns: names of the columns.
        x: rows that were examined, (n, d).
        samples: the flow's, (m, d).
        found: what `diagnose` found.
    """
    parts = [
        f"<h1>{html.escape(run.name)}</h1>",
        _table(["", ""], [[label, words] for label, words in facts.items()]),
        "<h2>Data</h2>",
        _table(
            ["column", *MOMENTS],
            [[name, *_numbers(column)] for name, column in zip(columns, x.T, strict=True)],
        ),
        "<h2>Log-density</h2>",
        *_log_density(found.solves),
        "<h2>Examination</h2>",
        f"<pre>{html.escape(str(found))}</pre>",
        "<h2>Pictures</h2>",
        *_pictures(run, columns, x, samples, found),
    ]
    title = html.escape(f"{run.name}: a density by jaxflow")
    head = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>"
    )
    write_whole(path, "\n".join([head, *parts, "</body></html>\n"]).encode())


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Texts to the left, numbers to the right."""

    def cell(value: Any) -> str:
        if isinstance(value, str):
            return f"<td>{html.escape(value)}</td>"
        return f'<td class="n">{value:.5g}</td>'

    lines = ["".join(cell(value) for value in row) for row in rows]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header) if any(header) else ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _numbers(column: np.ndarray) -> list[float]:
    column = column.astype(np.float64)
    middle = float(np.median(column))
    return [float(column.mean()), float(column.std()), column.min(), middle, column.max()]


def _log_density(solves: Any) -> list[str]:
    """Of the rows that were solved; how many were not."""
    named = {"log-density, nats": solves.log_prob, "stated error, nats": solves.ode_errors}
    solved = {name: v[np.isfinite(v)] for name, v in named.items() if v is not None}
    rows = [[name, *_numbers(values)] for name, values in solved.items() if len(values)]
    failed, count = sum(map(len, solves.failed.values())), len(solves.log_prob)
    return [_table(["", *MOMENTS], rows), f"<p>{failed} of {count} rows failed.</p>"]


def _pictures(
    run: Path, columns: Sequence[str], x: np.ndarray, samples: np.ndarray, found: Any
) -> list[str]:
    from matplotlib import pyplot as plt

    from jaxflow import plotting
    from jaxflow.data import read_table
    from jaxflow.diagnostics import draw

    few = slice(0, MOST_COLUMNS)
    shown = list(columns[few])
    axes = plotting.corner(samples[:MOST_ROWS, few], x[:MOST_ROWS, few], columns=shown)
    history = read_table(run / run_directory.HISTORY)
    curves = dict(zip(history.columns, history.values.T.tolist(), strict=True))
    figures = {
        "Samples of the flow and the rows, two columns at a time": axes[0, 0].figure,
        "The encoded rows and the errors": draw(found),
        "The training": plotting.history(curves).figure,
    }
    parts = []
    for caption, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        plt.close(figure)
        data = base64.b64encode(buffer.getvalue()).decode()
        words = html.escape(caption)
        picture = f'<img alt="{words}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure><figcaption>{words}</figcaption>{picture}</figure>")
    return parts
