"""The density of two columns with a period, as Ramachandran's plot of torsion angles."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxflow.plotting.periods import periods
from jaxflow.plotting.plane import pixel_centres
from jaxflow.plotting.style import LIGHT, density_colours, pyplot
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import ArrayInput

# Samples that estimate a marginal density, and bins of a side, which a wrapped normal of SMOOTH
# bins smooths.
DRAWS, BINS, SMOOTH = 20_000, 90, 1.5
# Exponent of the colours: these densities have sharp peaks.
GAMMA = 0.3


def torsions(
    flow: Any,
    x: ArrayInput | None = None,
    ax: Any = None,
    *,
    columns: tuple[int, int] = (0, 1),
    names: Sequence[str] | None = None,
    resolution: int = 128,
    seed: int = 0,
) -> Any:
    """Draw the density of two columns with a period, over one period of each.

    If the flow has other columns too, it is the marginal density of the two, from 20,000 samples.

    ```python
    import jax
    from jaxflow import CNF, plotting
    from jaxflow.bases import UniformOn
    from jaxflow.dynamics import MLP, OnManifold
    from jaxflow.manifolds import Torus
    from jaxflow.transforms import Angles

    field = OnManifold(MLP(4, width=8, key=jax.random.key(0)), Torus(2))
    flow = CNF(field, UniformOn(Torus(2)), transform=Angles(2, 360.0, -180.0))
    plotting.torsions(flow, names=("phi", "psi"), resolution=8)
    ```

    Args:
        flow: a flow behind `jaxflow.transforms.Angles`, or on a torus.
        x: rows to draw as points, in the units of the flow, (n, d), or None.
        ax: matplotlib axes; None for new ones.
        columns: numbers of the columns to draw, across and up.
        names: their names.
        resolution: pixels of a side, if the flow has two columns.
        seed: for the samples of a flow with more columns.

    Returns:
        The axes; their first image holds the density, (side, side).

    Raises:
        ValueError: a column has no period, or `resolution` is out of range.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    check_count("resolution", resolution, least=2)
    across, up = columns
    limits = periods(flow.transform, flow.event_shape[0])
    both = limits[across], limits[up]
    if both[0] is None or both[1] is None or across == up:
        raise ValueError(
            f"columns={columns} must be two columns with a period; those of the flow are "
            f"{[i for i, each in enumerate(limits) if each is not None]}"
        )
    sides = [(start, start + length) for start, length in (both[0], both[1])]
    values = _density(flow, columns, sides, resolution, seed)
    ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")[1] if ax is None else ax
    colours = density_colours(values, GAMMA)
    style = {"origin": "lower", "aspect": "auto", "interpolation": "nearest"}
    ax.imshow(values, extent=(*sides[0], *sides[1]), **style, **colours)
    if x is not None:
        points = np.asarray(x, np.float64)
        ax.scatter(points[:, across], points[:, up], s=2, color=LIGHT, alpha=0.4, linewidths=0)
    labels = names if names is not None else [f"x{i}" for i in columns]
    ax.set(xlim=sides[0], ylim=sides[1], xlabel=labels[0], ylabel=labels[1])
    ax.set_xticks(np.linspace(*sides[0], 5))
    ax.set_yticks(np.linspace(*sides[1], 5))
    return ax


def _density(
    flow: Any, columns: tuple[int, int], sides: list[Any], resolution: int, seed: int
) -> Float[np.ndarray, "up across"]:
    """The density of both columns at the centres of the pixels."""
    if flow.event_shape == (2,):
        grid = pixel_centres(sides[0], sides[1], resolution).reshape(-1, 2)
        rows = np.empty_like(grid)
        rows[:, list(columns)] = grid
        return np.exp(np.asarray(flow.log_prob(rows), np.float64)).reshape(resolution, resolution)
    drawn = np.asarray(flow.sample(jax.random.key(seed), DRAWS), np.float64)[:, list(columns)]
    counts, *_ = np.histogram2d(*drawn.T[::-1], bins=BINS, range=sides[::-1], density=True)
    wave = np.fft.fftfreq(BINS)
    damp = np.exp(-2 * (np.pi * SMOOTH * wave) ** 2)
    smooth = np.fft.ifft2(np.fft.fft2(counts) * np.outer(damp, damp)).real
    return np.maximum(smooth, 0.0)
