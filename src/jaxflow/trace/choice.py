"""The values of `CNF(trace=...)` and the meaning of `"auto"`."""

from typing import Any, Literal

import equinox as eqx

from jaxflow.dynamics.protocol import has_closed_form
from jaxflow.runtime.checks import check_choice
from jaxflow.trace.hutchinson import Hutchinson
from jaxflow.trace.protocol import Estimator, check_estimator
from jaxflow.trace.sketched import XTrace

# Up to this size training uses the exact trace: it costs little and has no probe noise
# (`benchmarks/traces.py` measures 2 and 8 entries).
EXACT_TRAINING_SIZE = 4


class Exact(eqx.Module):
    """The exact trace: the field's closed form if it has one, else d Jacobian-vector products.

    Example:
        ```python
        import jax
        from jaxflow import CNF, StandardNormal
        from jaxflow.dynamics import MLP
        from jaxflow.trace import Exact

        flow = CNF(MLP(3, width=8, key=jax.random.key(0)), StandardNormal(3), trace=Exact())
        ```
    """


class Auto(eqx.Module):
    """The exact trace, except in training steps for which it is expensive: one probe there.

    The trace is expensive for a field without a closed form on events of more than 4 entries.

    Example:
        ```python
        from jaxflow.trace import Auto, Hutchinson, resolve

        field = lambda t, x: -x
        assert resolve(Auto(), field, size=100, training=True) == Hutchinson()
        ```
    """


# XTrace is not an Estimator: its second set of vectors depends on a first solve.
Trace = Literal["auto", "closed", "exact", "hutchinson"] | Auto | Exact | Estimator | XTrace
"""How a flow computes the trace: a name, or an object with its settings."""

# What `trace` may be instead of a name, for a message.
OTHERS = ", or jaxflow.Hutchinson(num_probes=...), jaxflow.HutchPlusPlus(...), "
OTHERS += "jaxflow.XTrace(...), or a jaxflow.trace.Estimator of your own"
TRACE_NAMES = {"auto": Auto, "closed": Exact, "exact": Exact, "hutchinson": Hutchinson}


def as_trace(trace: Any, field: Any) -> Auto | Exact | Estimator | XTrace:
    """The trace object for a name; a trace object, also an `Estimator`, is returned unchanged.

    `"closed"` is exact and needs a field with a closed form. Raises ValueError for an unknown name
    or a field without a closed form, and TypeError for an object that lacks a method of a trace.
    """
    if isinstance(trace, Auto | Exact | XTrace):
        return trace
    if not isinstance(trace, str):
        check_estimator(trace)
        return trace
    check_choice("trace", trace, TRACE_NAMES, OTHERS)
    if trace == "closed" and not has_closed_form(field):
        raise ValueError(
            f"trace='closed', but {type(field).__name__} has no closed form here. MLP and "
            "ConcatSquash of one or two hidden layers, Potential, Hollow, Linear and sums of them "
            "have one; give your own field a method with_trace(t, x, cond=None) -> (f, trace), "
            "tested by jaxflow.diagnostics.check_trace(field, x), or write trace='exact'"
        )
    return TRACE_NAMES[trace]()


def resolve(
    trace: Auto | Exact | Estimator | XTrace, field: Any, size: int, *, training: bool
) -> Exact | Estimator | XTrace:
    """The trace that `Auto` means for this field; any other trace is returned unchanged.

    `size` is the number of entries of an event.
    """
    if not isinstance(trace, Auto):
        return trace
    cheap = has_closed_form(field) or size <= EXACT_TRAINING_SIZE
    return Hutchinson() if training and not cheap else Exact()
