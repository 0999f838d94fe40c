"""Laws of one discrete cell: exact probabilities of labels and of numbers in steps.

A law turns a vector of parameters into the probability of a cell. Cells are codes: the number of
a label, or the number of steps from an origin. What depends on a cell alone is computed in float64
on the host (`cells`, `encode`). Probabilities are those of NumPy arrays or of jax arrays.
"""

from jaxflow.tables.labels import Labels
from jaxflow.tables.steps import Steps

Law = Labels | Steps
