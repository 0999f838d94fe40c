"""Score matching: explicit, implicit, sliced and denoising losses differ by constants alone."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.diffusion import score_matching

STD = 0.7


def score_of(scale):
    """A wrong score of N(0, STD^2 I) unless scale is 1."""
    return lambda x: -scale * x / STD**2


def test_losses_differ_by_a_constant(key):
    x = STD * jax.random.normal(key, (20_000, 3))
    probes = jax.random.rademacher(key, (20_000, 3), float)
    noise = jax.random.normal(jax.random.fold_in(key, 1), x.shape)
    # Noisy data of the same law: alpha^2 + sigma^2 / STD^2 = 1.
    sigma = 0.3
    alpha = (1 - sigma**2 / STD**2) ** 0.5

    def losses(scale):
        score = score_of(scale)
        one = (
            jax.vmap(lambda x: score_matching.explicit(score, x, -x / STD**2))(x),
            jax.vmap(lambda x: score_matching.implicit(score, x))(x),
            jax.vmap(lambda x, v: score_matching.sliced(score, x, v))(x, probes),
            jax.vmap(lambda x, e: score_matching.denoising(score, x, e, alpha, sigma))(x, noise),
        )
        return [float(each.mean()) for each in one]

    right, wrong = losses(1.0), losses(0.5)
    gaps = np.asarray(wrong) - np.asarray(right)
    # E |s - s'|^2 / 2 = 3 (1 - 1/2)^2 / (2 STD^2).
    np.testing.assert_allclose(gaps, 3 * 0.25 / (2 * STD**2), rtol=0.05)


def test_the_true_score_is_a_stationary_point_of_the_implicit_loss(key):
    # d/dscale E[scale^2 |x|^2 / (2 STD^4) - 3 scale / STD^2] = 0 at 1.
    x = STD * jax.random.normal(key, (20_000, 3))

    def loss(scale):
        return jnp.mean(jax.vmap(lambda x: score_matching.implicit(score_of(scale), x))(x))

    assert abs(float(jax.grad(loss)(1.0))) < 0.15
