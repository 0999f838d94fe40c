"""The periods of the columns of a flow, from its transform."""

from typing import Any

# Where a period begins and its length; None for a column without.
Period = tuple[float, float] | None


def periods(transform: Any, dim: int) -> list[Period]:
    """The period of each column of the data.

    ```python
    from jaxflow.plotting import periods
    from jaxflow.transforms import LatLon

    print(periods(LatLon(), 2))  # [None, (-180.0, 360.0)]
    ```

    Args:
        transform: of a flow; None for none.
        dim: number of columns.

    Returns:
        For each column `(start, length)`, or None if it has no period.
    """
    found: list[Period] = [None] * dim
    for part in getattr(transform, "parts", (transform,)):
        first = 0
        for block in getattr(part, "blocks", (part,)):
            torus = getattr(block, "torus", block)
            if hasattr(torus, "period"):
                found_here: list[Period] = list(zip(torus.start, torus.period, strict=True))
            elif hasattr(block, "west"):
                found_here = [None, (block.west, block.turn)]
            else:
                first += block.event_shape[0] if hasattr(block, "event_shape") else 0
                continue
            for i, period in enumerate(found_here):
                column = getattr(part, "columns", range(dim))[first + i]
                found[column] = period
            first += len(found_here)
    return found
