"""Images side by side."""

import math
from typing import Any

import numpy as np

from jaxflow.plotting.style import open_axes


def grid(images: Any, ax: Any = None, *, wide: int | None = None, limits: Any = None) -> Any:
    """Draw images in rows, such as samples of a flow.

    ```python
    import numpy as np
    from jaxflow import plotting

    plotting.grid(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)), wide=5)
    ```

    Args:
        images: grey or colour images, (n, height, width, 1 or 3), or (n, height, width).
        ax: matplotlib axes; None for new ones.
        wide: images in a row; None for a square.
        limits: values drawn black and white; None for the smallest and the largest.

    Returns:
        The axes.

    Raises:
        ValueError: the array has another shape, or there is no image.
        ImportError: matplotlib is not installed.
    """
    values = np.asarray(images, float)
    values = values[..., None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[-1] not in (1, 3) or not len(values):
        raise ValueError(
            f"images has shape {np.shape(images)}, and (n, height, width, 1 or 3) is needed; "
            "images with the channels first are np.moveaxis(images, 1, -1)"
        )
    low, high = (values.min(), values.max()) if limits is None else limits
    values = np.clip((values - low) / max(high - low, np.finfo(float).tiny), 0, 1)
    wide = math.ceil(len(values) ** 0.5) if wide is None else wide
    tall = math.ceil(len(values) / wide)
    # A white line between images.
    height, width, channels = values.shape[1:]
    sheet = np.ones((tall, height + 1, wide, width + 1, channels))
    for k, image in enumerate(values):
        sheet[k // wide, :height, k % wide, :width] = image
    sheet = sheet.reshape(tall * (height + 1), wide * (width + 1), channels)[:-1, :-1]
    ax = open_axes(ax)
    ax.imshow(sheet[..., 0] if channels == 1 else sheet, cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()
    return ax
