"""`jaxflow check --report`: a run and its tests as one HTML file."""

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxflow import diagnostics, plotting
from jaxflow.cli.outputs import render, write_bytes
from jaxflow.cli.run_directory import HISTORY
from jaxflow.data import read_table
from jaxflow.diagnostics import Diagnosis
from jaxflow.plotting.periods import places
from jaxflow.runtime.text import plural

# Limits of the pair plots.
MAX_COLUMNS, MAX_ROWS = 6, 2000

STATISTICS = {
    "mean": np.mean,
    "standard deviation": np.std,
    "minimum": np.min,
    "median": np.median,
    "maximum": np.max,
}

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


class CheckResult(NamedTuple):
    """The outcome of a check.

    Attributes:
        checked: the diagnosis, the table check or the image check.
        model: the flow or the fitted table.
        examined: the rows that were tested, in words.
        text: what is printed.
        values: what `--json` prints; `"problems"` is a list of sentences.
        report: makes the sections of the report, HTML by heading, and its figures by caption.
        solves: the solves of the tested rows, or None.
    """

    checked: Any
    model: Any
    examined: str
    text: str
    values: dict[str, Any]
    report: Callable[[], tuple[dict[str, Any], dict[str, Any]]]
    solves: Any = None


def write_report(path: Path, run: Path, facts: Mapping[str, str], result: CheckResult) -> None:
    """Write the report on a run and on its tests, the verdict first, as one self-contained file.

    `facts` describe the run.
    """
    sections, figures = result.report()
    name = html.escape(run.resolve().name)
    verdict = [f"<li>{html.escape(problem)}</li>" for problem in result.values["problems"]]
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{name}: a density by jaxflow</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{name}</h1>",
        f"<p>Tested on {html.escape(result.examined)}: "
        + ("no problem found." if not verdict else f"{plural(len(verdict), 'problem')}.")
        + "</p>",
        f"<ul>{''.join(verdict)}</ul>" if verdict else "",
        table_html(["", ""], [[label, text] for label, text in facts.items()]),
    ]
    for heading, lines in sections.items():
        parts += [f"<h2>{heading}</h2>", *lines]
    parts += ["<h2>Pictures</h2>", *(_picture(*each) for each in figures.items())]
    write_bytes(path, "\n".join([*parts, "</body></html>\n"]).encode())


def numbers_report(
    columns: Sequence[str],
    x: Float[np.ndarray, "rows columns"],
    samples: Float[np.ndarray, "samples columns"],
    diagnosis: Diagnosis,
    flow: Any,
) -> tuple[dict[str, Sequence[str]], dict[str, Any]]:
    """Sections and figures of `write_report` on a table of numbers."""
    statistics = [[name, *_statistics(v)] for name, v in zip(columns, x.T, strict=True)]
    first, transform = slice(0, MAX_COLUMNS), getattr(flow, "transform", None)
    axes = plotting.corner(
        samples[:MAX_ROWS, first],
        x[:MAX_ROWS, first],
        columns=list(columns[first]),
        periods=plotting.periods(transform, x.shape[1])[first],
    )
    maps = {}
    for _, place in places(transform, x.shape[1]):
        names = ", ".join(columns[i] for i in place)
        map_of = plotting.globe(flow, x[:MAX_ROWS], columns=place)
        maps[f"Density and rows on the sphere: {names}"] = map_of.figure
    return {
        "Data": [table_html(["column", *STATISTICS], statistics)],
        "Log-density": _log_density(diagnosis.solves),
        "Tests": [text_html(str(diagnosis))],
    }, {
        "Samples and rows, two columns at a time": axes[0, 0].figure,
        **maps,
        "Encoded rows and errors": diagnostics.draw(diagnosis, columns),
    }


def history_figure(run: Path) -> Any:
    """The training curves of a run."""
    history = read_table(run / HISTORY)
    curves = dict(zip(history.columns, history.values.T.tolist(), strict=True))
    return plotting.history(curves).figure


def text_html(text: str) -> str:
    """Printed text as HTML."""
    return f"<pre>{html.escape(text)}</pre>"


def _picture(caption: str, figure: Any) -> str:
    data = base64.b64encode(render(figure, "png", dpi=110, bbox_inches="tight")).decode()
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure><figcaption>{caption}</figcaption>{image}</figure>"


def table_html(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """A table as HTML."""

    def cell(value: str | float) -> str:
        if isinstance(value, str):
            return f"<td>{html.escape(value)}</td>"
        return f'<td class="n">{value:.5g}</td>'

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header) if any(header) else ""
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _statistics(values: Float[np.ndarray, " rows"]) -> list[float]:
    values = values.astype(np.float64)
    return [float(statistic(values)) for statistic in STATISTICS.values()]


def _log_density(solves: Any) -> list[str]:
    """Statistics over the rows whose solve succeeded, and how many failed."""
    named = {"log-density, nats": solves.log_prob, "stated error, nats": solves.ode_errors}
    solved = {name: v[np.isfinite(v)] for name, v in named.items() if v is not None}
    rows = [[name, *_statistics(values)] for name, values in solved.items() if len(values)]
    failed, count = sum(map(len, solves.failed.values())), len(solves.log_prob)
    return [table_html(["", *STATISTICS], rows), f"<p>{failed} of {count} rows failed.</p>"]
