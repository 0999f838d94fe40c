"""What can be asked of a field or a flow: is it what it says it is?"""

from jaxflow.diagnostics.check_trace import check_trace

__all__ = ["check_trace"]
