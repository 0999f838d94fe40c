"""`distil`: learn the map of a flow from its solved trajectories, for a few cheap evaluations."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import log_prob_rows, sample_rows
from jaxflow.density.continuity import density_change
from jaxflow.dynamics import MLP
from jaxflow.dynamics.on_manifold import manifold_of
from jaxflow.flows.cnf import CNF
from jaxflow.flows.flow_map import FlowMap, MapError
from jaxflow.objectives.protocol import Loss
from jaxflow.ode.status import raise_if_failed
from jaxflow.runtime.arguments import promote_dtypes
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.precision import cast_floats, full_precision
from jaxflow.runtime.progress import logger
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.trace import Exact
from jaxflow.training.config import TrainConfig
from jaxflow.training.minimise import minimise
from jaxflow.training.rows import Dataset, data_rows
from jaxflow.training.trainable import trainable

CONFIG = TrainConfig(steps=3000, batch_size=512, learning_rate=3e-3, ema=0.999, eval_every=500)
# Error of the log-density, in nats, above which the loss is linear in it.
HUBER = 1.0


def distil(
    flow: CNF,
    x: ArrayInput,
    cond: ArrayInput | None = None,
    *,
    key: PRNGKeyArray,
    num_steps: int = 4,
    num_samples: int = 32_768,
    width: int = 64,
    depth: int = 3,
    config: TrainConfig = CONFIG,
    progress: bool | None = None,
) -> FlowMap:
    """Learn a flow's map and its change of log-density over `num_steps` equal times.

    The training set are samples of the flow with their log-densities at these times, by its
    evaluation solver and an exact trace. The loss is the squared error of each step in both
    directions, and of the log-density from end to end in nats (after Ai et al. 2025, "F2D2",
    arXiv 2512.02636).

    ```python
    import jax
    from jaxflow import CNF, StandardNormal, TrainConfig, distil
    from jaxflow.dynamics import MLP

    key = jax.random.key(0)
    flow = CNF(MLP(2, width=8, depth=1, key=key), StandardNormal(2))  # in practice, a fitted one
    x = jax.random.normal(key, (100, 2))
    config = TrainConfig(steps=20, eval_every=20)  # 3000 steps by default
    fast = distil(flow, x, key=key, num_steps=2, num_samples=256, depth=1, config=config)
    print(fast.error)  # error of fast.log_prob(x), nats
    ```

    Args:
        flow: a fitted flow.
        x: rows to measure the error on, (n, *event), preferably not the training data.
        cond: their conditions, (n, *condition), or None; training samples use the same ones.
        key: for samples, initial weights and minibatches.
        num_steps: steps of a sample or a log-density, each one evaluation of field and network.
        num_samples: number of trajectories to learn from.
        width: hidden units of the network.
        depth: hidden layers of the network.
        config: settings of the training; it has no validation.
        progress: show a progress bar; None for only on a terminal.

    Returns:
        The map, with its measured error against the exact log-density; `error` is None, with a
        warning, if it could not be measured.

    Raises:
        TypeError: the flow is not a CNF, or is one on a manifold.
        ValueError: bad rows, or `num_steps` or `num_samples` is not positive.
        SolveError: a solve of the flow failed.
        TrainingError: the loss or its gradient is not finite at the first step. A later one
            ends the training with a warning, and the best weights so far are kept.
    """
    check_count("num_steps", num_steps)
    check_count("num_samples", num_samples)
    if not isinstance(flow, CNF):
        raise TypeError(
            f"flow is a {type(flow).__name__}, and distil learns the solves of a CNF: pass one"
        )
    if manifold_of(flow.field) is not None:
        raise TypeError(
            f"the field of flow is on {manifold_of(flow.field)}, which the steps of a FlowMap "
            "would leave: use the flow itself"
        )
    flow, rows = promote_dtypes(flow, data_rows(flow.event_shape, x, cond, "x"))
    conditions = rows.cond
    sample_key, net_key, fit_key = jax.random.split(key, 3)
    cond_dim = 1
    if conditions is not None:
        cond_dim += math.prod(conditions.shape[1:])
        conditions = jnp.resize(conditions, (num_samples, *conditions.shape[1:]))
    dim = math.prod(flow.event_shape) + 1
    net = MLP(dim, width=width, depth=depth, cond_dim=cond_dim, activation="sin", key=net_key)
    net = cast_floats(net, rows.x.dtype)
    # Before the training, since it may fail.
    exact = np.asarray(replace(flow, trace=Exact()).log_prob(rows.x, rows.cond), float)
    keys = jax.random.split(sample_key, num_samples)
    z = eqx.filter_jit(sample_rows)(flow.base, keys, rows.x.dtype)
    data = Dataset(_trajectories(flow, z, num_steps, conditions), conditions)
    fast = FlowMap(net, flow, num_steps)
    fast = minimise(fast, data, _loss, fit_key, config, progress, trained=trainable(fast))
    try:
        # Both densities are 0 outside the support.
        inside = np.isfinite(exact)
        log_p = np.asarray(fast.log_prob(rows.x, rows.cond), float)
        error = log_p[inside] - exact[inside]
        median, q90, q99 = np.quantile(np.abs(error), (0.5, 0.9, 0.99)).tolist()
        measured = MapError(median, q90, q99, float(error.mean()), len(error))
        return replace(fast, error=measured)
    except Exception as failure:  # the map is worth keeping without its error
        logger.warning("the error of the map could not be measured: %s", failure)
        return fast


def _trajectories(
    flow: CNF, x: Array, num_steps: int, cond: Array | None
) -> Float[Array, "rows times size"]:
    """Points `x` of the base at all times, flattened, each with its log p less its first."""
    states = [_flat(x, jnp.zeros(len(x), x.dtype))]
    for k in range(num_steps):
        times = jnp.asarray([k / num_steps, (k + 1) / num_steps], x.dtype)
        x, change, stats = _segment(flow, x, times, cond)
        x = raise_if_failed(x, stats, "distil")
        states.append(_flat(x, states[-1][:, -1] + change.astype(x.dtype)))
    return jnp.stack(states, axis=1)


@eqx.filter_jit
@full_precision
def _segment(flow: CNF, x: Array, times: Array, cond: Array | None) -> Any:
    ode = replace(flow.ode_eval, throw=False)
    x, change, _, stats = density_change(
        Exact(), flow.field, x, times[0], times[1], cond, None, ode=ode
    )
    return x, change, stats


def _flat(x: Array, log_p: Array) -> Float[Array, "rows size"]:
    return jnp.concatenate([x.reshape(len(x), -1), log_p[:, None]], axis=1)


def _loss(fast: FlowMap, data: Array, cond: Array | None, key: PRNGKeyArray) -> Loss:
    """Squared error of each step both ways, and Huber loss of the log-density end to end."""
    shape = fast.event_shape
    x, log_p = data[..., :-1].reshape(*data.shape[:2], *shape), data[..., -1]
    total = jnp.zeros(len(x), x.dtype)
    for k in range(fast.num_steps):
        for start, end in ((k, k + 1), (k + 1, k)):
            moved, change = jax.vmap(partial(fast.step, start, end))(x[:, start], cond)
            error = (moved - x[:, end]).reshape(len(x), -1)
            total = total + jnp.sum(error**2, axis=1)
            total = total + (change - log_p[:, end] + log_p[:, start]) ** 2
    z, log_det = jax.vmap(fast.to_base)(x[:, -1], cond)
    exact = log_prob_rows(fast.exact.base, x[:, 0], grouped=False) + log_p[:, -1]
    nats = log_prob_rows(fast.exact.base, z, grouped=False) + log_det - exact
    # Linear for large errors, so that a few rows do not dominate the gradient.
    return jnp.mean(total + HUBER * (jnp.sqrt(1 + (nats / HUBER) ** 2) - 1)), {}
