"""A flow in a few evaluations: a network for the flow map and its integrated divergence."""

import math
from dataclasses import dataclass
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import log_prob_rows, sample_rows
from jaxflow.dynamics.protocol import prepare
from jaxflow.flows.cnf import CNF
from jaxflow.flows.flow import check_arguments, to_data_space, to_flow_space
from jaxflow.runtime.arguments import as_cond_rows, promote_dtypes
from jaxflow.runtime.precision import full_precision
from jaxflow.trace import exact_trace


@final
@dataclass(frozen=True)
class MapError:
    """How far the fast log-density was from the exact one, on rows that did not train it.

    Attributes:
        median: of the absolute difference, nats.
        q90: its 90 % quantile.
        q99: its 99 % quantile.
        bias: mean of fast minus exact, nats.
        num_rows: how many rows.
    """

    median: float
    q90: float
    q99: float
    bias: float
    num_rows: int


class FlowMap(eqx.Module):
    """A CNF's flow map over `num_steps` equal times, an evaluation of its field in each.

    For times `s` and `t` next to each other a network gives what the mean velocity and the mean
    divergence on the way have beyond the field's own at `s`,

        x(t) = x(s) + (t - s) (f(s, x(s)) + u),    log p_t = log p_s - (t - s) (tr df/dx + d)

    with `(u, d) = net(x(s), s, t)`. Velocity and divergence by a network are of Ai et al. 2025
    (F2D2, arXiv 2512.02636); here it is learned from solved trajectories, and the field does its
    part. Nothing makes the two heads agree with each other
    but the data, so `log_prob` is an approximation:
    `error` is what it was off by, and `exact=True` solves instead.

    Attributes:
        net: a field of `dim + 1` outputs, `net(s, (x, 0), (t, cond))`.
        exact: the flow that was distilled.
        num_steps: steps of a sample or a log-density, each an evaluation of field and network.
        error: how far off it was; None before it was measured.
    """

    net: Any
    exact: CNF
    num_steps: int = eqx.field(static=True)
    error: MapError | None = eqx.field(static=True, default=None)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.exact.event_shape

    def log_prob(
        self, x: Any, cond: Any = None, key: PRNGKeyArray | None = None, *, exact: bool = False
    ) -> Float[Array, "*batch"]:
        """Log-density of data in nats, in `num_steps` evaluations; off by about `error`.

        Args:
            x: (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all.
            key: for the exact flow's trace, where it is stochastic.
            exact: solve the flow that was distilled instead.
        """
        if exact:
            return self.exact.log_prob(x, cond, key)
        fast, rows, cond, batch = check_arguments(self, x, cond, "x")
        return _log_prob(fast, rows, cond).reshape(batch)

    def sample(
        self,
        key: PRNGKeyArray,
        shape: tuple[int, ...] | int = (),
        cond: Any = None,
        *,
        exact: bool = False,
    ) -> Float[Array, "..."]:
        """Draw samples in data units, in `num_steps` evaluations; arguments as for a flow."""
        if exact:
            return self.exact.sample(key, shape, cond)
        batch = (shape,) if isinstance(shape, int) else tuple(shape)
        fast, cond = promote_dtypes(self, as_cond_rows(cond, batch))
        # The base's points are those that the flow itself would draw.
        keys = jax.random.split(jax.random.split(key)[0], math.prod(batch))
        return _sample(fast, keys, cond).reshape(*batch, *self.event_shape)

    def step(
        self, k: int, to: int, x: Float[Array, "rows *event"], cond: Array | None
    ) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"]]:
        """From time `k / num_steps` to the next one `to`: points, and the change of log p."""
        s, t = (jnp.asarray(i / self.num_steps, x.dtype) for i in (k, to))
        field = prepare(self.exact.field)

        def one(x: Array, cond: Array | None) -> tuple[Array, Array]:
            velocity, trace = exact_trace(field, s, x, cond)
            padded = jnp.concatenate([x.ravel(), jnp.zeros(1, x.dtype)])
            given = t[None] if cond is None else jnp.concatenate([t[None], cond.ravel()])
            out = self.net(s, padded, given)
            mean = velocity + out[:-1].reshape(x.shape), trace + out[-1]
            return x + (t - s) * mean[0], -(t - s) * mean[1]

        return jax.vmap(one, in_axes=(0, None if cond is None else 0))(x, cond)

    def encode_rows(
        self, u: Float[Array, "rows *event"], cond: Array | None
    ) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"]]:
        """From flow space to the base: points, and `log p_0 - log p_1` along the way."""
        return self._walk(range(self.num_steps, 0, -1), -1, u, cond)

    def decode_rows(
        self, z: Float[Array, "rows *event"], cond: Array | None
    ) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"]]:
        """From the base to flow space: points, and `log p_1 - log p_0` along the way."""
        return self._walk(range(self.num_steps), 1, z, cond)

    def _walk(self, steps: Any, way: int, x: Array, cond: Array | None) -> tuple[Array, Array]:
        total = jnp.zeros(len(x), x.dtype)
        for k in steps:
            x, change = self.step(k, k + way, x, cond)
            total = total + change
        return x, total


@eqx.filter_jit
@full_precision
def _log_prob(fast: FlowMap, x: Array, cond: Array | None) -> Array:
    u, log_det = to_flow_space(fast.exact.transform, x)
    z, change = fast.encode_rows(u, cond)
    return log_prob_rows(fast.exact.base, z) - change + log_det


@eqx.filter_jit
@full_precision
def _sample(fast: FlowMap, keys: Array, cond: Array | None) -> Array:
    u, _ = fast.decode_rows(sample_rows(fast.exact.base, keys), cond)
    return to_data_space(fast.exact.transform, u)[0]
