"""`ConditionalFlowDensity`: the density of rows given conditions."""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted

from jaxflow.estimator.arguments import check_conditions, check_features
from jaxflow.estimator.base import FlowEstimator, mean_score


class ConditionalFlowDensity(DensityMixin, FlowEstimator):
    """Density `p(X | y)` of rows given conditions, by a continuous normalizing flow.

    As in `jaxflow.fit(flow, x, cond)`, the density is that of `X`; the second array `y` holds the
    conditions, one number or vector per row. For the density of a target given features, write
    `fit(target[:, None], features)`.

    ```python
    import numpy as np
    from jaxflow.estimator import ConditionalFlowDensity

    y = np.random.default_rng(0).normal(size=50)
    X = np.stack([y, -y], axis=1) + np.random.default_rng(1).normal(size=(50, 2))
    density = ConditionalFlowDensity(width=8, steps=2, scaling=None, objective="matching")
    log_p = density.fit(X, y).score_samples(X, y)
    ```

    Conditions are numbers and are standardised before they enter the flow; encode classes as
    one-hot columns. The parameters are those of `FlowDensity` except `contamination`.

    Attributes:
        flow_: the fitted `jaxflow.CNF`; conditions are its `cond`.
        history_: training history, column name -> values (see `jaxflow.fit`).
        n_features_in_: number of columns of `X`.
        feature_names_in_: their names, if `X` was a data frame with names.
        n_conditions_in_: number of columns of `y`.
    """

    n_conditions_in_: int

    _fitted = (*FlowEstimator._fitted, "n_conditions_in_")

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "ConditionalFlowDensity":
        """Train the flow.

        Args:
            X: rows, (n, d), an array or a data frame, at least 3 of them.
            y: conditions, (n,) or (n, c).
            sample_weight: how often each row counts, (n,), not negative.

        Returns:
            The estimator itself.

        Raises:
            ValueError: no conditions or another number of them than rows, NaN or infinity (names
                rows), a constant column of `X`, bad weights, or a parameter out of range.
            TypeError: sparse `X`, or a parameter of another type.
            TrainingError: no validation value was finite.
        """
        x = check_features(self, X, fitting=True)
        cond = check_conditions(y, len(x))
        self.n_conditions_in_ = cond.shape[1]
        self._train(x, cond, sample_weight)
        return self

    def score_samples(self, X: Any, y: Any) -> Float[np.ndarray, " n"]:
        """Log-density `log p(X | y)` of each row in nats.

        Args:
            X: rows, (n, d).
            y: conditions, (n,) or (n, c).

        Returns:
            Log-densities, (n,), float64.

        Raises:
            NotFittedError: `fit` has not been called.
            ValueError: other columns than in the fit, NaN or infinity.
            SolveError: the solve of a row failed.
        """
        check_is_fitted(self, "flow_")
        x = check_features(self, X, fitting=False)
        return self._log_prob(x, self._conditions(y, len(x)))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Weighted mean of `log p(X | y)`, nats per row; higher is better.

        Args:
            X: rows, (n, d).
            y: conditions, (n,) or (n, c).
            sample_weight: weight of each row, (n,).
        """
        return mean_score(self.score_samples(X, y), sample_weight)

    def sample(self, y: Any, random_state: Any = None) -> Float[np.ndarray, "n d"]:
        """Draw one row for each condition.

        Args:
            y: conditions, (n,) or (n, c); repeat a condition to draw more rows.
            random_state: a seed or a `RandomState`; None draws other rows at every call.

        Returns:
            Rows, (n, d), in the flow's precision.
        """
        check_is_fitted(self, "flow_")
        cond = self._conditions(y, None)
        return self._draw(len(cond), cond, random_state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags

    def _conditions(self, y: Any, rows: int | None) -> Float[np.ndarray, "n c"]:
        cond = check_conditions(y, rows)
        if cond.shape[1] != self.n_conditions_in_:
            raise ValueError(
                f"y has {cond.shape[1]} columns; {type(self).__name__} was fitted with "
                f"{self.n_conditions_in_}"
            )
        return cond
