"""Sequential rounds: simulate where the posterior at one observation is, and fit again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxflow.inference.fit import fit_posterior
from jaxflow.inference.posterior import Posterior
from jaxflow.inference.priors import Prior, as_prior, is_frozen
from jaxflow.runtime.checks import check_choice, check_count, check_share
from jaxflow.runtime.keys import numpy_rng

PROPOSALS = ("truncated", "posterior")
# Draws that find the edge of the truncated prior, and how far beyond their range it may reach.
EDGE_DRAWS, MARGIN = 4000, 0.1
# Draws of the prior in a batch, and batches without enough of them in the region.
BATCH, MOST_BATCHES = 4096, 500


def truncated_prior(
    posterior: Posterior, x_obs: Any, *, key: PRNGKeyArray, mass: float = 1e-4
) -> Prior:
    """The prior, restricted to the highest-density region of a posterior at one observation.

    The region leaves out the share `mass` of the posterior's draws. Within it the density is
    that of the prior, so that simulations from it need no correction (Deistler, Goncalves and
    Macke 2022, "Truncated proposals for scalable and hassle-free simulation-based inference",
    arXiv 2210.04815).

    Args:
        posterior: has a prior with a density.
        x_obs: one observation.
        key: for the draws that find the region.
        mass: share of the posterior outside the region.

    Returns:
        A prior whose `sample` draws from the region, by rejection. Its `log_prob`, the prior's
        inside and -inf outside, is not normalised.

    Raises:
        ValueError: `mass` is not in (0, 1), or there are only samples of the prior.
    """
    check_share("mass", mass, 1e-4)
    prior = posterior.prior
    draws, value = posterior.sample_and_log_prob(key, EDGE_DRAWS, x_obs)
    edge, draws = float(np.quantile(np.asarray(value), mass)), np.asarray(draws, np.float64)
    low, high = draws.min(axis=0), draws.max(axis=0)
    margin = MARGIN * (high - low)
    low, high = np.maximum(low - margin, prior.lower), np.minimum(high + margin, prior.upper)

    def inside(theta: np.ndarray) -> np.ndarray:
        ok = np.all((theta > low) & (theta < high), axis=1)
        if ok.any():
            ok[ok] = np.asarray(posterior.log_prob(theta[ok], x_obs)) >= edge
        return ok

    def log_density(theta: Any) -> Any:
        theta = np.asarray(theta, np.float64)
        return np.where(inside(theta), prior.log_prob(theta), -np.inf)

    # A uniform prior is drawn from the smallest box around the region.
    is_box = np.isfinite(prior.lower).all() and np.isfinite(prior.upper).all()
    uniform = is_box and prior.is_uniform

    def draw(key: PRNGKeyArray, num: int) -> Any:
        kept: list[np.ndarray] = []
        for each in jax.random.split(key, MOST_BATCHES):
            if uniform:
                theta = numpy_rng(each).uniform(low, high, (BATCH, len(low)))
            else:
                theta = prior.sample(each, BATCH)
            kept.append(theta[inside(theta)])
            if sum(map(len, kept)) >= num:
                return np.concatenate(kept)[:num]
        raise ValueError(
            f"{sum(map(len, kept))} of {MOST_BATCHES * BATCH} draws of the prior lie where the "
            f"posterior is, and {num} are needed: its region is too small a part of the prior"
        )

    return replace(prior, log_density=log_density, draw=draw, row_log_prob=None, fills_box=False)


def posterior_proposal(posterior: Posterior, x_obs: Any) -> Prior:
    """A posterior at one observation as a density to draw parameters from."""
    return replace(
        posterior.prior,
        log_density=lambda theta: posterior.log_prob(theta, x_obs),
        draw=lambda key, num: posterior.sample(key, num, x_obs),
        row_log_prob=None,
        is_uniform=False,
    )


def proposal_weights(
    theta: Any, prior: Prior, proposals: Sequence[Prior]
) -> Float[np.ndarray, " n"]:
    """`p(theta) / mean_r q_r(theta)`: weights, (n,), of parameters drawn from all proposals alike.

    Each row counts as a draw of the mixture of the proposals, whichever it came from (the balance
    heuristic of Veach and Guibas 1995, "Optimally combining sampling techniques for Monte Carlo
    rendering"). With the prior among `R` proposals no weight exceeds `R` (Hesterberg 1995,
    "Weighted average importance sampling and defensive mixture distributions"). The densities are
    normalised, and the mean of the weights is about 1.
    """
    each = np.stack([proposal.log_prob(theta) for proposal in proposals])
    mixture = np.logaddexp.reduce(each, axis=0) - np.log(len(proposals))
    return np.exp(prior.log_prob(theta) - mixture)


def fit_rounds(
    simulate: Callable[[np.ndarray], Any],
    prior: Any,
    x_obs: Any,
    *,
    key: PRNGKeyArray,
    proposal: str = "truncated",
    rounds: int = 4,
    simulations: int = 4000,
    dim: int | None = None,
    mass: float = 1e-4,
    **settings: Any,
) -> Posterior:
    """Simulate and fit in turn, each time where the last posterior at `x_obs` is.

    The result is a posterior for `x_obs`, sharper there than an amortised one of as many
    simulations; do not use it for other observations.

    `proposal="truncated"` draws parameters from the prior within the last posterior's region of
    highest density (`truncated_prior`). `proposal="posterior"` draws them from the last posterior
    itself, and weights each simulation by the prior over the mixture of all proposals, the prior
    first: no weight exceeds the number of rounds, and `posterior.effective` is their effective
    number (Lueckmann et al. 2017, "Flexible statistical inference for mechanistic models of
    neural dynamics", arXiv 1711.01861, with the mixture as denominator).

    Simulations that fail are left out, which biases neither: weights depend on `theta` alone, so
    the fit at each `x` that can be observed is `p(theta | x)`.

    ```python
    import jax
    import numpy as np
    from jaxflow.inference import fit_rounds

    rng = np.random.default_rng(0)
    posterior = fit_rounds(
        lambda theta: theta + 0.1 * rng.normal(size=theta.shape),
        (-np.ones(1), np.ones(1)),
        [0.3],
        key=jax.random.key(0),
        rounds=2,
        simulations=200,
        steps=50,
    )
    print(posterior.sample(jax.random.key(1), 5, [0.3]))
    ```

    Args:
        simulate: `theta (n, d) -> x (n, *observation)`; simulations that fail are NaN.
        prior: as `as_prior` takes it, not None.
        x_obs: the observation, in the shape of one simulation.
        key: random key.
        proposal: `"truncated"` or `"posterior"`.
        rounds: number of fits.
        simulations: number of simulations, of all rounds together.
        dim: number of parameters; needed where the prior does not state it, as a box of two
            numbers.
        mass: share of each posterior that the next truncated round leaves out.
        **settings: of `fit_posterior`.

    Returns:
        The posterior of the last round, fitted to the simulations of all of them: a mixture of
        truncated priors is proportional to the prior within the last one.

    Raises:
        ValueError: an unknown proposal, a budget of less than 10 simulations a round, or as
            `fit_posterior`.
    """
    check_choice("proposal", proposal, PROPOSALS)
    check_count("rounds", rounds)
    each = check_count("simulations", simulations, 10 * rounds) // rounds
    prior = as_prior(prior, _dim(prior) if dim is None else dim)
    proposals, theta, x = [prior], np.empty((0, len(prior.lower))), []
    posterior = None
    for number, own in enumerate(jax.random.split(key, rounds)):
        draw_key, fit_key, edge_key = jax.random.split(own, 3)
        if posterior is not None and proposal == "posterior":
            proposals.append(posterior_proposal(posterior, x_obs))
        elif posterior is not None:
            proposals.append(truncated_prior(posterior, x_obs, key=edge_key, mass=mass))
        drawn = proposals[-1].sample(draw_key, each)
        theta = np.concatenate([theta, drawn])
        x.append(np.asarray(simulate(drawn), np.float64))
        if x[-1].shape[:1] != (each,):
            raise ValueError(
                f"simulate returned shape {x[-1].shape} for {each} rows in round {number}; give "
                "one observation for each"
            )
        weights = proposal_weights(theta, prior, proposals) if proposal == "posterior" else None
        posterior = fit_posterior(
            theta, np.concatenate(x), prior=prior, weights=weights, key=fit_key, **settings
        )
    assert posterior is not None
    return posterior


def _dim(prior: Any) -> int:
    """Number of parameters that a prior is for."""
    shape = getattr(prior, "event_shape", None)
    if shape is not None:
        return math.prod(shape)
    if isinstance(prior, Prior):
        return len(prior.lower)
    if is_frozen(prior):
        return int(np.size(prior.rvs(random_state=0)))
    if isinstance(prior, list | tuple) and prior and is_frozen(prior[0]):
        return len(prior)
    if isinstance(prior, list | tuple) and len(prior) == 2:
        sizes = {np.size(limit) for limit in prior if np.ndim(limit) == 1}
        if len(sizes) == 1:
            return sizes.pop()
    raise ValueError(
        f"prior={prior!r} does not state the number of parameters: write fit_rounds(..., dim=2)"
    )
