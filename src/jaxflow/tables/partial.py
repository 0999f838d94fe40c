"""Rows of which some cells are unknown: their marginal density, and draws of the rest."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray
from scipy.special import logsumexp

from jaxflow.tables.continuous import Continuous
from jaxflow.tables.discrete import Autoregressive
from jaxflow.tables.laws import Labels
from jaxflow.tables.plan import Coded, Plan

# Unknown labels are summed over if they make at most so many completions of a row, and of all
# rows.
MOST_EACH, MOST_ROWS = 512, 1_000_000


class Known(NamedTuple):
    """Rows, anything in unknown cells, and which discrete and continuous cells are known."""

    rows: Coded
    fixed: Bool[np.ndarray, "n variables"]
    seen: Bool[np.ndarray, "n columns"]

    @classmethod
    def of(cls, plan: Plan, rows: Coded, *, complete: bool) -> "Known":
        """The cells that are not missing.

        `complete`: no cell of a complete row is missing; else one may also be a gap of the table.
        """
        codes, fixed = rows.codes.copy(), ~np.isnan(rows.codes)
        for i, variable in enumerate(plan.variables):
            if variable.is_gap:
                unknown = codes[:, i] == 1
                codes[unknown, i] = 0
                fixed[unknown, i] = complete
        return cls(Coded(codes, rows.y), fixed, ~np.isnan(rows.y))

    def take(self, index: np.ndarray) -> "Known":
        """Some of the rows."""
        rows = Coded(self.rows.codes[index], self.rows.y[index])
        return Known(rows, self.fixed[index], self.seen[index])

    def patterns(self) -> list[tuple[Int[np.ndarray, " rows"], "Known"]]:
        """Numbers of the rows of each pattern of known cells, and these rows.

        The last row of a pattern is repeated, to a power of two of rows: few shapes to compile.
        """
        both = np.concatenate([self.fixed, self.seen], axis=1)
        _, which = np.unique(both, axis=0, return_inverse=True)
        parts = []
        for i in range(which.max() + 1):
            index = np.flatnonzero(which.reshape(-1) == i)
            more = (1 << (len(index) - 1).bit_length()) - len(index)
            parts.append((index, self.take(np.pad(index, (0, more), mode="edge"))))
        return parts


class Completions(NamedTuple):
    """Complete rows with weights: draws, or all that are possible (`exact`).

    `owner` numbers the incomplete row of each. The sum of the weights, or for draws their mean, is
    the density of the known cells, in the units of the codes. Cells still to be drawn are NaN.
    """

    rows: Coded
    owner: Int[np.ndarray, " m"]
    log_weight: Float[np.ndarray, " m"]
    exact: bool

    def log_density(
        self, count: int, draws: int
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Log-density of the known cells of each of `count` rows, and its standard error."""
        if self.exact:
            log_p = np.full(count, -np.inf)
            np.logaddexp.at(log_p, self.owner, self.log_weight)
            return log_p, np.zeros(count)
        each = self.log_weight.reshape(count, draws)
        log_p = np.asarray(logsumexp(each, axis=1)) - np.log(draws)
        share = np.exp(each - log_p[:, None])
        return log_p, share.std(axis=1, ddof=1) / np.sqrt(draws)

    def choose(self, count: int, each: int, seed: int) -> Int[np.ndarray, " chosen"]:
        """Numbers of completions, `each` for every row, with probabilities by their weights."""
        rng, chosen = np.random.default_rng(seed), []
        # The completions of a row follow each other.
        for own in np.split(
            np.arange(len(self.owner)), np.searchsorted(self.owner, range(1, count))
        ):
            p = np.exp(self.log_weight[own] - self.log_weight[own].max())
            chosen.append(rng.choice(own, each, p=p / p.sum()))
        return np.concatenate(chosen)


def complete(
    discrete: Autoregressive,
    continuous: Continuous | None,
    known: Known,
    key: PRNGKeyArray,
    draws: int,
) -> Completions:
    """Completions of rows with one pattern of known cells.

    Unknown labels are summed over where there are few; other unknown cells are drawn `draws` times
    a row: discrete ones in turn, continuous ones from the Gaussian where the flow starts, given
    the known ones. The weight of a draw is the density of the row over that of the draw.
    """
    discrete_key, key = jax.random.split(key)
    listed = _list(discrete, known)
    if listed is not None:
        codes, owner = listed
        log_weight = discrete.log_prob(codes).sum(axis=1)
        y, seen = known.rows.y[owner], known.seen[owner]
        if continuous is None or not known.seen.any():
            return Completions(Coded(codes, np.full(y.shape, np.nan)), owner, log_weight, True)
        conditions = continuous.conditions(codes, discrete.encode(codes))
        if (conditions.seen == seen).all():
            log_weight = log_weight + continuous.log_prob(y, conditions)
            return Completions(Coded(codes, y), owner, log_weight, True)
    owner = np.repeat(np.arange(len(known.rows.y)), draws)
    each = known.take(owner)
    codes = discrete.sample(discrete_key, each.rows.codes, each.fixed)
    log_weight = np.where(each.fixed, discrete.log_prob(codes), 0.0).sum(axis=1)
    y = np.full(each.rows.y.shape, np.nan)
    if continuous is not None and known.seen.any():
        conditions = continuous.conditions(codes, discrete.encode(codes))
        y, log_q = continuous.propose(key, each.rows.y, each.seen, conditions)
        log_weight = log_weight + continuous.log_prob(y, conditions) - log_q
    return Completions(Coded(codes, y), owner, log_weight, False)


def _list(
    discrete: Autoregressive, known: Known
) -> tuple[Float[np.ndarray, "m variables"], Int[np.ndarray, " m"]] | None:
    """All completions of the discrete cells, and the row of each; None if there are too many."""
    codes, owner = known.rows.codes, np.arange(len(known.rows.codes))
    most = min(MOST_ROWS, MOST_EACH * len(owner))
    for j, (law, gate) in enumerate(zip(discrete.laws, discrete.gates, strict=True)):
        if known.fixed[:, j].all():
            continue
        present = codes[:, gate] == 0 if gate >= 0 else np.ones(len(codes), bool)
        if not isinstance(law, Labels):
            if present.any():
                return None
            continue
        times = np.where(present, law.count, 1)
        if times.sum() > most:
            return None
        index = np.repeat(np.arange(len(codes)), times)
        label = np.arange(len(index)) - np.repeat(np.cumsum(times) - times, times)
        codes, owner = codes[index], owner[index]
        codes[:, j] = np.where(present[index], label, np.nan)
    return codes, owner
