"""A fitted flow as a NumPyro distribution."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, constraints

from jaxflow.diagnostics.solves import without_raising
from jaxflow.flows.cnf import CNF
from jaxflow.flows.flow import Flow
from jaxflow.flows.flow_map import FlowMap
from jaxflow.interop.numpyro.support import DataSpace
from jaxflow.ode.many import lanes_for
from jaxflow.runtime.arguments import as_cond_rows, as_rows, promote_dtypes
from jaxflow.runtime.precision import full_precision
from jaxflow.trace import Estimator
from jaxflow.transforms import Chain, Dequantise, Gaussianise, Standardise, Whiten

# Up to this part of the lanes, rows are solved on their own: a sampler asks for one at a time,
# and idle lanes cost as much as busy ones.
FEW = 1 / 4
# Transforms whose inverse reaches every point.
WHOLE_LINE = (Standardise, Whiten, Gaussianise)


class FlowDistribution(Distribution):
    """A fitted flow as a NumPyro distribution.

    ```python
    theta = numpyro.sample("theta", FlowDistribution(prior))             # prior
    numpyro.sample("x", FlowDistribution(flow, cond=theta), obs=x)       # likelihood
    ```
    Log-densities are the flow's own, in nats and data units, by its evaluation settings
    `ode_eval`. Samples are reparametrised: gradients pass through them to `cond` and to the
    flow's weights. Where the flow's transform has limits (`Bounded`), the support has them
    too: beyond them the log-density is -inf, and samplers move on the whole line.

    A solve that fails does not raise, whatever `ode_eval.throw` says: a sampler runs inside
    compiled loops. Log-density and gradient are NaN there, which HMC and NUTS reject and count
    as a divergence; in SVI the loss becomes NaN. A sample whose solve failed is NaN.

    Attributes:
        cond: conditions, (*batch, c), or None.
        arrays: the flow's arrays; the rest of the flow is static.
        static: the flow without its arrays.

    Args:
        flow: a `CNF`, a `CouplingFlow`, or any `Flow`.
        cond: conditions of the distribution, (*batch, c): `batch` is its batch shape.
        validate_args: as for any NumPyro distribution.

    Raises:
        TypeError: no flow.
        ValueError: a condition without an axis; a flow whose trace is estimated, or whose
            values lie on a grid.
    """

    pytree_data_fields = ("arrays", "cond")
    pytree_aux_fields = ("static", "_ndim")

    def __init__(self, flow: Any, cond: Any = None, *, validate_args: bool | None = None) -> None:
        _check(flow)
        self.arrays, self.static = eqx.partition(without_raising(flow), _is_array)
        self._ndim = self._first_array().ndim
        self.cond = None if cond is None else jnp.asarray(cond)
        if self.cond is not None and not self.cond.ndim:
            raise ValueError(
                "cond is a single number; conditions are vectors (*batch, c): write "
                "FlowDistribution(flow, cond=cond[..., None])"
            )
        super().__init__(self.batch_shape, flow.event_shape, validate_args=validate_args)

    @property
    def flow(self) -> Any:
        """The flow, with failures that do not raise."""
        return eqx.combine(self.arrays, self.static)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the conditions but for their last axis.

        In front of it are the axes along which vmap or scan have stacked distributions.
        """
        return self._stack if self.cond is None else self.cond.shape[:-1]

    @property
    def support(self) -> constraints.Constraint:
        """The whole space, or what the flow's transform leaves of it.

        Raises:
            ValueError: distributions with limits that vmap or scan have stacked.
        """
        parts = _parts(self.flow.transform)
        while parts and isinstance(parts[-1], WHOLE_LINE):
            parts.pop()
        if not parts:
            return constraints.independent(constraints.real, len(self.event_shape))
        if self._stack:
            raise ValueError(
                f"distributions stacked along axes of sizes {self._stack} have limits each, and "
                "no common support: write FlowDistribution(flow, cond) outside vmap or scan"
            )
        return DataSpace(Chain(tuple(parts)))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Draw samples, (*sample_shape, *batch_shape, *event_shape); NaN where a solve failed."""
        if self._stack:
            keys = jax.random.split(key, self._stack[0])
            draw = jax.vmap(
                lambda one, key: one.sample(key, sample_shape), out_axes=len(sample_shape)
            )
            return draw(self, keys)
        batch = (*sample_shape, *self.batch_shape)
        flow, cond = promote_dtypes(self.flow, self._cond(batch))
        if not _few(math.prod(batch), self.event_shape):
            return flow.sample(key, batch, cond)
        # The same points of the base as `flow.sample`.
        keys = jax.random.split(jax.random.split(key)[0], math.prod(batch))
        drawn = _sample_alone(flow, keys, as_cond_rows(cond, batch))
        return drawn.reshape(*batch, *self.event_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        """Log-density in nats.

        Args:
            value: (*sample_shape, *batch_shape, *event_shape), or what broadcasts to it.
            intermediates: not used.

        Returns:
            (*sample_shape, *batch_shape): -inf outside the support, NaN where the solve failed
            or a value is NaN.

        Raises:
            ValueError: a shape that does not fit, or a condition that the flow lacks.
        """
        event = self.event_shape
        rows, batch = as_rows(value, event, "value")
        batch = jnp.broadcast_shapes(batch, self.batch_shape)
        x = jnp.broadcast_to(jnp.asarray(value, rows.dtype), (*batch, *event))
        if self._stack:
            at = len(batch) - len(self.batch_shape)
            score = jax.vmap(lambda one, x: one.log_prob(x), in_axes=(0, at), out_axes=at)
            return score(self, x)
        flow, x, cond = promote_dtypes(self.flow, x.reshape(-1, *event), self._cond(batch))
        inside = jnp.asarray(self.support(x))
        # Rows outside are solved at a point inside, so that no NaN comes back by their gradient.
        x_inside = jnp.where(_rowwise(inside, x), x, self.support.feasible_like(x))
        if _few(len(x), event):
            log_p = _log_prob_alone(flow, x_inside, as_cond_rows(cond, batch))
        else:
            log_p = flow.log_prob(x_inside.reshape(*batch, *event), cond).reshape(-1)
        is_nan = jnp.any(jnp.isnan(x.reshape(len(x), -1)), axis=1)
        outside = jnp.where(is_nan, jnp.nan, -jnp.inf).astype(log_p.dtype)
        return jnp.where(inside, log_p, outside).reshape(batch)

    def _first_array(self) -> Any:
        return next(iter(jax.tree.leaves(self.arrays)), jnp.zeros(()))

    @property
    def _stack(self) -> tuple[int, ...]:
        """Sizes of the axes along which vmap or scan have stacked such distributions."""
        first = self._first_array()
        return first.shape[: first.ndim - self._ndim]

    def _cond(self, batch: tuple[int, ...]) -> Array | None:
        if self.cond is None:
            return None
        return jnp.broadcast_to(self.cond, (*batch, self.cond.shape[-1]))


def _check(flow: Any) -> None:
    if isinstance(flow, FlowMap):
        raise TypeError(
            "flow is a FlowMap, whose log-density is an approximation: write "
            "FlowDistribution(flow.exact)"
        )
    if not isinstance(flow, Flow):
        raise TypeError(f"flow={flow!r} is no flow of jaxflow: give a CNF or a CouplingFlow")
    trace = getattr(flow, "trace", None)
    if isinstance(trace, Estimator):
        raise ValueError(
            f"trace={trace} draws the log-density, and a sampler needs the same one at every "
            "call: write FlowDistribution(dataclasses.replace(flow, trace='exact'))"
        )
    if any(isinstance(part, Dequantise) for part in _parts(flow.transform)):
        raise ValueError(
            "flow has a Dequantise, so its values lie on a grid and have probabilities, no "
            "density: for the density of the spread values write FlowDistribution("
            "dataclasses.replace(flow, transform=transforms.without_noise(flow.transform)))"
        )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _parts(transform: Any) -> list[Any]:
    """The transforms one after another, data first."""
    if isinstance(transform, Chain):
        return [part for inner in transform.parts for part in _parts(inner)]
    return [] if transform is None else [transform]


def _rowwise(flags: Array, x: Array) -> Array:
    return flags.reshape(-1, *[1] * (x.ndim - 1))


def _few(rows: int, event_shape: tuple[int, ...]) -> bool:
    return 0 < rows <= FEW * lanes_for(math.prod(event_shape))


def _alone(flow: Any) -> Any:
    """The flow whose training settings are those of its evaluation."""
    if not isinstance(flow, CNF):
        return flow
    return replace(flow, ode=flow.ode_eval, trace=flow.trace_for(training=False))


@eqx.filter_jit
@full_precision
def _log_prob_alone(
    flow: Any, x: Float[Array, "rows *event"], cond: Array | None
) -> Float[Array, " rows"]:
    """Log-density of each row by a solve of its own, as many at once as there are rows."""
    flow = _alone(flow)
    return _row_by_row(lambda x, cond: flow.log_prob_rows(x, cond, training=True)[0], x, cond)


@eqx.filter_jit
@full_precision
def _sample_alone(flow: Any, keys: Array, cond: Array | None) -> Float[Array, "rows *event"]:
    """A sample for each key by a solve of its own."""
    flow = _alone(flow)

    def draw(keys: Array, cond: Array | None) -> Array:
        # With its log-density a row is one solve, without it a solve in all lanes.
        return flow.draw_rows(keys, cond, with_log_prob=True, training=True)[0][0]

    return _row_by_row(draw, keys, cond)


def _row_by_row(f: Callable[..., Array], *rows: Any) -> Array:
    """`f` of batches of one row each; a single row needs no vmap, which would copy buffers."""
    if len(rows[0]) == 1:
        return f(*rows)
    return jax.vmap(lambda *row: f(*jax.tree.map(lambda leaf: leaf[None], row))[0])(*rows)
