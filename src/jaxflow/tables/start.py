"""The Gaussians that the density of continuous columns may start from, and the best of them."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.bases import StandardNormal
from jaxflow.flows.cnf import CNF
from jaxflow.tables.continuous import Codes, Continuous, Numbers, labels_of, seen_in
from jaxflow.tables.gaussian import Conditions, fit_gaussian
from jaxflow.transforms import Bounded, Chain, Gaussianise, Standardise
from jaxflow.transforms.choose import forward

# Ridges of the coefficients, in rows, and of the variances.
DECAYS, RIDGES = (1.0, 30.0, math.inf), (1e-2, 1e-4)

Splits = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Recipe:
    """How a Gaussian is fitted.

    `curved` columns are mapped to normal scores, the others are standardised. `decay` and `ridge`
    are those of `fit_gaussian`; `group` is the number of the labels that choose a covariance, -1
    for one covariance.
    """

    curved: tuple[int, ...] = ()
    decay: float = DECAYS[0]
    ridge: float = RIDGES[0]
    group: int = -1
    diagonal: bool = False


class Data(NamedTuple):
    """Rows of continuous columns, NaN where absent, and their conditions.

    `limits` are those of the codes, `inputs` the encoded discrete cells, and `groups` the number
    of labels of each discrete variable that may choose a covariance.
    """

    y: Numbers
    limits: Float[np.ndarray, "2 columns"]
    inputs: Float[np.ndarray, "n inputs"]
    codes: Codes
    groups: dict[int, int]
    gates: tuple[int, ...]

    @property
    def masked(self) -> bool:
        """Whether cells are absent."""
        return bool(np.isnan(self.y).any())

    def conditions(self, rows: np.ndarray, group: int) -> Conditions:
        """Conditions of the continuous cells of these rows."""
        codes, num_labels = self.codes[rows], self.groups.get(group, 1)
        return Conditions(
            seen_in(codes, self.gates), self.inputs[rows], labels_of(codes, group, num_labels)
        )

    def simple(self, settings: Recipe, rows: np.ndarray, field: Any) -> Continuous:
        """The Gaussian of these rows, with a field that is 0 before training."""
        y, conditions = self.y[rows], self.conditions(rows, settings.group)
        # Absent cells repeat the present ones, to leave each column's distribution as it is.
        filled = np.stack([np.resize(c[~np.isnan(c)], len(c)) for c in y.T], axis=1)
        x, parts = jnp.asarray(filled, float), []
        if np.isfinite(self.limits).any():
            parts.append(Bounded(*(jnp.asarray(limit, float) for limit in self.limits)))
            x = forward(parts[0], x)[0]
        parts.append(_scaling(np.asarray(x, np.float64), settings.curved))
        scaling = Chain(tuple(parts)) if len(parts) > 1 else parts[0]
        u = np.asarray(forward(parts[-1], x)[0], np.float64)
        seen = np.asarray(conditions.seen)
        if not seen.all():
            fill = jnp.asarray(np.where(seen, y, filled), float)
            u = np.where(seen, np.asarray(forward(scaling, fill)[0], np.float64), np.nan)
        start = fit_gaussian(
            u,
            self.inputs[rows],
            np.asarray(conditions.label),
            self.groups.get(settings.group, 1),
            decay=settings.decay,
            ridge=settings.ridge,
            diagonal=settings.diagonal,
        )
        flow = CNF(field, StandardNormal(y.shape[1]))
        fill = jnp.asarray(filled[0], float)
        return Continuous(scaling, start, flow, fill, self.masked, settings.group, self.gates)

    def score(self, settings: Recipe, folds: Splits) -> Any:
        """Held-out log-densities of the Gaussian, of all folds in turn, (rows,)."""
        each = []
        for train, held in folds:
            model = self.simple(settings, train, _no_field)
            conditions = self.conditions(held, settings.group)
            z, log_det = (
                np.asarray(v, np.float64) for v in model.scores(self.y[held], conditions)
            )
            constant = 0.5 * math.log(2 * math.pi) * np.asarray(conditions.seen).sum(axis=1)
            each.append(log_det - 0.5 * (z**2).sum(axis=1) - constant)
        return np.concatenate(each)

    def choose(
        self, folds: Splits, deadline: float = math.inf
    ) -> tuple[Recipe, dict[Recipe, Float[np.ndarray, " rows"]]]:
        """The best settings, and the held-out log-densities of all that were tried.

        After the deadline, a time of `time.monotonic`, only a common covariance, with all columns
        curved or none, and independent columns are still tried.
        """
        tried: dict[Recipe, Float[np.ndarray, " rows"]] = {}
        best, every = Recipe(), tuple(range(self.y.shape[1]))
        stages: list[Callable[[Recipe], list[Recipe]]] = [
            lambda best: [
                replace(best, curved=curved, group=group)
                for curved in ((), every)
                for group in (-1, *self.groups)
            ],
            *(partial(_toggle, column=column) for column in every),
            lambda best: [replace(best, decay=decay) for decay in DECAYS],
            lambda best: [replace(best, ridge=ridge) for ridge in RIDGES],
            lambda best: [
                replace(best, diagonal=False),
                replace(best, decay=math.inf, group=-1, diagonal=True),
            ],
        ]
        for stage in stages:
            for recipe in stage(best):
                needed = stage is stages[-1] or (stage is stages[0] and recipe.group == -1)
                if recipe not in tried and (needed or time.monotonic() < deadline):
                    tried[recipe] = self.score(recipe, folds)
            best = max(tried, key=lambda each: tried[each].mean())
        return best, tried


def _toggle(best: Recipe, column: int) -> list[Recipe]:
    """The recipe with one column curved that was straight, or straight that was curved."""
    return [replace(best, curved=tuple(sorted({*best.curved} ^ {column})))]


def _scaling(x: Numbers, curved: tuple[int, ...]) -> Any:
    """Normal scores of some columns, and a straight line for the others."""
    if not curved:
        return Standardise.fit(x)
    curves = Gaussianise.fit(x)
    knots, scores, slopes = (
        np.array(part) for part in (curves.knots, curves.scores, curves.slopes)
    )
    for j in set(range(x.shape[1])) - set(curved):
        scores[j] = np.linspace(-3, 3, scores.shape[1])
        knots[j], slopes[j] = x[:, j].mean() + x[:, j].std() * scores[j], 1 / x[:, j].std()
    return Gaussianise(*(jnp.asarray(part) for part in (knots, scores, slopes)))


def _no_field(t: Array, x: Array, cond: Array | None = None) -> Array:
    return 0 * x
