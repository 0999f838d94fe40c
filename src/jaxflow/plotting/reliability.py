"""Are predicted quantiles right? The share of observations below each."""

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from jaxflow.plotting.style import BLUE, diagonal, open_axes
from jaxflow.runtime.checks import as_matrix, check_count


def reliability(
    levels: ArrayLike,
    observed: ArrayLike,
    ax: Any = None,
    *,
    num_rows: SupportsIndex | None = None,
    label: str | None = None,
) -> Any:
    """Draw the share of observations below each predicted quantile against its level.

    On the diagonal the predictions are calibrated. A curve that is first above the diagonal and
    then below it shows distributions that are too narrow; one that is always above it shows
    quantiles that are too high.

    ```python
    from jaxflow import plotting

    plotting.reliability([0.1, 0.5, 0.9], [0.08, 0.47, 0.93], num_rows=200)
    ```

    Args:
        levels: in (0, 1), (k,), such as `jaxflow.calibration_curve` returns.
        observed: shares, (k,).
        ax: matplotlib axes; None for new ones.
        num_rows: number of observations; draws the band that holds 95 % of the shares of
            calibrated predictions, at each level.
        label: name of the curve.

    Returns:
        The axes.

    Raises:
        ValueError: shapes that differ, no levels, or numbers outside [0, 1].
        ImportError: matplotlib is not installed.
    """
    at, share = as_matrix(levels, "levels", "k"), as_matrix(observed, "observed", "k")
    if at.shape != share.shape:
        raise ValueError(
            f"levels has shape {at.shape} and observed has shape {share.shape}; both must be (k,)"
        )
    for name, part in (("levels", at), ("observed", share)):
        if part.min() < 0 or part.max() > 1:
            raise ValueError(f"{name} holds {part.min():g} to {part.max():g}; give shares of 1")
    ax = open_axes(ax)
    diagonal(ax, None if num_rows is None else check_count("num_rows", num_rows))
    order = np.argsort(at)
    ax.plot(at[order], share[order], ".-", color=BLUE, linewidth=1.6, label=label)
    ax.set(xlabel="level of the predicted quantile", ylabel="share of observations below")
    if label is not None:
        ax.legend(frameon=False)
    return ax
