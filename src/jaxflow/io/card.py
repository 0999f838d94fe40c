"""A model card: the README.md beside a flow's file, as the Hugging Face Hub reads it."""

import importlib.metadata
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TAGS = ("jax", "normalizing-flows", "density-estimation")
# Columns that are listed.
MOST_COLUMNS = 100


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a reader of a flow's file should know, for `jaxflow.save(path, flow, card=...)`.

    `save` writes it as `README.md` in the folder of the file: metadata that the Hugging Face Hub
    reads, then data, columns, quality, the flow's parts and versions. Nothing is uploaded.

    ```python
    import jax
    import jaxflow

    field = jaxflow.dynamics.MLP(2, key=jax.random.key(0))
    flow = jaxflow.CNF(field, jaxflow.StandardNormal(2))
    card = jaxflow.ModelCard(
        title="Stars", license="cc-by-4.0", data="4,000 stars of a survey",
        columns=["mass", "age"], held_out=1.23, held_out_rows=400,
    )
    jaxflow.save("stars/flow.safetensors", flow, card=card)
    ```

    Attributes:
        title: name of the model.
        license: identifier on the Hub, such as `"apache-2.0"`; None to leave it out.
        data: what the rows are and where they come from.
        columns: names of the columns in order, with their units.
        held_out: mean negative log-density of held-out rows, in nats a row.
        held_out_se: its standard error.
        held_out_rows: their number.
        error: how exact log-densities are, such as the quantiles of
            `flow.log_prob_with_error(x).ode_error`.
        notes: more text, in Markdown: intended use, limits, how it was fitted.

    Raises:
        ValueError: `title` or `data` is empty, or `held_out` is not a finite number.
    """

    title: str
    data: str
    license: str | None = None
    columns: Sequence[str] = ()
    held_out: float | None = None
    held_out_se: float | None = None
    held_out_rows: int | None = None
    error: str = "not measured; flow.log_prob_with_error(x) states it for each row"
    notes: str = ""

    def __post_init__(self) -> None:
        for name in ("title", "data"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name}={getattr(self, name)!r} must be a text for the reader")
        if self.held_out is not None and not math.isfinite(self.held_out):
            raise ValueError(f"held_out={self.held_out} must be a finite number of nats a row")

    def text(self, flow: Any, file: str) -> str:
        """The card of a flow in `file`, as Markdown."""
        return f"---\n{self._metadata()}---\n{self._body(flow, file)}"

    def _metadata(self) -> str:
        lines = [f"license: {_quoted(self.license)}"] if self.license else []
        lines += ["library_name: jaxflow", "tags:", *(f"- {tag}" for tag in TAGS)]
        if self.held_out is not None:
            lines += [
                "model-index:",
                f"- name: {_quoted(self.title)}",
                "  results:",
                "  - task:",
                "      type: density-estimation",
                "    dataset:",
                "      type: tabular",
                f"      name: {_quoted(self.data)}",
                "    metrics:",
                "    - type: negative-log-likelihood",
                "      name: negative log-density of held-out rows, nats a row",
                f"      value: {self.held_out:.6f}",
            ]
        return "\n".join(lines) + "\n"

    def _body(self, flow: Any, file: str) -> str:
        quality = "not measured"
        if self.held_out is not None:
            se = "" if self.held_out_se is None else f" +- {self.held_out_se:.4f}"
            rows = "held-out rows" if self.held_out_rows is None else f"{self.held_out_rows} rows"
            quality = f"{self.held_out:.4f}{se} nats a row, the mean over {rows} held out"
        shown = [_line(name) for name in self.columns[:MOST_COLUMNS]]
        more = len(self.columns) - len(shown)
        shown += [f"and {more} more"] if more else []
        sections = {
            "Data": self.data,
            "Columns": "\n".join(f"{i}. {name}" for i, name in enumerate(shown, start=1)),
            "Quality": f"Negative log-density: {quality}.\n\n"
            f"Error of a log-density: {self.error}.",
            "Use": "```python\nimport jax\nimport jaxflow\n\n"
            f"flow = jaxflow.load({json.dumps(file)})\n"
            "x = flow.sample(jax.random.key(0), 1000)\nlog_p = flow.log_prob(x)  # nats\n```",
            "Notes": self.notes,
            "Model": "\n".join(f"    {line}" for line in str(flow).splitlines()),
            "Versions": _versions(),
        }
        parts = [f"# {_line(self.title)}"]
        parts += [f"## {name}\n{text.strip(chr(10))}" for name, text in sections.items() if text]
        return "\n\n".join(parts) + "\n"


def card_path(path: Any) -> Path:
    """The path of the card of a flow's file."""
    return Path(path).parent / "README.md"


def _versions() -> str:
    names = {"jaxflow": "jaxflow-cnf"} | {name: name for name in ("jax", "equinox", "numpy")}
    versions = []
    for name, distribution in names.items():
        try:
            versions.append(f"{name} {importlib.metadata.version(distribution)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} of a checkout")
    return ", ".join([*versions, f"Python {platform.python_version()}"])


def _line(text: str) -> str:
    """Text of a heading or a list, which ends at the end of the line."""
    return " ".join(str(text).split())


def _quoted(text: str) -> str:
    """A double-quoted YAML string: JSON's, with unprintable characters escaped as in YAML."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in quoted)
