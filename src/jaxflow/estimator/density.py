"""`FlowDensity`: the density of rows, and which rows are outliers."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from sklearn.base import DensityMixin, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from jaxflow.estimator.arguments import as_int, check_features, feature_names
from jaxflow.estimator.base import FlowEstimator, HeldOut, mean_score
from jaxflow.estimator.discrete import log_cell, mass_columns
from jaxflow.flows.ensemble import members
from jaxflow.runtime.checks import check_count
from jaxflow.transforms import spread_rows

# Rows that show how far scores lie above log-densities with noise.
SOME = 1024


@dataclass(kw_only=True, eq=False, repr=False)
class FlowDensity(OutlierMixin, DensityMixin, FlowEstimator):
    """Density of rows by a continuous normalizing flow; rows of low density are outliers.

    Log-densities are in nats per row, in the units of `X`. The order of the rows does not matter.
    Weights (2, 1, 0) train the same flow, bit for bit, as rows that occur twice, once and never.

    ```python
    import numpy as np
    from jaxflow.estimator import FlowDensity

    X = np.random.default_rng(0).normal(size=(50, 2))
    density = FlowDensity(width=8, steps=2, scaling="standardise", objective="matching").fit(X)
    log_p, drawn = density.score_samples(X), density.sample(100, random_state=1)
    ```

    Args:
        width: units of each hidden layer of the field; None for a number by the rows.
        depth: number of hidden layers.
        steps: largest number of parameter updates; None for 4000.
        batch_size: minibatch size; None for a number by the rows.
        learning_rate: peak learning rate; None for one by the rows.
        objective: `"staged"`, flow matching and then likelihood; `"matching"`; `"likelihood"`;
            `"auto"` with `scaling="auto"`, what `jaxflow.fit_density` chooses by the number of
            rows; `"auto"` otherwise, the same as staged.
        scaling: transform of the columns before the flow, counted in the density:
            `"standardise"`, `"gaussianise"`, `"whiten"`, or None. `"auto"` dequantises columns on
            a grid, takes logits or logarithms of bounded columns, and chooses the rest by the
            held-out density.
        kinds: which columns are angles, places or directions, and which are not, and limits of
            columns, as for `jaxflow.transforms.propose`: `{"lat,lon": "place"}`,
            `{"phase": "periodic:1"}`, `{"share": (0, 1)}`, `{"age": "continuous"}`, by the names
            of `X` or by numbers such as `"0,1"`. None to find out. It needs `objective` and
            `scaling` to be `"auto"`.
        validation: share of the rows held out to choose the best weights. A table that
            `jaxflow.fit_density` splits into folds holds each row out once instead.
        contamination: share of new rows that `predict` calls outliers, in (0, 0.5]: the threshold
            is this quantile of the log-densities of rows held out. None sets no threshold.
        discrete: what log-densities mean for columns on a grid, such as whole numbers:
            `"density"` per unit of `X`, as for all other columns, so that scores of fits that
            find other grids may be averaged; `"mass"`, the probability of the row's cell; or a
            list of columns, by name or number, that are scored by probability. Both are means of
            the density over the cell, at 8 points for one column on a grid, 25 for two, some 64
            for more.
        ensemble: average the flows of five folds, as `jaxflow.fit_density(ensemble=True)`: often a
            higher density where rows are few, at five times the cost of a score.
        float64: compute in float64, which is slower; JAX's global precision is not changed.
        random_state: a seed, a `RandomState`, or None for another flow at every fit.
        verbose: show a progress bar.

    Attributes:
        flow_: the fitted `jaxflow.CNF`, for example for `log_prob_with_error`; with `ensemble`
            a `jaxflow.Ensemble`.
        history_: training history, column name -> values (see `jaxflow.fit`).
        comparison_: held-out log-densities of the flow and of simple densities, by
            `jaxflow.fit_density`: `print(density.comparison_["text"])`. Absent if that was not
            used.
        offset_: log-density of the threshold in nats; absent without `contamination`.
        grid_: step of the grid of each column; 0 for none.
        n_features_in_: number of columns.
        feature_names_in_: their names, if `X` was a data frame with names.
    """

    kinds: Any = None
    contamination: Any = 0.1
    ensemble: Any = False

    _fitted = (*FlowEstimator._fitted, "offset_")

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "FlowDensity":
        """Train the flow.

        Args:
            X: rows, (n, d), an array or a data frame, at least 3 of them.
            y: ignored.
            sample_weight: how often each row counts, (n,), not negative.

        Returns:
            The estimator itself.

        Raises:
            ValueError: too few rows, NaN or infinity (names rows and columns), a constant column,
                bad weights, or a parameter out of range.
            TypeError: sparse `X`, or a parameter of another type.
            TrainingError: no validation value was finite.
        """
        x = check_features(self, X, fitting=True)
        share = self.contamination
        if share is not None and not 0 < share <= 0.5:
            raise ValueError(f"contamination={share} must lie in (0, 0.5], or be None")
        held = self._train(x, None, sample_weight)
        # Remove the threshold of an earlier fit.
        self.__dict__.pop("offset_", None)
        if share is not None:
            self.offset_ = self._threshold(held, share)
        return self

    def score_samples(self, X: Any) -> Float[np.ndarray, " n"]:
        """Log-density of each row in nats.

        Args:
            X: rows, (n, d).

        Returns:
            Log-densities, (n,), float64.

        Raises:
            NotFittedError: `fit` has not been called.
            ValueError: other columns than in the fit, NaN or infinity.
            SolveError: the solve of a row failed.
        """
        check_is_fitted(self, "flow_")
        return self._log_prob(check_features(self, X, fitting=False))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Weighted mean log-density, nats per row; higher is better.

        Args:
            X: rows, (n, d).
            y: ignored.
            sample_weight: weight of each row, (n,).
        """
        return mean_score(self.score_samples(X), sample_weight)

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:
        """`score_samples(X) - offset_`, (n,): negative for outliers.

        Raises:
            AttributeError: the fit had `contamination=None`.
        """
        log_p = self.score_samples(X)
        if not hasattr(self, "offset_"):
            raise AttributeError(
                "a fit with contamination=None has no threshold: set the share of outliers, such "
                "as contamination=0.1, and fit again"
            )
        return log_p - self.offset_

    def predict(self, X: Any) -> Int[np.ndarray, " n"]:
        """-1 for outliers, rows with a log-density below `offset_`, and 1 for others, (n,).

        Raises:
            AttributeError: the fit had `contamination=None`.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def sample(self, n_samples: Any = 1, random_state: Any = None) -> Float[np.ndarray, "m d"]:
        """Draw rows.

        Args:
            n_samples: number of rows.
            random_state: a seed or a `RandomState`; None draws other rows at every call.

        Returns:
            Rows, (n_samples, d), in the flow's precision.
        """
        check_is_fitted(self, "flow_")
        count = as_int("n_samples", n_samples)
        check_count("n_samples", count, least=0)
        return self._draw(count, None, random_state)

    def _threshold(self, held: HeldOut, share: float) -> float:
        """The log-density that a `share` of new rows is expected to lie below."""
        if held.log_p is None:
            return _quantile(self._log_prob(held.rows.x), share, held.rows.weights)
        masses = mass_columns(self.discrete, feature_names(self), self.n_features_in_)
        cell = log_cell(self.grid_, masses)
        offset = _quantile(held.log_p - cell, share)
        if any(self.grid_):
            # Scores are means over cells, which are higher than log-densities with noise. Many
            # rows may share the score at the threshold, and chance must not raise it above them.
            rows = held.rows.take(np.arange(0, len(held.rows.x), -(-len(held.rows.x) // SOME)))
            with jax.enable_x64(bool(self.float64)):
                transform = members(self.flow_)[0].transform
                noisy = spread_rows(transform, jnp.asarray(rows.x), jax.random.key(0))
                log_p = np.asarray(self.flow_.log_prob(noisy), np.float64)
            below = min(0.0, offset - _quantile(log_p - cell, share, rows.weights))
            offset = _quantile(self._log_prob(rows.x), share, rows.weights) + below
        return offset


def _quantile(
    values: Float[np.ndarray, " n"], share: float, weights: Float[np.ndarray, " n"] | None = None
) -> float:
    if weights is None:
        return float(np.quantile(values, share))
    return float(np.quantile(values, share, weights=weights, method="inverted_cdf"))
