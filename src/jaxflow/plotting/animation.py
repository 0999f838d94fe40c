"""A flow that moves: its samples on their way from the base to the data."""

import os
from pathlib import Path
from typing import Any

from jaxtyping import PRNGKeyArray

from jaxflow.plotting.plane import (
    Limits,
    check_moving,
    check_plane,
    checked_limits,
    frame_of,
    paths_of,
)
from jaxflow.plotting.style import DARK, DENSITY_MAP, Number, pyplot


def animation(
    flow: Any,
    key: PRNGKeyArray,
    path: str | os.PathLike[str],
    n: int = 1000,
    *,
    frames: int = 33,
    seconds: Number = 3.0,
    limits: Limits | None = None,
    cond: Any = None,
    overwrite: bool = False,
) -> Path:
    """Write a GIF of n samples moving from the base at `t = 0` to the data at `t = 1`.

    Args:
        flow: a `CNF` of events (2,).
        key: for the samples of the base.
        path: the file, *.gif.
        n: number of samples.
        frames: pictures, at evenly spaced moments.
        seconds: how long it lasts; the last picture stays for a second more.
        limits: (left, right, bottom, top) in data units; None frames base and data.
        cond: condition, one vector; None for a flow without.
        overwrite: whether an existing file may be replaced.

    Returns:
        The file.

    Raises:
        ValueError: the flow is not of the plane, a number out of range, another suffix.
        TypeError: the flow has no paths in time.
        FileExistsError: `path` exists and `overwrite` is False.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    check_plane(flow, "animation")
    check_moving(flow, "animation")
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; an animation is a .gif")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    for name, value, least in (("n", n, 1), ("frames", frames, 2)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if not seconds > 0:
        raise ValueError(f"seconds={seconds} must be positive")
    left, right, bottom, top = (
        frame_of(flow, (0, 1), cond) if limits is None else checked_limits(limits)
    )
    times, points = paths_of(flow, key, n, cond, frames)

    from matplotlib.animation import FuncAnimation, PillowWriter

    figure = plt.figure(figsize=(4, 4), facecolor=DARK)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.set_axis_off()
    light = plt.get_cmap(DENSITY_MAP)(0.75)
    dots = ax.scatter(*points[0].T, s=4, color=light, linewidths=0, alpha=0.8)
    clock = ax.text(0.03, 0.03, "", color=light, transform=ax.transAxes)
    rate = max(1, round(frames / seconds))

    def draw(i: int) -> tuple[Any, ...]:
        # Beyond the last moment the picture stays.
        i = min(i, frames - 1)
        dots.set_offsets(points[i])
        clock.set_text(f"t = {times[i]:.2f}")
        return dots, clock

    moving = FuncAnimation(figure, draw, frames=frames + rate, blit=False)
    moving.save(path, writer=PillowWriter(fps=rate), savefig_kwargs={"facecolor": DARK})
    plt.close(figure)
    return path
