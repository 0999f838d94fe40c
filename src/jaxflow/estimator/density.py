"""`FlowDensity`: the density of rows, and which of them are unusual."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import DensityMixin, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from jaxflow.estimator.arguments import features_of, whole
from jaxflow.estimator.base import FlowEstimator, mean_score
from jaxflow.estimator.rows import Rows
from jaxflow.runtime.checks import check_count

# Rows that the threshold is found from, at most: its share is then off by some 0.3 %.
THRESHOLD_ROWS = 10_000


class FlowDensity(OutlierMixin, DensityMixin, FlowEstimator):
    """Density of rows by a continuous normalizing flow.

    A density estimator with the methods of an outlier detector: rows of low density are
    outliers. Log-densities are in nats a row, in the units of `X`.

    ```python
    density = FlowDensity(random_state=0).fit(X)
    density.score_samples(X)                     # (n,)
    density.sample(100, random_state=1)          # (100, d)
    ```

    The order of the rows does not matter. Weights (2, 1, 0) are rows that occur twice, once and
    never, and train the same flow to the bit.

    Args:
        width: units of a hidden layer of the field.
        depth: number of hidden layers.
        steps: updates of the weights.
        batch_size: rows an update looks at.
        learning_rate: the largest one of the schedule.
        objective: `"staged"`, flow matching first and likelihood last; `"matching"`;
            `"likelihood"`; `"auto"`, which is staged.
        scaling: transform of the columns before the flow, counted in the density:
            `"standardise"`, `"gaussianise"`, `"whiten"`, None for none. `"auto"` dequantises
            columns on a grid, takes logits or logarithms of columns with limits, and lets
            held-out rows choose the rest.
        validation: part of the rows held out, to choose the best weights by.
        contamination: share of the training rows that `predict` calls outliers, in (0, 0.5];
            None for no threshold, which saves `fit` the scoring of the training rows.
        float64: whether to compute in float64, slower; the rest of the program keeps JAX's
            precision as it is.
        random_state: a number, a `RandomState`, or None for another flow at every fit.
        verbose: whether to show a progress bar.

    Attributes:
        flow_: the fitted `jaxflow.CNF`, with `log_prob_with_error` and all else.
        history_: the course of training, column name -> values (see `jaxflow.fit`).
        offset_: log-density of the threshold, nats; absent without `contamination`.
        n_features_in_: number of columns.
        feature_names_in_: their names, where `X` was a data frame with names.
    """

    offset_: float

    _fitted = (*FlowEstimator._fitted, "offset_")

    def __init__(
        self,
        *,
        width: Any = 128,
        depth: Any = 2,
        steps: Any = 4000,
        batch_size: Any = 512,
        learning_rate: Any = 2e-3,
        objective: Any = "auto",
        scaling: Any = "auto",
        validation: Any = 0.1,
        contamination: Any = 0.1,
        float64: Any = False,
        random_state: Any = None,
        verbose: Any = False,
    ) -> None:
        super().__init__(
            width=width,
            depth=depth,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            objective=objective,
            scaling=scaling,
            validation=validation,
            float64=float64,
            random_state=random_state,
            verbose=verbose,
        )
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "FlowDensity":
        """Train the flow.

        Args:
            X: rows, (n, d), an array or a data frame, at least 3 of them.
            y: not used.
            sample_weight: how often each row counts, (n,), none of them negative.

        Raises:
            ValueError: too few rows, NaN or infinity (rows and columns named), a constant
                column, bad weights, or a parameter out of range.
            TypeError: sparse `X`, or a parameter of another type.
            TrainingError: no validation value was finite.
        """
        x = features_of(self, X, fitting=True)
        share = self.contamination
        if share is not None and not 0 < share <= 0.5:
            raise ValueError(f"contamination={share} must lie in (0, 0.5], or be None")
        rows = self._train(x, None, sample_weight)
        # Of an earlier fit.
        self.__dict__.pop("offset_", None)
        if share is not None:
            self.offset_ = self._threshold(rows, share)
        return self

    def score_samples(self, X: Any) -> Float[np.ndarray, " n"]:
        """Log-density of each row of `X`, nats, (n,), float64.

        Raises:
            NotFittedError: nothing was fitted.
            ValueError: other columns than those fitted to, NaN or infinity.
            SolveError: the solve of a row failed.
        """
        check_is_fitted(self, "flow_")
        return self._log_prob(features_of(self, X, fitting=False))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of the rows of `X`, nats a row: the higher, the better.

        Args:
            X: rows, (n, d).
            y: not used.
            sample_weight: how much each row counts, (n,).
        """
        return mean_score(self.score_samples(X), sample_weight)

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:
        """`score_samples(X) - offset_`: negative for outliers, (n,).

        Raises:
            AttributeError: fitted with `contamination=None`.
        """
        log_p = self.score_samples(X)
        if not hasattr(self, "offset_"):
            raise AttributeError(
                "there is no threshold after a fit with contamination=None: set the share of "
                "outliers, such as contamination=0.1, and fit again"
            )
        return log_p - self.offset_

    def predict(self, X: Any) -> Int[np.ndarray, " n"]:
        """-1 for outliers, rows of a log-density below `offset_`, and 1 for others, (n,).

        Raises:
            AttributeError: fitted with `contamination=None`.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def sample(self, n_samples: Any = 1, random_state: Any = None) -> Float[np.ndarray, "m d"]:
        """Draw rows, (n_samples, d), in the flow's precision.

        Args:
            n_samples: number of rows.
            random_state: a number or a `RandomState`; None for other rows every time.
        """
        check_is_fitted(self, "flow_")
        count = whole("n_samples", n_samples)
        check_count("n_samples", count, least=0)
        return self._draw(count, None, random_state)

    def _threshold(self, rows: Rows, share: float) -> float:
        """The log-density below which this share of the rows lies."""
        if len(rows.x) > THRESHOLD_ROWS:
            order = np.random.default_rng(0).permutation(len(rows.x))
            rows = rows.take(order[:THRESHOLD_ROWS])
        log_p = self._log_prob(rows.x)
        if rows.weights is None:
            return float(np.quantile(log_p, share))
        return float(np.quantile(log_p, share, weights=rows.weights, method="inverted_cdf"))
