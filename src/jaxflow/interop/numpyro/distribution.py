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
from jaxflow.flows.ensemble import Ensemble, members
from jaxflow.flows.flow import Flow
from jaxflow.flows.flow_map import FlowMap
from jaxflow.interop.numpyro.support import DataSpace
from jaxflow.runtime.arguments import as_cond_rows, as_rows, promote_dtypes
from jaxflow.runtime.lanes import lanes_for
from jaxflow.runtime.precision import full_precision
from jaxflow.trace import Estimator
from jaxflow.transforms import Chain, Dequantise, Gaussianise, Standardise, Whiten

# Up to this share of the lanes, each row is solved by itself: samplers evaluate one row at a time,
# and an idle lane costs as much as a busy one.
FEW_LANES = 1 / 4
# Transforms whose inverse reaches every point of the space.
UNBOUNDED = (Standardise, Whiten, Gaussianise)


class FlowDistribution(Distribution):
    """A fitted flow as a NumPyro distribution.

    Log-densities are in nats and in the units of the data, by the evaluation settings `ode_eval`.
    Samples are reparametrised: gradients reach `cond` and the flow's weights. If the flow's
    transform has limits (`Bounded`), so has the support: the log-density is -inf beyond them, and
    samplers move on the unconstrained space.

    A failed solve does not raise, whatever `ode_eval.throw` says, since samplers run in compiled
    loops. Its log-density, gradient or sample is NaN: HMC and NUTS reject it and count a
    divergence; in SVI the loss becomes NaN.

    ```python
    import jax
    import jax.numpy as jnp
    import numpyro
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import MLP
    from jaxflow.interop.numpyro import FlowDistribution

    key = jax.random.key(0)
    prior = CNF(MLP(1, width=8, key=key), StandardNormal(1))
    simulator = CNF(MLP(2, width=8, cond_dim=1, key=key), StandardNormal(2))


    def model(x):
        theta = numpyro.sample("theta", FlowDistribution(prior))
        numpyro.sample("x", FlowDistribution(simulator, cond=theta), obs=x)


    log_p, trace = numpyro.infer.util.log_density(
        model, (jnp.zeros(2),), {}, {"theta": jnp.zeros(1)}
    )
    ```

    Args:
        flow: a `CNF`, a `CouplingFlow`, an `Ensemble` of flows with the same limits, or any
            `Flow`.
        cond: conditions, (*batch, c), which make a distribution of batch shape `batch`; None for
            a flow without.
        validate_args: as for any NumPyro distribution.

    Attributes:
        cond: conditions, (*batch, c), or None.
        arrays: arrays of the flow.
        static: the flow without its arrays.

    Raises:
        TypeError: `flow` is not a flow, or is a `FlowMap`.
        ValueError: a condition without an axis, a flow with a stochastic trace, a flow of values
            on a grid, or an ensemble of flows with different limits.
    """

    pytree_data_fields = ("arrays", "cond")
    pytree_aux_fields = ("static", "_ndim")

    def __init__(self, flow: Any, cond: Any = None, *, validate_args: bool | None = None) -> None:
        _check(flow)
        self.arrays, self.static = eqx.partition(without_raising(flow), _is_array)
        self._ndim = len(self._first_shape)
        self.cond = None if cond is None else jnp.asarray(cond)
        if self.cond is not None and not self.cond.ndim:
            raise ValueError(
                "cond is a single number; conditions are vectors (*batch, c): write "
                "FlowDistribution(flow, cond=cond[..., None])"
            )
        super().__init__(self.batch_shape, flow.event_shape, validate_args=validate_args)

    @property
    def flow(self) -> Any:
        """The flow, whose failed solves do not raise."""
        return eqx.combine(self.arrays, self.static)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the conditions without their last axis.

        Axes along which vmap or scan stacked distributions come first.
        """
        return self._stack if self.cond is None else self.cond.shape[:-1]

    @property
    def support(self) -> constraints.Constraint:
        """The set of points with a positive density.

        Raises:
            ValueError: distributions with limits were stacked by vmap or scan.
        """
        parts = _limits(members(self.flow)[0])
        if not parts:
            return constraints.independent(constraints.real, len(self.event_shape))
        if self._stack:
            raise ValueError(
                f"distributions stacked along axes of sizes {self._stack} have limits each, and "
                "no common support: call FlowDistribution(flow, cond) outside vmap or scan"
            )
        return DataSpace(Chain(tuple(parts)))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Draw samples.

        Args:
            key: random key.
            sample_shape: leading axes of the result.

        Returns:
            (*sample_shape, *batch_shape, *event_shape); NaN where a solve failed.
        """
        if self._stack:
            keys = jax.random.split(key, self._stack[0])
            sample_each = jax.vmap(
                lambda one, key: one.sample(key, sample_shape), out_axes=len(sample_shape)
            )
            return sample_each(self, keys)
        batch = (*sample_shape, *self.batch_shape)
        flow, cond = promote_dtypes(self.flow, self._cond(batch))
        if not _is_few(math.prod(batch), self.event_shape):
            return flow.sample(key, batch, cond)
        # The same samples of the base as in `flow.sample`.
        keys = jax.random.split(jax.random.split(key)[0], math.prod(batch))
        drawn = _sample_singly(flow, keys, as_cond_rows(cond, batch))
        return drawn.reshape(*batch, *self.event_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        """Log-density in nats.

        Args:
            value: samples, (*sample_shape, *batch_shape, *event_shape) up to broadcasting.
            intermediates: ignored.

        Returns:
            (*sample_shape, *batch_shape): -inf outside the support, NaN where the solve failed
            or a value is NaN.

        Raises:
            ValueError: a shape that does not fit, or a flow that needs other conditions.
        """
        event = self.event_shape
        rows, batch = as_rows(value, event, "value")
        batch = jnp.broadcast_shapes(batch, self.batch_shape)
        x = jnp.broadcast_to(jnp.asarray(value, rows.dtype), (*batch, *event))
        if self._stack:
            at = len(batch) - len(self.batch_shape)
            score_each = jax.vmap(lambda one, x: one.log_prob(x), in_axes=(0, at), out_axes=at)
            return score_each(self, x)
        flow, x, cond = promote_dtypes(self.flow, x.reshape(-1, *event), self._cond(batch))
        inside = jnp.asarray(self.support(x))
        # Rows outside are solved at a point inside: their own gradient would be NaN.
        mask = jnp.expand_dims(inside, tuple(range(1, x.ndim)))
        x_inside = jnp.where(mask, x, self.support.feasible_like(x))
        if _is_few(len(x), event):
            log_p = _log_prob_singly(flow, x_inside, as_cond_rows(cond, batch))
        else:
            log_p = flow.log_prob(x_inside.reshape(*batch, *event), cond).reshape(-1)
        is_nan = jnp.any(jnp.isnan(x), axis=tuple(range(1, x.ndim)))
        outside = jnp.where(is_nan, jnp.nan, -jnp.inf).astype(log_p.dtype)
        return jnp.where(inside, log_p, outside).reshape(batch)

    @property
    def _first_shape(self) -> tuple[int, ...]:
        return next((leaf.shape for leaf in jax.tree.leaves(self.arrays)), ())

    @property
    def _stack(self) -> tuple[int, ...]:
        """Sizes of the axes along which vmap or scan stacked distributions."""
        return self._first_shape[: len(self._first_shape) - self._ndim]

    def _cond(self, batch: tuple[int, ...]) -> Array | None:
        if self.cond is None:
            return None
        return jnp.broadcast_to(self.cond, (*batch, self.cond.shape[-1]))


def _check(flow: Any) -> None:
    if isinstance(flow, Ensemble):
        for member in members(flow):
            _check(member)
        if not eqx.tree_equal(*map(_limits, members(flow))):
            raise ValueError(
                "the flows of this Ensemble have transforms with different limits, and samplers "
                "need one support: fit them with one and the same transform"
            )
        return
    if isinstance(flow, FlowMap):
        raise TypeError(
            "flow is a FlowMap, whose log-density is an approximation: write "
            "FlowDistribution(flow.exact)"
        )
    if not isinstance(flow, Flow):
        raise TypeError(f"flow={flow!r} is not a flow: give a CNF or a CouplingFlow")
    trace = getattr(flow, "trace", None)
    if isinstance(trace, Estimator):
        raise ValueError(
            f"trace={trace} makes the log-density random, and samplers need a function: write "
            "FlowDistribution(dataclasses.replace(flow, trace='exact'))"
        )
    if any(isinstance(part, Dequantise) for part in _parts(flow.transform)):
        raise ValueError(
            "flow has a Dequantise: its values lie on a grid and have probabilities, not a "
            "density. For the density of the dequantised values write FlowDistribution("
            "dataclasses.replace(flow, transform=transforms.without_noise(flow.transform)))"
        )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _parts(transform: Any) -> list[Any]:
    """The transforms of a `Chain`, in order from data to base, without nesting."""
    if isinstance(transform, Chain):
        return [part for inner in transform.parts for part in _parts(inner)]
    return [] if transform is None else [transform]


def _limits(flow: Flow) -> list[Any]:
    """The transforms in order, up to the last one that bounds the support."""
    parts = _parts(flow.transform)
    while parts and isinstance(parts[-1], UNBOUNDED):
        parts.pop()
    return parts


def _is_few(rows: int, event_shape: tuple[int, ...]) -> bool:
    """Whether each row is solved by itself rather than in lanes."""
    return 0 < rows <= FEW_LANES * lanes_for(math.prod(event_shape))


def _train_as_eval(flow: Any) -> Any:
    """The flow with its evaluation settings as training settings: these solve row by row."""
    if isinstance(flow, Ensemble):
        return flow.with_flows([_train_as_eval(each) for each in flow.flows])
    if not isinstance(flow, CNF):
        return flow
    return replace(flow, ode=flow.ode_eval, trace=flow.trace_for(training=False))


@eqx.filter_jit
@full_precision
def _log_prob_singly(
    flow: Any, x: Float[Array, "rows *event"], cond: Array | None
) -> Float[Array, " rows"]:
    """Log-density of each row by a separate solve, all rows at once."""
    flow = _train_as_eval(flow)
    return _row_by_row(lambda x, cond: flow.log_prob_rows(x, cond, training=True)[0], x, cond)


@eqx.filter_jit
@full_precision
def _sample_singly(flow: Any, keys: Array, cond: Array | None) -> Float[Array, "rows *event"]:
    """One sample per key by a separate solve."""
    flow = _train_as_eval(flow)

    def sample_row(keys: Array, cond: Array | None) -> Array:
        # With log-densities each row is one solve; without them it would fill all lanes.
        return flow.draw_rows(keys, cond, with_log_prob=True, training=True)[0][0]

    return _row_by_row(sample_row, keys, cond)


def _row_by_row(f: Callable[..., Array], *rows: Any) -> Array:
    """`f` on batches of one row each, without vmap (which copies buffers) for a single row."""
    if len(rows[0]) == 1:
        return f(*rows)
    return jax.vmap(lambda *row: f(*jax.tree.map(lambda leaf: leaf[None], row))[0])(*rows)
