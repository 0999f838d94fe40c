"""A classifier of noisy samples."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.diffusion.gaussian import Known

import jaxflow
from jaxflow.diffusion import VariancePreserving, as_flow, classifier_guide
from jaxflow.dynamics import Residual
from jaxflow.transforms import Standardise

SCHEDULE = VariancePreserving()
CONFIG = jaxflow.TrainConfig(
    steps=300, batch_size=256, learning_rate=3e-3, eval_every=300, ema=0.9
)


def problem():
    """Two classes at -1 and 1 of deviation 0.5, in units that a transform takes away."""
    labels = np.arange(2000) % 2
    u = np.random.default_rng(0).normal(size=(2000, 1)) * 0.5 + (2 * labels - 1)[:, None]
    flow = as_flow(Known(SCHEDULE), 1, transform=Standardise(jnp.ones(1), jnp.full(1, 10.0)))
    return flow, 1 + 10 * u, labels


@pytest.mark.slow
def test_it_tells_the_posterior_at_every_noise(key):
    flow, x, labels = problem()
    classifier = Residual(1, outputs=2, width=32, depth=1, key=key)
    classifier = jaxflow.fit_classifier(
        classifier, flow, x, labels, key=key, config=CONFIG, progress=False
    )
    guide = eqx.filter_jit(classifier_guide(classifier, SCHEDULE))
    for s in (0.05, 0.3, 0.8):
        alpha, sigma = SCHEDULE.alpha(s), SCHEDULE.sigma(s)
        for u in (-0.5, 0.4):
            found = guide(jnp.asarray(s), jnp.asarray([u]), jnp.asarray([0.0, 1.0]))
            wanted = jax.nn.log_sigmoid(2 * alpha * u / (0.25 * alpha**2 + sigma**2))
            assert float(found) == pytest.approx(float(wanted), rel=0.1, abs=0.2)


def test_bad_labels_are_named(key):
    flow, x, labels = problem()
    classifier = Residual(1, outputs=2, width=8, depth=1, key=key)
    for bad, error, says in (
        (labels + 1, ValueError, r"labels run from 1 to 2, .* must lie in \[0, 1\]"),
        (labels[:5], ValueError, r"labels have shape \(5,\) for 2000 rows"),
        (labels.astype(float), TypeError, "labels have dtype float64; give integers from 0"),
    ):
        with pytest.raises(error, match=says):
            jaxflow.fit_classifier(classifier, flow, x, bad, key=key)
