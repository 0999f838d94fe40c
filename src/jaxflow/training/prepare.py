"""From a user's arrays to checked rows in flow space."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.data.shards import Shards
from jaxflow.dynamics import ConditionScaling, StandardisedCondition
from jaxflow.flows.coupling import CouplingFlow
from jaxflow.flows.flow import Flow, to_flow_space, with_transform
from jaxflow.objectives.weights import weighted_mean
from jaxflow.runtime.arguments import as_cond_rows, as_rows, promote_dtypes
from jaxflow.runtime.checks import check_columns, check_rows, split
from jaxflow.runtime.precision import widest_dtype
from jaxflow.training.config import TrainConfig
from jaxflow.training.stream import Stream, sampled
from jaxflow.transforms import Chain, Proposal, candidate_transforms, noise_of, spread_rows


class Rows(eqx.Module):
    """Data on the device.

    Attributes:
        x: samples, (rows, *event).
        cond: their conditions, (rows, *condition).
        weights: how often each row counts, (rows,); None where each counts once.
    """

    x: Array
    cond: Array | None
    weights: Array | None = None


class Problem(eqx.Module):
    """What is trained, in flow space: the transform is applied to the data once.

    Attributes:
        flow: the flow without its transform.
        train: training rows.
        held: validation rows.
        offsets: what takes a mean negative log-density of each from flow space to data units.
        transform: the transform.
        enter: the transform again where training rows stay in data units, because each step
            spreads them with fresh noise first; None where they are in flow space already.
        scaling: what standardises conditions, which the rows' are already; None for nothing.
        stream: where training rows are read from, of which `train` is then a sample; None where
            `train` has them all.
    """

    flow: Any
    train: Rows
    held: Rows
    offsets: tuple[float, float] = eqx.field(static=True)
    transform: Any
    enter: Any = None
    scaling: ConditionScaling | None = None
    stream: Stream | None = eqx.field(static=True, default=None)


def prepare(
    flow: Any,
    x: Any,
    cond: Any,
    key: PRNGKeyArray,
    validation: Any,
    transform: Any,
    config: TrainConfig,
    weights: Any = None,
    *,
    standardise: bool = True,
) -> dict[str, Problem]:
    """One problem for each transform that is worth a try, by name.

    Without data (`x` is None) the flow keeps its transform, and rows are placeholders. With
    `standardise`, conditions are brought to mean 0 and deviation 1.

    Raises:
        ValueError, TypeError: bad data (rows and columns named) or arguments.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flow={flow!r} must be a CNF, a CouplingFlow or another jaxflow Flow")
    if isinstance(transform, str) and transform != "auto":
        raise ValueError(f"transform={transform!r} is unknown; choose 'auto', None or a transform")
    if x is None:
        return {"as given": _without_data(flow, cond, transform, weights)}
    stream = None
    if isinstance(x, Shards):
        stream, x, cond, validation = sampled(x, cond, weights, validation, seed_of(key), config)
    train = data_rows(flow, x, cond, "x", weights)
    if isinstance(validation, float | int):
        train, held = _hold_out(train, float(validation), key)
    else:
        given = validation if isinstance(validation, tuple) else (validation,)
        if len(given) > 3:
            raise ValueError(f"validation has {len(given)} parts; give (x, cond, weights)")
        held_x, held_cond, held_weights = (*given, None, None)[:3]
        held = data_rows(flow, held_x, held_cond, "validation", held_weights)
        if (held.cond is None) != (train.cond is None):
            raise ValueError("give conditions to both or neither: validation=(x_val, cond_val)")
    check_columns(np.asarray(train.x))
    transforms = _transforms(flow, transform, train, held, key)
    scaling = None
    if standardise and train.cond is not None:
        scaling = _condition_scaling(flow, train.cond)
        train, held = (_with_condition(rows, scaling) for rows in (train, held))
    held = jax.tree.map(lambda rows: rows[: config.validation_rows], held)
    return {
        name: _problem(flow, t, train, held, scaling, stream) for name, t in transforms.items()
    }


def _transforms(
    flow: Flow, transform: Any, train: Rows, held: Rows, key: PRNGKeyArray
) -> dict[str, Any]:
    """The transforms that are worth a try, by name."""
    if isinstance(transform, Proposal) and transform.parts:
        first = Chain(transform.parts)
        parts = (_into_flow_space(first, spread_rows(first, r.x, key))[0] for r in (train, held))
        then = candidate_transforms(*parts)
        return {name: Chain((*transform.parts, each)) for name, each in then.items()}
    if isinstance(transform, str | Proposal):
        if flow.transform is None:
            return dict(candidate_transforms(train.x, held.x))
        return {"the flow's own": flow.transform}
    return {"as given": flow.transform if transform is None else transform}


def _condition_scaling(flow: Any, cond: Array) -> ConditionScaling | None:
    """What standardises conditions; None where the flow does so, or has no place for it."""
    if isinstance(flow, CouplingFlow):
        has_place = flow.cond_scaling is None
    else:
        has_place = hasattr(flow, "field") and not isinstance(flow.field, StandardisedCondition)
    return ConditionScaling.fit(cond) if has_place else None


def _with_condition(rows: Rows, scaling: ConditionScaling | None) -> Rows:
    if scaling is None or rows.cond is None:
        return rows
    return replace(rows, cond=jax.vmap(scaling)(rows.cond))


def finished(flow: Any, problem: Problem) -> Any:
    """A trained flow for data and conditions as they come."""
    if problem.scaling is not None and isinstance(flow, CouplingFlow):
        flow = eqx.tree_at(
            lambda f: f.cond_scaling, flow, problem.scaling, is_leaf=lambda leaf: leaf is None
        )
    elif problem.scaling is not None:
        flow = replace(flow, field=StandardisedCondition(flow.field, problem.scaling))
    return with_transform(flow, problem.transform)


def seed_of(key: PRNGKeyArray) -> tuple[int, ...]:
    """The words of a key, to seed generators on the host."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return tuple(int(word) for word in np.asarray(jax.random.key_data(key) if typed else key))


def _problem(
    flow: Any,
    transform: Any,
    train: Rows,
    held: Rows,
    scaling: ConditionScaling | None,
    stream: Stream | None = None,
) -> Problem:
    flow, transform, train, held = promote_dtypes(
        with_transform(flow, None), transform, train, held
    )
    enter = transform if stream is not None or noise_of(transform) is not None else None
    parts, offsets = [], []
    for rows in (train, held):
        u, log_det = _into_flow_space(transform, rows.x)
        parts.append(Rows(u, rows.cond, rows.weights))
        offsets.append(-float(weighted_mean(log_det, rows.weights)))
    if enter is not None:
        parts[0] = train
    means = offsets[0], offsets[1]
    return Problem(flow, parts[0], parts[1], means, transform, enter, scaling, stream)


@eqx.filter_jit
def _into_flow_space(transform: Any, x: Float[Array, "rows *event"]) -> tuple[Array, Array]:
    return to_flow_space(transform, x)


def _without_data(flow: Flow, cond: Any, transform: Any, weights: Any) -> Problem:
    if weights is not None or not isinstance(transform, str | None):
        raise ValueError("x=None has no rows to weight or transform: leave weights, transform out")
    given = None if cond is None else jnp.asarray(cond)
    count = 1 if given is None else len(given)
    flow, given = promote_dtypes(flow, given)
    rows = Rows(jnp.zeros((count, *flow.event_shape), widest_dtype(flow)), given)
    return Problem(flow, rows, rows, (0.0, 0.0), flow.transform)


def _weights(weights: Any, count: int, name: str) -> Array | None:
    """Weights of rows, checked.

    Raises:
        ValueError: not one a row, negative, not finite, or all 0.
    """
    if weights is None:
        return None
    weights = jnp.asarray(weights, float)
    if weights.shape != (count,):
        raise ValueError(
            f"the weights of {name} have shape {weights.shape} for {count} rows: give ({count},)"
        )
    host = np.asarray(weights)
    bad = np.flatnonzero(~(np.isfinite(host) & (host >= 0)))
    if bad.size:
        raise ValueError(
            f"the weights of {name} must be 0 or positive numbers; row {bad[0]} has "
            f"{host[bad[0]]} ({bad.size} such rows)"
        )
    if not host.any():
        raise ValueError(f"the weights of {name} are all 0: no row would count")
    return weights


def data_rows(flow: Flow, x: Any, cond: Any, name: str, weights: Any = None) -> Rows:
    """A user's rows, checked and on the device.

    Raises:
        ValueError, TypeError: bad rows, conditions or weights, by name, row and column.
    """
    rows, batch = as_rows(x, flow.event_shape, name)
    if len(batch) != 1 or batch[0] == 0:
        raise ValueError(
            f"{name} has shape {np.shape(x)}; rows of shape (n, "
            f"{', '.join(map(str, flow.event_shape))}) with n at least 1 belong here"
        )
    check_rows(np.asarray(rows), name)
    conditions = as_cond_rows(cond, batch)
    if conditions is not None:
        check_rows(np.asarray(conditions), f"the condition of {name}")
    return Rows(rows, conditions, _weights(weights, len(rows), name))


def _hold_out(rows: Rows, part: float, key: PRNGKeyArray) -> tuple[Rows, Rows]:
    train, held = split(len(rows.x), part, sum(seed_of(key)) % 2**32)
    return jax.tree.map(lambda a: a[train], rows), jax.tree.map(lambda a: a[held], rows)
