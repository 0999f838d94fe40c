"""`distil`: a flow map in a few evaluations, learned from a flow's solved trajectories."""

import math
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import log_prob_rows, sample_rows
from jaxflow.density.divergence import density_change
from jaxflow.dynamics import MLP
from jaxflow.flows.cnf import CNF
from jaxflow.flows.flow import check_arguments
from jaxflow.flows.flow_map import FlowMap, MapError
from jaxflow.ode.status import raise_if_failed
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.precision import full_precision
from jaxflow.trace import Exact
from jaxflow.training.config import TrainConfig
from jaxflow.training.minimise import minimise
from jaxflow.training.prepare import Rows

CONFIG = TrainConfig(steps=3000, batch_size=512, learning_rate=3e-3, ema=0.999, eval_every=500)
# Nats beyond which an error of the log-density counts linearly.
HUBER = 1.0


def distil(
    flow: CNF,
    x: Any,
    cond: Any = None,
    *,
    key: PRNGKeyArray,
    num_steps: int = 4,
    num_samples: int = 32_768,
    width: int = 64,
    depth: int = 3,
    config: TrainConfig = CONFIG,
    progress: bool | None = None,
) -> FlowMap:
    """Learn a flow's map and its change of log-density over `num_steps` times.

    ```python
    fast = jaxflow.distil(flow, x_test, key=key)
    fast.error        # what its log-densities are off by, on x_test
    fast.log_prob(x)
    ```
    The training set are samples of the flow with their log-densities along the way, by its
    evaluation solve and an exact trace; the loss is the squared error of each step both ways,
    and of the whole log-density in nats.

    Args:
        flow: a fitted flow.
        x: rows on which the error is measured, (n, *event); best ones that did not fit the flow.
        cond: their conditions, (n, *condition); samples are drawn for the same ones.
        key: for samples, weights and minibatches.
        num_steps: steps of one log-density, an evaluation of the field and the network each.
        num_samples: trajectories to learn from.
        width: hidden units of the network.
        depth: hidden layers of the network.
        config: settings of the training; `validation_rows` and `pilot` have no use here.
        progress: whether to show a progress bar; None shows it on a terminal only.

    Raises:
        ValueError: bad rows, `num_steps` not positive.
        SolveError: a solve of the flow failed.
    """
    check_count("num_steps", num_steps)
    check_count("num_samples", num_samples)
    flow, _, given, _ = check_arguments(flow, x, cond, "x")
    sample_key, net_key, fit_key = jax.random.split(key, 3)
    each = None if given is None else jnp.resize(given, (num_samples, *given.shape[1:]))
    keys = jax.random.split(sample_key, num_samples)
    data = Rows(_trajectories(flow, keys, num_steps, each), each)
    size = math.prod(flow.event_shape)
    cond_dim = 1 + (0 if given is None else math.prod(given.shape[1:]))
    sizes: dict[str, Any] = {"width": width, "depth": depth, "cond_dim": cond_dim}
    net = MLP(size + 1, **sizes, activation="sin", key=net_key)
    fast = FlowMap(net, flow, num_steps)
    fast = minimise(fast, data, _loss, fit_key, config, progress, fixed=("exact",))
    gap = np.asarray(fast.log_prob(x, cond), float) - np.asarray(flow.log_prob(x, cond), float)
    median, q90, q99 = np.quantile(np.abs(gap), (0.5, 0.9, 0.99)).tolist()
    return replace(fast, error=MapError(median, q90, q99, float(gap.mean()), len(gap)))


def _trajectories(
    flow: CNF, keys: Array, num_steps: int, cond: Array | None
) -> Float[Array, "rows moments size"]:
    """Samples at every moment, flattened, and log p there less log p at the start."""
    x = _start(flow, keys)
    states = [_flat(x, jnp.zeros(len(x), x.dtype))]
    for k in range(num_steps):
        times = jnp.asarray([k / num_steps, (k + 1) / num_steps], x.dtype)
        x, change, stats = _segment(flow, x, times, cond)
        x = raise_if_failed(x, stats, "distil")
        states.append(_flat(x, states[-1][:, -1] + change.astype(x.dtype)))
    return jnp.stack(states, axis=1)


@eqx.filter_jit
def _start(flow: CNF, keys: Array) -> Array:
    return sample_rows(flow.base, keys)


@eqx.filter_jit
@full_precision
def _segment(flow: CNF, x: Array, times: Array, cond: Array | None) -> Any:
    ode = replace(flow.ode_eval, throw=False)
    x, change, _, stats = density_change(
        Exact(), flow.field, x, times[0], times[1], cond, None, ode=ode, each=True
    )
    return x, change, stats


def _flat(x: Array, log_p: Array) -> Float[Array, "rows size"]:
    return jnp.concatenate([x.reshape(len(x), -1), log_p[:, None]], axis=1)


def _loss(fast: FlowMap, data: Array, cond: Array | None, key: PRNGKeyArray) -> Any:
    """Squared errors of every step both ways, and of the log-density from end to end."""
    shape = fast.event_shape
    x, log_p = data[..., :-1].reshape(*data.shape[:2], *shape), data[..., -1]
    total = jnp.zeros(len(x), x.dtype)
    for k in range(fast.num_steps):
        for start, end in ((k, k + 1), (k + 1, k)):
            found, change = fast.step(start, end, x[:, start], cond)
            off = (found - x[:, end]).reshape(len(x), -1)
            total = total + jnp.sum(off**2, axis=1)
            total = total + (change - log_p[:, end] + log_p[:, start]) ** 2
    z, change = fast.encode_rows(x[:, -1], cond)
    exact = log_prob_rows(fast.exact.base, x[:, 0]) + log_p[:, -1]
    nats = log_prob_rows(fast.exact.base, z) - change - exact
    # Rows far off are left to the steps' errors, or they would rule the gradient.
    return jnp.mean(total + HUBER * (jnp.sqrt(1 + (nats / HUBER) ** 2) - 1)), {}
