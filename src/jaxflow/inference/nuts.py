"""Sample a prior times a likelihood by NumPyro's NUTS."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxflow.inference.priors import Prior
from jaxflow.runtime.extras import import_extra
from jaxflow.transforms import Bounded


class Chains(NamedTuple):
    """Draws of Markov chains, with diagnostics of their convergence.

    Attributes:
        theta: draws, (chains, draws, d).
        r_hat: potential scale reduction of each parameter, (d,); below 1.01 if chains agree.
        effective: effective sample size of each parameter, (d,).
        divergences: number of divergent transitions, which should be 0.
    """

    theta: Float[np.ndarray, "chains draws d"]
    r_hat: Float[np.ndarray, " d"]
    effective: Float[np.ndarray, " d"]
    divergences: int

    @property
    def draws(self) -> Float[np.ndarray, "n d"]:
        """All draws, (chains * draws, d)."""
        return self.theta.reshape(-1, self.theta.shape[-1])


def run_nuts(
    prior: Prior,
    log_likelihood: Callable[[Any], Any],
    *,
    key: PRNGKeyArray,
    num: int,
    chains: int,
    warmup: int,
    start: Any,
) -> Chains:
    """Sample `p(theta) exp(log_likelihood(theta))` on the prior's box; chains run as one batch.

    `log_likelihood` of one vector (d,) is differentiable by jax; chains start at `start`, (chains,
    d), inside the prior. Raises ImportError without NumPyro, and ValueError for a prior without a
    log-density in jax.
    """
    infer = import_extra("numpyro.infer", "numpyro", "NUTS needs NumPyro")
    diagnostics = import_extra("numpyro.diagnostics", "numpyro", "NUTS needs NumPyro")
    log_prior = prior.gradient("NUTS")
    limits = Bounded(jnp.asarray(prior.lower, float), jnp.asarray(prior.upper, float))

    def potential(u: Any) -> Any:
        theta, log_det = limits.inverse(u)
        return -(log_prior(theta) + log_likelihood(theta) + log_det)

    kernel = infer.NUTS(potential_fn=potential, max_tree_depth=8)
    mcmc = infer.MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=num,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    first, _ = jax.vmap(limits.forward)(jnp.asarray(start, limits.lower.dtype))
    mcmc.run(key, init_params=first[0] if chains == 1 else first, extra_fields=("diverging",))
    u = mcmc.get_samples(group_by_chain=True)
    theta = np.asarray(jax.vmap(jax.vmap(lambda u: limits.inverse(u)[0]))(u), np.float64)
    effective = np.asarray(diagnostics.effective_sample_size(theta))
    split = np.asarray(diagnostics.split_gelman_rubin(theta))
    divergences = int(np.sum(mcmc.get_extra_fields()["diverging"]))
    return Chains(theta, split, effective, divergences)
