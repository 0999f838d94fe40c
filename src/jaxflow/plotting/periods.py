"""Which columns of a flow have a period, and which are points on a sphere, by its transform."""

from typing import Any

from jaxflow.manifolds import Sphere

# Start and length; None for a column without a period.
Period = tuple[float, float] | None


def periods(transform: Any, dim: int) -> list[Period]:
    """The period of each column of the data.

    ```python
    from jaxflow.plotting import periods
    from jaxflow.transforms import LatLon

    print(periods(LatLon(), 2))  # [None, (-180.0, 360.0)]
    ```

    Args:
        transform: the flow's transform, or None.
        dim: number of columns.

    Returns:
        For each column `(start, length)`, or None if it has no period.
    """
    result: list[Period] = [None] * dim
    for block, columns in _blocks(transform, dim):
        torus = getattr(block, "torus", block)
        if hasattr(torus, "period"):
            own: list[Period] = list(zip(torus.start, torus.period, strict=True))
        elif hasattr(block, "west"):
            own = [None, (block.west, block.turn)]
        else:
            continue
        for column, period in zip(columns, own, strict=True):
            result[column] = period
    return result


def places(transform: Any, dim: int) -> list[tuple[Any, tuple[int, ...]]]:
    """The points of a sphere among `dim` columns: the transform of each, and its columns."""
    blocks = _blocks(transform, dim)
    return [each for each in blocks if hasattr(each[0], "west") or each[0] == Sphere(2)]


def _blocks(transform: Any, dim: int) -> list[tuple[Any, tuple[int, ...]]]:
    """The parts of a transform, each with the columns it maps."""
    result = []
    for part in getattr(transform, "parts", (transform,)):
        columns = list(getattr(part, "columns", range(dim)))
        for block in getattr(part, "blocks", (part,)):
            size = block.event_shape[0] if hasattr(block, "event_shape") else 0
            result.append((block, tuple(columns[:size])))
            del columns[:size]
    return result
