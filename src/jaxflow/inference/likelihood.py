"""`Likelihood`: observations given parameters; and posteriors of several observations."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.mixture import mix
from jaxflow.flows.data_space import with_transform
from jaxflow.flows.ensemble import Ensemble, members
from jaxflow.flows.log_mass import cell_points
from jaxflow.inference.nuts import Chains, run_nuts
from jaxflow.inference.posterior import Posterior
from jaxflow.inference.priors import Prior, as_prior
from jaxflow.runtime.checks import check_count, check_rows
from jaxflow.training import History
from jaxflow.transforms import noise_of, without_noise


@dataclass(frozen=True)
class Likelihood:
    """The density `q(x | theta)` of an observation given parameters.

    `fit_likelihood` makes it. Independent observations of the same parameters multiply: any
    number of them, by one fit.

    ```python
    import jax
    import numpy as np
    from jaxflow.inference import fit_likelihood

    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, (300, 1))
    x = theta + 0.1 * rng.normal(size=(300, 1))
    likelihood = fit_likelihood(x, theta, key=jax.random.key(0), steps=100)
    print(likelihood.log_prob(x[:5], theta[0]))  # five independent observations
    ```

    Attributes:
        flow: the conditional flow, `flow.log_prob(x, theta)`.
        left_out: simulations that had NaN or infinity and were not used.
        history: the columns of `jaxflow.fit`, or None.
    """

    flow: Any
    left_out: int = 0
    history: History | None = None

    def log_prob(self, x: Any, theta: Any) -> Float[Array, "..."]:
        """Sum of the log-densities of independent observations, in nats.

        Counts and other entries on a grid have probabilities, the mean density of their cell at
        fixed points.

        Args:
            x: one observation (k,), or several of the same parameters, (n, k).
            theta: parameters, (d,) or, for a value each, (m, d).

        Returns:
            The log-likelihood, () or (m,).
        """
        # NumPy's float64 rows stay so until the flow has subtracted their offsets.
        rows: Any = jnp.atleast_2d(x) if isinstance(x, jax.Array) else np.atleast_2d(x)
        conditions = jnp.asarray(theta, float)
        each = jnp.atleast_2d(conditions)
        repeated = rows.repeat(len(each), axis=0)
        log_p = self._each(repeated, jnp.tile(each, (len(rows), 1)))
        total = log_p.reshape(len(rows), len(each)).sum(axis=0)
        return total[0] if conditions.ndim == 1 else total

    def _each(self, x: Any, theta: Array) -> Float[Array, " n"]:
        """The log-density of each row; on a grid the logarithm of its probability."""
        points, weights = cell_points(self.flow, x)
        each = [self.flow.log_prob(point, theta) for point in points]
        return mix(jnp.stack(each, axis=1), jnp.asarray(weights))

    def sample(self, key: PRNGKeyArray, num: int, theta: Any) -> Float[Array, "num k"]:
        """Draw `num` observations given parameters (d,): an emulator of the simulator."""
        return self.flow.sample(
            key, num, jnp.broadcast_to(jnp.asarray(theta, float), (num, np.size(theta)))
        )

    def sample_posterior(
        self,
        key: PRNGKeyArray,
        num: int,
        x_obs: Any,
        *,
        prior: Any,
        chains: int = 4,
        warmup: int = 300,
    ) -> Chains:
        """Sample the parameters of one or several independent observations by NUTS.

        Chains start at draws of the prior that are likely given `x_obs`. Chains that stay in
        different modes show in `r_hat`.

        Args:
            key: random key.
            num: draws of each chain.
            x_obs: observations, (k,) or (n, k).
            prior: as `as_prior` takes it, a box or a distribution of NumPyro.
            chains: number of chains.
            warmup: steps before the draws.

        Returns:
            The draws, with diagnostics of convergence.

        Raises:
            ImportError: NumPyro is not installed.
            ValueError: a prior without a gradient, or a bad observation.
        """
        x = np.atleast_2d(np.asarray(x_obs, np.float64))
        check_rows(x, "x_obs")
        prior = as_prior(prior, self.num_parameters)
        from jaxflow.interop.numpyro import FlowDistribution

        if (grid := noise_of(members(self.flow)[0].transform)) is not None:
            grid.check(x)
        # Counts often repeat.
        distinct, counts = np.unique(x, axis=0, return_counts=True)
        points, weights = cell_points(self.flow, distinct)
        rows, flow = jnp.asarray(np.concatenate(points), float), _without_grid(self.flow)

        def log_likelihood(theta: Array) -> Array:
            cond = jnp.broadcast_to(theta, (len(rows), *theta.shape))
            each = FlowDistribution(flow, cond=cond).log_prob(rows)
            each = each.reshape(len(points), len(distinct)).T
            log_p = mix(each, jnp.asarray(weights), grouped=False)
            return log_p @ jnp.asarray(counts, log_p.dtype)

        start_key, key = jax.random.split(key)
        start = _likely(start_key, prior, lambda theta: self.log_prob(x, theta), chains)
        return run_nuts(
            prior, log_likelihood, key=key, num=num, chains=chains, warmup=warmup, start=start
        )

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        first: Any = members(self.flow)[0]
        return int(first.field.encoder.shape[0])


def compose(
    posterior: Posterior,
    x_obs: Any,
    *,
    key: PRNGKeyArray,
    num: int = 500,
    chains: int = 4,
    warmup: int = 300,
) -> Chains:
    """Sample the posterior of n independent observations from the posterior of one.

    ```
    p(theta | x_1, ..., x_n)  ~  p(theta)^(1 - n) prod_i q(theta | x_i)
    ```
    by NUTS (Geffner, Papamakarios and Mnih 2023, "Compositional score modeling for
    simulation-based inference", arXiv 2209.14249, eq. 3, for densities). Errors of `q` add up
    over the observations; for many of them `fit_likelihood` or a set of observations
    (`embed=SetEncoder(...)`) is more accurate.

    Args:
        posterior: the posterior of one observation, with a prior as a box or of NumPyro.
        x_obs: observations, (n, k).
        key: random key.
        num: draws of each chain.
        chains: number of chains.
        warmup: steps before the draws.

    Returns:
        The draws, with diagnostics of convergence.

    Raises:
        ImportError: NumPyro is not installed.
        ValueError: a prior without a gradient, or a bad observation.
    """
    cond = posterior.checked(x_obs)
    count = check_count("number of observations", len(cond))
    prior, log_prior = posterior.prior, posterior.prior.gradient("compose")
    from jaxflow.interop.numpyro import FlowDistribution

    def log_likelihood(theta: Array) -> Array:
        each = FlowDistribution(posterior.flow, cond=cond)
        rows = jnp.broadcast_to(theta, (count, *theta.shape))
        return each.log_prob(rows).sum() - count * log_prior(theta)

    def total(theta: Any) -> Any:
        pairs = jnp.repeat(theta, count, axis=0), jnp.tile(cond, (len(theta), 1))
        value = posterior.flow.log_prob(*pairs).reshape(len(theta), count).sum(axis=1)
        return value - count * jax.vmap(log_prior)(theta)

    start_key, draw_key, key = jax.random.split(key, 3)
    proposals = [
        posterior.sample(each, 200 // count + 1, x)
        for each, x in zip(jax.random.split(draw_key, count), cond, strict=True)
    ]
    start = _likely(start_key, prior, total, chains, jnp.concatenate(proposals))
    return run_nuts(
        prior, log_likelihood, key=key, num=num, chains=chains, warmup=warmup, start=start
    )


def _without_grid(flow: Any) -> Any:
    """The density of values with noise, per unit."""
    if isinstance(flow, Ensemble):
        return flow.with_flows(tuple(map(_without_grid, flow.flows)))
    return with_transform(flow, without_noise(flow.transform))


def _likely(
    key: PRNGKeyArray, prior: Prior, log_likelihood: Any, num: int, draws: Any = None
) -> Any:
    """Rows drawn in proportion to the likelihood, out of draws of the prior by default."""
    draw_key, key = jax.random.split(key)
    theta = prior.sample(draw_key, 1000) if draws is None else draws
    theta = jnp.asarray(theta, float)
    value = log_likelihood(theta)
    value = jnp.where(jnp.isfinite(value), value, -jnp.inf)
    return theta[jax.random.categorical(key, value, shape=(num,))]
