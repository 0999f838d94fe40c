"""Tests of accuracy with random points (TARP): expected coverage of balls around references."""

from typing import Any

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxflow.diagnostics.findings import column_scale, flatten
from jaxflow.diagnostics.posteriors.arguments import as_pairs
from jaxflow.diagnostics.posteriors.record import Calibration, RankTest
from jaxflow.diagnostics.posteriors.uniform import rank
from jaxflow.runtime.checks import as_matrix, check_rows, check_share
from jaxflow.runtime.keys import numpy_rng


def tarp(
    theta: Any,
    draws: Any,
    x: Any = None,
    *,
    key: PRNGKeyArray,
    references: Any = None,
    level: float = 1e-2,
) -> Calibration:
    """Test how often balls around reference points hold the true parameters; needs no density.

    The ball around a reference that ends at the truth has a level, the share of draws nearer to
    the reference. For the posterior it is uniform, whatever the references (Lemos et al. 2023,
    "Sampling-Based Accuracy Testing of Posterior Estimators for General Inference", arXiv
    2302.03026). Distances are Euclidean, in standard deviations of each column of `theta`.

    References that depend on x also reveal a posterior that is just the prior. With `x`, each
    reference is a rough draw: a linear regression of theta on x, fitted to the other half of the
    pairs, plus noise as large as its residuals. Without `x`, references are uniform in the range
    of `theta`, and the prior passes.

    ```python
    import jax
    from jaxflow import diagnostics

    theta = jax.random.normal(jax.random.key(0), (200, 2))
    x = theta + jax.random.normal(jax.random.key(1), (200, 2))
    prior = jax.random.normal(jax.random.key(2), (200, 99, 2))
    print(diagnostics.tarp(theta, prior, x, key=jax.random.key(3)))  # a problem
    ```

    Args:
        theta: true parameters of new pairs, (n, d), n at least 20.
        draws: k draws of the posterior for each pair, (n, k, d).
        x: simulated data of the pairs, (n, *condition), for the references.
        key: random key, for the references.
        references: reference points, (n, d); they may depend on x, but not otherwise on theta.
        level: p-values below this count as a difference.

    Returns:
        The ranks and their test.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, or fewer than 20 pairs.
    """
    check_share("level", level, 0.01)
    theta, draws = as_pairs(theta, draws)
    rng = numpy_rng(key)
    if references is not None:
        points = as_matrix(references, "references", "n, d")
        if points.shape != theta.shape:
            raise ValueError(f"references has shape {points.shape}; give {theta.shape}, as theta")
    elif x is not None:
        points = _rough_draws(theta, _conditions(x, len(theta)), rng)
    else:
        points = rng.uniform(theta.min(axis=0), theta.max(axis=0), theta.shape)
    scale = column_scale(theta)
    far = np.linalg.norm((theta - points) / scale, axis=-1)
    far_draws = np.linalg.norm((draws - points[:, None]) / scale, axis=-1)
    test = RankTest("random balls (TARP)", "coverage", rank(far, far_draws, rng), draws.shape[1])
    return Calibration((test,), level)


def _conditions(x: Any, n: int) -> Float[np.ndarray, "n c"]:
    if np.ndim(x) == 0 or len(x) != n:
        raise ValueError(f"x has shape {np.shape(x)}; give {n} rows, one for each row of theta")
    rows = flatten(x)
    check_rows(rows, "x")
    return rows


def _rough_draws(
    theta: Float[np.ndarray, "n d"], x: Float[np.ndarray, "n c"], rng: np.random.Generator
) -> Float[np.ndarray, "n d"]:
    """Rough draws of theta at x: for each half of the pairs, by a regression of the other half."""
    points = np.empty_like(theta)
    halves = np.array_split(rng.permutation(len(theta)), 2)
    for here, other in (halves, halves[::-1]):
        scaled = (x - x[other].mean(axis=0)) / column_scale(x[other])
        design = np.concatenate([np.ones((len(theta), 1)), scaled], axis=1)
        a, b = design[other], theta[other]
        # A ridge of one pair for each column keeps many columns of x from fitting the noise.
        ridge = design.shape[1] * np.eye(design.shape[1])
        ridge[0, 0] = 0.0
        weights = np.linalg.solve(a.T @ a + ridge, a.T @ b)
        noise = rng.normal(size=theta[here].shape) * (b - a @ weights).std(axis=0)
        points[here] = design[here] @ weights + noise
    return points
