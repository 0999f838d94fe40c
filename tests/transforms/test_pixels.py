"""The transform of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.transforms import TruncatedNormal, pixels

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 17, (300, 2, 3, 1))
IMAGES[:, 0, 0] = 0


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_pixels_are_normal_scores_and_come_back_as_levels(dtype):
    transform = pixels(IMAGES.astype(dtype), 17)
    grid, _ = transform.parts
    rows = jax.jit(jax.vmap(grid.spread))(
        jnp.asarray(IMAGES, grid.step.dtype), jax.random.split(KEY, 300)
    )
    u, _ = jax.jit(jax.vmap(transform.forward))(rows)
    np.testing.assert_allclose(u.mean(axis=0), 0.0, atol=0.2)
    np.testing.assert_allclose(u.std(axis=0), 1.0, atol=0.15)
    np.testing.assert_array_equal(jax.jit(jax.vmap(transform.inverse))(u)[0], IMAGES)


def test_noise_may_be_chosen():
    noise = TruncatedNormal(0.3)
    assert pixels(IMAGES, 17, noise=noise).parts[0].noise == noise


@pytest.mark.parametrize("images", [IMAGES + 1, IMAGES - 1, IMAGES / 16])
def test_values_that_are_no_levels_are_refused(images):
    with pytest.raises(ValueError, match=r"entry .* levels=17 allows"):
        pixels(images, 17)
