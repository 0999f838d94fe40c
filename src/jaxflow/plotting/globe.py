"""A density on the sphere, as a map of all of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.plotting.style import LIGHT, Number, density_colours, pyplot
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import ArrayInput

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
) -> Any:
    """Draw the density of a flow on the sphere in Mollweide's projection, which keeps areas.

    The image is the density with respect to the area of the sphere, whether rows are unit vectors
    or latitudes and longitudes; points are drawn on top.

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
        flow: a flow of unit vectors, (3,), or of latitude and longitude behind a `LatLon`.
        x: rows to draw as points, in the units of the flow, (n, *event); None for none.
        ax: matplotlib axes with `projection="mollweide"`; None for new ones.
        resolution: pixels from pole to pole; twice as many around.
        longitude: of the middle of the map, in degrees.
        cond: condition, one vector; None for a flow without.

    Returns:
        The axes; their first collection holds the density, (resolution * 2 resolution,).

    Raises:
        ValueError: the flow is not one on the sphere, or `resolution` is out of range.
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    check_count("resolution", resolution, least=2)
    transform = _to_sphere(flow)
    # Centres of pixels, away from poles and seam.
    lat = (np.arange(resolution) + 0.5) / resolution * np.pi - np.pi / 2
    lon = (np.arange(2 * resolution) + 0.5) / resolution * np.pi - np.pi
    middle = np.radians(float(longitude))
    up, around = np.meshgrid(lat, lon + middle, indexing="ij")
    vectors = np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)
    rows, area = jnp.asarray(np.stack(vectors, axis=-1).reshape(-1, 3)), 0.0
    if transform is not None:
        rows, area = jax.vmap(transform.inverse)(rows)
    log_p = np.asarray(flow.log_prob(rows, cond) + area, np.float64)
    values = np.exp(log_p).reshape(up.shape)
    if ax is None:
        ax = plt.subplots(subplot_kw={"projection": "mollweide"})[1]
    colours = density_colours(values)
    ax.pcolormesh(lon, lat, values, shading="nearest", rasterized=True, **colours)
    if x is not None:
        points = np.asarray(x, np.float64).reshape(-1, *flow.event_shape)
        if transform is not None:
            points = np.asarray(jax.vmap(transform.forward)(jnp.asarray(points))[0])
        turn = np.arctan2(points[:, 1], points[:, 0]) - middle
        place = (turn + np.pi) % (2 * np.pi) - np.pi, np.arcsin(np.clip(points[:, 2], -1, 1))
        ax.scatter(*place, s=2, color=LIGHT, alpha=0.5, linewidths=0)
    ax.grid(visible=True, color=LIGHT, alpha=_GRID, linewidth=0.5)
    ax.set_xticklabels([])
    ax.set_yticklabels([])
    return ax


def _to_sphere(flow: Any) -> Any:
    """The chart of the flow; None if its rows are unit vectors."""
    shape, base = tuple(flow.event_shape), tuple(flow.base.event_shape)
    if base != (3,) or shape not in ((2,), (3,)):
        raise ValueError(
            f"the flow has events of shape {shape} and a base of shape {base}; globe draws flows "
            "on jaxflow.manifolds.Sphere(2), of unit vectors or behind a LatLon"
        )
    return flow.transform if shape == (2,) else None
