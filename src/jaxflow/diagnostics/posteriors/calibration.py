"""`calibration`: are the posteriors of a conditional flow right, on average over new pairs?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxflow.diagnostics.findings import flatten, to_host
from jaxflow.diagnostics.posteriors.arguments import as_rows_of
from jaxflow.diagnostics.posteriors.record import Calibration, RankTest
from jaxflow.diagnostics.posteriors.sbc import expected_coverage, sbc
from jaxflow.diagnostics.posteriors.tarp import tarp
from jaxflow.diagnostics.posteriors.uniform import rank
from jaxflow.flows.flow import Flow
from jaxflow.runtime.checks import check_count, check_share
from jaxflow.runtime.keys import numpy_rng

Statistic = Callable[[Array, Array], Any]


def calibration(
    flow: Any,
    theta: Any,
    x: Any,
    *,
    key: PRNGKeyArray,
    num_draws: SupportsIndex = 99,
    statistics: Mapping[str, Statistic] | None = None,
    names: Sequence[str] | None = None,
    level: float = 1e-2,
) -> Calibration:
    """Test the posteriors `q(theta | x)` of a flow on new pairs, on average over the pairs.

    The tests are `sbc` of each parameter and statistic, `expected_coverage` of highest-density
    regions, and `tarp` with references that depend on x. All p-values are corrected for their
    number: for the true posterior, any of them is below `level` with probability `level` at most.
    A posterior that is right only on average over x passes, so use `local_calibration` at the
    observation too. The flow is called twice: for `num_draws` draws of each pair, and for the
    log-densities of draws and truths.

    ```python
    import jax
    from jaxflow import CouplingFlow, diagnostics

    key, new = jax.random.split(jax.random.key(0))
    posterior = CouplingFlow(2, cond_dim=2, num_layers=2, width=8, key=key)  # not trained
    theta = jax.random.normal(new, (200, 2))
    x = theta + jax.random.normal(key, (200, 2))
    print(diagnostics.calibration(posterior, theta, x, key=key, num_draws=19))
    ```

    Args:
        flow: a conditional flow: an object with `sample(key, shape, cond)` and
            `log_prob(theta, cond)`.
        theta: parameters of new pairs, not those of the fit, drawn from the prior, (n, *event), n
            at least 20.
        x: their simulated data, (n, *condition).
        key: random key.
        num_draws: draws for each pair, k.
        statistics: by name, functions `f(theta, x) -> number` of one pair, written in jax, whose
            ranks are tested too. Those that depend on both find more, such as `log p(x | theta)`.
        names: names of the parameters; `theta 0`, ... by default.
        level: p-values below this, corrected for their number, count as a difference.

    Returns:
        The tests; `print` it, or look at its `plot()`.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, or fewer than 20 pairs.
        SolveError: a solve of the flow failed.
    """
    check_share("level", level, 0.01)
    k = check_count("num_draws", num_draws)
    theta, x = as_rows_of(theta, x)
    n = len(theta)
    draw_key, probe_key, *keys = jax.random.split(key, 6)
    cond = jnp.broadcast_to(x[:, None], (n, k + 1, *x.shape[1:]))
    draws = jnp.asarray(flow.sample(draw_key, (n, k), cond[:, :k]))
    # Truths and draws in one call, so that an inexact solve affects both alike.
    both = jnp.concatenate([theta[:, None].astype(draws.dtype), draws], axis=1)
    more = (probe_key,) if isinstance(flow, Flow) else ()
    log_q = jnp.asarray(flow.log_prob(both, cond, *more))
    columns = flatten(both.reshape(n * (k + 1), *theta.shape[1:])).reshape(n, k + 1, -1)
    truths, draws = columns[:, 0], columns[:, 1:]
    tests = [
        *sbc(truths, draws, key=keys[0], names=names).tests,
        *_rank_statistics(statistics or {}, both, cond, numpy_rng(keys[1])),
        *expected_coverage(log_q[:, 0], log_q[:, 1:], key=keys[2]).tests,
        *tarp(truths, draws, x, key=keys[3]).tests,
    ]
    return Calibration(tuple(tests), level)


def _rank_statistics(
    statistics: Mapping[str, Statistic], both: Array, cond: Array, rng: np.random.Generator
) -> list[RankTest]:
    """Ranks of functions of parameters and x; truths come first in `both`, (n, 1 + k, *event)."""
    tests = []
    for name, f in statistics.items():
        value = to_host(jax.jit(jax.vmap(jax.vmap(f)))(both, cond))
        if value.shape != both.shape[:2] or np.isnan(value).any():
            raise ValueError(f"statistics[{name!r}] must return one number, not NaN, for a pair")
        ranks = rank(value[:, 0], value[:, 1:], rng)
        tests.append(RankTest(name, "parameter", ranks, value.shape[1] - 1))
    return tests
