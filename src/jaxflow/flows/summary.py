"""Flows in words: what `print(flow)` and a notebook show.

A part of any class is described by the name of its class and its public fields: settings by their
values, networks by the sizes of their layers, arrays by their shapes. A transform whose fields
are not one number for each column returns such numbers from a method `by_column`.
"""

import dataclasses
import functools
import html
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Parts within parts, entries of a tuple, and groups of columns that are shown.
DEPTH, ENTRIES, GROUPS = 4, 6, 6


def words(part: Any, depth: int = DEPTH) -> str:
    """A part of a flow, or a setting, in a line."""
    if part is None:
        return "none"
    if isinstance(part, str | bool | int):
        return str(part)
    if isinstance(part, float):
        return f"{part:g}"
    if hasattr(part, "shape") and hasattr(part, "dtype"):
        return str(tuple(part.shape))
    if isinstance(part, tuple | list):
        return _several(part, depth)
    if len(_weight_shape(part)) >= 2:  # a layer
        return _several((part,), depth)
    if isinstance(part, functools.partial):
        return f"{type(part).__name__}({words(part.func, depth)})"
    if hasattr(part, "__func__"):  # a bound method
        return f"{words(part.__self__, depth)}.{part.__func__.__name__}"
    if isinstance(part, type) or not dataclasses.is_dataclass(part):
        return getattr(part, "__name__", type(part).__name__)
    fields = (f.name for f in dataclasses.fields(part) if f.name[0] != "_" and depth)
    values = ((name, getattr(part, name, None)) for name in fields if name != "event_shape")
    inside = ", ".join(f"{name}={words(v, depth - 1)}" for name, v in values if v is not None)
    return type(part).__name__ + (f"({inside})" if inside else "")


def _several(parts: Any, depth: int) -> str:
    shapes = [_weight_shape(part) for part in parts]
    if parts and all(len(shape) >= 2 for shape in shapes):  # a network, perhaps stacked
        return "-".join(map(str, [shapes[0][-2], *(shape[-1] for shape in shapes)]))
    texts = [words(part, depth) for part in parts]
    if len(texts) > 1 and len(set(texts)) == 1:
        return f"{len(texts)} x {texts[0]}"
    more = [f"... {len(texts) - ENTRIES} more"] if len(texts) > ENTRIES else []
    return f"({', '.join(texts[:ENTRIES] + more)})"


def _weight_shape(part: Any) -> tuple[int, ...]:
    return getattr(getattr(part, "weight", None), "shape", ())


def size_words(part: Any) -> str:
    """The number of parameters of a part, and their dtypes."""
    leaves = [leaf for leaf in jax.tree.leaves(part) if hasattr(leaf, "dtype")]
    leaves = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not leaves:
        return "no parameters"
    dtypes = sorted({str(leaf.dtype) for leaf in leaves})
    return f"{sum(leaf.size for leaf in leaves):,} parameters, {' and '.join(dtypes)}"


def solve_words(ode: Any) -> str:
    """The settings of a solve, `jaxflow.ODE`, in a line."""
    steps = f"adaptive, rtol {ode.rtol:g}, atol {ode.atol:g}, at most {ode.max_steps:,} steps"
    if ode.num_steps is not None:
        steps = f"{ode.num_steps:,} steps"
    elif ode.dt is not None:
        steps = f"steps of at most {ode.dt:g}"
    elif ode.max_step is not None:
        steps += f" of at most {ode.max_step:g}"
    return f"{words(ode.solver, 0)}, {steps}; gradient {words(ode.gradient)}"


def transform_words(transform: Any) -> str:
    """The parts of a transform, then what they do with each column, a line for equal ones."""
    if transform is None:
        return "none"
    parts = getattr(transform, "parts", (transform,))
    shape = tuple(transform.event_shape)
    each = [_entry_words(part, shape) for part in parts]
    texts = ["; ".join(filter(None, entry)) for entry in zip(*each, strict=True)]
    noun = "column" if len(shape) == 1 else "entry"
    lines = [f"{where(noun, *ends)}: {text}" for text, *ends in _groups(texts) if text]
    if len(lines) > GROUPS:
        lines[GROUPS:] = [f"... {len(lines) - GROUPS} more lines"]
    return "\n".join([", then ".join(type(part).__name__ for part in parts), *lines])


def where(noun: str, first: int, last: int) -> str:
    """`column 3`, or `columns 3 to 5`."""
    if first == last:
        return f"{noun} {first}"
    return f"{noun.removesuffix('y') + 'ies' if noun[-1] == 'y' else noun + 's'} {first} to {last}"


def _entry_words(part: Any, shape: tuple[int, ...]) -> list[str]:
    """The numbers of a part for each entry of an event, without infinite ones."""
    names = [f.name for f in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else []
    fields: dict[str, Any] = {
        name: getattr(part, name, None) for name in names if name != "event_shape"
    }
    by_column = getattr(part, "by_column", None)
    if by_column is not None and all(map(has_values, fields.values())):
        fields = by_column()
    columns = {
        name: np.ravel(value)
        for name, value in fields.items()
        if has_values(value) and value.shape == shape
    }
    each = []
    for i in range(int(np.prod(shape))):
        known = [f"{name} {v[i]:.4g}" for name, v in columns.items() if np.isfinite(v[i])]
        each.append(f"{type(part).__name__} {', '.join(known)}" if known else "")
    return each


def has_values(value: Any) -> bool:
    """Whether this is an array whose values this process can read: no tracer, no shard."""
    is_array = isinstance(value, np.ndarray | jax.Array) and not isinstance(value, Tracer)
    return is_array and getattr(value, "is_fully_addressable", True)


def _groups(texts: list[str]) -> Iterator[tuple[str, int, int]]:
    """Runs of equal texts: the text, and the first and last index."""
    first = 0
    for i, text in enumerate(texts):
        if i + 1 == len(texts) or texts[i + 1] != text:
            yield text, first, i
            first = i + 1


def is_marked(flow: Any) -> bool:
    """Whether the flow holds booleans for arrays, as a mask of `jaxflow.trainable` does."""
    return any(isinstance(leaf, bool) for leaf in jax.tree.leaves(flow))


def as_text(title: str, rows: dict[str, str]) -> str:
    """A title and a row for each part."""
    width = max(map(len, rows)) + 2
    lines = [title]
    for label, text in rows.items():
        first, *rest = text.split("\n")
        lines += [label.ljust(width) + first, *(" " * (width + 2) + line for line in rest)]
    return "\n".join(lines)


def as_html(title: str, rows: dict[str, str]) -> str:
    """A title and a row for each part, as an HTML table in the colours of the page."""
    plain = "color:inherit;background:transparent;text-align:left;vertical-align:top"
    cells = "".join(
        f'<tr><th style="{plain}">{html.escape(label)}</th><td style="{plain}">'
        f"{'<br>'.join(map(html.escape, text.split(chr(10))))}</td></tr>"
        for label, text in rows.items()
    )
    caption = f'<caption style="color:inherit;text-align:left">{html.escape(title)}</caption>'
    return f'<table style="border-collapse:collapse">{caption}{cells}</table>'
