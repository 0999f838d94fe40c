"""`History`: the columns of a training, a dict that prints as a table and draws itself."""

import html
import math
import sys
from collections.abc import Sequence
from typing import Any, final

import jax
from jax.tree_util import DictKey

# Rows of the table, and marks of a line of bars, at most.
ROWS, MARKS = 12, 48
SHOWN = ("step", "loss", "validation", "learning_rate")
# Rise of the validation after its lowest value, in nats, that counts as over-training.
OVER_TRAINED = 0.05
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.:-=+*#"


@final
class History(dict[str, list[int | float]]):
    """Columns of a training by name, one entry for each validation: a dict, as `fit` returns it.

    `print(history)` shows a table of a few of its rows, a notebook too; `repr` is a dict's. jax
    and files take it for a dict.

    ```python
    from jaxflow.training import History

    history = History(step=[1, 2], loss=[3.0, 2.0], validation=[3.1, 2.2])
    print(history)
    print(history["loss"][-1])
    ```
    """

    def plot(self, ax: Any = None) -> Any:
        """Draw training loss and validation by `jaxflow.plotting.history`.

        Args:
            ax: matplotlib axes; None for new ones.

        Returns:
            The axes.

        Raises:
            ValueError: the history lacks a column or is empty.
            ImportError: matplotlib is not installed.
        """
        from jaxflow import plotting

        return plotting.history(self, ax)

    def __str__(self) -> str:
        names = [name for name in SHOWN if len(self.get(name, ()))]
        if "step" not in names:
            return "no validation so far"
        best = _lowest(self.get("validation", ()))
        rows = [names]
        for i in _spread(len(self["step"]), ROWS, best):
            marks = ["<- lowest"] if i == best else []
            rows.append([_number(name, self[name][i]) for name in names] + marks)
        widths = [max(len(row[k]) for row in rows) for k in range(len(names))]
        lines = [_row(row, widths) for row in rows]
        for name in ("loss", "validation"):
            if name in names:
                lines.append(f"{name.ljust(12)}{_bars(self[name])}")
        return "\n".join([*lines, *filter(None, [self.verdict])])

    @property
    def verdict(self) -> str:
        """Which step was best, and whether the training went on too long; empty if it was last."""
        best = _lowest(self.get("validation", ()))
        if best is None or best == len(self["step"]) - 1:
            return ""
        text = f"best at step {self['step'][best]:,.0f} of {self['step'][-1]:,.0f}"
        rise = self["validation"][-1] - self["validation"][best]
        if rise > OVER_TRAINED:
            text += f"; validation rose by {rise:.3f} after it: over-trained"
        return text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _flatten(history: History) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
    names = tuple(sorted(history))
    return [(DictKey(name), history[name]) for name in names], names


jax.tree_util.register_pytree_with_keys(
    History, _flatten, lambda names, lists: History(zip(names, lists, strict=True))
)


def _row(cells: list[str], widths: list[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join(numbers + cells[len(widths) :])


def _number(name: str, value: int | float) -> str:
    if name == "step":
        return f"{value:,.0f}"
    return f"{value:.3g}" if name == "learning_rate" else f"{value:.3f}"


def _lowest(values: Sequence[int | float]) -> int | None:
    """The place of the lowest finite value."""
    finite = [i for i, value in enumerate(values) if math.isfinite(value)]
    return min(finite, key=lambda i: values[i], default=None)


def _spread(count: int, most: int, also: int | None = None) -> list[int]:
    """`most` places out of `count`, evenly from the first to the last, and `also`."""
    if count <= most:
        return list(range(count))
    places = {round(k * (count - 1) / (most - 1)) for k in range(most)}
    return sorted(places if also is None else places | {also})


def _bars(values: Sequence[int | float]) -> str:
    """A line of bars between the lowest and the highest finite value; a space for the others."""
    bars = BARS if _can_print(BARS) else PLAIN_BARS
    shown = [values[i] for i in _spread(len(values), MARKS)]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return "not finite"
    low, span = min(finite), max(finite) - min(finite)
    scale = (len(bars) - 1) / span if span else 0.0
    line = (bars[round((v - low) * scale)] if math.isfinite(v) else " " for v in shown)
    return f"{''.join(line)}  {low:.3f} to {max(finite):.3f}"


def _can_print(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
