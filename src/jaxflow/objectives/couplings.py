"""Couplings: which point of the base goes with which row of the data.

A coupling is a function `(x0, x1, cond, key) -> (source, weights)`. It gives the number of the
base row for every data row, and weights of the data rows or None. Data rows stay in their places,
so a row keeps its condition.

With conditions a base row `i` counts as drawn for condition `i`, and `cond_weight |c_i - c_j|^2`
is added to the cost. A transport that ignores the conditions makes the base depend on them, and
the learned `p(x | c)` is another density (Chemseddine et al. 2023, "Conditional Wasserstein
Distances", arXiv 2310.13433; Cheng and Schwing 2025, "The Curse of Conditions", arXiv 2503.10636).
In a Gaussian example with standardised conditions the error was 1.2 nats without the price, 0.005
at a price of 10 and 0.0001 at 100.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PRNGKeyArray

Coupled = tuple[Int[Array, " rows"], Float[Array, " rows"] | None]


def independent(
    x0: Float[Array, "rows *event"],
    x1: Float[Array, "rows *event"],
    cond: Array | None,
    key: PRNGKeyArray,
) -> Coupled:
    """Rows as they were drawn."""
    return jnp.arange(len(x1)), None


@final
@dataclass(frozen=True)
class OptimalTransport:
    """The permutation of a batch with the least `sum_i |x1_i - x0_source(i)|^2`, exactly.

    Found on the host by `scipy.optimize.linear_sum_assignment`. Straighter paths, and velocities
    that scatter less about their mean (Tong et al. 2023, arXiv 2302.00482; Pooladian et al. 2023,
    arXiv 2304.14772).

    Attributes:
        block: rows that are paired among themselves, at most; the time grows as its square for
            a given batch, and more. None for the whole batch.
        cond_weight: price of a squared difference of conditions; 0 ignores them.

    Raises:
        ValueError: a setting out of range.
    """

    block: int | None = 128
    cond_weight: float = 100.0

    def __post_init__(self) -> None:
        if self.block is not None and self.block < 1:
            raise ValueError(f"block={self.block} must be at least 1, or None for the whole batch")
        _check_cond_weight(self.cond_weight)

    def __call__(
        self,
        x0: Float[Array, "rows *event"],
        x1: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray,
    ) -> Coupled:
        """The base row of every data row."""
        points = with_conditions(x0, x1, cond, self.cond_weight)
        shape = jax.ShapeDtypeStruct((len(x1),), jnp.int32)
        assign = partial(_assignment, block=self.block or len(x1))
        return jax.pure_callback(assign, shape, *points, vmap_method="sequential"), None


@final
@dataclass(frozen=True)
class Swaps:
    """A permutation near the optimal one, by swaps of pairs that lower the cost.

    In each round every row meets one other, and they swap their base rows where
    `(x1_i - x1_j) . (x0_i - x0_j) < 0`; after as many rounds as rows all have met (Puccetti 2017,
    "An algorithm to approximate the optimal expected inner product of two vectors with given
    marginals", JMAA 451). The time grows as rows times rounds, without a call to the host.

    Attributes:
        rounds: meetings of a row.
        cond_weight: price of a squared difference of conditions; 0 ignores them.

    Raises:
        ValueError: a setting out of range.
    """

    rounds: int = 128
    cond_weight: float = 100.0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds} must be at least 1")
        _check_cond_weight(self.cond_weight)

    def __call__(
        self,
        x0: Float[Array, "rows *event"],
        x1: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray,
    ) -> Coupled:
        """The base row of every data row."""
        starts, ends = with_conditions(x0, x1, cond, self.cond_weight)
        rows = jnp.arange(len(ends))
        meetings = jax.random.permutation(key, len(ends))

        def meet(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            source, starts = carry
            # A tournament: i meets j where i + j has a given remainder.
            other = (meetings[i % len(ends)] - rows) % len(ends)
            crossed = jnp.sum((ends - ends[other]) * (starts - starts[other]), axis=1) < 0
            swapped = jnp.where(crossed[:, None], starts[other], starts)
            return jnp.where(crossed, source[other], source), swapped

        return lax.fori_loop(0, self.rounds, meet, (rows, starts))[0], None


@final
@dataclass(frozen=True)
class Sinkhorn:
    """A base row for every data row, drawn from the entropic transport plan of the batch.

    The plan minimises `sum P C + epsilon KL(P | a b)` (Cuturi 2013, arXiv 1306.0895). With
    `base_relaxation` or `data_relaxation` the plan's marginals are free, at a price of
    `relaxation * KL(marginal | batch)`: rows that nothing is near count less (unbalanced
    transport: Chizat et al. 2018, arXiv 1607.05816; Eyring et al. 2023, arXiv 2311.15100). That
    changes what is learned: with freed data the outliers' density is too low.

    Attributes:
        epsilon: entropic regularisation.
        base_relaxation: price of leaving the base's marginal; infinity for never.
        data_relaxation: price of leaving the data's marginal; infinity for never.
        relative: whether these three are in units of the batch's mean cost.
        num_iters: updates of both potentials.
        cond_weight: price of a squared difference of conditions; 0 ignores them.

    Raises:
        ValueError: a setting out of range.
    """

    epsilon: float = 0.02
    base_relaxation: float = math.inf
    data_relaxation: float = math.inf
    relative: bool = True
    num_iters: int = 50
    cond_weight: float = 100.0

    def __post_init__(self) -> None:
        for name in ("epsilon", "base_relaxation", "data_relaxation", "num_iters"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        _check_cond_weight(self.cond_weight)

    def __call__(
        self,
        x0: Float[Array, "rows *event"],
        x1: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray,
    ) -> Coupled:
        """A base row for every data row, and the mass of the data rows where it is free."""
        cost = squared_distances(*with_conditions(x0, x1, cond, self.cond_weight))
        log_plan = log_transport_plan(cost, self)
        source = jax.random.categorical(key, log_plan, axis=0)
        if math.isinf(self.data_relaxation):
            return source, None
        return source, len(x1) * jax.nn.softmax(logsumexp(log_plan, axis=0))


def with_conditions(
    x0: Float[Array, "rows *event"],
    x1: Float[Array, "rows *event"],
    cond: Array | None,
    cond_weight: float,
) -> tuple[Float[Array, "rows features"], Float[Array, "rows features"]]:
    """Both ends as vectors, whose squared distances count the conditions' too."""
    ends = x0.reshape(len(x0), -1), x1.reshape(len(x1), -1)
    if cond is None:
        return ends
    scaled = math.sqrt(cond_weight) * cond.reshape(len(cond), -1).astype(x1.dtype)
    return jnp.hstack([ends[0], scaled]), jnp.hstack([ends[1], scaled])


def squared_distances(
    a: Float[Array, "rows features"], b: Float[Array, "rows features"]
) -> Float[Array, "rows rows"]:
    """`C_ij = |a_i - b_j|^2`."""
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None] - 2 * (a @ b.T)
    return jnp.maximum(squares, 0)


def log_transport_plan(
    cost: Float[Array, "rows rows"],
    settings: Sinkhorn,
) -> Float[Array, "rows rows"]:
    """Logarithm of the entropic transport plan, by Sinkhorn's updates of the potentials.

    Without relaxation the columns sum to `1/n` to rounding, and the rows as far as the updates
    have converged.

    Args:
        cost: price of base row i with data row j.
        settings: see `Sinkhorn`.
    """
    cost = lax.stop_gradient(cost)
    unit = jnp.mean(cost) if settings.relative else jnp.ones((), cost.dtype)
    scaled = cost / (settings.epsilon * unit)
    n = len(cost)
    log_mass = -math.log(n)
    # Potentials are in units of epsilon, and so are the relaxations.
    base_step = 1 / (1 + settings.epsilon / settings.base_relaxation)
    data_step = 1 / (1 + settings.epsilon / settings.data_relaxation)

    def update(_: Array, potentials: tuple[Array, Array]) -> tuple[Array, Array]:
        _, g = potentials
        f = -base_step * (logsumexp(g[None] - scaled, axis=1) + log_mass)
        g = -data_step * (logsumexp(f[:, None] - scaled, axis=0) + log_mass)
        return f, g

    zeros = jnp.zeros(n, cost.dtype)
    f, g = lax.fori_loop(0, settings.num_iters, update, (zeros, zeros))
    return f[:, None] + g[None] - scaled + 2 * log_mass


def _assignment(x0: Any, x1: Any, block: int) -> np.ndarray:
    """On the host: the base row of every data row, by blocks of rows as equal as can be."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    ends, n = (np.asarray(x0), np.asarray(x1)), len(x1)
    source = np.arange(n, dtype=np.int32)
    # The loss of rows that are not finite is NaN whatever they are paired with; training says so.
    if all(np.isfinite(end).all() for end in ends):
        for rows in np.array_split(source, -(-n // block)):
            prices = cdist(ends[1][rows], ends[0][rows], "sqeuclidean")
            source[rows] = rows[linear_sum_assignment(prices)[1]]
    return source


def _check_cond_weight(cond_weight: float) -> None:
    if not 0 <= cond_weight < math.inf:
        raise ValueError(f"cond_weight={cond_weight} must be finite and not negative")
