"""The base class of fields that are computed from other fields."""

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array

from jaxflow.dynamics.protocol import (
    check_field,
    evaluate,
    evaluate_with_trace,
    has_closed_form,
    prepare,
)
from jaxflow.runtime.shapes import Event, Scalar

# `evaluate` or `evaluate_with_trace`: called as `run(field, t, x, cond)`.
Run = Callable[..., Any]


class AbstractWrapper(eqx.Module):
    """A field computed from other fields, with a closed-form trace if they all have one.

    A subclass writes its equation once (`apply`). `inner` names its attribute that holds the
    inner field, or is `"fields"`, the tuple of them.
    """

    inner: ClassVar[str] = "field"

    def __check_init__(self) -> None:
        for i, part in enumerate(self.parts()):
            check_field(part, f"fields[{i}]" if self.inner == "fields" else self.inner)

    def parts(self) -> tuple[Any, ...]:
        """The inner fields."""
        inner = getattr(self, self.inner)
        return inner if self.inner == "fields" else (inner,)

    @abc.abstractmethod
    def apply(self, run: Run, t: Array, x: Array, cond: Array | None = None) -> Any:
        """Compute the value, or the value and the trace.

        Args:
            run: evaluates an inner field, `run(field, t, x, cond)`. It returns the value, or
                `(value, trace)`; `apply` must return the same kind.
            t: time.
            x: one event.
            cond: its condition, or None.
        """

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """`dx/dt` at one point."""
        return self.apply(evaluate, t, x, cond)

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond=None) -> (f, tr(df/dx))`; None if a part has no closed form."""
        if not all(map(has_closed_form, self.parts())):
            return None
        return functools.partial(self.apply, evaluate_with_trace)

    def prepare(self) -> "AbstractWrapper":
        """The same field with prepared parts; itself if the trace has no closed form."""
        if self.with_trace is None:
            return self
        prepared = tuple(map(prepare, self.parts()))
        return eqx.tree_at(lambda wrapper: wrapper.parts(), self, prepared)
