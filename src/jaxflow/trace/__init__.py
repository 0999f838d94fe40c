"""Traces of a field's Jacobian: exact, or estimated from random probes."""

from jaxflow.dynamics.protocol import has_closed_form, prepare
from jaxflow.trace.choice import Auto, Exact, Trace, as_trace, resolve
from jaxflow.trace.exact import exact_trace, jacobian_trace
from jaxflow.trace.hutchinson import Hutchinson, hutchinson_trace
from jaxflow.trace.protocol import Estimator
from jaxflow.trace.sketched import HutchPlusPlus, XTrace

__all__ = [
    "Auto",
    "Estimator",
    "Exact",
    "HutchPlusPlus",
    "Hutchinson",
    "Trace",
    "XTrace",
    "exact_trace",
    "has_closed_form",
    "hutchinson_trace",
    "jacobian_trace",
    "prepare",
]
