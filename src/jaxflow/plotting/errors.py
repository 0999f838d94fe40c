"""Whether stated errors are true: calibration, pulls and coverage."""

from typing import Any

import numpy as np

from jaxflow.plotting.style import BLUE, GREY, VERMILION, pyplot


def calibration(stated: Any, true: Any, ax: Any = None) -> Any:
    """Draw each row's true error of a log-density against the stated one.

    Rows below the line are covered: their true error is within the stated one.

    Args:
        stated: `log_prob_with_error(x).ode_error`, (n,), nats.
        true: the difference from a log-density that is known, or solved in float64 with a tight
            tolerance, (n,), nats; its sign is left out.
        ax: matplotlib axes; None for new ones.

    Returns:
        The axes; the title says what share of rows is covered.

    Raises:
        ValueError: shapes that differ, no rows, numbers that are not finite.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    stated, true = _pair(stated, true, "stated", "true")
    true = np.abs(true)
    ax = plt.subplots()[1] if ax is None else ax
    seen = np.concatenate([stated[stated > 0], true[true > 0]])
    low, high = (seen.min() / 2, seen.max() * 2) if seen.size else (1e-8, 1.0)
    covered = true <= stated
    for rows, colour in ((covered, BLUE), (~covered, VERMILION)):
        # An error of exactly 0 is drawn at the edge.
        points = np.maximum(stated[rows], low), np.maximum(true[rows], low)
        ax.scatter(*points, s=6, color=colour, alpha=0.6, linewidths=0)
    ax.plot([low, high], [low, high], color=GREY, linewidth=1)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    ax.set(xlabel="stated error, nats", ylabel="true error, nats")
    ax.set_title(f"{covered.mean():.1%} of {len(stated)} rows covered")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def coverage(pulls: Any, ax: Any = None, *, label: str | None = None) -> Any:
    """Draw the share of pulls within an interval against the share that a normal law has there.

    A pull is an error in units of its standard error, `(estimate - truth) / se`. On the diagonal
    the standard errors are right; below it they are too small.

    Args:
        pulls: (n,).
        ax: matplotlib axes; None for new ones.
        label: name of the curve.

    Returns:
        The axes; the grey band holds 95 % of curves of right standard errors, at each place.

    Raises:
        ValueError: no pulls, or one that is not finite.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    pulls, _ = _pair(pulls, pulls, "pulls", "pulls")
    ax = plt.subplots()[1] if ax is None else ax
    from scipy.special import erf

    nominal = np.sort(erf(np.abs(pulls) / np.sqrt(2.0)))
    n = len(nominal)
    expected = np.linspace(0.0, 1.0, 201)
    found = np.searchsorted(nominal, expected, side="right") / n
    half = 1.96 * np.sqrt(expected * (1 - expected) / n)
    ax.fill_between(expected, expected - half, expected + half, color=GREY, alpha=0.25, lw=0)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    ax.plot(expected, found, color=BLUE, linewidth=1.6, label=label)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set(xlabel="stated probability", ylabel="share of pulls within")
    ax.spines[["top", "right"]].set_visible(False)
    if label is not None:
        ax.legend(frameon=False)
    return ax


def _pair(a: Any, b: Any, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(
            f"{first} has shape {a.shape} and {second} has shape {b.shape}; both must be (n,)"
        )
    for name, values in ((first, a), (second, b)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"{name} has NaN or infinity, first in row {row}")
    return a, b
