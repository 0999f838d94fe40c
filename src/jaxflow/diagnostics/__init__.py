"""What can be asked of a field or a flow: is it what it says it is?"""

from jaxflow.diagnostics.check_trace import check_trace
from jaxflow.diagnostics.diagnose import diagnose
from jaxflow.diagnostics.diagnosis import Diagnosis
from jaxflow.diagnostics.gradients import gradients
from jaxflow.plotting.diagnosis import draw

__all__ = ["Diagnosis", "check_trace", "diagnose", "draw", "gradients"]
