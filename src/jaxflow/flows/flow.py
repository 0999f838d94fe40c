"""`Flow`: the interface that all flows share, with its checks, batching and data units."""

import abc
import math
import warnings
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import log_prob_rows, sample_rows
from jaxflow.flows.data_space import (
    add_log_det,
    check_arguments,
    check_inside,
    nan_where,
    raise_on_failure,
    to_data_space,
    to_flow_space,
    transform_rows,
    with_transform,
)
from jaxflow.flows.methods import FlowMethod
from jaxflow.flows.summary import (
    as_html,
    as_text,
    is_marked,
    size_words,
    transform_words,
    words,
)
from jaxflow.ode import Stats
from jaxflow.ode.derivatives import explain_forward_mode
from jaxflow.runtime.arguments import (
    as_cond_rows,
    batch_shape,
    promote_dtypes,
)
from jaxflow.runtime.chunking import map_chunks
from jaxflow.runtime.keys import check_key
from jaxflow.runtime.lanes import lanes_for
from jaxflow.runtime.precision import (
    accumulation_dtype,
    full_precision,
    full_products,
    sample_dtype,
)
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.transforms import noise_of


class Flow(eqx.Module):
    """A probability density: a base, an invertible map, and a fixed transform to data units.

    With `u = transform(x)`, `log p(x) = log p_u(u) + log |det du/dx|`, in nats and the data's own
    units. A subclass implements `density_rows` and `sample_rows`, in flow space and without
    checks; this class adds checks, batching and the transform.

    Attributes:
        base: density of the points `z` that the map starts from (`jaxflow.bases.Base`).
        transform: fixed map from data to flow space (`jaxflow.transforms.Transform`), or None.
    """

    base: eqx.AbstractVar[Any]
    transform: eqx.AbstractVar[Any]

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            value = object.__getattribute__(self, name)
            own = isinstance(value, MethodType) and value.__self__ is self
            if own and not name.startswith("__"):
                return FlowMethod(value.__func__, self)
            return value

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample: the transform's if it states one, else the base's."""
        return tuple(getattr(self.transform, "event_shape", self.base.event_shape))

    def summary(self) -> dict[str, str]:
        """Describe each part in a line: the rows of `print(flow)` and of a notebook's table.

        `repr(flow)` lists all arrays instead.
        """
        rows = {f.name: words(getattr(self, f.name, None)) for f in fields(self)}
        rows |= {"transform": transform_words(self.transform)}
        return rows | {"size": size_words(self)}

    def __str__(self) -> str:
        return repr(self) if is_marked(self) else as_text(self._title(), self.summary())

    def _repr_html_(self) -> str | None:
        return None if is_marked(self) else as_html(self._title(), self.summary())

    def _title(self) -> str:
        return f"{type(self).__name__} on events of shape {self.event_shape}"

    def needs_key(self) -> bool:
        """Whether log-densities may depend on a key, by the probes of a stochastic trace."""
        return True

    @abc.abstractmethod
    def density_rows(
        self,
        u: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray | None,
        *,
        training: bool,
    ) -> tuple[Float[Array, " rows"], Stats | None]:
        """Log-density of rows in flow space, and the counts of the solve (None without one).

        Args:
            u: rows in flow space, (rows, *event).
            cond: conditions, (rows, *condition), or None.
            key: for the probes of a stochastic trace.
            training: whether to use the training settings.
        """

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
        """Carry rows of the base to flow space.

        Args:
            z: rows of the base, (rows, *event).
            log_p: their log-densities, or None to skip densities.
            cond: conditions, (rows, *condition), or None.
            key: for the probes of a stochastic trace.
            training: whether to use the training settings.

        Returns:
            Rows in flow space, their log-densities (None if `log_p` is None), and the counts of
            the solve (None without one).
        """

    def encode_rows(
        self, u: Float[Array, "rows *event"], cond: Array | None
    ) -> tuple[Float[Array, "rows *event"], Stats | None]:
        """Carry rows of flow space to the base: the inverse of `sample_rows`."""
        raise NotImplementedError(f"{type(self).__name__} has no encode_rows: implement it")

    def choose_probes(
        self, x: ArrayInput, cond: ArrayInput | None = None, key: PRNGKeyArray | None = None
    ) -> "Flow":
        """The flow with as many probes as it needs to evaluate rows like these.

        Other flows than a `CNF` with `Hutchinson(target_se=...)` return themselves.
        """
        return self

    def settled(
        self, x: ArrayInput, cond: ArrayInput | None = None, key: PRNGKeyArray | None = None
    ) -> "Flow":
        """Deprecated name of `choose_probes`."""
        warnings.warn(
            "settled is now choose_probes; the old name goes in jaxflow 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.choose_probes(x, cond, key)

    def log_prob(
        self,
        x: ArrayInput,
        cond: ArrayInput | None = None,
        key: PRNGKeyArray | None = None,
        *,
        progress: bool | None = False,
    ) -> Float[Array, "*batch"]:
        """Log-density of data, in nats and the data's own units, to the accuracy of evaluation.

        In a loss write `train_log_prob` instead: it takes the steps that training takes, which
        cost several times less. Use this method for values that you report, compare or integrate.

        `jax.jit(flow.log_prob)`, `jax.vmap` and `jax.checkpoint` work, also for other methods
        (`jax.jit(flow.sample, static_argnums=1)`). `jax.jit` compiles the weights as constants;
        to share a program among flows write `eqx.filter_jit(flow.log_prob)`.

        Args:
            x: data, (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all rows.
            key: random key for the probes of a stochastic trace.
            progress: whether to show a progress bar; None shows it on a terminal only.

        Returns:
            Log-densities, (*batch), in the widest dtype of the flow, `x` and `cond`.

        Raises:
            ValueError: `x` or `cond` has the wrong shape or non-finite rows (named), or a
                stochastic trace has no key.
            SolveError: the solve failed, for the rows that the message names.
        """
        flow, rows, cond, batch = check_arguments(self, x, cond, "x", keep_float64=True)
        flow = flow.choose_probes(rows, cond, key)
        log_p, stats = score_rows(flow, rows, cond, key, progress=progress)
        return raise_on_failure(self, log_p, stats, "log_prob").reshape(batch)

    def train_log_prob(
        self,
        x: ArrayInput,
        cond: ArrayInput | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*batch"]:
        """Log-density of data in nats by the training settings, to be differentiated in a loss.

        One solve of all rows by `ode` and the training trace, as in a step of `fit`. Works under
        jit, vmap and grad, with derivatives in `x`, `cond` and all arrays of the flow. Its error
        is that of the training solve: report `log_prob`.

        ```python
        import equinox as eqx
        import jax
        import jaxflow

        key = jax.random.key(0)
        flow = jaxflow.CNF(jaxflow.dynamics.MLP(2, key=key), jaxflow.StandardNormal(2))
        x = jax.random.normal(key, (64, 2))
        loss = lambda flow: -flow.train_log_prob(x).mean()
        slopes = eqx.filter_jit(eqx.filter_grad(loss))(flow)
        ```

        Args:
            x: data, (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all rows.
            key: random key for the probes of a stochastic trace. Under vmap give each call its
                own, or all rows share their probes.

        Returns:
            Log-densities, (*batch); -inf outside the support, NaN for all rows if the solve
            failed.

        Raises:
            ValueError: as for `log_prob`.
        """
        flow, rows, cond, batch = check_arguments(self, x, cond, "x")
        if not len(rows):
            return jnp.zeros(batch, accumulation_dtype(rows.dtype))
        return _train_log_prob(flow, rows, cond, key).reshape(batch)

    def sample(
        self,
        key: PRNGKeyArray,
        shape: tuple[int, ...] | SupportsIndex = (),
        cond: ArrayInput | None = None,
        *,
        progress: bool | None = False,
    ) -> Float[Array, "..."]:
        """Draw samples in data units.

        Args:
            key: random key; the same key gives the same samples.
            shape: batch shape, or a number of samples.
            cond: conditions, (*shape, *condition), or one vector for all samples.
            progress: whether to show a progress bar; None shows it on a terminal only.

        Returns:
            Samples, (*shape, *event), in the widest dtype of the flow and `cond`.

        Raises:
            ValueError: `shape` is negative, or `cond` does not fit it.
            SolveError: the solve failed.
        """
        return self._sample_batch(key, shape, cond, progress, with_log_prob=False)[0]

    def sample_and_log_prob(
        self,
        key: PRNGKeyArray,
        shape: tuple[int, ...] | SupportsIndex = (),
        cond: ArrayInput | None = None,
        *,
        progress: bool | None = False,
    ) -> tuple[Float[Array, "..."], Float[Array, "*shape"]]:
        """Draw samples and their log-densities by one solve; arguments as for `sample`.

        Samples on a grid (`Dequantise`) are rounded, and get the `log_prob` of the rounded values
        by a second solve.

        Returns:
            Samples, (*shape, *event), and their log-densities in nats, (*shape).
        """
        rounds = noise_of(getattr(self, "transform", None)) is not None
        x, log_p = self._sample_batch(key, shape, cond, progress, with_log_prob=not rounds)
        if log_p is None:
            # A failed sample, of flows that do not raise, is NaN and has the log-density NaN.
            lost = ~jnp.isfinite(x).all(axis=tuple(range(len(batch_shape(shape)), x.ndim)))
            known = jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x))
            log_p = self.log_prob(known, cond, jax.random.split(key)[1], progress=progress)
            log_p = jnp.where(lost, jnp.nan, log_p)
        return x, log_p

    def encode(self, x: ArrayInput, cond: ArrayInput | None = None) -> Float[Array, "..."]:
        """Map data to the base: `z` with `x = decode(z)`.

        Args:
            x: data, (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all rows.

        Returns:
            Points of the base, (*batch, *event).

        Raises:
            ValueError: as for `log_prob`, or rows lie outside the support (under jit: NaN).
            SolveError: the solve failed.
        """
        flow, rows, cond, batch = check_arguments(self, x, cond, "x", keep_float64=True)
        u, log_det = transform_rows(flow, rows)
        check_inside(~jnp.isneginf(log_det))
        z, stats = map_rows(flow, partial(_encode, flow), (u, log_det, cond))
        z = raise_on_failure(self, z, stats, "encode")
        return z.reshape(*batch, *self.base.event_shape)

    def decode(self, z: ArrayInput, cond: ArrayInput | None = None) -> Float[Array, "..."]:
        """Map points of the base to data: the inverse of `encode`, with the same arguments."""
        flow, rows, cond, batch = check_arguments(self, z, cond, "z", of_base=True)
        x, stats = map_rows(flow, partial(_decode, flow), (rows, cond))
        x = raise_on_failure(self, x, stats, "decode")
        return x.reshape(*batch, *self.event_shape)

    def _sample_batch(
        self,
        key: PRNGKeyArray,
        shape: tuple[int, ...] | SupportsIndex,
        cond: Any,
        progress: bool | None,
        *,
        with_log_prob: bool,
    ) -> tuple[Array, Array | None]:
        check_key(key)
        batch = batch_shape(shape)
        base_key, probe_key = jax.random.split(key)
        flow, cond = promote_dtypes(self, as_cond_rows(cond, batch))
        keys = jax.random.split(base_key, math.prod(batch))
        draw = partial(_draw_rows, flow, with_log_prob)
        (x, log_p), stats = map_rows(flow, draw, (keys, cond), probe_key, progress)
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
        """Log-density of rows in data units, without checks, for use inside jit.

        A failed solve gives NaN and a status.

        Args:
            x: (rows, *event).
            cond: conditions, (rows, *condition).
            key: for the probes of a stochastic trace.
            training: use the training settings of solve and trace, and matrix products as jax
                rounds them; otherwise products have full precision.

        Returns:
            Log-densities in nats, and the counts of the solve (None without a solve).
        """
        with full_products(not training):
            u, log_det = to_flow_space(self.transform, x, grouped=not training)
            log_p, stats = self.density_rows(u, cond, key, training=training)
            return add_log_det(log_p, stats, log_det)

    def draw_rows(
        self,
        keys: Array,
        cond: Array | None = None,
        key: PRNGKeyArray | None = None,
        *,
        with_log_prob: bool = False,
        training: bool = False,
    ) -> tuple[tuple[Float[Array, "rows *event"], Float[Array, " rows"] | None], Stats | None]:
        """Draw one sample in data units for each key, without checks, for use inside jit.

        A failed solve gives NaN and a status.

        Args:
            keys: one random key a row, (rows,).
            cond: conditions, (rows, *condition).
            key: for the probes of a stochastic trace.
            with_log_prob: whether to compute log-densities as well; on a grid (`Dequantise`),
                those of the values before rounding.
            training: as for `log_prob_rows`.

        Returns:
            `(samples, log-densities or None)`, and the counts of the solve.
        """
        with full_products(not training):
            flow, cond = promote_dtypes(self, cond)
            z = sample_rows(flow.base, keys, sample_dtype(flow, cond), grouped=not training)
            log_p = log_prob_rows(flow.base, z, grouped=not training) if with_log_prob else None
            u, log_p, stats = flow.sample_rows(z, log_p, cond, key, training=training)
            x, log_det = to_data_space(flow.transform, u, grouped=not training)
            log_p = None if log_p is None else log_p - log_det.astype(log_p.dtype)
            return (x, log_p), stats


def score_rows(
    flow: Flow,
    x: Any,
    cond: Array | None = None,
    key: PRNGKeyArray | None = None,
    *,
    progress: bool | None = False,
) -> tuple[Any, Stats | None]:
    """Log-density of any number of rows in data units, and the counts of each row's solve.

    `x`, (rows, *event), may be NumPy's float64 for a float32 flow with a transform.
    """
    u, log_det = transform_rows(flow, x)
    # One program for all transforms, with and without a key that draws nothing.
    key = key if flow.needs_key() else None
    flow = with_transform(flow, None)
    return map_rows(flow, partial(score_in_flow_space, flow), (u, log_det, cond), key, progress)


@explain_forward_mode()
def map_rows(
    flow: Flow,
    f: Callable[..., Any],
    rows: tuple[Any, ...],
    key: PRNGKeyArray | None = None,
    progress: bool | None = False,
) -> Any:
    """`f(*rows, key)`, computed in chunks whose size suits the flow's events."""
    size = math.prod(flow.event_shape)
    return map_chunks(f, rows, key, row_size=size, lanes=lanes_for(size), progress=progress)


@eqx.filter_jit
@full_precision
def score_in_flow_space(
    flow: Flow, u: Array, log_det: Array, cond: Array | None, key: PRNGKeyArray | None
) -> tuple[Array, Stats | None]:
    """Log-density in data units of a chunk of rows in flow space, and the counts of the solve."""
    log_p, stats = flow.density_rows(u, cond, key, training=False)
    return add_log_det(log_p, stats, log_det)


@explain_forward_mode()
@eqx.filter_jit
def _train_log_prob(flow: Flow, x: Array, cond: Array | None, key: PRNGKeyArray | None) -> Array:
    return flow.log_prob_rows(x, cond, key, training=True)[0]


@eqx.filter_jit
def _draw_rows(
    flow: Flow, with_log_prob: bool, keys: Array, cond: Array | None, key: PRNGKeyArray | None
) -> Any:
    return flow.draw_rows(keys, cond, key, with_log_prob=with_log_prob)


@eqx.filter_jit
@full_precision
def _encode(
    flow: Flow, u: Array, log_det: Array, cond: Array | None, key: None
) -> tuple[Array, Stats | None]:
    z, stats = flow.encode_rows(u, cond)
    return nan_where(jnp.isneginf(log_det), z), stats


@eqx.filter_jit
@full_precision
def _decode(flow: Flow, z: Array, cond: Array | None, key: None) -> tuple[Array, Stats | None]:
    u, _, stats = flow.sample_rows(z, None, cond, key)
    return to_data_space(flow.transform, u)[0], stats
