"""Are error estimates right? Calibration of bounds, coverage of standard errors."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxflow.plotting.style import BLUE, GREY, VERMILION, diagonal, open_axes
from jaxflow.runtime.checks import as_matrix


def calibration(stated: ArrayLike, true: ArrayLike, ax: Any = None) -> Any:
    """Draw the true error of each row's log-density against its estimate.

    Rows below the diagonal are covered: their true error is at most the estimate.

    ```python
    from jaxflow import plotting

    plotting.calibration(stated=[1e-3, 1e-4], true=[-5e-4, 2e-4])
    ```

    Args:
        stated: estimates in nats, (n,), such as `log_prob_with_error(x).ode_error`.
        true: differences in nats, (n,), from an exact log-density or from one solved in float64
            with a tight tolerance; the sign is ignored.
        ax: matplotlib axes; None for new ones.

    Returns:
        The axes; the title gives the share of covered rows.

    Raises:
        ValueError: shapes that differ, no rows, NaN or infinity.
        ImportError: matplotlib is not installed.
    """
    stated, true = as_matrix(stated, "stated", "n"), np.abs(as_matrix(true, "true", "n"))
    if stated.shape != true.shape:
        raise ValueError(
            f"stated has shape {stated.shape} and true has shape {true.shape}; both must be (n,)"
        )
    ax = open_axes(ax)
    positive = np.concatenate([stated[stated > 0], true[true > 0]])
    low, high = (positive.min() / 2, positive.max() * 2) if positive.size else (1e-8, 1.0)
    covered = true <= stated
    for rows, colour in ((covered, BLUE), (~covered, VERMILION)):
        # An error of exactly 0 is drawn at the edge.
        points = np.maximum(stated[rows], low), np.maximum(true[rows], low)
        ax.scatter(*points, s=6, color=colour, alpha=0.6, linewidths=0)
    ax.plot([low, high], [low, high], color=GREY, linewidth=1)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    ax.set(xlabel="estimated error, nats", ylabel="true error, nats")
    ax.set_title(f"{covered.mean():.1%} of {len(stated)} rows covered")
    return ax


def coverage(pulls: ArrayLike, ax: Any = None, *, label: str | None = None) -> Any:
    """Draw the share of pulls inside each central interval against its normal probability.

    A pull is an error in units of its standard error, `(estimate - truth) / se`. On the diagonal
    the standard errors are right; below it they are too small.

    ```python
    import numpy as np
    from jaxflow import plotting

    plotting.coverage(np.random.default_rng(0).normal(size=100), label="pulls")
    ```

    Args:
        pulls: (n,).
        ax: matplotlib axes; None for new ones.
        label: name of the curve.

    Returns:
        The axes; the grey band holds 95 % of the curves of correct standard errors, pointwise.

    Raises:
        ValueError: no pulls, NaN or infinity.
        ImportError: matplotlib is not installed.
    """
    pulls = as_matrix(pulls, "pulls", "n")
    ax = open_axes(ax)
    from scipy.special import erf

    nominal = np.sort(erf(np.abs(pulls) / np.sqrt(2.0)))
    expected = np.linspace(0.0, 1.0, 201)
    share = np.searchsorted(nominal, expected, side="right") / len(nominal)
    diagonal(ax, len(nominal))
    ax.plot(expected, share, color=BLUE, linewidth=1.6, label=label)
    ax.set(xlabel="normal probability", ylabel="share of pulls within")
    if label is not None:
        ax.legend(frameon=False)
    return ax
