"""Flow matching: train the field by regression on the velocities of a path; solves no ODE."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import sample_rows
from jaxflow.density.paths import Linear, check_path, check_path_base, interpolate
from jaxflow.dynamics import Field
from jaxflow.dynamics.on_manifold import manifold_of
from jaxflow.dynamics.optional import accepts_none
from jaxflow.dynamics.protocol import evaluate
from jaxflow.manifolds import Manifold
from jaxflow.objectives.couplings import Swaps, Transport
from jaxflow.objectives.protocol import Loss, Weights, check_function
from jaxflow.objectives.times import stratified, uniform
from jaxflow.objectives.units import to_field
from jaxflow.objectives.weights import resample, weighted_mean
from jaxflow.runtime.mesh import replicate, shard_rows
from jaxflow.runtime.shapes import Rows

# The velocities of some paths are infinite at the ends.
TIME_MARGIN = 1e-3


@final
@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """Minimise `mean_i weight(t_i) |field(t_i, x_t) - u_t|^2`, with `x_t` and `u_t` on a path.

    On a manifold (a field `jaxflow.dynamics.OnManifold`) the path is the geodesic from base to
    data at constant speed, and velocities are compared in its metric (Chen and Lipman 2023,
    "Flow Matching on General Geometries", arXiv 2302.03660). The cost of a pair is the squared
    length of its geodesic; a function as coupling is given the points as the field sees them.

    The minimiser is `E[u_t | x_t]`, the field that carries the base to the data (Lipman et al.
    2023, arXiv 2210.02747, eq. 9). The loss is not a likelihood and does not fall to 0: the
    variance of the velocities about their mean remains.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import MLP
    from jaxflow.objectives import FlowMatching

    key = jax.random.key(0)
    flow = CNF(MLP(2, key=key), StandardNormal(2))
    x = jax.random.normal(key, (256, 2))
    loss, metrics = FlowMatching()(flow, x, None, key)  # or fit(..., objective=FlowMatching())
    ```

    Attributes:
        path: a path of `jaxflow.density.paths`, or a function `t -> (alpha, sigma)`.
        coupling: `Swaps()`, `OptimalTransport()`, `Sinkhorn()`, `independent`, or a function as
            described in `jaxflow.objectives.couplings`.
        time: quantile function of the times: `uniform`, `LogitNormal()`, `Power()`, or a function
            from uniform numbers in (0, 1) to [0, 1].
        weight: weight of a time, `t -> weight`; None for 1.
        stratified: spread the times of a batch evenly, with a random offset, which lowers the
            variance of the loss.
        drop: share of the rows that are trained without their condition, for classifier-free
            guidance (`jaxflow.dynamics.GuidedField`).

    Raises:
        TypeError: a setting is not a function.
        ValueError: the path does not lead from the base to the data, or `drop` is out of range.
    """

    path: Callable[..., Any] = Linear()
    coupling: Callable[..., Any] = Swaps()
    time: Callable[[Array], Array] = uniform
    weight: Callable[[Array], Array] | None = None
    stratified: bool = True
    drop: float = 0.0
    # Training needs no solve of the ODE.
    simulation_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_path(self.path)
        couplings = "Swaps(), OptimalTransport(), Sinkhorn() or independent"
        check_function("coupling", self.coupling, couplings)
        check_function("time", self.time, "uniform, LogitNormal(), Power() or a quantile function")
        if self.weight is not None:
            check_function("weight", self.weight, "a function of time, or None")
        check_drop(self.drop)

    def check(self, flow: Any) -> None:
        """Check that this objective can train the flow.

        Raises:
            TypeError: the flow has no field.
            ValueError: the path needs another base, or the field its condition in each row.
        """
        if not callable(getattr(flow, "field", None)):
            raise TypeError(
                f"flow matching trains the field of a CNF, and {type(flow).__name__} has none: "
                "write jaxflow.CNF(field, base), or objective=maximum_likelihood"
            )
        check_path_base(self.path, flow.base)
        if self.drop and not accepts_none(flow.field):
            raise ValueError(
                f"drop={self.drop} leaves conditions out, and the field needs them: write "
                "OptionalCondition(network, cond_dim), the network for cond_dim + 1"
            )
        if manifold_of(flow.field) is not None and self.path != Linear():
            raise ValueError(
                f"path={self.path} is one of flat space, and the field is on "
                f"{manifold_of(flow.field)}: write path=Linear(), which follows geodesics there"
            )

    def __call__(
        self, flow: Any, x: Rows, cond: Array | None, key: PRNGKeyArray, weights: Weights = None
    ) -> Loss:
        """Compute the loss of a batch; arguments as in `jaxflow.objectives.protocol`.

        With weights the batch is resampled in proportion to them, so that all couplings honour
        them.

        Returns:
            The loss, and the metric `velocity`: the mean squared velocity, which is the loss of a
            field of 0.
        """
        self.check(flow)
        x, key = to_field(flow, x, key)
        # One split for all: each draw lengthens the time to compile a step.
        keys = jax.random.split(key, 5 + len(x))
        time_key, coupling_key, noise_key, weights_key, drop_key = keys[:5]
        if weights is not None:
            rows = resample(weights, weights_key)
            x, cond = x[rows], None if cond is None else cond[rows]
        x0 = sample_rows(flow.base, keys[5:], x.dtype, grouped=False)
        # Every device pairs the entire batch, which is cheaper than moving rows back and forth.
        x0, x, cond = replicate((x0, x, cond))
        manifold = manifold_of(flow.field)
        if manifold is not None and isinstance(self.coupling, Transport):
            pairs = self.coupling.on(manifold, x0, x, cond, coupling_key)
        else:
            see = (lambda x: x) if manifold is None else jax.vmap(manifold.embed)
            pairs = self.coupling(see(x0), see(x), cond, coupling_key)
        source, mass = replicate(pairs)
        t = self.times(time_key, len(x), x.dtype)
        if manifold is None:
            noise = jax.random.normal(noise_key, x.shape, x.dtype)
            between = jax.vmap(interpolate, (None, 0, 0, 0, 0))(self.path, t, x0[source], x, noise)
        else:
            between = jax.vmap(manifold.geodesic)(t, x0[source], x)
        x_t, velocity = shard_rows(between)
        cond = without_some(cond, self.drop, drop_key)
        time_weights = None if self.weight is None else jax.vmap(self.weight)(t)
        return velocity_loss(flow.field, t, x_t, velocity, cond, time_weights, mass)

    def times(self, key: PRNGKeyArray, rows: int, dtype: Any) -> Float[Array, " rows"]:
        """Draw the time of each row."""
        if self.stratified:
            u = stratified(key, rows, dtype)
        else:
            u = jax.random.uniform(key, (rows,), dtype)
        return jnp.clip(self.time(u), TIME_MARGIN, 1 - TIME_MARGIN)


def check_drop(drop: float) -> None:
    """Raise ValueError unless `drop` is a share of rows."""
    if not 0 <= drop < 1:
        raise ValueError(f"drop={drop} must lie in [0, 1)")


def without_some(cond: Array | None, drop: float, key: PRNGKeyArray) -> Array | None:
    """Conditions of rows, NaN in the share `drop` of them, as `OptionalCondition` reads them."""
    if not drop:
        return cond
    if cond is None:
        raise ValueError(f"drop={drop} leaves conditions out, and there are none")
    dropped = jax.random.bernoulli(key, drop, cond.shape[:1])
    return jnp.where(dropped.reshape(-1, *[1] * (cond.ndim - 1)), jnp.nan, cond)


def velocity_loss(
    field: Field,
    t: Float[Array, " rows"],
    x: Rows,
    velocity: Rows,
    cond: Array | None = None,
    time_weights: Weights = None,
    weights: Weights = None,
) -> Loss:
    """The weighted mean of `squared_errors`, and the metric `velocity`: the mean of `|u|^2`."""
    errors = squared_errors(field, t, x, velocity, cond)
    if time_weights is not None:
        errors = time_weights * errors
    speed = weighted_mean(squared_norms(velocity, manifold_of(field)), weights)
    return weighted_mean(errors, weights), {"velocity": speed}


def squared_errors(
    field: Field,
    t: Float[Array, " rows"],
    x: Rows,
    velocity: Rows,
    cond: Array | None = None,
) -> Float[Array, " rows"]:
    """`|field(t_i, x_i, c_i) - u_i|^2` of each row, with velocities `u`."""
    values = jax.vmap(evaluate, (None, 0, 0, 0))(field, t, x, cond)
    return squared_norms(values - velocity, manifold_of(field))


def squared_norms(x: Rows, manifold: Manifold | None = None) -> Float[Array, " rows"]:
    """`|x_i|^2` of each row, in the metric of a manifold if there is one."""
    if manifold is not None:
        return jax.vmap(manifold.squared_norm)(x)
    return jnp.sum(x**2, axis=tuple(range(1, x.ndim)))
