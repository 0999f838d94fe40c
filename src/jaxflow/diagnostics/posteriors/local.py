"""The local classifier two-sample test: is the posterior right at one observation?"""

import math
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxflow.diagnostics.corrected import holm
from jaxflow.diagnostics.findings import Finding, flatten, judge, name_observation, p_value
from jaxflow.diagnostics.posteriors.arguments import check_num_pairs
from jaxflow.diagnostics.posteriors.features import (
    Pairs,
    Points,
    RandomFeatures,
    Signs,
    Values,
    whiten,
)
from jaxflow.diagnostics.verdict import Verdict, verdict_lines
from jaxflow.plotting.excess import excess
from jaxflow.runtime.checks import as_matrix, check_count, check_share
from jaxflow.runtime.extras import import_extra
from jaxflow.runtime.keys import numpy_rng
from jaxflow.runtime.threads import one_thread

# Fewest exchanges with the built-in classifier, for which they are cheap.
EXCHANGES = 500


@dataclass(frozen=True, eq=False)
class LocalTest(Verdict):
    """Result of `lc2st` or `local_calibration`: a test at each of m observations.

    Attributes:
        num_pairs: simulated pairs that the classifier saw.
        statistic: mean of `(d - 1/2)^2` over draws, where d is the classifier's probability of a
            draw, (m,).
        typical: median of the same with exchanged labels, (m,).
        p: p-values, corrected for the number of observations (Holm), (m,).
        level: p-values below this count as a difference.
        draws: the draws at each observation, (m, k, d).
        excess: `d - 1/2` of each, positive where the posterior puts too much mass, (m, k).
    """

    num_pairs: int
    statistic: Float[np.ndarray, " m"]
    typical: Float[np.ndarray, " m"]
    p: Float[np.ndarray, " m"]
    level: float
    draws: Float[np.ndarray, "m k d"] = field(repr=False)
    excess: Float[np.ndarray, "m k"] = field(repr=False)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """A sentence for each observation, with its grade."""
        findings = []
        for i, (p, ratio) in enumerate(zip(self.p, self.statistic / self.typical, strict=True)):
            text = (
                f"a classifier {'tells' if p < self.level else 'cannot tell'} draws at "
                f"{name_observation(i, len(self.p))} from true parameters ({ratio:.3g} times the "
                f"usual, {p_value(p, self.level)})"
            )
            findings.append(judge(p >= self.level, text, bad="the posterior there is wrong"))
        return tuple(findings)

    def plot(self, observation: int = 0, ax: Any = None) -> Any:
        """Draw where the posterior at an observation has too much mass; returns the axes."""
        return excess(self.draws[observation], self.excess[observation], ax)

    def __str__(self) -> str:
        """The verdict, then a sentence for each observation."""
        return "\n".join([f"pairs    {self.num_pairs:,}", *verdict_lines(self.findings)])


def lc2st(
    theta: Any,
    draws: Any,
    x: Any,
    observed_draws: Any,
    observed: Any,
    *,
    key: PRNGKeyArray,
    classifier: Any = None,
    exchanges: SupportsIndex | None = None,
    level: float = 1e-2,
) -> LocalTest:
    """Test posteriors at one or more observations by a classifier of pairs.

    A classifier learns d(theta, x), the probability that theta is a draw and not the true
    parameter of x. The statistic at an observation is the mean of `(d(theta, x_o) - 1/2)^2` over
    draws there. For the posterior, a truth and its draw can be exchanged; the p-value is the share
    of random exchanges with a statistic at least as large (Linhart, Gramfort and Rodrigues 2023,
    "L-C2ST: Local Diagnostics for Posterior Approximations in Simulation-Based Inference", arXiv
    2306.03580).

    The classifier is smooth, so pairs with data near x_o count too: a small p-value says that the
    posterior is wrong at x_o or close to it.

    The default classifier is a least-squares fit of the labels by random Fourier features of three
    widths (Rahimi and Recht 2007); its d may leave [0, 1]. One factorisation serves all exchanges,
    so a thousand of them take a second. A classifier of scikit-learn is fitted for each exchange.

    For the variant for flows (L-C2ST-NF), give base coordinates in place of parameters:
    `theta=flow.encode(theta, x)`, and samples of the base as `draws` and `observed_draws`.

    ```python
    import jax
    from jaxflow import diagnostics

    keys = jax.random.split(jax.random.key(0), 4)
    theta = jax.random.normal(keys[0], (2000, 1))
    x = theta + jax.random.normal(keys[1], (2000, 1))
    draws = x / 2 + jax.random.normal(keys[2], (2000, 1))  # too wide
    observed = jax.numpy.asarray([[0.5]])
    at = 0.25 + jax.random.normal(keys[3], (1, 200, 1))
    print(diagnostics.lc2st(theta, draws, x, at, observed, key=keys[0]))
    ```

    Args:
        theta: true parameters of new pairs, (n, d), n at least 20, better thousands.
        draws: a draw of the posterior for each pair, (n, d).
        x: simulated data of the pairs, (n, *condition).
        observed_draws: k draws of the posterior at each observation, (m, k, d).
        observed: the observations, (m, *condition).
        key: random key.
        classifier: a classifier of scikit-learn with `predict_proba`, such as `MLPClassifier()`;
            None for the default.
        exchanges: number of random exchanges. Default: enough for a p-value below `level`, and
            at least 500 with the default classifier.
        level: p-values below this, corrected for the number of observations, count as a
            difference.

    Returns:
        Statistics and p-values; `print` it, or look at its `plot()`.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, fewer than 20 pairs, or too few
            exchanges for the level.
        ImportError: `classifier` is given and scikit-learn is not installed.
    """
    check_share("level", level, 0.01)
    theta = as_matrix(theta, "theta", "n, d")
    draws = as_matrix(draws, "draws", "n, d")
    at = as_matrix(observed_draws, "observed_draws", "m, k, d")
    n, d = theta.shape
    check_num_pairs(n)
    x = as_matrix(flatten(jnp.asarray(x)), "x", "n, c")
    observed = as_matrix(flatten(jnp.asarray(observed)), "observed", "m, c")
    m, k = at.shape[:2]
    wanted = {"draws": (draws, (n, d)), "x": (x, (n, x.shape[1]))}
    wanted |= {"observed_draws": (at, (m, k, d)), "observed": (observed, (m, x.shape[1]))}
    for name, (array, shape) in wanted.items():
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape} when flattened; give {shape}")
    enough = math.ceil(m / level)
    least = max(EXCHANGES, 2 * enough) if classifier is None else enough
    count = least if exchanges is None else check_count("exchanges", exchanges)
    if count < enough:
        raise ValueError(
            f"exchanges={count} give no p-value below level={level:g} at {m} observations; give "
            f"{enough} or more"
        )
    rng = numpy_rng(key)
    rows = np.concatenate([np.concatenate([theta, x], 1), np.concatenate([draws, x], 1)])
    beside = np.broadcast_to(observed[:, None], (m, k, observed.shape[1]))
    points = np.concatenate([at, beside], axis=2).reshape(m * k, -1)
    rows, points = whiten(rows, points)
    # +1: the truth of a pair has the label 0 and its draw 1. The first column exchanges nothing.
    signs = np.concatenate([np.ones((n, 1)), rng.choice([-1.0, 1.0], size=(n, count))], axis=1)
    with one_thread():
        if classifier is None:
            values = RandomFeatures.draw(rows.shape[1], rng).classify(rows, signs, points)
        else:
            values = _classify_by_refits(classifier, rows, signs, points)
    values = values.reshape(m, k, 1 + count)
    statistic = np.mean(values**2, axis=1)
    as_large = np.sum(statistic[:, 1:] >= statistic[:, :1] * (1 - 1e-9), axis=1)
    return LocalTest(
        num_pairs=n,
        statistic=statistic[:, 0],
        typical=np.median(statistic[:, 1:], axis=1),
        p=holm((1 + as_large) / (1 + count)),
        level=level,
        draws=at,
        excess=values[:, :, 0],
    )


def _classify_by_refits(classifier: Any, rows: Pairs, signs: Signs, points: Points) -> Values:
    need = "lc2st with a classifier needs scikit-learn"
    clone = import_extra("sklearn.base", "sklearn", need).clone
    columns = []
    for sign in signs.T:
        labels = np.concatenate([sign < 0, sign > 0]).astype(int)
        fitted = clone(classifier).fit(rows, labels)
        columns.append(fitted.predict_proba(points)[:, 1] - 0.5)
    return np.stack(columns, axis=1)
