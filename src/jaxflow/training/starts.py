"""Simple densities that a flow can start from: Gaussian mixtures, Student's t and kernels."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from jaxflow.bases import GaussianMixture, StandardNormal, StudentT
from jaxflow.bases.mixture_fit import fit_mixture
from jaxflow.runtime.precision import cast_floats
from jaxflow.runtime.threads import one_thread
from jaxflow.training.defaults import SCALINGS
from jaxflow.training.heavy_tails import HeavyTails, fit_heavy_tails
from jaxflow.transforms import Chain, Transform, Whiten, spread_rows
from jaxflow.transforms.choose import forward

# Numbers of components that are tried, and the rows of training that each component needs; with
# correlations as many as columns.
COMPONENTS, ROWS_EACH = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32), 8
# Ridges that are tried, as shares of a scaled column's variance; the first one with any number of
# components.
RIDGES = (0.01, 0.001, 1e-5, 0.05, 0.2)
# The search for the number of components ends after this many that are no better.
WORSE = 2
# Components without correlations have far fewer parameters only with more columns than this.
MANY_COLUMNS = 3
# Largest number of rows that a mixture is fitted to while one is chosen.
MAX_ROWS = 5000

# A mixture must gain this many standard errors over a Gaussian, and normal scores over a mixture:
# they may fit the tails badly, and few held-out rows lie there.
SURE = 1.0
# Mixtures of an average, and starts of each mixture.
AVERAGED, STARTS = 5, 3
# Variances of a kernel that are tried, widest first, as shares of a scaled column's variance.
WIDTHS = tuple(0.5**k for k in range(1, 17))
# Scalings that are tried; a mixture has correlations of its own.
TRIED = ("standardise", "gaussianise")


@dataclass(frozen=True)
class Start:
    """A simple density: a scaling of each column, then a Gaussian mixture or Student's t.

    `covariance` is that within a component; `ridge` is added to each variance of the scaled
    columns; `heavy` makes a single component Student's t, with tails as the rows have. `averaged`
    takes the average of `AVERAGED` mixtures, each without another share of the rows. `kernel` puts
    a component of variance `ridge` at each row.
    """

    scaling: str = "standardise"
    components: int = 1
    covariance: Literal["full", "diag"] = "full"
    ridge: float = RIDGES[0]
    heavy: bool = False
    averaged: bool = False
    kernel: bool = False

    @property
    def is_gaussian(self) -> bool:
        """Whether it is a single Gaussian."""
        return self.components == 1 and not self.heavy and not self.kernel

    @property
    def name(self) -> str:
        """The density in a few words."""
        diagonal = self.covariance == "diag"
        if self.kernel:
            density = "kernel density"
        elif self.components == 1:
            density = "Student t" if self.heavy else "Gaussian"
            density += " without correlations" if diagonal else ""
        else:
            which = f"average of {AVERAGED} mixtures" if self.averaged else "mixture"
            density = f"{which} of {self.components} Gaussians"
        return density + (" of normal scores" if self.scaling == "gaussianise" else "")

    def log_density(
        self, train: Float[np.ndarray, "n d"], held: Float[np.ndarray, "m d"]
    ) -> Float[np.ndarray, " m"]:
        """Log-density of scaled rows under the density that is fitted to others, in nats."""
        if self.heavy:
            return self.heavy_tails(train).log_density(held)
        if self.kernel:
            inside = logsumexp(cdist(held, train, "sqeuclidean") / (-2 * self.ridge), axis=1)
            volume = len(train) * (2 * np.pi * self.ridge) ** (train.shape[1] / 2)
            return np.asarray(inside - np.log(volume))
        settings = self.components, self.ridge, self.covariance
        averaged = AVERAGED if self.averaged else 1
        fitted = fit_mixture(train, *settings, starts=STARTS, averaged=averaged)
        return fitted.log_density(held)

    def heavy_tails(self, scaled: Float[np.ndarray, "n d"]) -> HeavyTails:
        """Fit Student's t to scaled rows."""
        return fit_heavy_tails(scaled, self.covariance, self.ridge)

    def mixture(self, scaled: Array) -> GaussianMixture:
        """Fit the mixture to scaled rows, (n, d)."""
        if self.kernel:
            count, dim = scaled.shape
            factor = self.ridge**0.5 * jnp.eye(dim, dtype=scaled.dtype)
            return GaussianMixture(
                jnp.ones(count, scaled.dtype), scaled, jnp.tile(factor, (count, 1, 1))
            )
        return GaussianMixture.fit(
            scaled,
            self.components,
            ridge=self.ridge,
            covariance=self.covariance,
            starts=STARTS,
            averaged=AVERAGED if self.averaged else 1,
        )

    def fit(self, first: Chain | None, u: Array) -> tuple[Transform, Any]:
        """Fit to rows after the transform `first`: the transform of the data, and the base.

        A single Gaussian or t is a `Whiten` and a standard base.
        """
        scaling = SCALINGS[self.scaling].fit(u)
        scaled = forward(scaling, u)[0]
        base: Any = StandardNormal(u.shape[1:])
        parts: list[Any] = [scaling]
        if self.heavy:
            fitted = self.heavy_tails(np.asarray(scaled, np.float64))
            mean, factor, df = (jnp.asarray(part, scaled.dtype) for part in fitted)
            parts.append(Whiten(mean, factor))
            base = StudentT(df, u.shape[1:])
        elif self.is_gaussian:
            mixture = self.mixture(scaled)
            parts.append(Whiten(mixture.means[0], mixture.factors[0]))
        else:
            base = cast_floats(self.mixture(scaled), u.dtype)
        parts = [*(() if first is None else first.parts), *parts]
        return (Chain(tuple(parts)) if len(parts) > 1 else parts[0]), base


class Fold(NamedTuple):
    """Rows of one fold before the scaling, with the log-determinants of the held rows so far."""

    train: Array
    held: Array
    log_det: Float[np.ndarray, " m"]


def before_scaling(
    x: Array,
    first: Chain | None,
    key: PRNGKeyArray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[Array, list[Fold]]:
    """Rows after the transforms that come before the scaling, and their folds.

    Rows on a grid have noise within their cells: `spread_rows(first, x, key)`.
    """
    if first is None:
        u, log_det = x, np.zeros(len(x))
    else:
        u, log_det = forward(first, spread_rows(first, x, key))
    log_det = np.asarray(log_det, np.float64)
    return u, [Fold(u[train], u[held], log_det[held]) for train, held in folds]


def choose_start(
    folds: Sequence[Fold], *, only_mixtures: bool = False
) -> dict[Start, Float[np.ndarray, " n"]]:
    """Choose a simple density by cross-validation, with `only_mixtures` of standardised columns.

    For each scaling the number of components rises until the held-out rows are no better; then
    other ridges, averages of mixtures and, for columns that are only standardised, Student's t and
    kernels are tried. The second scaling must be clearly better. Of many rows the first `MAX_ROWS`
    train, and there are no kernels. Returns log-densities of the held-out rows of all folds in
    turn, in nats and data units, for each density, the chosen one first, then by their means. No
    kernel density is chosen: a flow gains nothing on one.
    """
    tried: dict[Start, Float[np.ndarray, " n"]] = {}
    for scaling in TRIED[:1] if only_mixtures else TRIED:
        mapped = [_scaled(SCALINGS[scaling], fold) for fold in folds]

        def score(start: Start, mapped: list[Any] = mapped) -> float:
            if start not in tried:
                each = [
                    start.log_density(train, held) + log_det for train, held, log_det in mapped
                ]
                tried[start] = np.concatenate(each)
            return float(tried[start].mean())

        with one_thread():
            plain = not only_mixtures and scaling == TRIED[0]
            _search(score, scaling, mapped[0][0].shape, heavy=plain)
            if plain and max(len(fold.train) for fold in folds) <= MAX_ROWS:
                until_worse(score, [Start(kernel=True, ridge=width) for width in WIDTHS])
    ranked = sorted(tried, key=lambda start: -float(tried[start].mean()))
    starts = [start for start in ranked if not start.kernel]
    plain = [start for start in starts if start.scaling == TRIED[0]]
    gaussian = next(start for start in plain if start.is_gaussian)
    chosen = starts[0]
    for simple in (gaussian, plain[0]):
        if not surely_better(tried[chosen], tried[simple]):
            chosen = simple
            break
    return {start: tried[start] for start in (chosen, *ranked)}


def surely_better(log_p: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> bool:
    """Whether log-densities of rows exceed others by `SURE` standard errors in the mean."""
    gain = log_p - other
    return bool(gain.mean() > SURE * gain.std() / len(gain) ** 0.5)


def until_worse(
    score: Callable[[Any], float], starts: Iterable[Any], most: int = WORSE
) -> list[tuple[Any, float]]:
    """Starts and their scores; it ends when `most` in a row are no better than the best."""
    scored, worse, top = [], 0, -np.inf
    for start in starts:
        value = score(start)
        scored.append((start, value))
        worse, top = (0, value) if value > top else (worse + 1, top)
        if worse == most:
            break
    return scored


def _search(
    score: Callable[[Start], float], scaling: str, shape: tuple[int, ...], heavy: bool
) -> None:
    best, highest = Start(scaling), -np.inf
    mixture: Start | None = None
    for covariance in ("full", "diag") if shape[1] > MANY_COLUMNS else ("full",):
        counts = _by_components(Start(scaling, covariance=covariance), *shape)
        for start, value in until_worse(score, counts):
            if value > highest:
                best, highest = start, value
            if start.components > 1 and (mixture is None or value > score(mixture)):
                mixture = start
        t = Start(scaling, covariance=covariance, heavy=True)
        if heavy and score(t) > highest:
            best, highest = t, score(t)
    for ridge in RIDGES[1:]:
        score(replace(best, ridge=ridge))
        score(replace(Start(scaling), ridge=ridge))
    if mixture is not None:
        mixture = max((replace(mixture, ridge=ridge) for ridge in RIDGES), key=score)
        # More components as long as that is better.
        counts = _by_components(replace(mixture, averaged=True), *shape)
        more = [each for each in counts if each.components >= mixture.components]
        until_worse(score, more, most=1)


def _by_components(start: Start, rows: int, dim: int) -> Iterator[Start]:
    least = max(ROWS_EACH, dim) if start.covariance == "full" else ROWS_EACH
    for count in COMPONENTS:
        if count == 1 or count * least <= rows:
            yield replace(start, components=count)


def _scaled(kind: Any, fold: Fold) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scaling = kind.fit(fold.train)
    train = fold.train[:MAX_ROWS]
    # One program for both.
    both = forward(scaling, jnp.concatenate([train, fold.held]))
    u, log_det = (np.asarray(part, np.float64) for part in both)
    return u[: len(train)], u[len(train) :], fold.log_det + log_det[len(train) :]
