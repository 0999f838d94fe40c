"""From a user's arrays to checked rows in flow space."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.data.checks import check_columns, check_rows, split
from jaxflow.model import Flow, into_flow_space
from jaxflow.rows import as_rows, cond_rows, promote
from jaxflow.training.config import TrainConfig
from jaxflow.transforms import candidate_transforms


class Rows(eqx.Module):
    """Data on the device.

    Attributes:
        x: samples, (rows, *event).
        cond: their conditions, (rows, *condition).
    """

    x: Array
    cond: Array | None


class Problem(eqx.Module):
    """What is trained, in flow space: the transform is applied to the data once.

    Attributes:
        flow: the flow without its transform.
        train: training rows.
        held: validation rows.
        offsets: what takes a mean negative log-density of each from flow space to data units.
        transform: the transform.
    """

    flow: Any
    train: Rows
    held: Rows
    offsets: tuple[float, float] = eqx.field(static=True)
    transform: Any


def prepare(
    flow: Any,
    x: Any,
    cond: Any,
    key: PRNGKeyArray,
    validation: Any,
    transform: Any,
    config: TrainConfig,
) -> dict[str, Problem]:
    """One problem for each transform that is worth a try, by name.

    Raises:
        ValueError, TypeError: bad data (rows and columns named) or arguments.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flow={flow!r} must be a CNF, a CouplingFlow or another jaxflow Flow")
    train = _rows(flow, x, cond, "x")
    if isinstance(validation, float | int):
        train, held = _hold_out(train, float(validation), key)
    else:
        held_x, held_cond = validation if isinstance(validation, tuple) else (validation, None)
        held = _rows(flow, held_x, held_cond, "validation")
        if (held.cond is None) != (train.cond is None):
            raise ValueError("give conditions to both or neither: validation=(x_val, cond_val)")
    check_columns(np.asarray(train.x))
    if isinstance(transform, str) and transform != "auto":
        raise ValueError(f"transform={transform!r} is unknown; choose 'auto', None or a transform")
    if isinstance(transform, str):
        if flow.transform is None:
            transforms = candidate_transforms(train.x, held.x)
        else:
            transforms = {"the flow's own": flow.transform}
    else:
        transforms = {"as given": flow.transform if transform is None else transform}
    held = jax.tree.map(lambda rows: rows[: config.validation_rows], held)
    return {name: _problem(flow, t, train, held) for name, t in transforms.items()}


def with_transform(flow: Any, transform: Any) -> Any:
    """The flow with another transform."""
    return eqx.tree_at(
        lambda flow: flow.transform, flow, transform, is_leaf=lambda leaf: leaf is None
    )


def seed_of(key: PRNGKeyArray) -> tuple[int, ...]:
    """The words of a key, to seed generators on the host."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return tuple(int(word) for word in np.asarray(jax.random.key_data(key) if typed else key))


def _problem(flow: Any, transform: Any, train: Rows, held: Rows) -> Problem:
    flow, transform, train, held = promote(with_transform(flow, None), transform, train, held)
    parts, offsets = [], []
    for rows in (train, held):
        u, log_det = _into_flow_space(transform, rows.x)
        parts.append(Rows(u, rows.cond))
        offsets.append(-float(jnp.mean(log_det)))
    return Problem(flow, parts[0], parts[1], (offsets[0], offsets[1]), transform)


@eqx.filter_jit
def _into_flow_space(transform: Any, x: Float[Array, "rows *event"]) -> tuple[Array, Array]:
    return into_flow_space(transform, x)


def _rows(flow: Flow, x: Any, cond: Any, name: str) -> Rows:
    rows, batch = as_rows(x, flow.event_shape, name)
    if len(batch) != 1 or batch[0] == 0:
        raise ValueError(
            f"{name} has shape {np.shape(x)}; rows of shape (n, "
            f"{', '.join(map(str, flow.event_shape))}) with n at least 1 belong here"
        )
    check_rows(np.asarray(rows), name)
    conditions = cond_rows(cond, batch)
    if conditions is not None:
        check_rows(np.asarray(conditions), f"the condition of {name}")
    return Rows(rows, conditions)


def _hold_out(rows: Rows, part: float, key: PRNGKeyArray) -> tuple[Rows, Rows]:
    train, held = split(len(rows.x), part, sum(seed_of(key)) % 2**32)
    return jax.tree.map(lambda a: a[train], rows), jax.tree.map(lambda a: a[held], rows)
