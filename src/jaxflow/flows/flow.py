"""The public face that every flow shares: checks, batches, data units."""

import abc
import math
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import log_prob_rows, sample_rows
from jaxflow.ode import Stats
from jaxflow.ode.many import lanes_for
from jaxflow.ode.status import raise_if_failed
from jaxflow.runtime.arguments import (
    as_cond_rows,
    as_rows,
    batch_shape,
    check_finite,
    promote_dtypes,
)
from jaxflow.runtime.chunking import map_chunks, take_rows
from jaxflow.runtime.precision import accumulation_dtype, full_precision


class Flow(eqx.Module):
    """A density made of a base, an invertible map, and a fixed transform to data units.

    With `u = transform(x)`, `log p(x) = log p_u(u) + log |det du/dx|`, in nats and the data's own
    units. A subclass gives the density in flow space, for rows, without checks: `density_rows`
    and `sample_rows`.
    """

    base: eqx.AbstractVar[Any]
    transform: eqx.AbstractVar[Any]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.base.event_shape)

    @abc.abstractmethod
    def density_rows(
        self,
        u: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool,
    ) -> tuple[Float[Array, " rows"], Stats | None]:
        """Log-density of rows in flow space, and the counts of its solve."""

    @abc.abstractmethod
    def sample_rows(
        self,
        z: Float[Array, "rows *event"],
        log_p: Float[Array, " rows"] | None,
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool = False,
    ) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"] | None, Stats | None]:
        """Rows in flow space from rows of the base, with their log-densities if asked for."""

    @abc.abstractmethod
    def choose_probes(self, x: Any, cond: Any = None, key: PRNGKeyArray | None = None) -> "Flow":
        """The flow with what its evaluation leaves open chosen for rows like these."""

    def settled(self, x: Any, cond: Any = None, key: PRNGKeyArray | None = None) -> "Flow":
        """Deprecated name of `choose_probes`."""
        warnings.warn(
            "settled is now choose_probes; the old name goes in jaxflow 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.choose_probes(x, cond, key)

    def log_prob(
        self,
        x: Any,
        cond: Any = None,
        key: PRNGKeyArray | None = None,
        *,
        progress: bool | None = False,
    ) -> Float[Array, "*batch"]:
        """Log-density of data, in nats and the data's own units.

        Under jit write `jax.jit(lambda x: flow.log_prob(x))`, or `eqx.filter_jit(flow.log_prob)`.

        Args:
            x: (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all.
            key: for the probes of a stochastic trace.
            progress: whether to show a bar; None shows one on a terminal only.

        Raises:
            ValueError: wrong shapes, NaN or infinite rows (named), a missing key.
            SolveError: the solve failed.
        """
        flow, rows, cond, batch = check_arguments(self, x, cond, "x")
        flow = flow.choose_probes(rows, cond, key)
        log_p, stats = score_rows(flow, rows, cond, key, progress=progress)
        return raise_on_failure(self, log_p, stats, "log_prob").reshape(batch)

    def sample(
        self,
        key: PRNGKeyArray,
        shape: tuple[int, ...] | int = (),
        cond: Any = None,
        *,
        progress: bool | None = False,
    ) -> Float[Array, "..."]:
        """Draw samples in data units.

        Args:
            key: random key.
            shape: batch shape, or a number of samples.
            cond: conditions, (*shape, *condition), or one vector for all.
            progress: whether to show a bar; None shows one on a terminal only.
        """
        return self._draw(key, shape, cond, progress, with_log_prob=False)[0]

    def sample_and_log_prob(
        self,
        key: PRNGKeyArray,
        shape: tuple[int, ...] | int = (),
        cond: Any = None,
        *,
        progress: bool | None = False,
    ) -> tuple[Float[Array, "..."], Float[Array, "*shape"]]:
        """Draw samples and their log-densities from one solve; arguments as for `sample`."""
        x, log_p = self._draw(key, shape, cond, progress, with_log_prob=True)
        assert log_p is not None
        return x, log_p

    def _draw(
        self,
        key: PRNGKeyArray,
        shape: tuple[int, ...] | int,
        cond: Any,
        progress: bool | None,
        *,
        with_log_prob: bool,
    ) -> tuple[Array, Array | None]:
        batch = batch_shape(shape)
        base_key, probe_key = jax.random.split(key)
        count = math.prod(batch)
        flow, cond = promote_dtypes(self, as_cond_rows(cond, batch))
        keys = jax.random.split(base_key, count)

        def draw(part: Array | slice, key: PRNGKeyArray | None) -> Any:
            return _sample(flow, *take_rows(part, keys, cond), key, with_log_prob)

        shape = self.event_shape
        (x, log_p), stats = map_chunks(
            count, shape, probe_key, draw, lanes=lanes_for(math.prod(shape)), progress=progress
        )
        x, log_p = raise_on_failure(self, (x, log_p), stats, "sample")
        x = x.reshape(*batch, *self.event_shape)
        return x, None if log_p is None else log_p.reshape(batch)

    def log_prob_rows(
        self,
        x: Float[Array, "rows *event"],
        cond: Array | None = None,
        key: PRNGKeyArray | None = None,
        *,
        training: bool = False,
    ) -> tuple[Float[Array, " rows"], Stats | None]:
        """Log-density of rows in data units, for use inside jit: no checks, a status, NaN.

        With `training` the training settings of the solve and the trace are used, and matrix
        products are rounded as jax is set; without, they have full precision.
        """

        def density(x: Array) -> tuple[Array, Stats | None]:
            u, log_det = to_flow_space(self.transform, x)
            log_p, stats = self.density_rows(u, cond, key, training=training)
            return log_p + log_det.astype(log_p.dtype), stats

        return density(x) if training else full_precision(density)(x)

    def draw_rows(
        self,
        keys: Array,
        cond: Array | None = None,
        key: PRNGKeyArray | None = None,
        *,
        with_log_prob: bool = False,
        training: bool = False,
    ) -> tuple[tuple[Float[Array, "rows *event"], Float[Array, " rows"] | None], Stats | None]:
        """A sample in data units for each key, for use inside jit: no checks, a status, NaN.

        With their log-densities if asked for; `key` is for the probes of a stochastic trace, and
        `training` as for `log_prob_rows`.
        """

        def draw(keys: Array) -> Any:
            flow, z = promote_dtypes(self, sample_rows(self.base, keys))
            wide = z.astype(accumulation_dtype(z.dtype))
            log_p = log_prob_rows(flow.base, wide) if with_log_prob else None
            u, log_p, stats = flow.sample_rows(z, log_p, cond, key, training=training)
            x, log_det = to_data_space(flow.transform, u)
            return (x, None if log_p is None else log_p - log_det.astype(log_p.dtype)), stats

        return draw(keys) if training else full_precision(draw)(keys)


def score_rows(
    flow: Flow,
    x: Float[Array, "rows *event"],
    cond: Array | None = None,
    key: PRNGKeyArray | None = None,
    *,
    score: Callable[..., tuple[Any, Stats | None]] | None = None,
    progress: bool | None = False,
) -> tuple[Any, Stats | None]:
    """Log-density of any number of rows in data units, and the counts of each row's solve.

    Args:
        flow: the flow.
        x: rows.
        cond: their conditions.
        key: for the probes of a stochastic trace.
        score: what is computed of a chunk, `(flow, x, cond, key) -> (arrays, counts)` by row.
        progress: whether to show a bar; None shows one on a terminal only.
    """
    score = _log_prob if score is None else score

    def compute(part: Array | slice, key: PRNGKeyArray | None) -> Any:
        return score(flow, *take_rows(part, x, cond), key)

    lanes = lanes_for(x[:1].size)
    return map_chunks(len(x), x.shape[1:], key, compute, lanes=lanes, progress=progress)


def check_arguments(
    flow: Any, x: Any, cond: Any, name: str
) -> tuple[Any, Array, Array | None, tuple[int, ...]]:
    """A user's arguments, checked: the flow and rows in one precision, and the batch's shape.

    Raises:
        ValueError, TypeError: shapes, dtypes or values that do not fit, by the argument's name.
    """
    rows, batch = as_rows(x, flow.event_shape, name)
    check_finite(rows, name)
    flow, rows, cond = promote_dtypes(flow, rows, as_cond_rows(cond, batch))
    return flow, rows, cond, batch


def raise_on_failure(flow: Any, values: Any, stats: Stats | None, what: str) -> Any:
    """The values, or `SolveError` where their solve failed and the flow's settings raise."""
    ode = getattr(flow, "ode_eval", None)
    if stats is None or ode is None or not ode.throw:
        return values
    return raise_if_failed(values, stats, what)


def to_flow_space(
    transform: Any, x: Float[Array, "rows *event"]
) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"]]:
    """Rows through the transform, with the log-determinants."""
    if transform is None:
        return x, jnp.zeros(len(x), x.dtype)
    return jax.vmap(transform.forward)(x)


def to_data_space(
    transform: Any, u: Float[Array, "rows *event"]
) -> tuple[Float[Array, "rows *event"], Float[Array, " rows"]]:
    """Rows back through the transform, with the log-determinants."""
    if transform is None:
        return u, jnp.zeros(len(u), u.dtype)
    return jax.vmap(transform.inverse)(u)


def with_transform(flow: Any, transform: Any) -> Any:
    """The flow with another transform."""
    return eqx.tree_at(
        lambda flow: flow.transform, flow, transform, is_leaf=lambda leaf: leaf is None
    )


@eqx.filter_jit
def _log_prob(flow: Flow, x: Array, cond: Array | None, key: PRNGKeyArray | None) -> Any:
    return flow.log_prob_rows(x, cond, key)


@eqx.filter_jit
def _sample(
    flow: Flow, keys: Array, cond: Array | None, key: PRNGKeyArray | None, with_log_prob: bool
) -> Any:
    return flow.draw_rows(keys, cond, key, with_log_prob=with_log_prob)
