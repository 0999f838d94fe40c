"""An animation of samples, and of the density, on their way from the base to the data."""

import os
from pathlib import Path
from typing import Any

from jaxtyping import PRNGKeyArray

from jaxflow.io.atomic import check_free
from jaxflow.plotting.plane import Limits, check_limits, check_plane, density, frame_of, paths_of
from jaxflow.plotting.style import DARK, DENSITY_MAP, Number, pyplot
from jaxflow.runtime.checks import check_count

# Visible on every colour of the density map.
_ON_DENSITY = "#4de1ff"


def animation(
    flow: Any,
    key: PRNGKeyArray,
    path: str | os.PathLike[str],
    n: int = 1000,
    *,
    frames: int = 33,
    seconds: Number = 3.0,
    limits: Limits | None = None,
    resolution: int | None = None,
    cond: Any = None,
    overwrite: bool = False,
) -> Path:
    """Write a GIF of n samples moving from the base at `t = 0` to the data at `t = 1`.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal, plotting
    from jaxflow.dynamics import Linear

    key = jax.random.key(0)
    flow = CNF(Linear(2, key=key), StandardNormal(2))
    plotting.animation(flow, key, "flow.gif", n=10, frames=2)
    ```

    Args:
        flow: a `CNF` of events (2,), with an exact trace if the density is drawn.
        key: random key for the samples of the base.
        path: the file, *.gif.
        n: number of samples.
        frames: number of frames, at evenly spaced times.
        seconds: duration; the last frame stays for one more second.
        limits: (left, right, bottom, top) in data units; None fits base and data.
        resolution: pixels per side of the density `p_t` behind the samples, whose colours run
            from 0 to the peak of each frame; None draws samples alone.
        cond: condition, one vector; None for a flow without.
        overwrite: replace an existing file.

    Returns:
        The file.

    Raises:
        ValueError: events are not (2,), a number is out of range, or another suffix.
        TypeError: the flow is not a CNF.
        FileExistsError: `path` exists and `overwrite` is False.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    check_plane(flow, "animation", moving=True)
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; an animation is a .gif")
    check_free(path, overwrite=overwrite)
    check_count("n", n)
    check_count("frames", frames, least=2)
    if resolution is not None:
        check_count("resolution", resolution, least=2)
    if not seconds > 0:
        raise ValueError(f"seconds={seconds} must be positive")
    limits = frame_of(flow, (0, 1), cond) if limits is None else check_limits(limits)
    times, points = paths_of(flow, key, n, cond, frames)

    from matplotlib.animation import FuncAnimation, PillowWriter

    figure = plt.figure(figsize=(4, 4), facecolor=DARK)
    ax = figure.add_axes((0, 0, 1, 1), xlim=limits[:2], ylim=limits[2:], aspect="equal")
    ax.set_axis_off()
    if resolution is not None:
        for t in times:
            density(flow, ax, t=t, limits=limits, resolution=resolution, cond=cond)
    behind = list(ax.images)
    light = _ON_DENSITY if behind else plt.get_cmap(DENSITY_MAP)(0.75)
    dots = ax.scatter(*points[0].T, s=6 if behind else 4, color=light, linewidths=0, alpha=0.8)
    clock = ax.text(0.03, 0.03, "", color=light, transform=ax.transAxes)
    rate = max(1, round(frames / seconds))

    def draw_frame(i: int) -> tuple[Any, ...]:
        i = min(i, frames - 1)
        dots.set_offsets(points[i])
        clock.set_text(f"t = {times[i]:.2f}")
        for k, picture in enumerate(behind):
            picture.set_visible(k == i)
        return dots, clock

    moving = FuncAnimation(figure, draw_frame, frames=frames + rate, blit=False)
    moving.save(path, writer=PillowWriter(fps=rate), savefig_kwargs={"facecolor": DARK})
    plt.close(figure)
    return path
