"""What a table is fitted with where a person has chosen nothing, for every face alike."""

from jaxflow.transforms import Gaussianise, Standardise, Whiten

# Columns up to which a field of sines begins with higher frequencies, and how much higher:
# sharp densities of few columns want a field that can turn quickly.
FEW_COLUMNS, HIGH_FREQUENCY = 3, 4.0

SCALINGS = {"standardise": Standardise, "gaussianise": Gaussianise, "whiten": Whiten}


def usual_frequency(dim: int) -> float:
    """The frequency of a field's first layer of sines, for events of `dim` entries."""
    return HIGH_FREQUENCY if dim <= FEW_COLUMNS else 1.0


def usual_eval_every(steps: int) -> int:
    """Steps between two validations: a short fit has ten of them."""
    return max(1, min(100, steps // 10))
