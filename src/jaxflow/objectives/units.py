"""Rows in a user's units, when a flow has its transform: in loops without `fit`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.flows.data_space import nan_where, to_flow_space
from jaxflow.flows.ensemble import Ensemble, members
from jaxflow.runtime.shapes import Rows
from jaxflow.transforms import noise_of, spread_rows


def with_noise(flow: Any, x: Rows, key: PRNGKeyArray) -> tuple[Rows, PRNGKeyArray]:
    """Rows with fresh noise if the transform starts with a grid; and the key for all else."""
    if isinstance(flow, Ensemble) and any(noise_of(each.transform) for each in members(flow)):
        raise ValueError(
            "the flows of this Ensemble are of values on a grid, which each of them spreads by "
            "its own noise: train each of flow.flows"
        )
    transform = getattr(flow, "transform", None)
    if noise_of(transform) is None:
        return x, key
    noise_key, key = jax.random.split(key)
    return spread_rows(transform, x, noise_key), key


def to_field(
    flow: Any, x: Rows, key: PRNGKeyArray
) -> tuple[Float[Array, "rows ..."], PRNGKeyArray]:
    """Rows in the units of the field, NaN outside the support; and the key for all else."""
    x, key = with_noise(flow, x, key)
    transform = getattr(flow, "transform", None)
    if transform is None:
        return x, key
    u, log_det = to_flow_space(transform, x, grouped=False)
    return nan_where(jnp.isneginf(log_det), u), key
