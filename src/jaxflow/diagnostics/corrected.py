"""P-values corrected for their number, so that one threshold serves for all tests."""

from typing import Any

import numpy as np
from jaxtyping import Float


def holm(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Return p-values corrected for their number, whatever their dependence.

    With `p_(1) <= ... <= p_(m)` the corrected ones are `max_{j <= i} (m - j + 1) p_(j)`, at most
    1. If all m hypotheses are true, the probability that any of these is below `level` is at most
    `level` (Holm 1979, "A simple sequentially rejective multiple test procedure").
    """
    order = np.argsort(p)
    steps = np.arange(len(p), 0, -1) * p[order]
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def correct(parts: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Correct the p-values of all parts together; returns the parts and the number of p-values.

    The p-values of a part are its fields `p` and `..._p`. A part that was not measured is a text.
    """
    tests = [
        (name, field)
        for name, part in parts.items()
        for field in getattr(part, "_fields", ())
        if field == "p" or field.endswith("_p")
    ]
    p = holm(np.asarray([getattr(parts[name], field) for name, field in tests], float))
    parts = dict(parts)
    for (name, field), value in zip(tests, p, strict=True):
        parts[name] = parts[name]._replace(**{field: float(value)})
    return parts, len(tests)
