"""Is an observation like simulations? Posterior predictive checks, and its rank in density."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxflow.diagnostics.corrected import holm
from jaxflow.diagnostics.findings import Finding, judge, p_value
from jaxflow.diagnostics.posteriors.arguments import as_log_densities
from jaxflow.diagnostics.verdict import Verdict, verdict_lines
from jaxflow.runtime.checks import as_matrix, check_share
from jaxflow.runtime.text import plural


@dataclass(frozen=True, eq=False)
class PredictiveCheck(Verdict):
    """Statistics of an observation among those of data simulated from its posterior.

    Attributes:
        names: of the statistics, s of them.
        observed: their values, (s,).
        simulated: those of the simulations, (k, s).
        p: two-sided p-values, corrected for their number (Holm), (s,).
        level: p-values below this count as a difference.
    """

    names: tuple[str, ...]
    observed: Float[np.ndarray, " s"]
    simulated: Float[np.ndarray, "k s"]
    p: Float[np.ndarray, " s"]
    level: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """A sentence for each statistic, with its grade."""
        low, high = np.quantile(self.simulated, [0.05, 0.95], axis=0)
        findings = []
        for i, (name, p) in enumerate(zip(self.names, self.p, strict=True)):
            text = (
                f"{name} is {self.observed[i]:.3g}, that of 90 % of simulations {low[i]:.3g} to "
                f"{high[i]:.3g} ({p_value(p, self.level)})"
            )
            findings.append(judge(p >= self.level, text))
        return tuple(findings)

    def __str__(self) -> str:
        """The verdict, then a sentence for each statistic."""
        return "\n".join([f"simulations {len(self.simulated):,}", *verdict_lines(self.findings)])


def predictive_check(
    simulated: Any,
    observed: Any,
    statistics: Mapping[str, Callable[[np.ndarray], Any]] | None = None,
    *,
    level: float = 1e-2,
) -> PredictiveCheck:
    """Compare an observation with data simulated at draws from its posterior.

    The p-value of a statistic is twice the share of simulations that are as far out, on the side
    with fewer of them (Gelman, Meng and Stern 1996, "Posterior predictive assessment of model
    fitness via realized discrepancies", Statistica Sinica 6). The posterior depends on the
    observation, so these p-values tend to be large: a small one says that the model cannot produce
    such data.

    ```python
    import numpy as np
    from jaxflow import diagnostics

    rng = np.random.default_rng(0)
    simulated = rng.normal(size=(1000, 2))  # simulator(posterior.sample(key, 1000, observed))
    print(diagnostics.predictive_check(simulated, [0.1, 5.0]))
    ```

    Args:
        simulated: data simulated at draws from the posterior, (k, *condition).
        observed: the observation, (*condition).
        statistics: by name, functions of one data set. Default: each entry of the data.
        level: p-values below this, corrected for their number, count as a difference.

    Returns:
        Values and p-values; `print` it.

    Raises:
        ValueError: shapes that differ, NaN or infinity, or too few simulations for a p-value
            below `level`.
    """
    check_share("level", level, 0.01)
    data, one = np.asarray(simulated, float), np.asarray(observed, float)
    if data.shape[1:] != one.shape or not data.size:
        raise ValueError(
            f"simulated has shape {data.shape} and observed has shape {one.shape}: give (k, "
            f"*condition) and (*condition)"
        )
    both = np.concatenate([one[None], data])
    if statistics is None:
        values = both.reshape(len(both), -1)
        names = [f"x {i}" for i in range(values.shape[1])]
    else:
        names = list(statistics)
        values = np.asarray([[float(f(x)) for f in statistics.values()] for x in both])
    values = as_matrix(values, "the statistics", "data sets, numbers")
    true, others = values[0], values[1:]
    least = int(np.ceil(2 * len(names) / level))
    if len(others) < least:
        raise ValueError(
            f"simulated has {len(others)} data sets, too few for a p-value below level={level:g} "
            f"of {plural(len(names), 'statistic')}; give {least} or more"
        )
    tails = [(1 + np.sum(side, axis=0)) for side in (others <= true, others >= true)]
    p = np.minimum(1.0, 2 * np.minimum(*tails) / (1 + len(others)))
    return PredictiveCheck(tuple(names), true, others, holm(p), level)


def rarity(log_prob: Any, log_prob_known: Any) -> Float[np.ndarray, " m"]:
    """Rank observations among usual rows by their density: how strange are they?

    `p = (1 + number of known rows with at most this log-density) / (1 + n)`. For a row like the
    known ones, p is below any level with at most that probability, whatever the density is. A
    posterior at an observation with a small p-value is an extrapolation.

    ```python
    import jax
    from jaxflow import StandardNormal, diagnostics

    evidence = jax.vmap(StandardNormal(2).log_prob)  # a flow of p(x), fitted to simulations
    known = evidence(jax.random.normal(jax.random.key(0), (999, 2)))
    observed = evidence(jax.numpy.asarray([[0.0, 0.5], [4.0, 4.0]]))
    print(diagnostics.rarity(observed, known))  # small is rare
    ```

    Args:
        log_prob: `log p(x)` of the observations, (m,).
        log_prob_known: that of simulated rows that the fit of p(x) did not see, (n,).

    Returns:
        P-values, (m,), float64, not below `1 / (1 + n)`.

    Raises:
        ValueError: shapes, or NaN.
    """
    values = as_log_densities(log_prob, "log_prob", 1)
    known = np.sort(as_log_densities(log_prob_known, "log_prob_known", 1))
    return (1 + np.searchsorted(known, values, side="right")) / (1 + len(known))
