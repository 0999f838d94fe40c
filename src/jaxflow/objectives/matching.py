"""Flow matching: the field is regressed on the velocities of a path, and no ODE is solved."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.bases import sample_rows
from jaxflow.density.paths import Linear, check_path, check_path_base, interpolate
from jaxflow.dynamics.protocol import evaluate
from jaxflow.objectives.couplings import Swaps
from jaxflow.objectives.times import stratified, uniform
from jaxflow.objectives.weights import weighted_mean
from jaxflow.runtime.mesh import replicate, shard_rows

# The velocities of some paths are infinite at the ends.
TIME_MARGIN = 1e-3


@final
@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """`mean_i weight(t_i) |field(t_i, x_t) - u_t|^2` over rows, with `x_t`, `u_t` by a path.

    Its minimiser is `E[u_t | x_t]`, the field that carries the base to the data (Lipman et al.
    2023, arXiv 2210.02747). The loss is not a likelihood and does not fall to 0: what is left is
    the scatter of the velocities about their mean.

    ```python
    flow, history = jaxflow.fit(flow, x, key=key, objective=FlowMatching())
    ```

    Attributes:
        path: `jaxflow.density.paths.Linear()`, another of its paths, or a function
            `t -> (alpha, sigma)`.
        coupling: `Swaps()`, `OptimalTransport()`, `Sinkhorn()`, `independent` of
            `jaxflow.objectives.couplings`, or a function of their form.
        time: quantile function of the times, from uniform numbers in (0, 1) to [0, 1]:
            `uniform`, `LogitNormal()`, `Power()`, or another function. Its density weighs the
            loss.
        weight: weight of a time, `t -> ` number; None for 1.
        stratified: whether the times of a batch are spread evenly, at a random offset; each
            one's law is the same, and the loss varies less.

    Raises:
        TypeError: a setting that is no function.
        ValueError: a path that does not lead from base to data, a base that it cannot start
            from.
    """

    path: Callable[..., Any] = Linear()
    coupling: Callable[..., Any] = field(default=Swaps())
    time: Callable[[Array], Array] = uniform
    weight: Callable[[Array], Array] | None = None
    stratified: bool = True
    # Training needs no solve of the ODE.
    simulation_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_path(self.path)
        advice = {
            "coupling": "Swaps(), OptimalTransport(), Sinkhorn() or independent",
            "time": "uniform, LogitNormal(), Power() or a quantile function",
            "weight": "a function of time, or None",
        }
        for name, allowed in advice.items():
            value = getattr(self, name)
            if value is not None and (not callable(value) or isinstance(value, type)):
                raise TypeError(f"{name}={value!r} is no function: write {name}= {allowed}")

    def check(self, flow: Any) -> None:
        """Refuse a flow that cannot be trained so.

        Raises:
            TypeError: a flow without a field.
            ValueError: a base that the path cannot start from.
        """
        if not callable(getattr(flow, "field", None)):
            raise TypeError(
                f"flow matching trains the field of a CNF, and {type(flow).__name__} has none: "
                "write jaxflow.CNF(field, base), or objective=maximum_likelihood"
            )
        check_path_base(self.path, flow.base)

    def __call__(
        self,
        flow: Any,
        x: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray,
        weights: Float[Array, " rows"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss of a batch in flow space.

        Args:
            flow: a CNF.
            x: data rows.
            cond: their conditions.
            key: for base, times, coupling and noise.
            weights: weights of the rows; the batch is drawn again in their proportion, so that
                every coupling honours them. None for equal ones.

        Returns:
            The loss, and the mean squared velocity `velocity` that a field of 0 would leave.
        """
        self.check(flow)
        base_key, time_key, coupling_key, noise_key, weights_key = jax.random.split(key, 5)
        if weights is not None:
            rows = resample(weights, weights_key)
            x, cond = x[rows], None if cond is None else cond[rows]
        x0 = sample_rows(flow.base, jax.random.split(base_key, len(x))).astype(x.dtype)
        # Rows are paired across the whole batch: on every device, rather than back and forth.
        whole = replicate((x0, x, cond))
        source, mass = replicate(self.coupling(*whole, coupling_key))
        t = self.times(time_key, len(x), x.dtype)
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        between = jax.vmap(interpolate, (None, 0, 0, 0, 0))
        x_t, velocity = shard_rows(between(self.path, t, x0[source], x, noise))
        errors = squared_errors(flow.field, t, x_t, velocity, cond)
        if self.weight is not None:
            errors = jax.vmap(self.weight)(t) * errors
        speed = weighted_mean(squared_norms(velocity), mass)
        return weighted_mean(errors, mass), {"velocity": speed}

    def times(self, key: PRNGKeyArray, rows: int, dtype: Any) -> Float[Array, " rows"]:
        """The time of every row."""
        u = (
            stratified(key, rows, dtype)
            if self.stratified
            else jax.random.uniform(key, (rows,), dtype)
        )
        return jnp.clip(self.time(u), TIME_MARGIN, 1 - TIME_MARGIN)


def squared_errors(
    field: Any,
    t: Float[Array, " rows"],
    x: Float[Array, "rows *event"],
    velocity: Float[Array, "rows *event"],
    cond: Array | None = None,
) -> Float[Array, " rows"]:
    """`|field(t_i, x_i, c_i) - u_i|^2` of every row.

    Args:
        field: `f(t, x, cond=None)` for one sample.
        t: times.
        x: points.
        velocity: the velocities `u` there.
        cond: conditions, (rows, *condition).
    """
    values = jax.vmap(evaluate, (None, 0, 0, None if cond is None else 0))(field, t, x, cond)
    return squared_norms(values - velocity)


def resample(weights: Float[Array, " rows"], key: PRNGKeyArray) -> Int[Array, " rows"]:
    """As many row numbers, each as often as its weight says, up to one.

    By systematic resampling: whole expected numbers are met exactly, so that weights (2, 1, 0)
    give the rows 0, 0, 1.
    """
    total = jnp.cumsum(weights)
    offset = jax.random.uniform(key, (), weights.dtype)
    places = (offset + jnp.arange(len(weights), dtype=weights.dtype)) / len(weights)
    # Rounding must not reach the end, where rows of no weight are.
    places = jnp.minimum(places, 1 - jnp.finfo(weights.dtype).eps)
    return jnp.searchsorted(total / total[-1], places, side="right")


def squared_norms(x: Float[Array, "rows *event"]) -> Float[Array, " rows"]:
    """`|x_i|^2` of every row."""
    return jnp.sum(x**2, axis=tuple(range(1, x.ndim)))
