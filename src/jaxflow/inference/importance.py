"""Importance sampling of a posterior whose likelihood is known, to an effective sample size."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxflow.flows.importance import LEAST_NUM, ImportanceSample, weigh
from jaxflow.inference.posterior import Posterior
from jaxflow.runtime.checks import check_count
from jaxflow.trace import Exact

# Factor on the number of draws that the pilot predicts, for its error; and most attempts.
MARGIN, ATTEMPTS = 1.2, 4


class WeightedPosterior(NamedTuple):
    """Weighted draws of the exact posterior, and the sample that chose their number.

    Attributes:
        sample: the draws. `sample.log_z` is the log evidence `log p(x_obs)` with the standard
            error `sample.log_z_se`; `sample.pareto_k` up to 0.7 speaks for reliable weights.
        pilot: draws that chose the number of the final ones; 0 without a target. They are not
            used again, so that the choice does not bias the evidence.
        correction: mean number of nats taken off the log-weights for the noise of a stochastic
            trace; 0 for an exact trace.
    """

    sample: ImportanceSample
    pilot: int
    correction: float

    @property
    def num(self) -> int:
        """Number of final draws."""
        return len(self.sample.x)

    def resample(self, key: PRNGKeyArray, num: int) -> Any:
        """Draw `num` rows of equal weight, (num, d), with replacement."""
        index = jax.random.categorical(key, jnp.asarray(self.sample.log_weights), shape=(num,))
        return self.sample.x[index]


def importance_sample(
    posterior: Posterior,
    log_likelihood: Callable[[Any, Any], Any],
    x_obs: Any,
    *,
    key: PRNGKeyArray,
    num: int = 1000,
    target_ess: float | int | None = None,
    most: int = 1_000_000,
) -> WeightedPosterior:
    """Weight draws of a posterior by `p(theta) p(x_obs | theta) / q(theta | x_obs)`.

    With `target_ess`, the first `num` draws are a pilot, which measures the efficiency `ESS / n`.
    A second, independent sample has the number of draws that reach the target. If it falls short
    it becomes the pilot of another.

    With a stochastic trace, `log q` has noise of a known standard error s, and weights are too
    large by `exp(s^2 / 2)` in the mean; `s^2 / 2` is subtracted from each log-weight (the second
    cumulant). That is right for normal noise.

    What no weight can show is a mode that the posterior misses: see `jaxflow.importance_sample`.

    ```python
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jaxflow.inference import fit_posterior, importance_sample

    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, (300, 1))
    x = theta + 0.5 * rng.normal(size=(300, 1))
    key = jax.random.key(0)
    posterior = fit_posterior(theta, x, prior=(-1.0, 1.0), key=key, steps=100)
    result = importance_sample(
        posterior,
        lambda theta, x: jnp.sum(jax.scipy.stats.norm.logpdf(x, theta, 0.5)),
        x[0],
        key=key,
        num=100,
        target_ess=100,
    )
    print(result.sample.log_z, result.sample.log_z_se)
    ```

    Args:
        posterior: the proposal; its prior has a density.
        log_likelihood: `(theta, x_obs) -> log p(x_obs | theta)` of one vector (d,), in jax.
        x_obs: one observation.
        key: random key.
        num: number of draws, of the pilot if there is a target; at least 25.
        target_ess: effective sample size to reach; None for `num` draws.
        most: largest number of final draws.

    Returns:
        The weighted draws.

    Raises:
        ValueError: the target needs more than `most` draws, the likelihood is finite at no draw,
            or there are only samples of the prior.
    """
    check_count("num", num, LEAST_NUM)
    if target_ess is not None and not target_ess >= 1:
        raise ValueError(f"target_ess={target_ess} must be at least 1, or None")
    observed = posterior.checked(x_obs)
    likelihood = jax.jit(jax.vmap(lambda theta: log_likelihood(theta, observed)))

    def weighted_draws(key: PRNGKeyArray, num: int) -> tuple[ImportanceSample, float]:
        theta, log_q = posterior.sample_and_log_prob(key, num, x_obs)
        assert log_q is not None
        log_q, noise = _with_noise(posterior, theta, log_q, x_obs)
        log_p = np.asarray(likelihood(theta), np.float64) + posterior.prior.log_prob(theta)
        return weigh(theta, log_p - noise, log_q), float(noise.mean())

    keys = jax.random.split(key, 1 + ATTEMPTS)
    sample, correction = weighted_draws(keys[0], num)
    if target_ess is None:
        return WeightedPosterior(sample, 0, correction)
    pilot = num
    for each in keys[1:]:
        num = math.ceil(MARGIN * target_ess * len(sample.x) / sample.effective)
        if num > most:
            raise ValueError(
                f"target_ess={target_ess} needs about {num} draws, more than most={most}: the "
                f"effective size is {sample.effective:.0f} of {len(sample.x)} draws. Train the "
                "posterior longer or near x_obs (jaxflow.inference.fit_rounds), or ask for less"
            )
        pilot = len(sample.x)
        sample, correction = weighted_draws(each, max(num, LEAST_NUM))
        if sample.effective >= target_ess:
            break
    return WeightedPosterior(sample, pilot, correction)


def _with_noise(posterior: Posterior, theta: Any, log_q: Any, x_obs: Any) -> tuple[Any, Any]:
    """Log-densities in float64, and half the variance of each by a stochastic trace."""
    trace_for = getattr(posterior.flow, "trace_for", None)
    if trace_for is None or isinstance(trace_for(training=False), Exact):
        return np.asarray(log_q, np.float64), np.zeros(len(theta))
    answer = posterior.log_prob_with_error(theta, x_obs)
    if answer.trace_se is None:
        raise ValueError(
            "the flow's trace states no standard error, so weights cannot be corrected: write "
            'trace="exact", or more probes'
        )
    value = np.asarray(answer.value, np.float64)
    return value, 0.5 * np.asarray(answer.trace_se, np.float64) ** 2
