"""How a flow computes its trace: the words a user may write, and what `"auto"` stands for."""

from typing import Any, Literal

import equinox as eqx

from jaxflow.dynamics.protocol import has_closed_form
from jaxflow.trace.hutchinson import Hutchinson
from jaxflow.trace.protocol import Estimator, check_estimator
from jaxflow.trace.sketched import XTrace

# Up to this size the exact trace's few products are worth the noise that they spare a training
# step; `benchmarks/traces.py` measures 2 and 8 entries.
EXACT_TRAINING_SIZE = 4


class Exact(eqx.Module):
    """The exact trace: the field's closed form where it has one, else d products in chunks."""


class Auto(eqx.Module):
    """The exact trace, but Hutchinson's probe while training where exact is dear."""


# XTrace is by itself: its vectors depend on a first solve.
Trace = Literal["auto", "closed", "exact", "hutchinson"] | Auto | Exact | Estimator | XTrace

_WORDS = {"auto": Auto, "closed": Exact, "exact": Exact, "hutchinson": Hutchinson}


def as_trace(trace: Any, field: Any) -> Auto | Exact | Estimator | XTrace:
    """The trace that a word stands for; a trace is itself, jaxflow's or any `Estimator`.

    Raises:
        ValueError: an unknown word, or `"closed"` for a field without a closed form.
        TypeError: neither a word nor a trace; the text names what is missing.
    """
    if isinstance(trace, Auto | Exact | XTrace):
        return trace
    if not isinstance(trace, str):
        check_estimator(trace)
        return trace
    if trace not in _WORDS:
        raise ValueError(
            f"trace={trace!r} is unknown; choose one of {list(_WORDS)}, or "
            "jaxflow.Hutchinson(num_probes=...), jaxflow.HutchPlusPlus(...), "
            "jaxflow.XTrace(...), or a jaxflow.trace.Estimator of your own"
        )
    if trace == "closed" and not has_closed_form(field):
        raise ValueError(
            f"trace='closed', but {type(field).__name__} brings no closed form here. MLP and "
            "ConcatSquash of one or two hidden layers, Potential, Hollow, Linear and sums of them "
            "do; your own field joins by a method with_trace(t, x, cond=None) -> (f, trace), "
            "tested by jaxflow.diagnostics.check_trace(field, x). Else write trace='exact'"
        )
    return _WORDS[trace]()


def resolve(
    trace: Auto | Exact | Estimator | XTrace, field: Any, size: int, *, training: bool
) -> Exact | Estimator | XTrace:
    """What a trace is for this field and events of this size.

    `Auto` is exact, but for a training step whose field has no closed form and whose events
    have more than a few entries: there one probe.
    """
    if not isinstance(trace, Auto):
        return trace
    cheap = has_closed_form(field) or size <= EXACT_TRAINING_SIZE
    return Hutchinson() if training and not cheap else Exact()
