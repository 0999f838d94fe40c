"""What training minimises: pure `(flow, x, cond, key) -> (loss, metrics)`, one a file."""

from jaxflow.objectives.likelihood import maximum_likelihood

__all__ = ["maximum_likelihood"]
