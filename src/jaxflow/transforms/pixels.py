"""The transform of images: levels to cells, cells to normal scores."""

from typing import Any

import jax.numpy as jnp

from jaxflow.runtime.shapes import ArrayInput
from jaxflow.transforms.chain import Chain
from jaxflow.transforms.dequantise import Dequantise
from jaxflow.transforms.levels import LevelScores


def pixels(images: ArrayInput, levels: int = 256, *, noise: Any = None) -> Chain:
    """Make the transform of images of levels `0, 1, ..., levels - 1`.

    Noise within the cell of each level, then normal scores by each entry's own frequencies of
    levels. Before its first update a flow has the density of independent pixels. The flow's
    samples are levels.

    ```python
    import jax
    from jaxflow.transforms import pixels

    images = jax.random.randint(jax.random.key(0), (20, 4, 4, 1), 0, 256)
    transform = pixels(images)
    ```

    Args:
        images: levels, (images, *event).
        levels: number of levels, 256 for images of 8 bits.
        noise: noise within the cells, as for `Dequantise`; None for uniform noise.

    Returns:
        A chain of `Dequantise` and `LevelScores`.

    Raises:
        ValueError: a value is no level; names the entry and the row.
    """
    scores = LevelScores.fit(images, levels)
    steps = jnp.ones(scores.event_shape, scores.frequencies.dtype)
    return Chain((Dequantise(steps, noise=noise), scores))
