"""`check_images`: a copier is found, and the flow is compared with independent pixels."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from jaxtyping import Array

from jaxflow import CNF, ODE, StandardNormal
from jaxflow.diagnostics import check_images
from jaxflow.transforms import Dequantise, pixels

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SHAPE = (2, 2, 1)
EULER = ODE(solver="euler", num_steps=1)


def still(t, x, cond=None):
    return 0.0 * x


def test_independent_pixels_are_as_good_as_their_entropy():
    images = RNG.integers(0, 4, (3000, *SHAPE))
    transform = pixels(images, 4)
    flow = CNF(still, StandardNormal(SHAPE), transform=transform, ode_eval=EULER)
    found = check_images(flow, images[2900:], images[:2900], key=KEY, levels=4)
    assert found.independent == pytest.approx(2.0, abs=2e-3)
    assert found.bits.each.shape == (100,)
    assert found.bits.each.mean() == pytest.approx(found.bits.bits)
    assert found.of_samples.max() <= 3
    assert "better than independent pixels (2.0" in found.problems[0]
    assert "?? the solver states no error" in str(found)


class Copies(eqx.Module):
    """A mixture of narrow normals at some images."""

    means: Array
    event_shape: tuple[int, ...] = eqx.field(static=True, default=SHAPE)

    def log_prob(self, x):
        each = norm.logpdf(x[None], self.means, 0.1).sum(axis=(1, 2, 3))
        return logsumexp(each) - math.log(len(self.means))

    def sample(self, key):
        choose, draw = jax.random.split(key)
        mean = self.means[jax.random.randint(choose, (), 0, len(self.means))]
        return mean + 0.1 * jax.random.normal(draw, SHAPE, mean.dtype)


def test_a_flow_that_draws_its_training_images_copies():
    images = RNG.integers(0, 40, (220, *SHAPE))
    base = Copies(jnp.asarray(images[:20], jnp.float32))
    grid = Dequantise(jnp.ones(SHAPE, jnp.float32))
    flow = CNF(still, base, transform=grid, ode_eval=EULER)
    found = check_images(flow, images[20:], images[:20], key=KEY, levels=40)
    np.testing.assert_array_equal(found.samples, images[found.nearest])
    assert found.copying < 1e-10
    assert "samples may be copies" in found.problems[-1]
