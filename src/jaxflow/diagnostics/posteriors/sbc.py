"""Ranks of truths among posterior draws: of parameters, and of their log-densities."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import PRNGKeyArray

from jaxflow.diagnostics.posteriors.arguments import as_log_densities, as_pairs, check_num_pairs
from jaxflow.diagnostics.posteriors.record import Calibration, RankTest
from jaxflow.diagnostics.posteriors.uniform import rank
from jaxflow.runtime.checks import check_share
from jaxflow.runtime.keys import numpy_rng


def sbc(
    theta: Any,
    draws: Any,
    *,
    key: PRNGKeyArray,
    names: Sequence[str] | None = None,
    level: float = 1e-2,
) -> Calibration:
    """Test the ranks of true parameters among posterior draws, one test for each column.

    If `theta` and x are simulated from prior and model, and `draws` come from the posterior at
    that x, then a truth is one more draw: the rank of each column is uniform (Talts et al. 2018,
    "Validating Bayesian Inference Algorithms with Simulation-Based Calibration", arXiv
    1804.06788). The rank of any function of parameters and x is uniform too: give its values as
    more columns. Unless a column depends on x, such as `log p(x | theta)`, the prior passes as
    posterior (Modrak et al. 2023, arXiv 2211.02383).

    ```python
    import jax
    from jaxflow import diagnostics

    theta = jax.random.normal(jax.random.key(0), (200, 2))
    x = theta + jax.random.normal(jax.random.key(1), (200, 2))
    noise = jax.random.normal(jax.random.key(2), (200, 99, 2))
    draws = x[:, None] / 2 + noise / 2**0.5  # the posterior
    print(diagnostics.sbc(theta, draws, key=jax.random.key(3)))
    ```

    Args:
        theta: true parameters of new pairs, (n, d), n at least 20.
        draws: k draws of the posterior for each pair, (n, k, d).
        key: random key, for the ranks of equal values.
        names: names of the columns; `theta 0`, ... by default.
        level: p-values below this, corrected for their number, count as a difference.

    Returns:
        The ranks and their tests.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, or fewer than 20 pairs.
    """
    check_share("level", level, 0.01)
    theta, draws = as_pairs(theta, draws)
    d, rng = theta.shape[1], numpy_rng(key)
    names = [f"theta {i}" for i in range(d)] if names is None else list(names)
    if len(names) != d:
        raise ValueError(f"names={names} has {len(names)} names for {d} columns of theta")
    tests = [
        RankTest(name, "parameter", rank(theta[:, i], draws[:, :, i], rng), draws.shape[1])
        for i, name in enumerate(names)
    ]
    return Calibration(tuple(tests), level)


def expected_coverage(
    log_prob: Any, log_prob_draws: Any, *, key: PRNGKeyArray, level: float = 1e-2
) -> Calibration:
    """Test how often highest-density regions hold the true parameters.

    The smallest highest-density region that holds the truth has the level
    `P(q(draw | x) > q(theta | x))`, estimated by the share of draws. It is uniform for the
    posterior (Hermans et al. 2022, "A Crisis In Simulation-Based Inference? Beware, Your Posterior
    Approximations Can Be Unfaithful", arXiv 2110.06581): this is `sbc` of the statistic log q.
    The prior passes as posterior, because its log-density does not depend on x.

    ```python
    import jax
    from jaxflow import StandardNormal, diagnostics

    log_q = jax.vmap(StandardNormal(2).log_prob)
    theta = jax.random.normal(jax.random.key(0), (200, 2))
    draws = jax.random.normal(jax.random.key(1), (200, 99, 2))
    log_q_draws = jax.vmap(log_q)(draws)
    print(diagnostics.expected_coverage(log_q(theta), log_q_draws, key=jax.random.key(2)))
    ```

    Args:
        log_prob: `log q(theta | x)` of the true parameters, (n,), up to a constant for each x.
        log_prob_draws: the same of k draws from `q(. | x)` for each pair, (n, k).
        key: random key, for the ranks of equal values.
        level: p-values below this count as a difference.

    Returns:
        The ranks and their test.

    Raises:
        ValueError: shapes that do not fit, NaN, or fewer than 20 pairs.
    """
    check_share("level", level, 0.01)
    truth = as_log_densities(log_prob, "log_prob", 1)
    draws = as_log_densities(log_prob_draws, "log_prob_draws", 2)
    if len(draws) != len(truth):
        raise ValueError(
            f"log_prob_draws has shape {draws.shape} and log_prob has shape {truth.shape}: give "
            f"({len(truth)}, k), k draws for each pair"
        )
    check_num_pairs(len(truth))
    further_in = rank(-truth, -draws, numpy_rng(key))
    test = RankTest("highest density", "coverage", further_in, draws.shape[1])
    return Calibration((test,), level)
