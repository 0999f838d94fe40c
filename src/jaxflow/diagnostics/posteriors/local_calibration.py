"""`local_calibration`: is the posterior of a conditional flow right at an observation?"""

from collections.abc import Callable
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxflow.diagnostics.findings import flatten
from jaxflow.diagnostics.posteriors.arguments import as_observations, as_rows_of, summarise
from jaxflow.diagnostics.posteriors.local import LocalTest, lc2st
from jaxflow.dynamics import ObservationEncoder
from jaxflow.flows.ensemble import Ensemble, members
from jaxflow.runtime.checks import check_count


def local_calibration(
    flow: Any,
    theta: Any,
    x: Any,
    observed: Any,
    *,
    key: PRNGKeyArray,
    num_draws: SupportsIndex = 500,
    summary: Callable[[Array], Any] | None = None,
    classifier: Any = None,
    exchanges: SupportsIndex | None = None,
    level: float = 1e-2,
) -> LocalTest:
    """Test the posterior `q(theta | observed)` of a flow itself, by `lc2st` on new pairs.

    It finds what `calibration` averages away: a posterior that is too wide at one observation and
    right, or too narrow, at others. It needs some thousands of pairs, because only those with data
    like the observation count.

    ```python
    import jax
    from jaxflow import CouplingFlow, diagnostics

    key, new = jax.random.split(jax.random.key(0))
    posterior = CouplingFlow(2, cond_dim=2, num_layers=2, width=8, key=key)  # not trained
    theta = jax.random.normal(new, (2000, 2))
    x = theta + jax.random.normal(key, (2000, 2))
    print(diagnostics.local_calibration(posterior, theta, x, [0.3, -0.1], key=key))
    ```

    Args:
        flow: a conditional flow: an object with `sample(key, shape, cond)`.
        theta: parameters of new pairs, not those of the fit, drawn from the prior, (n, *event), n
            at least 20.
        x: their simulated data, (n, *condition).
        observed: an observation, (*condition), or several, (m, *condition).
        key: random key.
        num_draws: draws at each observation.
        summary: `x -> numbers` of one observation, in jax, that the classifier sees in place of
            `x`. Default: the entries of `x`; for a posterior fitted with `embed`, the location and
            log-scale of each parameter that its encoder predicts. Opposite errors at data with
            equal summaries cancel.
        classifier: as for `lc2st`.
        exchanges: as for `lc2st`.
        level: p-values below this, corrected for the number of observations, count as a
            difference.

    Returns:
        Statistics and p-values; `print` it, or look at its `plot()`.

    Raises:
        ValueError: as `lc2st`.
        ImportError: as `lc2st`.
        SolveError: a solve of the flow failed.
    """
    k = check_count("num_draws", num_draws)
    theta, x = as_rows_of(theta, x)
    at = as_observations(jnp.asarray(observed, x.dtype), x)
    draw_key, test_key = jax.random.split(key)
    n, m = len(theta), len(at)
    # One call for the draws of the pairs and those at the observations.
    cond = jnp.concatenate([x, jnp.repeat(at, k, axis=0)])
    draws = flatten(jnp.asarray(flow.sample(draw_key, (n + m * k,), cond)))
    summary = summary or _encoder_summary(flow)
    if summary is not None:
        x, at = (summarise(summary, each) for each in (x, at))
    return lc2st(
        flatten(theta),
        draws[:n],
        x,
        draws[n:].reshape(m, k, -1),
        at,
        key=test_key,
        classifier=classifier,
        exchanges=exchanges,
        level=level,
    )


def _encoder_summary(flow: Any) -> Callable[[Array], Array] | None:
    """Location and log-scale by the posterior's own encoder, if it embeds observations."""
    first: Any = members(flow)[0] if isinstance(flow, Ensemble) else flow
    encoder = getattr(getattr(first, "field", None), "encoder", None)
    if not isinstance(encoder, ObservationEncoder) or encoder.embed is None:
        return None
    return lambda x: encoder(x)[-2 * first.event_shape[0] :]
