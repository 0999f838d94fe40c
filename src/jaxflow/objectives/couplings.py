"""Couplings: which base sample flow matching pairs with each data row of a minibatch.

A coupling is a function `(x0, x1, cond, key) -> (source, weights)`. `source[j]` is the index of
the base sample for data row `j`; `weights` are the weights of the data rows, or None. Data rows
keep their order, and so their conditions.

With conditions, base sample `i` counts as drawn for condition `i`, and the cost of a pair grows
by `cond_weight |c_i - c_j|^2`. A transport that ignores the conditions makes the base depend on
them, and the flow learns a wrong `p(x | c)` (Chemseddine et al. 2023, "Conditional Wasserstein
Distances", arXiv 2310.13433; Cheng and Schwing 2025, "The Curse of Conditions", arXiv 2503.10636).
In a Gaussian example with standardised conditions the error was 1.2 nats for `cond_weight=0`,
0.005 for 10 and 0.0001 for 100.

On a manifold the cost of a pair is the squared length of the geodesic between its points
(`Transport.on`), so that the mean squared velocity of the paths is least.
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.manifolds import Manifold
from jaxflow.objectives.assignment import assign_cheapest, assign_nearest, blocks_of
from jaxflow.objectives.protocol import Weights
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Rows, Scalar

Pairs = tuple[Int[Array, " rows"], Weights]
Vectors = Float[Array, "rows features"]
Vector = Float[Array, " features"]
# The cost of one base sample and one data row, with their conditions appended.
Cost = Callable[[Vector, Vector], Scalar]


def independent(x0: Rows, x1: Rows, cond: Array | None, key: PRNGKeyArray) -> Pairs:
    """Pair the rows in the order in which they were drawn."""
    return jnp.arange(len(x1)), None


class Transport(abc.ABC):
    """A coupling by optimal transport, whose cost includes the conditions."""

    cond_weight: float

    def __post_init__(self) -> None:
        if not 0 <= self.cond_weight < math.inf:
            raise ValueError(f"cond_weight={self.cond_weight} must be finite and not negative")

    def __call__(self, x0: Rows, x1: Rows, cond: Array | None, key: PRNGKeyArray) -> Pairs:
        """Choose a base sample for each data row, as described in this module."""
        return self.pair(*self._with_conditions(x0, x1, cond), key)

    def on(
        self, manifold: Manifold, x0: Rows, x1: Rows, cond: Array | None, key: PRNGKeyArray
    ) -> Pairs:
        """The same for points of a manifold, by squared lengths of geodesics."""
        size = x0.shape[1]

        def cost(start: Vector, end: Vector) -> Scalar:
            length = manifold.distance(start[:size], end[:size])
            return length**2 + jnp.sum((start[size:] - end[size:]) ** 2)

        return self.pair(*self._with_conditions(x0, x1, cond), key, cost)

    @abc.abstractmethod
    def pair(
        self, starts: Vectors, ends: Vectors, key: PRNGKeyArray, cost: Cost | None = None
    ) -> Pairs:
        """Pair vectors by the cost of a pair; None for its squared distance."""

    def _with_conditions(self, x0: Rows, x1: Rows, cond: Array | None) -> tuple[Vectors, Vectors]:
        """Flat rows, with conditions as further entries, so that distances include them."""
        starts, ends = x0.reshape(len(x0), -1), x1.reshape(len(x1), -1)
        if cond is None:
            return starts, ends
        scaled = math.sqrt(self.cond_weight) * cond.reshape(len(cond), -1).astype(x1.dtype)
        return jnp.hstack([starts, scaled]), jnp.hstack([ends, scaled])


@final
@dataclass(frozen=True)
class OptimalTransport(Transport):
    """The permutation of a batch with the least `sum_j |x1_j - x0_source(j)|^2`, exactly.

    Paths are straighter, and velocities vary less about their mean, than for independent pairs
    (Tong et al. 2023, arXiv 2302.00482; Pooladian et al. 2023, arXiv 2304.14772). Runs on the
    host, by `scipy.optimize.linear_sum_assignment`; `Swaps` stays on the device.

    ```python
    from jaxflow.objectives import FlowMatching, OptimalTransport

    objective = FlowMatching(coupling=OptimalTransport(block=64))
    ```

    Attributes:
        block: solve blocks of at most this many rows separately, as the cost of a solve is
            at least quadratic in it; None for the entire batch at once.
        cond_weight: price of a squared difference of conditions; 0 ignores them.

    Raises:
        ValueError: a setting is out of range.
    """

    block: int | None = 128
    cond_weight: float = 100.0

    def __post_init__(self) -> None:
        if self.block is not None and (self.block < 1 or self.block % 1):
            raise ValueError(
                f"block={self.block} must be an integer >= 1, or None for the whole batch"
            )
        super().__post_init__()

    def pair(
        self, starts: Vectors, ends: Vectors, key: PRNGKeyArray, cost: Cost | None = None
    ) -> Pairs:
        """Solve the assignment problem on the host."""
        shape = jax.ShapeDtypeStruct((len(ends),), jnp.int32)
        block = self.block or len(ends)
        if cost is None:
            assign, inputs = partial(assign_nearest, block=block), (starts, ends)
        else:
            costs = [costs_of(cost, starts[r], ends[r]) for r in blocks_of(len(ends), block)]
            assign, inputs = assign_cheapest, costs
        return jax.pure_callback(assign, shape, *inputs, vmap_method="sequential"), None


@final
@dataclass(frozen=True)
class Swaps(Transport):
    """A permutation close to the optimal one, by swaps of pairs that lower the cost.

    In each round every row is compared with one other, and the two swap their base samples if
    that costs less, `(x1_i - x1_j) . (x0_i - x0_j) < 0`. After as many rounds as rows, all pairs
    have been compared (Puccetti 2017, "An algorithm to approximate the optimal expected inner
    product of two vectors with given marginals", JMAA 451). Costs O(rows * rounds), without a
    call to the host.

    ```python
    from jaxflow.objectives import FlowMatching, Swaps

    objective = FlowMatching(coupling=Swaps(rounds=64))
    ```

    Attributes:
        rounds: comparisons of each row.
        cond_weight: price of a squared difference of conditions; 0 ignores them.

    Raises:
        ValueError: a setting is out of range.
    """

    rounds: int = 128
    cond_weight: float = 100.0

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        super().__post_init__()

    def pair(
        self, starts: Vectors, ends: Vectors, key: PRNGKeyArray, cost: Cost | None = None
    ) -> Pairs:
        """Swap the base samples of crossed pairs."""
        rows = jnp.arange(len(ends))
        order = jnp.argsort(jax.random.bits(key, (len(ends),)))

        def swap(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            source, starts, *costs = carry
            # A round-robin tournament: row i is compared with j where i + j has a set remainder.
            other = (order[i % len(ends)] - rows) % len(ends)
            if cost is None:
                crossed = jnp.sum((ends - ends[other]) * (starts - starts[other]), axis=1) < 0
            else:
                (now,), then = costs, jax.vmap(cost)(starts[other], ends)
                crossed = then + then[other] < now + now[other]
                costs = [jnp.where(crossed, then, now)]
            swapped = jnp.where(crossed[:, None], starts[other], starts)
            return (jnp.where(crossed, source[other], source), swapped, *costs)

        first = () if cost is None else (jax.vmap(cost)(starts, ends),)
        return lax.fori_loop(0, self.rounds, swap, (rows, starts, *first))[0], None


@final
@dataclass(frozen=True)
class Sinkhorn(Transport):
    """Base samples drawn from the entropic transport plan of the batch.

    The plan `P` minimises `sum P C + epsilon KL(P | a b)` (Cuturi 2013, arXiv 1306.0895). A finite
    `base_relaxation` or `data_relaxation` lets a marginal of the plan differ from the batch, at
    a price of `relaxation * KL(marginal | batch)`: outliers count less (unbalanced transport:
    Chizat et al. 2018, arXiv 1607.05816; Eyring et al. 2023, arXiv 2311.15100). A relaxed data
    marginal changes what is learned: the density of outliers comes out too low.

    ```python
    from jaxflow.objectives import FlowMatching, Sinkhorn

    objective = FlowMatching(coupling=Sinkhorn(epsilon=0.05))
    ```

    Attributes:
        epsilon: entropic regularisation.
        base_relaxation: price of another base marginal; infinity keeps the marginal.
        data_relaxation: price of another data marginal; infinity keeps the marginal.
        relative: measure these three in units of the batch's mean cost.
        num_iters: updates of both potentials.
        cond_weight: price of a squared difference of conditions; 0 ignores them.

    Raises:
        ValueError: a setting is out of range.
    """

    epsilon: float = 0.02
    base_relaxation: float = math.inf
    data_relaxation: float = math.inf
    relative: bool = True
    num_iters: int = 50
    cond_weight: float = 100.0

    def __post_init__(self) -> None:
        check_count("num_iters", self.num_iters)
        for name in ("epsilon", "base_relaxation", "data_relaxation"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        super().__post_init__()

    def pair(
        self, starts: Vectors, ends: Vectors, key: PRNGKeyArray, cost: Cost | None = None
    ) -> Pairs:
        """Draw a base sample for each data row; weights are the plan's relaxed data marginal."""
        costs = squared_distances if cost is None else partial(costs_of, cost)
        log_plan = log_transport_plan(costs(starts, ends), self)
        source = jax.random.categorical(key, log_plan, axis=0)
        if math.isinf(self.data_relaxation):
            return source, None
        return source, len(ends) * jax.nn.softmax(logsumexp(log_plan, axis=0))


def squared_distances(a: Vectors, b: Vectors) -> Float[Array, "rows rows"]:
    """`C_ij = |a_i - b_j|^2`."""
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None] - 2 * (a @ b.T)
    return jnp.maximum(squares, 0)


def costs_of(cost: Cost, starts: Vectors, ends: Vectors) -> Float[Array, "rows rows"]:
    """`C_ij`, the cost of base sample i with data row j."""
    return jax.vmap(jax.vmap(cost, (None, 0)), (0, None))(starts, ends)


def log_transport_plan(
    cost: Float[Array, "rows rows"], settings: Sinkhorn
) -> Float[Array, "rows rows"]:
    """Logarithm of the entropic transport plan, by Sinkhorn's updates of the potentials.

    Without relaxation the columns sum to `1 / rows` to rounding, the rows as far as the updates
    have converged. `cost[i, j]` is the cost of base sample i with data row j.
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
