"""The plot of a diagnosis: the encoded data, and the errors of the log-densities."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxflow.plotting.style import BLUE, COLOURS, GREY, VERMILION, open_axes, pyplot
from jaxflow.runtime.checks import finite_rows

# Draw at most this many coordinates, evenly spaced; the least normal ones have colours.
_MAX_COORDINATES = 40
# Quantiles between which each order statistic of normal samples lies with probability 99 %.
_BAND = (0.005, 0.995)


def draw(diagnosis: Any, columns: Sequence[str] | None = None) -> Any:
    """Draw the encoded data against N(0, I), and the errors of the log-densities.

    Left: quantiles of each coordinate of `z = encode(x)` against those of N(0, 1), with the band
    that holds 99 % of normal samples at each place; the coordinates that differ most have colours
    and names. Middle: `|z|^2` against its chi-square density. Right: share of rows whose
    log-density has an error of at least x nats.

    ```python
    import jax
    from jaxflow import CouplingFlow
    from jaxflow.diagnostics import diagnose, draw

    key = jax.random.key(0)
    flow = CouplingFlow(2, num_layers=2, width=4, key=key)
    figure = draw(diagnose(flow, flow.sample(key, 100), key=key))
    ```

    Args:
        diagnosis: the result of `jaxflow.diagnostics.diagnose`.
        columns: names of the coordinates of `z`, one for each; others are not used.

    Returns:
        The matplotlib figure, with three axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(12.6, 3.9), layout="constrained")
    for ax in axes:
        open_axes(ax)
    z = diagnosis.encoded[finite_rows(diagnosis.encoded)]
    if diagnosis.normality is None:
        reason = diagnosis.skipped.get("base", "not normal")
        for ax in axes[:2]:
            _write_text(ax, f"base: {reason}")
    else:
        _draw_quantiles(axes[0], z, columns)
        _draw_radius(axes[1], z)
    _draw_errors(axes[2], diagnosis)
    return figure


def _draw_quantiles(ax: Any, z: Float[np.ndarray, "n d"], columns: Sequence[str] | None) -> None:
    from scipy import stats

    num, dim = z.shape
    rank = np.arange(1, num + 1)
    normal = stats.norm.ppf((rank - 0.5) / num)
    low, high = (stats.norm.ppf(stats.beta.ppf(q, rank, num + 1 - rank)) for q in _BAND)
    ax.fill_between(
        normal, low, high, color=GREY, alpha=0.35, linewidth=0, label="99 % of N(0, 1)"
    )
    coordinates = np.unique(np.linspace(0, dim - 1, _MAX_COORDINATES).astype(int))
    names = [f"coordinate {i}" for i in range(dim)]
    if columns is not None and len(columns) == dim:
        names = list(columns)
    lines = np.sort(z[:, coordinates], axis=0).T
    worst = np.argsort(-np.abs(lines - normal).mean(axis=1))[: len(COLOURS)].tolist()
    for i, line in enumerate(lines):
        label = names[coordinates[i]] if i in worst else None
        style = {"color": COLOURS[sorted(worst).index(i)]} if i in worst else {"color": GREY}
        ax.plot(normal, line, linewidth=0.9, label=label, zorder=2 + (i in worst), **style)
    ax.set(xlabel="quantile of N(0, 1)", ylabel="quantile of z", title="Encoded data")
    # The lines run along the diagonal; half of the picture above it is free.
    ax.set_ylim(top=ax.get_ylim()[1] + 1.5)
    ax.legend(frameon=False, loc="upper left", fontsize="small", handlelength=1.2)


def _draw_radius(ax: Any, z: Float[np.ndarray, "n d"]) -> None:
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
        color=BLUE,
        alpha=0.6,
        label="encoded data",
    )
    at = np.linspace(first, last, 300)[1:]
    density = stats.chi2.pdf(at, dim)
    ax.plot(at, density, color=VERMILION, label=f"chi-square, {dim} degrees of freedom")
    ax.set(xlabel="$|z|^2$", title="Distance from the origin", xlim=(first, last))
    # Room for the legend; in one dimension the density is unbounded at 0.
    ax.set_ylim(0, 3 * float(stats.chi2.pdf(0.25, 1)) if dim == 1 else 1.3 * ax.get_ylim()[1])
    ax.legend(frameon=False)


def _draw_errors(ax: Any, diagnosis: Any) -> None:
    solves = diagnosis.solves
    errors = solves.ode_errors
    known = None if errors is None else np.sort(errors[np.isfinite(errors)])
    if known is None or not known.size:
        _write_text(ax, "these solves estimate no error")
        return
    above = 100 * (1 - np.arange(len(known)) / len(known))
    ax.step(np.maximum(known, 1e-17), above, where="pre", color=BLUE, label="estimated ODE error")
    ax.axvline(solves.atol_nats, color=VERMILION, linewidth=1.2, label="target")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="error of a log-density, nats",
        ylabel="rows with at least that error, %",
        title="Errors of log-densities",
    )
    ax.legend(frameon=False, loc="best")


def _write_text(ax: Any, text: str) -> None:
    ax.text(0.5, 0.5, text, ha="center", va="center", wrap=True, transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])
