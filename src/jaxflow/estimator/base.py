"""Training, scoring, sampling and saving, shared by both estimators."""

import os
import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from jaxflow.estimator.arguments import (
    MIN_ROWS,
    OBJECTIVES,
    as_int,
    check_choices,
    feature_names,
    make_flow,
    make_options,
    to_precision,
)
from jaxflow.estimator.discrete import grid_steps, log_cell, mass_columns
from jaxflow.estimator.rows import SortedRows, hold_out, sort_rows
from jaxflow.flows.log_mass import MidpointWarning, log_cell_mean
from jaxflow.io.checkpoint import flow_from_bytes, flow_to_bytes, load, load_extra, save
from jaxflow.runtime.checks import check_columns
from jaxflow.runtime.precision import widest_dtype
from jaxflow.training import fit, fit_density
from jaxflow.training.defaults import default_eval_every, scaling, table_config
from jaxflow.training.rows import checked_weights


class HeldOut(NamedTuple):
    """Rows that trained no weight of the flow; or those that did, and `log_p` by flows of folds.

    `log_p` is in another order, and has noise within the cells of a grid.
    """

    rows: SortedRows
    log_p: Float[np.ndarray, " held"] | None = None


class Fitted(BaseEstimator):
    """Attributes that `fit` sets; apart from the dataclass, whose fields are parameters."""

    n_features_in_: int
    feature_names_in_: np.ndarray


@dataclass(kw_only=True, eq=False, repr=False)
class FlowEstimator(Fitted):
    """A continuous flow with scikit-learn's parameters."""

    width: Any = None
    depth: Any = 2
    steps: Any = None
    batch_size: Any = None
    learning_rate: Any = None
    objective: Any = "auto"
    scaling: Any = "auto"
    validation: Any = 0.1
    float64: Any = False
    random_state: Any = None
    verbose: Any = False
    discrete: Any = "density"

    # Fitted attributes that `save` writes beside the flow.
    _fitted: ClassVar[tuple[str, ...]] = (
        "n_features_in_",
        "feature_names_in_",
        "history_",
        "comparison_",
    )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fitted estimator to one file, without pickle.

        `load` reads the estimator, `jaxflow.load` the flow alone.

        Args:
            path: the file; missing folders are created.
            overwrite: replace an existing file.

        Raises:
            NotFittedError: `fit` has not been called.
            FileExistsError: `path` exists and `overwrite` is False.
            TypeError: a parameter is not a number, text or None, such as a `RandomState`.
        """
        check_is_fitted(self, "flow_")
        fitted = {name: getattr(self, name) for name in self._fitted if hasattr(self, name)}
        extra = {
            "estimator": type(self).__name__,
            "params": _to_python(self.get_params(deep=False)),
            "fitted": _to_python(fitted),
        }
        save(path, self.flow_, extra=extra, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Any:
        """Read a file that `save` wrote; runs no code from it.

        Args:
            path: the file.

        Returns:
            The fitted estimator.

        Raises:
            ValueError: the file holds another estimator or none, is damaged or of a newer format.
        """
        extra = load_extra(path)
        if extra.get("estimator") != cls.__name__:
            content = extra.get("estimator", "a flow alone: read it with jaxflow.load")
            raise ValueError(f"{path} holds no {cls.__name__} but {content}")
        estimator: Any = cls(**extra["params"])
        for name in cls._fitted:
            if name in extra["fitted"]:
                setattr(estimator, name, extra["fitted"][name])
        if hasattr(estimator, "feature_names_in_"):
            estimator.feature_names_in_ = np.asarray(estimator.feature_names_in_, object)
        # The flow keeps its own precision.
        with jax.enable_x64(True):
            estimator.flow_ = load(path)
        estimator.grid_ = grid_steps(estimator.flow_, estimator.n_features_in_)
        return estimator

    def __getstate__(self) -> Any:
        state: Any = super().__getstate__()
        if "flow_" in state:
            # A copy: the estimator keeps its flow.
            state = state | {"flow_": flow_to_bytes(state["flow_"])}
        return state

    def __setstate__(self, state: Any) -> None:
        if "flow_" in state:
            with jax.enable_x64(True):
                state = state | {"flow_": flow_from_bytes(state["flow_"])}
        super().__setstate__(state)

    def _train(
        self,
        x: Float[np.ndarray, "n d"],
        cond: Float[np.ndarray, "n c"] | None,
        sample_weight: Any,
    ) -> HeldOut:
        """Fit `flow_`, `grid_`, `history_`, perhaps `comparison_`; returns what was held out."""
        columns, float64 = feature_names(self), bool(self.float64)
        mass_columns(self.discrete, columns, x.shape[1])
        weights = _weights(sample_weight, len(x))
        x = to_precision(x, "X", float64=float64, warn=True)
        cond = None if cond is None else to_precision(cond, "y", float64=float64)
        rows = sort_rows(x, cond, weights)
        if len(rows.x) < MIN_ROWS:
            raise ValueError(
                f"sample_weight leaves {len(rows.x)} rows of X with a positive weight; at least "
                f"{MIN_ROWS} are needed"
            )
        check_columns(rows.x, columns)
        check_choices(self.objective, self.scaling)
        seed = _seed_of(self.random_state)
        # Remove what an earlier fit had.
        self.__dict__.pop("comparison_", None)
        with jax.enable_x64(float64):
            if self.objective == self.scaling == "auto":
                held = self._fit_density(rows, columns, seed)
            else:
                held = self._fit_flow(rows, columns, seed)
        self.grid_ = grid_steps(self.flow_, x.shape[1])
        return held

    def _fit_density(self, rows: SortedRows, columns: list[str] | None, seed: int) -> HeldOut:
        """Fit by `jaxflow.fit_density`."""
        with warnings.catch_warnings():
            # Scores of the estimator are means over cells.
            warnings.simplefilter("ignore", MidpointWarning)
            self.flow_, history, comparison = fit_density(
                rows.x,
                rows.cond,
                key=jax.random.key(seed),
                weights=rows.weights,
                columns=columns,
                kinds=getattr(self, "kinds", None),
                ensemble=bool(getattr(self, "ensemble", False)),
                width=None if self.width is None else as_int("width", self.width),
                depth=as_int("depth", self.depth),
                validation=self.validation,
                progress=bool(self.verbose),
                **make_options(self.steps, self.batch_size, self.learning_rate),
            )
        # A plain dict: a pickle of the estimator names no other class.
        self.history_ = dict(history)
        self.comparison_ = comparison.as_dict()
        log_p = comparison.log_p.get("flow")
        return HeldOut(rows, log_p)

    def _fit_flow(self, rows: SortedRows, columns: list[str] | None, seed: int) -> HeldOut:
        """Fit by `jaxflow.fit`, with the objective and the scaling that were asked for."""
        for name in ("kinds", "ensemble"):
            if value := getattr(self, name, None):
                raise ValueError(
                    f"{name}={value!r} is for the default flow: leave "
                    f"objective={self.objective!r} and scaling={self.scaling!r} out"
                )
        config = table_config(**make_options(self.steps, self.batch_size, self.learning_rate))
        train, held = hold_out(rows, self.validation, seed)
        flow_key, fit_key = jax.random.split(jax.random.key(seed))
        cond_dim = 0 if rows.cond is None else rows.cond.shape[1]
        flow = make_flow(self.width, self.depth, rows.x.shape[1], cond_dim, flow_key)
        self.flow_, history = fit(
            flow,
            train.x,
            train.cond,
            key=fit_key,
            weights=train.weights,
            validation=tuple(held),
            transform=scaling(self.scaling or "none", train.x, columns),
            objective=OBJECTIVES[self.objective],
            config=replace(config, eval_every=default_eval_every(config.steps)),
            progress=bool(self.verbose),
        )
        self.history_ = dict(history)
        return HeldOut(held)

    def _log_prob(
        self, x: Float[np.ndarray, "n d"], cond: Float[np.ndarray, "n c"] | None = None
    ) -> Float[np.ndarray, " n"]:
        """Scores in nats, (n,), always in float64; `discrete` says what they mean on grids."""
        float64, cond = self._at_precision(cond)
        # The flow rounds rows after its transform has subtracted their offsets.
        to_precision(x, "X", float64=float64)
        masses = mass_columns(self.discrete, feature_names(self), x.shape[1])
        with jax.enable_x64(float64):
            log_p = log_cell_mean(self.flow_, x, cond)
        return log_p - log_cell(self.grid_, masses)

    def _draw(
        self, count: int, cond: Float[np.ndarray, "n c"] | None, random_state: Any
    ) -> Float[np.ndarray, "m d"]:
        """Samples in the units of the data, (count, d), in the flow's precision."""
        float64, cond = self._at_precision(cond)
        with jax.enable_x64(float64):
            key = jax.random.key(_seed_of(random_state))
            return np.asarray(self.flow_.sample(key, count, cond))

    def _at_precision(self, cond: Any) -> tuple[bool, Any]:
        """Whether the flow is in float64, and conditions in its precision."""
        float64 = bool(widest_dtype(self.flow_) == np.float64)
        return float64, None if cond is None else to_precision(cond, "y", float64=float64)


def mean_score(log_p: Float[np.ndarray, " n"], sample_weight: Any) -> float:
    """Weighted mean log-density."""
    return float(np.average(log_p, weights=_weights(sample_weight, len(log_p))))


def _weights(sample_weight: Any, rows: int) -> Float[np.ndarray, " n"] | None:
    if sample_weight is None:
        return None
    return checked_weights(sample_weight, rows, "sample_weight")


def _seed_of(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))


def _to_python(values: dict[str, Any]) -> dict[str, Any]:
    """NumPy numbers and arrays as those of Python."""
    is_numpy = (np.ndarray, np.generic)
    return {
        name: value.tolist() if isinstance(value, is_numpy) else value
        for name, value in values.items()
    }
