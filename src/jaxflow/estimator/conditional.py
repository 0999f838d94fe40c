"""`ConditionalFlowDensity`: the density of rows given conditions."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted

from jaxflow.estimator.arguments import check_conditions, check_features, condition_names
from jaxflow.estimator.base import FlowEstimator, mean_score
from jaxflow.flows.predictive import LEVELS, calibration_curve, crps
from jaxflow.flows.quantiles import cdf, check_levels, quantile


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
    one-hot columns. The parameters are those of `FlowDensity` except `contamination`, `kinds` and
    `ensemble`. Scores of a target on a grid, such as whole numbers, are densities per unit of `X`;
    with `discrete="mass"` they are probabilities. Quantiles, `cdf` and `crps` are on the grid.

    Of one column `X`, the methods `predict_quantile`, `predict_interval`, `cdf`, `crps` and
    `calibration_curve` give the prediction of a target: they solve the ODE in float64 and draw no
    samples.

    Attributes:
        flow_: the fitted `jaxflow.CNF`; conditions are its `cond`.
        history_: training history, column name -> values (see `jaxflow.fit`).
        grid_: step of the grid of each column of `X`; 0 for none.
        n_features_in_: number of columns of `X`.
        feature_names_in_: their names, if `X` was a data frame with names.
        n_conditions_in_: number of columns of `y`.
        condition_names_in_: their names, if `y` was a data frame with names; else None.
    """

    n_conditions_in_: int
    condition_names_in_: list[str] | None
    _fitted = (*FlowEstimator._fitted, "n_conditions_in_", "condition_names_in_")

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
        self.condition_names_in_ = condition_names(y)
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

    def predict_quantile(self, y: Any, q: Any) -> Float[np.ndarray, "..."]:
        """Quantiles of the target given conditions, in the units of `X`.

        The base's quantiles, carried forward by the ODE (`jaxflow.quantile`): no samples.

        Args:
            y: conditions, (n,) or (n, c).
            q: levels in (0, 1), a number or (k,).

        Returns:
            Quantiles, (n,) for a number and (n, k) else, float64; they rise with `q`. A column on
            a grid has quantiles on the grid.

        Raises:
            NotFittedError: `fit` has not been called.
            TypeError: `q` does not hold numbers.
            ValueError: `X` had several columns, a level is not in (0, 1), or `y` has NaN,
                infinity or other columns than in the fit.
            SolveError: the solve of a row failed.
        """
        self._check_one_column("predict_quantile")
        cond, levels = self._conditions(y, None), check_levels(q, "q")
        if levels.ndim > 1:
            raise ValueError(f"q has shape {levels.shape}; give a number or a list (k,)")
        num, k = len(cond), levels.size
        x = quantile(self.flow_, np.tile(levels, num), np.repeat(cond, k, axis=0)).reshape(num, k)
        if not levels.ndim:
            return x[:, 0]
        # The errors of two solves could turn levels around that nearly agree.
        return np.sort(x, axis=1)[:, np.argsort(np.argsort(levels))]

    def predict_interval(self, y: Any, level: Any = 0.9) -> Float[np.ndarray, "n 2"]:
        """Central interval that holds the target with probability `level`, given conditions.

        Args:
            y: conditions, (n,) or (n, c).
            level: probability, in (0, 1).

        Returns:
            Lower and upper ends, the quantiles of `(1 - level) / 2` and `(1 + level) / 2`, (n, 2).

        Raises:
            NotFittedError, ValueError, SolveError: as `predict_quantile`.
        """
        share = check_levels(level, "level")
        if share.ndim:
            raise ValueError(f"level={level!r} must be a number in (0, 1), such as 0.9")
        return self.predict_quantile(y, [(1 - share) / 2, (1 + share) / 2])

    def cdf(self, X: Any, y: Any) -> Float[np.ndarray, " n"]:
        """Probability that the target is at most `X`, given conditions.

        Args:
            X: rows, (n, 1).
            y: conditions, (n,) or (n, c).

        Returns:
            Probabilities, (n,), float64; 0 below the support and 1 above it.

        Raises:
            NotFittedError, ValueError, SolveError: as `score_samples`; or `X` has several columns.
        """
        return cdf(self.flow_, *self._target("cdf", X, y))

    def crps(self, X: Any, y: Any) -> Float[np.ndarray, " n"]:
        """Continuous ranked probability score of each target, in its units; lower is better.

        `jaxflow.crps` has the formula, its accuracy and its cost: about 75 solves a row.

        Args:
            X: rows, (n, 1).
            y: conditions, (n,) or (n, c).

        Returns:
            Scores, (n,), float64.

        Raises:
            NotFittedError, ValueError, SolveError: as `cdf`; or `X` is off the grid of the fit.
        """
        return crps(self.flow_, *self._target("crps", X, y))

    def calibration_curve(
        self, X: Any, y: Any, levels: Any = LEVELS
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Share of targets below their predicted quantile, for each level.

        Equal to the level, to `sqrt(level (1 - level) / n)`, if the predictions are calibrated.
        `jaxflow.plotting.reliability` draws it.

        Args:
            X: rows that the fit did not see, (n, 1).
            y: conditions, (n,) or (n, c).
            levels: in (0, 1), (k,).

        Returns:
            Levels and shares, each (k,).

        Raises:
            NotFittedError, ValueError, SolveError: as `crps`; or a level is not in (0, 1).
        """
        return calibration_curve(self.flow_, *self._target("calibration_curve", X, y), levels)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags

    def _check_one_column(self, method: str) -> None:
        """Raise unless the fit was of one column."""
        check_is_fitted(self, "flow_")
        if self.n_features_in_ != 1:
            raise ValueError(
                f"{method} predicts one number, and this density was fitted to X of "
                f"{self.n_features_in_} columns: write fit(X[:, [0]], y) for one of them"
            )

    def _target(
        self, method: str, X: Any, y: Any
    ) -> tuple[Float[np.ndarray, "n 1"], Shaped[np.ndarray, "n c"]]:
        """A target and its conditions, checked."""
        self._check_one_column(method)
        x = check_features(self, X, fitting=False)
        return x, self._conditions(y, len(x))

    def _conditions(self, y: Any, rows: int | None) -> Float[np.ndarray, "n c"]:
        cond = check_conditions(y, rows)
        if cond.shape[1] != self.n_conditions_in_:
            raise ValueError(
                f"y has {cond.shape[1]} columns; {type(self).__name__} was fitted with "
                f"{self.n_conditions_in_}"
            )
        # Files of earlier versions have no names.
        fitted, names = getattr(self, "condition_names_in_", None), condition_names(y)
        if fitted is not None and names is not None and names != fitted:
            raise ValueError(
                f"y has the columns {names}; give those of the fit, in this order: y[{fitted}]"
            )
        return cond
