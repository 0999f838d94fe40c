"""The transform of images: levels to cells, cells to the real line, each pixel to unit spread."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.transforms.bounded import Bounded
from jaxflow.transforms.chain import Chain
from jaxflow.transforms.dequantise import Dequantise
from jaxflow.transforms.samples import host_samples
from jaxflow.transforms.standardise import Standardise


def pixels(
    images: ArrayInput, levels: int = 256, *, noise: Any = None, key: PRNGKeyArray
) -> Chain:
    """Make the transform of images of levels `0, 1, ..., levels - 1`.

    It adds noise within the cell of each level, then takes `log((x + 1/2) / (levels - 1/2 - x))`,
    so that no mass lies outside the range (Dinh et al. 2017, "RealNVP", arXiv 1605.08803, section
    4.1), then scales each entry to mean 0 and standard deviation 1. The flow's samples are levels.

    ```python
    import jax
    from jaxflow.transforms import pixels

    key = jax.random.key(0)
    images = jax.random.randint(key, (20, 4, 4, 1), 0, 256)
    transform = pixels(images, key=key)
    ```

    Args:
        images: levels, (images, *event).
        levels: number of levels, 256 for images of 8 bits.
        noise: noise within the cells, as for `Dequantise`; None for uniform noise.
        key: for the noise on the images when means and standard deviations are estimated.

    Returns:
        A chain of `Dequantise`, `Bounded` and `Standardise`.

    Raises:
        ValueError: a value is not a level; the message names the entry and the row.
    """
    levels = check_count("levels", levels, 2)
    values, dtype = host_samples(images)
    shape = values.shape[1:]
    grid = Dequantise(jnp.ones(shape, dtype), noise=noise)
    limits = Bounded(jnp.full(shape, -0.5, dtype), jnp.full(shape, levels - 0.5, dtype))
    grid.check(values.astype(dtype))
    limits.check(values)
    rows = jnp.asarray(values.astype(dtype))
    spread = jax.vmap(grid.spread)(rows, jax.random.split(key, len(rows)))
    return Chain((grid, limits, Standardise.fit(np.asarray(jax.vmap(limits.forward)(spread)[0]))))
