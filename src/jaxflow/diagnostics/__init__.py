"""Checks of fields and flows: traces, gradients, and the trustworthiness of log-densities."""

from jaxflow.diagnostics.check_trace import check_trace
from jaxflow.diagnostics.diagnose import diagnose
from jaxflow.diagnostics.diagnosis import Diagnosis
from jaxflow.diagnostics.gradients import gradients
from jaxflow.diagnostics.unusual import ColumnGains, column_gains
from jaxflow.plotting.diagnosis import draw

__all__ = [
    "ColumnGains",
    "Diagnosis",
    "check_trace",
    "column_gains",
    "diagnose",
    "draw",
    "gradients",
]
