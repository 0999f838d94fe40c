"""A map of a density on the sphere."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxflow.plotting.periods import places
from jaxflow.plotting.style import LIGHT, Number, density_colours, pyplot
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import ArrayInput

# Samples that estimate the marginal density of a place, pixels from pole to pole, and the width of
# the kernels in radians: 3 degrees.
DRAWS, BINS, SMOOTH = 20_000, 60, 0.052
# Opacity of the lines of latitude and longitude.
_GRID = 0.25


def globe(
    flow: Any,
    x: ArrayInput | None = None,
    ax: Any = None,
    *,
    resolution: int = 128,
    longitude: Number = 0.0,
    cond: Any = None,
    columns: Sequence[int] | None = None,
    seed: int = 0,
) -> Any:
    """Draw the density of a flow on the sphere in Mollweide's projection, which keeps areas.

    The image is the density with respect to the area of the sphere, whether rows are unit vectors
    or latitudes and longitudes; points are drawn on top. If the flow has other columns too, it is
    the marginal density of the place, from 20,000 samples, smoothed over 3 degrees.

    ```python
    import jax
    from jaxflow import CNF, plotting
    from jaxflow.bases import UniformOn
    from jaxflow.dynamics import MLP, OnManifold
    from jaxflow.manifolds import Sphere
    from jaxflow.transforms import LatLon

    field = OnManifold(MLP(3, width=8, key=jax.random.key(0)), Sphere(2))
    flow = CNF(field, UniformOn(Sphere(2)), transform=LatLon())
    plotting.globe(flow, flow.sample(jax.random.key(1), 20), resolution=8)
    ```

    Args:
        flow: a flow of unit vectors, (3,), or of latitude and longitude behind a `LatLon`, alone
            or beside other columns in `Blocks`.
        x: rows to draw as points, in the units of the flow, (n, *event), or None.
        ax: matplotlib axes with `projection="mollweide"`; None for new ones.
        resolution: pixels from pole to pole, and half of those around, if the flow has no other
            columns.
        longitude: of the middle of the map, in degrees.
        cond: condition, one vector; None for a flow without.
        columns: numbers of the columns of the place to draw; None for the first place.
        seed: for the samples of a flow with other columns.

    Returns:
        The axes; their first collection holds the density, (resolution * 2 resolution,), or
        (60 * 120,) from samples.

    Raises:
        ValueError: the flow has no place in these columns, or `resolution` is out of range.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    check_count("resolution", resolution, least=2)
    chart, columns, alone = _place(flow, columns)
    middle = np.radians(float(longitude))
    if alone:
        lat, lon, vectors = _pixels(resolution, middle)
        rows, area = jnp.asarray(vectors.reshape(-1, 3)), 0.0
        if chart is not None:
            rows, area = jax.vmap(chart.inverse)(rows)
        log_p = np.asarray(flow.log_prob(rows, cond) + area, np.float64)
        values = np.exp(log_p).reshape(vectors.shape[:-1])
    else:
        lat, lon, vectors = _pixels(BINS, middle)
        drawn = np.asarray(flow.sample(jax.random.key(seed), DRAWS, cond))[:, list(columns)]
        values = _smooth(_vectors(chart, drawn[np.isfinite(drawn).all(axis=1)]), vectors)
    if ax is None:
        ax = plt.subplots(subplot_kw={"projection": "mollweide"})[1]
    colours = density_colours(values)
    ax.pcolormesh(lon, lat, values, shading="nearest", rasterized=True, **colours)
    if x is not None:
        points = np.asarray(x, np.float64).reshape(-1, *flow.event_shape)[:, list(columns)]
        points = _vectors(chart, points)
        turn = np.arctan2(points[:, 1], points[:, 0]) - middle
        place = (turn + np.pi) % (2 * np.pi) - np.pi, np.arcsin(np.clip(points[:, 2], -1, 1))
        ax.scatter(*place, s=2, color=LIGHT, alpha=0.5, linewidths=0)
    ax.grid(visible=True, color=LIGHT, alpha=_GRID, linewidth=0.5)
    ax.set_xticklabels([])
    ax.set_yticklabels([])
    return ax


def _place(flow: Any, columns: Sequence[int] | None) -> tuple[Any, tuple[int, ...], bool]:
    """The transform of a place, None for unit vectors; its columns; whether they are all."""
    shape, base = tuple(flow.event_shape), tuple(flow.base.event_shape)
    if base == (3,) and shape in ((2,), (3,)) and columns is None:
        return (flow.transform if shape == (2,) else None), tuple(range(*shape)), True
    all_places = places(getattr(flow, "transform", None), shape[0]) if len(shape) == 1 else []
    chosen = [each for each in all_places if columns is None or each[1] == tuple(columns)]
    if not chosen:
        raise ValueError(
            f"the flow has events of shape {shape} and a base of shape {base}, and "
            f"columns={columns}; globe draws flows on jaxflow.manifolds.Sphere(2), of unit "
            "vectors or behind a LatLon, alone or in Blocks; the places here are columns "
            f"{[each for _, each in all_places]}"
        )
    return *chosen[0], False


def _pixels(resolution: int, middle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latitudes and longitudes of pixels, away from poles and seam, and their unit vectors."""
    lat = (np.arange(resolution) + 0.5) / resolution * np.pi - np.pi / 2
    lon = (np.arange(2 * resolution) + 0.5) / resolution * np.pi - np.pi
    up, around = np.meshgrid(lat, lon + middle, indexing="ij")
    parts = np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)
    return lat, lon, np.stack(parts, axis=-1)


def _vectors(chart: Any, rows: np.ndarray) -> np.ndarray:
    """Rows as unit vectors."""
    if chart is None:
        return rows
    return np.asarray(jax.vmap(lambda row: chart.forward(row)[0])(jnp.asarray(rows)))


def _smooth(points: np.ndarray, pixels: np.ndarray) -> Float[np.ndarray, "up around"]:
    """The density of points per steradian at pixels, by von Mises-Fisher kernels."""
    kappa, lat = SMOOTH**-2.0, np.arcsin(np.clip(points[:, 2], -1, 1))
    rows = []
    for row in pixels:
        # Kernels are 0 further away.
        near = np.abs(lat - np.arcsin(row[0, 2])) < 6 * SMOOTH
        rows.append(np.exp(kappa * (row @ points[near].T - 1)).sum(axis=1))
    return np.stack(rows) / len(points) * kappa / (2 * np.pi)
