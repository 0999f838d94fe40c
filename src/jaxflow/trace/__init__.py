"""Traces of a field's Jacobian: exact, and by random probes."""

from jaxflow.trace.exact import exact_trace, has_closed_form, jacobian_trace, prepare
from jaxflow.trace.hutchinson import Hutchinson, hutchinson_trace

__all__ = [
    "Hutchinson",
    "exact_trace",
    "has_closed_form",
    "hutchinson_trace",
    "jacobian_trace",
    "prepare",
]
