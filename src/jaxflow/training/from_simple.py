"""Train a flow for a table from the best simple density, by folds or by a share held out."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import StandardNormal
from jaxflow.dynamics import MLP
from jaxflow.dynamics.mlp import zero_field
from jaxflow.flows.cnf import CNF
from jaxflow.flows.ensemble import Ensemble
from jaxflow.runtime.checks import constant_columns, split
from jaxflow.runtime.keys import host_seed
from jaxflow.runtime.progress import Progress
from jaxflow.training.comparison import Comparison
from jaxflow.training.config import TrainConfig
from jaxflow.training.defaults import FEW_COLUMNS, HIGH_FREQUENCY, sine_network
from jaxflow.training.fit import fit
from jaxflow.training.folds import FEWEST, FOLD_ROWS, Folds, Splits, start_run, varied_folds
from jaxflow.training.history import History
from jaxflow.training.record import Callback, new_history
from jaxflow.training.rows import take
from jaxflow.training.run import Run
from jaxflow.training.starts import Start, before_scaling, choose_start, surely_better
from jaxflow.transforms import Proposal, spread_rows
from jaxflow.transforms.kinds import GridColumn

# The density of a table with too few rows to hold any out is a Gaussian with a large ridge.
LARGE_RIDGE = 0.2
# Fewest rows for a field of sines, which overfits fewer.
MANY_ROWS = 1000


class FittedDensity(NamedTuple):
    """What `fit_density` returns.

    Attributes:
        flow: the density: a `CNF`, or an `Ensemble` of them.
        history: the columns of `jaxflow.fit`. With folds they are means over the folds, from the
            simple density at step 0 on.
        comparison: held-out log-densities of the flow and of simple densities.
    """

    flow: Any
    history: History
    comparison: Comparison


class Table(NamedTuple):
    """Rows, how to train on them, and the transforms of the columns before the scaling."""

    x: Array
    cond: Array | None
    proposal: Proposal
    width: int
    depth: int
    key: PRNGKeyArray
    config: TrainConfig
    progress: bool | None
    callback: Callback | None
    ensemble: bool = False

    @property
    def seed(self) -> int:
        """A seed for NumPy."""
        return host_seed(self.key)

    def groups(self) -> np.ndarray:
        """Group number of each row: copies form a group, since a copy of a row tests nothing.

        On a grid every row is a group: equal rows are draws of their own.
        """
        if all(isinstance(kind, GridColumn) for kind in self.proposal.kinds):
            return np.arange(len(self.x))
        rows = np.asarray(self.x)
        rows = rows if self.cond is None else np.concatenate([rows, self.cond], axis=1)
        return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)

    @property
    def noisy(self) -> Array:
        """The rows as they are scored when held out: with noise within the cells of a grid."""
        return spread_rows(self.proposal.first, self.x, self.key)

    @property
    def is_tiny(self) -> bool:
        """Whether there are too few rows to hold any out."""
        return int(self.groups().max()) + 1 < FEWEST

    def field(self, cond_dim: int = 0) -> MLP:
        """A field that is 0 before training, for conditions of `cond_dim` entries.

        Many rows of few columns may have sharp edges, which sines learn and tanh does not.
        """
        rows, dim = self.x.shape
        sharp = rows >= MANY_ROWS and dim <= FEW_COLUMNS and not cond_dim
        settings = {"activation": "sin", "frequency": HIGH_FREQUENCY} if sharp else {}
        sizes = {"width": self.width, "depth": self.depth, "cond_dim": cond_dim}
        return zero_field(MLP(dim, **sizes, **settings, key=self.key))

    def folds(self) -> Splits:
        """Row numbers of the folds, in each of which every column varies; raises ValueError."""
        x, eps = np.asarray(self.x, np.float64), float(jnp.finfo(self.x.dtype).eps)
        folds, constant = varied_folds(
            self.groups(), self.seed, lambda train: constant_columns(x[train], eps)
        )
        if constant.any():
            name = self.proposal.columns[int(np.argmax(constant))]
            raise ValueError(
                f"column {name} of x has one value in all but a few rows, so that some folds see "
                "no other: drop the column, or fit these rows alone"
            )
        return folds

    def run(self, flow: CNF, train: np.ndarray, held: np.ndarray) -> Run:
        """A training by maximum likelihood, which its caller stops."""
        rows, held_rows = take(train, self.x, self.cond), take(held, self.noisy, self.cond)
        large = len(self.x) > FOLD_ROWS
        return start_run(flow, rows, held_rows, self.key, self.config, large=large)


def by_folds(table: Table) -> FittedDensity:
    """Choose start and number of steps by folds; train on all rows, or average the folds."""
    every = np.arange(len(table.x))
    if table.is_tiny:
        noisy, _ = before_scaling(table.x, table.proposal.first, table.key, [])
        flow = _start_flow(table, Start(ridge=LARGE_RIDGE), noisy, every)
        return untrained(flow, len(every))
    folds = table.folds()
    noisy, unscaled = before_scaling(table.x, table.proposal.first, table.key, folds)
    tried = choose_start(unscaled)
    trained = train_folds(table, partial(_start_flow, table, next(iter(tried)), noisy), folds)
    kernel = next((start for start in tried if start.kernel), None)
    if kernel is not None and surely_better(tried[kernel], trained.log_p):
        trained = train_folds(table, partial(_start_flow, table, kernel, noisy), folds)
    comparison = Comparison.of(compared(trained.log_p, tried), len(folds))
    return FittedDensity(trained.flow, trained.history, comparison)


class Trained(NamedTuple):
    """What `train_folds` returns.

    Attributes:
        flows: the flow of all rows; or that of each fold, for an ensemble or a single fold.
        history: means over the folds.
        log_p: log-densities of the rows that each fold held out.
    """

    flows: list[CNF]
    history: History
    log_p: Float[np.ndarray, " n"]

    @property
    def flow(self) -> CNF | Ensemble:
        """The only flow, or the average of several."""
        return self.flows[0] if len(self.flows) == 1 else Ensemble(self.flows)


def train_folds(table: Table, start: Callable[[np.ndarray], CNF], folds: Splits) -> Trained:
    """Train on each fold from the density `start(rows)`, then on all rows, or average the folds.

    With a single fold, the rest of whose rows are held out, its flow is the result.
    """
    every = np.arange(len(table.x))
    # All rows train in the minibatches of the folds, which choose the number of steps.
    size = min(table.config.batch_size, len(folds[0][0]))
    table = table._replace(config=replace(table.config, batch_size=size))
    runs = [table.run(start(train), train, held) for train, held in folds]
    with Progress(table.config.steps, show=table.progress) as bar:
        search = Folds(runs, len(every) if len(folds) > 1 else len(folds[0][0]))
        search.train(table.config, bar, table.callback)
        if table.ensemble or len(folds) == 1:
            flows = search.flows()
        else:
            flow = start(every)
            trained = search.train_all(lambda: table.run(flow, every, every))
            flows = [flow if trained is None else trained]
    return Trained(flows, search.history, search.held_out())


def by_hold_out(table: Table, share: float) -> FittedDensity:
    """Train as `fit` does by default, and from the best simple density if that is better."""
    train, held = split(len(table.x), share, table.seed)
    dim = table.x.shape[1]
    field = sine_network(dim, width=table.width, depth=table.depth, key=table.key)
    flow, history = fit(
        CNF(field, StandardNormal(dim)),
        table.x[train],
        validation=table.x[held],
        key=table.key,
        transform=table.proposal,
        config=table.config,
        progress=table.progress,
        callback=table.callback,
    )
    return or_from_simple(table, flow, history, train, held)


def or_from_simple(
    table: Table, flow: Any, history: History, train: np.ndarray, held: np.ndarray
) -> FittedDensity:
    """Compare a flow with simple densities, and train from the best of them if it is better."""
    noisy, unscaled = before_scaling(table.x, table.proposal.first, table.key, [(train, held)])
    tried = choose_start(unscaled)
    start = next(iter(tried))
    log_p = np.asarray(flow.log_prob(table.noisy[held]), np.float64)
    if tried[start].mean() > log_p.mean():
        if table.config.max_seconds is not None:
            left = max(0.0, table.config.max_seconds - history["seconds"][-1])
            table = table._replace(config=replace(table.config, max_seconds=left))
        begin = partial(_start_flow, table, start, noisy)
        (flow,), history, _ = train_folds(table, begin, [(train, held)])
        log_p = np.asarray(flow.log_prob(table.noisy[held]), np.float64)
    return FittedDensity(flow, history, Comparison.of(compared(log_p, tried)))


def untrained(flow: CNF, rows: int) -> FittedDensity:
    """A flow of too few rows to train or to compare it."""
    return FittedDensity(flow, new_history(), Comparison.of_few(rows))


def _start_flow(table: Table, start: Start, noisy: Array, rows: np.ndarray) -> CNF:
    """The flow that is the simple density of these rows."""
    scaling, base = start.fit(table.proposal.first, noisy[rows])
    return CNF(table.field(), base, transform=scaling)


def compared(
    log_p: Float[np.ndarray, " n"], tried: dict[Start, Float[np.ndarray, " n"]]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Log-densities of the flow, the best Gaussian of scaled columns and the best densities."""
    return {"flow": log_p} | {each.name: tried[each] for each in simplest_and_best(tried)}


def simplest_and_best(tried: dict[Start, Float[np.ndarray, " n"]]) -> list[Start]:
    """The best Gaussian of scaled columns, the chosen start, and any better kernel density."""
    gaussian = next(s for s in tried if replace(s, ridge=0.0) == Start(ridge=0.0))
    start, best = next(iter(tried)), max(tried, key=lambda each: tried[each].mean())
    return [gaussian, start, *([best] if best.kernel else [])]
