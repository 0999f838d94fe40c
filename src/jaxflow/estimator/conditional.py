"""`ConditionalFlowDensity`: the density of rows given a condition each."""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted

from jaxflow.estimator.arguments import conditions_of, features_of
from jaxflow.estimator.base import FlowEstimator, mean_score


class ConditionalFlowDensity(DensityMixin, FlowEstimator):
    """Density `p(X | y)` of rows given conditions, by a continuous normalizing flow.

    As in `jaxflow.fit(flow, x, cond)`, the density is that of `X`, and what it is conditioned on
    goes where scikit-learn has its second array: `y`, a number or a vector a row. For the
    density of a target given features, `p(target | features)`, write
    `fit(target[:, None], features)`.

    ```python
    density = ConditionalFlowDensity(random_state=0).fit(X, y)
    density.score_samples(X, y)                  # log p(X | y), (n,)
    density.sample(y, random_state=1)            # a row for each condition, (n, d)
    ```

    Conditions are numbers, standardised on their way into the flow; encode classes as one-hot
    columns. All parameters are those of `FlowDensity`, which has `contamination` besides.

    Attributes:
        flow_: the fitted `jaxflow.CNF`; conditions are its `cond`.
        history_: the course of training, column name -> values (see `jaxflow.fit`).
        n_features_in_: number of columns of `X`.
        feature_names_in_: their names, where `X` was a data frame with names.
        n_conditions_in_: number of columns of `y`.
    """

    n_conditions_in_: int

    _fitted = (*FlowEstimator._fitted, "n_conditions_in_")

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "ConditionalFlowDensity":
        """Train the flow.

        Args:
            X: rows, (n, d), an array or a data frame, at least 3 of them.
            y: their conditions, (n,) or (n, c).
            sample_weight: how often each row counts, (n,), none of them negative.

        Raises:
            ValueError: no conditions or another number of them than rows; NaN or infinity
                (rows named), a constant column of `X`, bad weights, or a parameter out of range.
            TypeError: sparse `X`, or a parameter of another type.
            TrainingError: no validation value was finite.
        """
        x = features_of(self, X, fitting=True)
        cond = conditions_of(y, len(x))
        self.n_conditions_in_ = cond.shape[1]
        self._train(x, cond, sample_weight)
        return self

    def score_samples(self, X: Any, y: Any) -> Float[np.ndarray, " n"]:
        """Log-density `log p(X | y)` of each row, nats, (n,), float64.

        Raises:
            NotFittedError: nothing was fitted.
            ValueError: other columns than those fitted to, NaN or infinity.
            SolveError: the solve of a row failed.
        """
        check_is_fitted(self, "flow_")
        x = features_of(self, X, fitting=False)
        return self._log_prob(x, self._conditions(y, len(x)))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Mean of `log p(X | y)`, nats a row: the higher, the better.

        Args:
            X: rows, (n, d).
            y: their conditions, (n,) or (n, c).
            sample_weight: how much each row counts, (n,).
        """
        return mean_score(self.score_samples(X, y), sample_weight)

    def sample(self, y: Any, random_state: Any = None) -> Float[np.ndarray, "n d"]:
        """Draw a row for each condition, (n, d), in the flow's precision.

        Args:
            y: conditions, (n,) or (n, c); repeat one for more rows of it.
            random_state: a number or a `RandomState`; None for other rows every time.
        """
        check_is_fitted(self, "flow_")
        cond = self._conditions(y, None)
        return self._draw(len(cond), cond, random_state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags

    def _conditions(self, y: Any, rows: int | None) -> np.ndarray:
        cond = conditions_of(y, rows)
        if cond.shape[1] != self.n_conditions_in_:
            raise ValueError(
                f"y has {cond.shape[1]} columns; {type(self).__name__} was fitted with "
                f"{self.n_conditions_in_}"
            )
        return cond
