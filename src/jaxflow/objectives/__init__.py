"""What training minimises: pure `(flow, x, cond, key) -> (loss, metrics)`, one a file."""

from jaxflow.objectives.likelihood import MaximumLikelihood, maximum_likelihood

__all__ = ["MaximumLikelihood", "maximum_likelihood"]
