"""`FlowDensity`: the density of rows, and which rows are outliers."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import DensityMixin, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from jaxflow.estimator.arguments import as_int, check_features
from jaxflow.estimator.base import FlowEstimator, mean_score
from jaxflow.estimator.rows import Rows
from jaxflow.runtime.checks import check_count

# Most rows whose scores set the threshold: the standard error of its share is then 0.3 %.
THRESHOLD_ROWS = 10_000


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
        width: units of each hidden layer of the field.
        depth: number of hidden layers.
        steps: number of parameter updates.
        batch_size: minibatch size.
        learning_rate: peak learning rate.
        objective: `"staged"`, flow matching and then likelihood; `"matching"`; `"likelihood"`;
            `"auto"`, the same as staged.
        scaling: transform of the columns before the flow, counted in the density:
            `"standardise"`, `"gaussianise"`, `"whiten"`, or None. `"auto"` dequantises columns on
            a grid, takes logits or logarithms of bounded columns, and chooses the rest by the
            held-out density.
        validation: share of the rows held out to choose the best weights.
        contamination: share of the training rows that `predict` calls outliers, in (0, 0.5]; None
            sets no threshold and saves the scoring of the training rows.
        float64: compute in float64, which is slower; JAX's global precision is not changed.
        random_state: a seed, a `RandomState`, or None for another flow at every fit.
        verbose: show a progress bar.

    Attributes:
        flow_: the fitted `jaxflow.CNF`, for example for `log_prob_with_error`.
        history_: training history, column name -> values (see `jaxflow.fit`).
        offset_: log-density of the threshold in nats; absent without `contamination`.
        n_features_in_: number of columns.
        feature_names_in_: their names, if `X` was a data frame with names.
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
        rows = self._train(x, None, sample_weight)
        # Remove the threshold of an earlier fit.
        self.__dict__.pop("offset_", None)
        if share is not None:
            self.offset_ = self._threshold(rows, share)
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

    def _threshold(self, rows: Rows, share: float) -> float:
        """Log-density that this share of the rows does not reach."""
        if len(rows.x) > THRESHOLD_ROWS:
            order = np.random.default_rng(0).permutation(len(rows.x))
            rows = rows.take(order[:THRESHOLD_ROWS])
        log_p = self._log_prob(rows.x)
        if rows.weights is None:
            return float(np.quantile(log_p, share))
        return float(np.quantile(log_p, share, weights=rows.weights, method="inverted_cdf"))
