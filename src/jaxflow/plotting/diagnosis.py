"""A picture of an examination: the encoded data, and the errors of the log-densities."""

import math
from typing import Any

import numpy as np

# Okabe and Ito's blue and vermilion, which everyone can tell apart.
_BLUE, _VERMILION, _GREY = "#0072B2", "#D55E00", "#999999"
# Coordinates that are drawn at most, evenly spaced among all.
_COORDINATES = 40
# Between these quantiles lies each order statistic of normal draws in 99 % of cases.
_BAND = (0.005, 0.995)


def draw(diagnosis: Any) -> Any:
    """Draw the encoded data against N(0, I), and how many rows have which error.

    Left, each coordinate of `z = encode(x)` by its quantiles against those of N(0, 1), with the
    band that holds 99 % of normal draws at each place; in the middle `|z|^2` against its
    chi-square density; right, the part of rows whose log-density errs by more than x nats.

    Returns:
        The matplotlib figure, three axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'jaxflow-cnf[plot]'") from error
    figure, axes = plt.subplots(1, 3, figsize=(12.6, 3.9), layout="constrained")
    z = diagnosis.encoded[np.isfinite(diagnosis.encoded).all(axis=1)]
    if diagnosis.normality is None:
        why = diagnosis.skipped.get("base", "not measured")
        for ax in axes[:2]:
            _say(ax, f"base: {why}")
    else:
        _draw_quantiles(axes[0], z)
        _draw_radius(axes[1], z)
    _draw_errors(axes[2], diagnosis)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_quantiles(ax: Any, z: np.ndarray) -> None:
    from scipy import stats

    num, dim = z.shape
    rank = np.arange(1, num + 1)
    normal = stats.norm.ppf((rank - 0.5) / num)
    low, high = (stats.norm.ppf(stats.beta.ppf(q, rank, num + 1 - rank)) for q in _BAND)
    ax.fill_between(
        normal, low, high, color=_GREY, alpha=0.35, linewidth=0, label="99 % of N(0, 1)"
    )
    shown = np.unique(np.linspace(0, dim - 1, _COORDINATES).astype(int))
    for i, column in enumerate(np.sort(z[:, shown], axis=0).T):
        label = "encoded data, a coordinate a line" if i == 0 else None
        ax.plot(normal, column, color=_BLUE, linewidth=0.9, alpha=max(0.3, dim**-0.5), label=label)
    ax.set(xlabel="quantile of N(0, 1)", ylabel="quantile of z", title="Encoded data")
    ax.legend(frameon=False, loc="upper left")


def _draw_radius(ax: Any, z: np.ndarray) -> None:
    from scipy import stats

    dim, squares = z.shape[1], np.sum(z**2, axis=1)
    last = max(float(stats.chi2.ppf(0.999, dim)), float(np.quantile(squares, 0.99)))
    first = float(stats.chi2.ppf(0.001, dim)) if dim > 2 else 0.0
    first = min(first, float(np.quantile(squares, 0.01)))
    ax.hist(
        np.clip(squares, first, last),
        bins=min(40, max(10, math.isqrt(len(z)))),
        range=(first, last),
        density=True,
        color=_BLUE,
        alpha=0.6,
        label="encoded data",
    )
    at = np.linspace(first, last, 300)[1:]
    density = stats.chi2.pdf(at, dim)
    ax.plot(at, density, color=_VERMILION, label=f"chi-square, {dim} degrees of freedom")
    ax.set(xlabel="$|z|^2$", title="Distance from the origin", xlim=(first, last))
    # Room for the legend; in one dimension the density has no bound at 0.
    ax.set_ylim(0, 3 * float(stats.chi2.pdf(0.25, 1)) if dim == 1 else 1.3 * ax.get_ylim()[1])
    ax.legend(frameon=False)


def _draw_errors(ax: Any, diagnosis: Any) -> None:
    solves = diagnosis.solves
    errors = solves.ode_errors
    known = None if errors is None else np.sort(errors[np.isfinite(errors)])
    if known is None or not known.size:
        _say(ax, "these solves state no error")
        return
    above = 100 * (1 - np.arange(len(known)) / len(known))
    ax.step(np.maximum(known, 1e-17), above, where="pre", color=_BLUE, label="stated ODE error")
    ax.axvline(solves.atol_nats, color=_VERMILION, linewidth=1.2, label="asked for")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="error of a log-density, nats",
        ylabel="rows with at least that error, %",
        title="Errors of log-densities",
    )
    ax.legend(frameon=False, loc="best")


def _say(ax: Any, text: str) -> None:
    ax.text(0.5, 0.5, text, ha="center", va="center", wrap=True, transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])
