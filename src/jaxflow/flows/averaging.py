"""Helpers of `Ensemble`: argument checks, which flow each sample comes from, merged counts."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jaxflow.density.error import LogDensity
from jaxflow.density.mixture import mix, mix_with_error
from jaxflow.flows.flow import Flow, map_rows
from jaxflow.flows.flow_map import FlowMap
from jaxflow.flows.summary import has_values, size_words
from jaxflow.ode import SolveError, Stats, Status
from jaxflow.ode.status import failed
from jaxflow.runtime.precision import cast_floats, sample_dtype, widest_dtype


def checked_flows(flows: Any) -> tuple[Flow, ...]:
    """The flows of an average as a tuple; raises unless their events have one shape."""
    if isinstance(flows, Flow):
        raise TypeError(f"flows is a {type(flows).__name__}; write Ensemble([flow]) for one flow")
    try:
        flows = tuple(flows)
    except TypeError:
        raise TypeError(
            f"flows is a {type(flows).__name__}; give a sequence of flows, Ensemble([flow, other])"
        ) from None
    if not flows:
        raise ValueError("flows is empty; give one flow or more, Ensemble([flow, other])")
    for k, flow in enumerate(flows):
        if not isinstance(flow, Flow):
            raise TypeError(
                f"flows[{k}] is a {type(flow).__name__}; give a CNF, a CouplingFlow or another "
                "Flow"
            )
        if flow.event_shape != flows[0].event_shape:
            raise ValueError(
                f"flows[{k}] has events of shape {flow.event_shape} and flows[0] of shape "
                f"{flows[0].event_shape}; give flows of the same columns"
            )
    return flows


def checked_weights(weights: Any, flows: Sequence[Flow]) -> Float[Array, " flows"]:
    """Positive weights of flows, divided by their sum, in the dtype of the flows."""
    num, dtype = len(flows), sample_dtype(flows)
    if weights is None:
        return jnp.full(num, 1 / num, dtype)
    array = weights if isinstance(weights, jax.Array) else np.asarray(weights)
    numbers = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    if not numbers or array.shape != (num,):
        raise ValueError(
            f"weights={weights} must be one positive number for each of {num} flows, or None for "
            "equal ones"
        )
    if isinstance(array, Tracer):
        return array.astype(dtype) / jnp.sum(array.astype(dtype))
    values = np.asarray(array, np.float64)
    good = np.isfinite(values) & (values > 0)
    shares = values / values[good].sum() if good.all() else values
    # The share may be too small for the dtype.
    bad = np.flatnonzero(~good | ~(shares.astype(dtype) > 0))
    if bad.size:
        raise ValueError(
            f"weights[{bad[0]}]={values[bad[0]]} must be finite and positive, in {dtype} after "
            f"division by the sum too: leave flows[{bad[0]}] out if it does not count"
        )
    return jnp.asarray(shares, dtype)


def flow_words(flows: Sequence[Any], weights: Any) -> dict[str, str]:
    """A line for each flow, by its name `flows[k]`."""
    shares = [""] * len(flows)
    if has_values(weights):
        shares = [f"weight {w:.4g}, " for w in np.asarray(weights)]
    return {
        f"flows[{k}]": f"{shares[k]}{type(flow).__name__}, {size_words(flow)}"
        for k, flow in enumerate(flows)
    }


def refusal(name: str) -> str:
    """The error for an attribute that the flows of an ensemble have and the ensemble lacks."""
    return (
        f"an Ensemble has no {name}: a mixture of densities is not one invertible map. Use that "
        f"of one of its flows: ensemble.flows[0].{name}"
    )


def states_error(flow: Flow, name: str) -> bool:
    """Whether a flow states the errors of its log-densities; False if it needs no solve.

    A `FlowMap`, whose errors are not known row by row, raises TypeError.
    """
    if isinstance(flow, FlowMap):
        raise TypeError(
            f"{name} is a FlowMap, whose log-density is an approximation without an error for "
            f"each row: put {name}.exact in its place"
        )
    return hasattr(flow, "log_prob_with_error")


def exact_answer(log_p: Float[Array, "*batch"]) -> LogDensity:
    """The log-densities of a flow without a solve, which count as exact."""
    zeros, none = jnp.zeros_like(log_p), jnp.zeros(log_p.shape, jnp.int32)
    status = jnp.where(jnp.isneginf(log_p), int(Status.OUTSIDE), none)
    return LogDensity(log_p, zeros, zeros, log_p, status, none)


def averaged(ensemble: Any, values: Sequence[Any], atol_nats: float | None = None) -> Any:
    """The log-densities of an ensemble from those of its flows, or with their errors.

    `values` are log-densities of each flow, (*batch), or a `LogDensity`, which has the target
    `atol_nats`.
    """
    if len(values) == 1:
        return values[0]
    batch = jax.tree.leaves(values[0])[0].shape
    score = partial(_averaged, ensemble.weights, atol_nats)
    out = map_rows(ensemble, score, (side_by_side(values),))
    return jax.tree.map(lambda leaf: leaf.reshape(batch), out)


@eqx.filter_jit
def _averaged(weights: Array, atol_nats: float | None, parts: Any, key: None) -> Any:
    if isinstance(parts, LogDensity):
        return mix_with_error(parts, weights, atol_nats=atol_nats)
    return mix(parts, weights)


def side_by_side(values: Sequence[Any]) -> Any:
    """Log-densities of several flows, (*batch) each, as (rows, flows).

    Of `LogDensity` each field; None where one of the flows has None.
    """
    values = cast_floats(list(values), widest_dtype(values))
    return jax.tree.map(_columns, *values, is_leaf=lambda leaf: leaf is None)


def _columns(*values: Any) -> Array | None:
    if any(each is None for each in values):
        return None
    return _stack([each.reshape(-1) for each in values], axis=1)


def _stack(values: Sequence[Array], axis: int = 0) -> Array:
    """Arrays of floats of one dtype, or of integers of any."""
    dtype = np.result_type(*(each.dtype for each in values))
    return jnp.stack([each.astype(dtype) for each in values], axis=axis)


@eqx.filter_jit
def choose(keys: Array, weights: Float[Array, " flows"], number: int) -> Int[Array, " rows"]:
    """Index of the flow that each row is drawn from, by the row's key and `number` alone."""

    def draw(key: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, number), (), weights.dtype)

    ends = jnp.cumsum(weights)[:-1]
    return jnp.sum(jax.vmap(draw)(keys)[:, None] >= ends[None], axis=1, dtype=jnp.int32)


def nesting(tree: Any, kind: type) -> int:
    """How deep modules of a kind are nested."""
    parts = jax.tree.leaves(tree, is_leaf=lambda part: part is not tree and isinstance(part, kind))
    inner = (nesting(part, kind) for part in parts if isinstance(part, kind))
    return isinstance(tree, kind) + max(inner, default=0)


def take_drawn(
    index: Int[Array, "*batch"],
    drawn: Sequence[tuple[Array, Array | None]],
    score: Callable[[int, Array], Array],
) -> tuple[Float[Array, "..."], list[Array]]:
    """Pick each row's sample from the flow `index`; also the log-densities of all flows there.

    `drawn` has the samples of each flow and their log-densities. If these are None, no
    log-densities are computed. `score(k, x)` computes those of flow `k`.
    """
    x = _take(index, [x for x, _ in drawn])
    values = [log_p for _, log_p in drawn if log_p is not None]
    if len(values) > 1:
        values = [jnp.where(index == k, own, score(k, x)) for k, own in enumerate(values)]
    return x, values


@eqx.filter_jit
def _take(index: Int[Array, "*batch"], samples: list[Array]) -> Float[Array, "..."]:
    samples = cast_floats(samples, widest_dtype(samples))
    at = index.reshape(*index.shape, *[1] * (samples[0].ndim - index.ndim))
    x = samples[0]
    for k, each in enumerate(samples[1:], start=1):
        x = jnp.where(at == k, each, x)
    return x


def joint_stats(each: Sequence[Stats | None]) -> Stats | None:
    """Total counts of the solves of several flows; status and time of the first that failed."""
    solved = [replace(stats, rounding=None) for stats in each if stats is not None]
    if not solved:
        return None
    shape = jnp.broadcast_shapes(*(stats.status.shape for stats in solved))

    def together(*leaves: Array) -> Array:
        return _stack([jnp.broadcast_to(leaf, shape) for leaf in leaves])

    counts: Stats = jax.tree.map(together, *solved)
    status = jnp.where(failed(counts.status), counts.status, int(Status.SUCCESS))
    return replace(counts, status=status).in_turn()


def succeed_where(unused: Bool[Array, " rows"], stats: Stats | None) -> Stats | None:
    """Counts whose status is SUCCESS in the rows whose result is not used."""
    if stats is None or not stats.status.ndim:
        return stats
    return replace(stats, status=jnp.where(unused, int(Status.SUCCESS), stats.status))


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Name the flow in a `SolveError`."""
    try:
        yield
    except SolveError as error:
        raise SolveError(f"{name}: {error}") from error
