"""`observation_check`: is an observation like the simulations that a posterior was fitted to?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.bases import GaussianMixture
from jaxflow.diagnostics.corrected import holm
from jaxflow.diagnostics.findings import LEAST, Finding, judge, name_observation, p_value, to_host
from jaxflow.diagnostics.posteriors.arguments import as_observations, summarise
from jaxflow.diagnostics.posteriors.predictive import rarity
from jaxflow.diagnostics.verdict import Verdict, verdict_lines
from jaxflow.dynamics import RobustScaling
from jaxflow.runtime.checks import check_count, check_rows, check_share, split

# Simulations for each component, and a ridge that keeps the mixture smooth if they are few.
ROWS_EACH, RIDGE = 50, 1e-3


@dataclass(frozen=True, eq=False)
class ObservationCheck(Verdict):
    """Result of `observation_check`, for m observations.

    Attributes:
        log_prob: log-density of each under the fit of p(x), in nats of scaled data, (m,).
        known: that of the simulations that the fit did not see, (n,).
        p: p-values, corrected for the number of observations (Holm), (m,).
        level: p-values below this count as a difference.
    """

    log_prob: Float[np.ndarray, " m"]
    known: Float[np.ndarray, " n"]
    p: Float[np.ndarray, " m"]
    level: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """A sentence for each observation, with its grade."""
        findings = []
        for i, (value, p) in enumerate(zip(self.log_prob, self.p, strict=True)):
            text = (
                f"{100 * np.mean(self.known < value):.3g} % of simulations are less likely than "
                f"{name_observation(i, len(self.p))} ({p_value(p, self.level)})"
            )
            bad = "it is unlike them, and its posterior is an extrapolation"
            findings.append(judge(p >= self.level, text, bad=bad))
        return tuple(findings)

    def __str__(self) -> str:
        """The verdict, then a sentence for each observation."""
        return "\n".join([f"simulations {len(self.known):,}", *verdict_lines(self.findings)])


def observation_check(
    x: Any,
    observed: Any,
    *,
    summary: Callable[[Array], Any] | None = None,
    components: SupportsIndex = 20,
    level: float = 1e-2,
    seed: int = 0,
) -> ObservationCheck:
    """Test whether an observation could be one of the simulations: is it in distribution?

    A flow also has a posterior at data unlike all simulations. This check fits a Gaussian mixture
    to one half of the simulations, each entry scaled robustly, and ranks the observation's
    log-density among those of the other half (`rarity`). The p-value is right for any mixture
    (conformal: Laxhammar and Falkman 2010, "Conformal prediction for distribution-independent
    anomaly detection in streaming vessel data"); a better fit finds more.

    ```python
    import numpy as np
    from jaxflow import diagnostics

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))  # simulations, at parameters from the prior
    print(diagnostics.observation_check(x, [5.0, 0.0], components=1))
    ```

    Args:
        x: simulations at parameters drawn from the prior, (n, *condition), at least 200 for the
            default level. Those that the posterior was fitted to may serve.
        observed: an observation, (*condition), or several, (m, *condition).
        summary: `x -> numbers` of one observation, in jax, to test in place of `x`, such as the
            encoder of a posterior of sets. What it leaves out is not tested.
        components: most components of the mixture, which has one for each 50 simulations.
        level: p-values below this, corrected for the number of observations, count as a
            difference.
        seed: of the halves and of the mixture.

    Returns:
        Log-densities and p-values; `print` it.

    Raises:
        ValueError: shapes that differ, NaN or infinity, or too few simulations for a p-value
            below `level`.
    """
    check_share("level", level, 0.01)
    most = check_count("components", components)
    rows = np.asarray(x, np.float64)
    at = as_observations(np.asarray(observed, np.float64), rows)
    check_rows(rows, "x")
    least = 2 * max(LEAST, int(np.ceil(len(at) / level)))
    if len(rows) < least:
        raise ValueError(
            f"x has {len(rows)} simulations, too few for a p-value below level={level:g} of "
            f"{len(at)} observations; give {least} or more"
        )
    flat = summarise(summary or jnp.ravel, jnp.asarray(np.concatenate([rows, at]), float))
    first, second = split(len(rows), 0.5, seed)
    scaled = jax.vmap(RobustScaling.fit(flat[first]))(flat)
    count = max(1, min(most, len(first) // ROWS_EACH))
    density = GaussianMixture.fit(scaled[first], count, ridge=RIDGE, seed=seed)
    log_p = to_host(_log_prob(density, scaled))
    known, value = log_p[second], log_p[len(rows) :]
    return ObservationCheck(value, known, holm(rarity(value, known)), level)


@eqx.filter_jit
def _log_prob(density: GaussianMixture, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    return jax.vmap(density.log_prob)(x)
