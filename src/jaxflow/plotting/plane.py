"""A flow in the plane: its density at any time, and its paths."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxflow.bases import sample_rows
from jaxflow.plotting.style import DARK, LIGHT, VERMILION, Number, density_colours, pyplot
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.precision import sample_dtype

Limits = tuple[Number, Number, Number, Number]

# Colour map of the times, colours of start and end: on a light background, on a dark one.
_PATH_COLOURS = (("viridis", "#444444", VERMILION), ("plasma", "#8f8ca8", "#f0f921"))
# Points of a path, and samples that set the limits of a plot.
_PATH_POINTS, _FRAME_POINTS = 65, 512


def density(
    flow: Any,
    ax: Any = None,
    *,
    t: Number = 1.0,
    limits: Limits | None = None,
    resolution: int = 128,
    cond: Any = None,
) -> Any:
    """Draw the density `exp(log p_t(x))` of a flow in the plane as an image.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal, plotting
    from jaxflow.dynamics import Linear

    flow = CNF(Linear(2, key=jax.random.key(0)), StandardNormal(2))
    plotting.density(flow, t=0.5, resolution=8)
    ```

    Args:
        flow: a flow of events (2,) with an exact trace; a `CNF` if `t` is not 1.
        ax: matplotlib axes; None for new ones.
        t: time, base at 0 and data at 1; points are in data units at every time.
        limits: (left, right, bottom, top) in data units; None fits samples of the flow.
        resolution: pixels per side.
        cond: condition, one vector; None for a flow without.

    Returns:
        The axes; their image holds the density at the centres of its pixels.

    Raises:
        ValueError: events are not (2,), or `t`, `limits` or `resolution` is out of range.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    check_plane(flow, "density")
    check_count("resolution", resolution, least=2)
    limits = frame_of(flow, (t,), cond) if limits is None else check_limits(limits)
    values = _density_values(flow, t, limits, resolution, cond)
    ax = plt.subplots()[1] if ax is None else ax
    ax.imshow(values, origin="lower", extent=limits, aspect="equal", **density_colours(values))
    return ax


def trajectories(
    flow: Any,
    key: PRNGKeyArray,
    n: int = 50,
    ax: Any = None,
    *,
    limits: Limits | None = None,
    cond: Any = None,
    dark: bool = False,
) -> Any:
    """Draw the paths `x(t)` of n samples, from the base at `t = 0` to the data at `t = 1`.

    A path is dark at its start and light at its end; a ring marks the start, a dot the end.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal, plotting
    from jaxflow.dynamics import Linear

    key = jax.random.key(0)
    flow = CNF(Linear(2, key=key), StandardNormal(2))
    plotting.trajectories(flow, key, n=5)
    ```

    Args:
        flow: a `CNF` of events (2,).
        key: random key for the samples of the base.
        n: number of paths.
        ax: matplotlib axes; None for new ones.
        limits: (left, right, bottom, top) in data units; None fits the paths.
        cond: condition, one vector; None for a flow without.
        dark: choose colours for a dark background.

    Returns:
        The axes; their first collection holds the paths, the next two the starts and ends.

    Raises:
        ValueError: events are not (2,), or `n` or `limits` is out of range.
        TypeError: the flow is not a CNF.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    check_plane(flow, "trajectories", moving=True)
    check_count("n", n)
    limits = None if limits is None else check_limits(limits)
    times, paths = paths_of(flow, key, n, cond)
    ax = plt.subplots()[1] if ax is None else ax
    from matplotlib.collections import LineCollection

    time_map, ring, dot = _PATH_COLOURS[dark]
    # Segments between consecutive times, (n, times - 1, 2 ends, 2), coloured by time.
    points = paths.transpose(1, 0, 2)
    segments = np.stack([points[:, :-1], points[:, 1:]], axis=2)
    lines = LineCollection(
        list(segments.reshape(-1, 2, 2)),
        array=np.tile((times[:-1] + times[1:]) / 2, n),
        cmap=time_map,
        linewidths=0.9,
        alpha=0.85,
        capstyle="round",
    )
    lines.set_clim(0.0, 1.0)
    ax.add_collection(lines)
    ax.scatter(*paths[0].T, s=7, facecolors="none", edgecolors=ring, linewidths=0.6, zorder=3)
    ax.scatter(*paths[-1].T, s=7, color=dot, linewidths=0, zorder=4)
    ax.set_aspect("equal")
    if limits is not None:
        ax.set(xlim=limits[:2], ylim=limits[2:])
    else:
        ax.autoscale_view()
    return ax


def density_over_time(
    flow: Any,
    key: PRNGKeyArray,
    times: Sequence[Number] = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    n: int = 100,
    limits: Limits | None = None,
    resolution: int = 128,
    cond: Any = None,
) -> Any:
    """Draw the density at several times in a row, and the paths beside it.

    All panels have the same limits; the colours of each run from 0 to its own peak.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal, plotting
    from jaxflow.dynamics import Linear

    key = jax.random.key(0)
    flow = CNF(Linear(2, key=key), StandardNormal(2))
    figure = plotting.density_over_time(flow, key, (0.0, 1.0), n=5, resolution=8)
    ```

    Args:
        flow: a `CNF` of events (2,) with an exact trace.
        key: random key for the paths.
        times: times of the panels, base at 0 and data at 1.
        n: number of paths.
        limits: (left, right, bottom, top) in data units; None fits samples of the flow.
        resolution: pixels per side of a panel.
        cond: condition, one vector; None for a flow without.

    Returns:
        The matplotlib figure: one axes per time, and one for the paths.

    Raises:
        ValueError: events are not (2,), or an argument is out of range.
        TypeError: the flow is not a CNF.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    check_plane(flow, "density_over_time", moving=True)
    if len(times) == 0:
        raise ValueError("times=() is empty; pass times such as (0.0, 0.5, 1.0)")
    limits = frame_of(flow, (0.0, *times, 1.0), cond) if limits is None else limits
    left, right, bottom, top = check_limits(limits)
    height = 2.2 * (top - bottom) / (right - left) + 0.35
    margins = {"left": 0.004, "right": 0.996, "bottom": 0.02, "top": 1 - 0.33 / height}
    figure, axes = plt.subplots(
        1,
        len(times) + 1,
        figsize=(2.2 * (len(times) + 1), height),
        facecolor=DARK,
        gridspec_kw={**margins, "wspace": 0.03},
    )
    for ax, t in zip(axes, times, strict=False):
        density(flow, ax, t=t, limits=limits, resolution=resolution, cond=cond)
        ax.set_title(f"t = {_time_text(t)}", color=LIGHT, fontsize=11, pad=6)
    trajectories(flow, key, n, axes[-1], limits=limits, cond=cond, dark=True)
    axes[-1].set_title("paths x(t)", color=LIGHT, fontsize=11, pad=6)
    for ax in axes:
        ax.set(xticks=[], yticks=[], facecolor=DARK)
        ax.spines[:].set_visible(False)
    return figure


def _density_values(
    flow: Any, t: Number, limits: Limits, resolution: int, cond: Any
) -> Float[np.ndarray, "rows columns"]:
    """`exp(log p_t)` at the pixel centres; row 0 is at the bottom."""
    grid = pixel_centres(limits[:2], limits[2:], resolution)
    if hasattr(flow, "log_prob_at"):
        log_p = flow.log_prob_at(t, grid, cond)
    elif t == 1:
        log_p = flow.log_prob(grid, cond)
    else:
        raise ValueError(
            f"t={t}: a {type(flow).__name__} has a density at t=1 only; draw a CNF, or write t=1"
        )
    return np.exp(np.asarray(log_p, np.float64))


def pixel_centres(
    across: tuple[Number, Number], up: tuple[Number, Number], resolution: int
) -> Float[np.ndarray, "up across 2"]:
    """Points at the centres of the pixels of an image with these limits."""
    share = (np.arange(resolution) + 0.5) / resolution
    return np.stack(np.meshgrid(*(low + (high - low) * share for low, high in (across, up))), -1)


def paths_of(
    flow: Any, key: PRNGKeyArray, n: int, cond: Any, num_times: int = _PATH_POINTS
) -> tuple[Float[np.ndarray, " times"], Float[np.ndarray, "times n 2"]]:
    """Evenly spaced times, and n points in data units at each of them."""
    times = np.linspace(0.0, 1.0, num_times)
    start = _base_points(flow, key, n)
    return times, np.asarray(flow.transport(start, 0.0, 1.0, cond, save_at=times), np.float64)


def _base_points(flow: Any, key: PRNGKeyArray, n: int) -> Any:
    """Samples of the base in data units, `transform.inverse(z)`."""
    z = sample_rows(flow.base, jax.random.split(key, n), sample_dtype(flow))
    return z if flow.transform is None else jax.vmap(flow.transform.inverse)(z)[0]


def frame_of(flow: Any, times: Sequence[Number], cond: Any) -> Limits:
    """Limits, with a margin, that hold 99 % of the flow's samples at all of the times."""
    # A fixed key: two plots of a flow have the same limits.
    key = jax.random.key(0)
    if hasattr(flow, "transport"):
        start = _base_points(flow, key, _FRAME_POINTS)
        save_times = sorted({0.0, *(float(t) for t in times)})
        points = [np.asarray(start)]
        if save_times[-1] > 0:
            save_at = jnp.asarray(save_times, start.dtype)
            path = np.asarray(flow.transport(start, 0.0, save_times[-1], cond, save_at=save_at))
            points = [path[i] for i, t in enumerate(save_times) if t in times]
    else:
        points = [np.asarray(flow.sample(key, _FRAME_POINTS, cond))]
    quantiles = np.quantile(points, (0.005, 0.995), axis=1)
    low, high = quantiles[0].min(axis=0), quantiles[1].max(axis=0)
    margin = 0.12 * (high - low)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    return left, right, bottom, top


def check_limits(limits: Limits) -> Limits:
    """The limits, or a ValueError unless they are finite and in order."""
    left, right, bottom, top = limits
    if not (all(map(math.isfinite, limits)) and left < right and bottom < top):
        raise ValueError(
            f"limits={limits} must be (left, right, bottom, top) with left < right and "
            "bottom < top"
        )
    return left, right, bottom, top


def check_plane(flow: Any, function: str, *, moving: bool = False) -> None:
    """Raise unless the flow has events (2,) and, if `moving`, paths in time."""
    if tuple(flow.event_shape) != (2,):
        raise ValueError(
            f"the flow has events of shape {tuple(flow.event_shape)}; {function} draws the plane, "
            "events (2,)"
        )
    if moving and not hasattr(flow, "transport"):
        raise TypeError(
            f"flow is a {type(flow).__name__}, which has no times between base and data; "
            f"{function} needs a CNF"
        )


def _time_text(t: Number) -> str:
    """`0` or `1/4`; decimals if `t` is not a fraction with a small denominator."""
    fraction = Fraction(t).limit_denominator(16)
    return str(fraction) if math.isclose(fraction, t, abs_tol=1e-9) else f"{t:.3g}"
