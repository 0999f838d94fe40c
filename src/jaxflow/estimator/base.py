"""What both estimators share: training, scoring, drawing, pickling."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from jaxflow.data import check_columns
from jaxflow.estimator.arguments import LEAST_ROWS, in_precision, names_of, weights_of
from jaxflow.estimator.files import (
    flow_from_bytes,
    flow_to_bytes,
    load_estimator,
    save_estimator,
)
from jaxflow.estimator.rows import Rows, arranged, hold_out
from jaxflow.estimator.settings import config_of, objective_of, scaling_of, untrained
from jaxflow.runtime.precision import widest_dtype
from jaxflow.training import History, fit


class FlowEstimator(BaseEstimator):
    """A continuous flow behind scikit-learn's parameters."""

    flow_: Any
    history_: History
    n_features_in_: int
    feature_names_in_: np.ndarray

    # What a fit leaves beside the flow.
    _fitted: tuple[str, ...] = ("n_features_in_", "feature_names_in_", "history_")

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
        float64: Any = False,
        random_state: Any = None,
        verbose: Any = False,
    ) -> None:
        self.width = width
        self.depth = depth
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.objective = objective
        self.scaling = scaling
        self.validation = validation
        self.float64 = float64
        self.random_state = random_state
        self.verbose = verbose

    def save(self, path: Any, *, overwrite: bool = False) -> None:
        """Write the fitted estimator to one file, which `load` reads without pickle.

        `jaxflow.load(path)` reads the flow alone.

        Args:
            path: the file; missing folders are made.
            overwrite: whether an existing file may be replaced.

        Raises:
            NotFittedError: nothing was fitted.
            FileExistsError: `path` exists and `overwrite` is False.
            TypeError: a parameter that is no number, text or None, such as a `RandomState`.
        """
        check_is_fitted(self, "flow_")
        save_estimator(path, self, self._fitted, overwrite=overwrite)

    @classmethod
    def load(cls, path: Any) -> Any:
        """Read what `save` wrote; nothing in the file is run.

        Raises:
            ValueError: a file of another estimator or of none, damaged, or of a newer format.
        """
        return load_estimator(path, cls, cls._fitted)

    def __getstate__(self) -> Any:
        state: Any = super().__getstate__()
        if "flow_" in state:
            # A copy: the estimator keeps its flow.
            state = state | {"flow_": flow_to_bytes(state["flow_"])}
        return state

    def __setstate__(self, state: Any) -> None:
        if "flow_" in state:
            state = state | {"flow_": flow_from_bytes(state["flow_"])}
        super().__setstate__(state)

    def _train(
        self, x: Float[np.ndarray, "n d"], cond: np.ndarray | None, sample_weight: Any
    ) -> Rows:
        """Fit `flow_` and `history_`; the rows that count, as training takes them.

        Raises:
            ValueError, TypeError: bad data or parameters.
            TrainingError: no validation value was finite.
        """
        weights = weights_of(sample_weight, len(x))
        wide = bool(self.float64)
        x = in_precision(x, "X", float64=wide, warn=True)
        if cond is not None:
            cond = in_precision(cond, "y", float64=wide)
        rows = arranged(x, cond, weights)
        if len(rows.x) < LEAST_ROWS:
            raise ValueError(
                f"sample_weight leaves {len(rows.x)} rows of X that count; at least "
                f"{LEAST_ROWS} are needed"
            )
        columns = names_of(self)
        check_columns(rows.x, columns)
        objective = objective_of(self.objective)
        config = config_of(self.steps, self.batch_size, self.learning_rate)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        train, held = hold_out(rows, self.validation, seed)
        with jax.enable_x64(wide):
            flow_key, fit_key = jax.random.split(jax.random.key(seed))
            cond_dim = 0 if cond is None else cond.shape[1]
            flow = untrained(self.width, self.depth, x.shape[1], cond_dim, flow_key)
            self.flow_, self.history_ = fit(
                flow,
                train.x,
                train.cond,
                key=fit_key,
                weights=train.weights,
                validation=tuple(held),
                transform=scaling_of(self.scaling, train.x, columns),
                objective=objective,
                config=config,
                progress=bool(self.verbose),
            )
        return rows

    def _log_prob(self, x: np.ndarray, cond: np.ndarray | None = None) -> np.ndarray:
        """Log-densities in nats, (n,), float64 whatever the flow's precision."""
        wide = widest_dtype(self.flow_) == np.float64
        x = in_precision(x, "X", float64=wide)
        cond = None if cond is None else in_precision(cond, "y", float64=wide)
        with jax.enable_x64(wide):
            return np.asarray(self.flow_.log_prob(x, cond), np.float64)

    def _draw(self, count: int, cond: np.ndarray | None, random_state: Any) -> np.ndarray:
        """Samples in the data's units, (count, d), in the flow's precision."""
        wide = widest_dtype(self.flow_) == np.float64
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        cond = None if cond is None else in_precision(cond, "y", float64=wide)
        with jax.enable_x64(wide):
            return np.asarray(self.flow_.sample(jax.random.key(seed), count, cond))


def mean_score(log_p: np.ndarray, sample_weight: Any) -> float:
    """The mean log-density, each row counted by its weight."""
    return float(np.average(log_p, weights=weights_of(sample_weight, len(log_p))))
