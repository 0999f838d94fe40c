"""Many training steps in one compiled call, on minibatches that the step's number decides."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from jaxflow.model import assemble
from jaxflow.training.config import TrainConfig

Objective = Callable[..., tuple[Array, dict[str, Array]]]


class TrainState(eqx.Module):
    """All that training changes: saved and loaded, it goes on bit for bit."""

    params: Any
    ema: Any
    opt_state: Any


def minibatches(
    rows: int, config: TrainConfig, seed: tuple[int, ...], start: int, count: int
) -> Array:
    """Row numbers of each minibatch, (eval_every, batch); those beyond `count` are not used.

    They depend on the seed and the number of the step alone. Every epoch is a new permutation,
    whose remainder is left out.
    """
    size = min(config.batch_size, rows)
    per_epoch = rows // size
    indices = np.zeros((config.eval_every, size), np.int32)
    epoch, order = -1, np.empty(0, np.int64)
    for i in range(count):
        if (start + i) // per_epoch != epoch:
            epoch = (start + i) // per_epoch
            order = np.random.default_rng([*seed, epoch]).permutation(rows)
        first = ((start + i) % per_epoch) * size
        indices[i] = order[first : first + size]
    return jnp.asarray(indices)


@functools.cache
def optimizer_of(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with clipping and a schedule; one object a config, so that compilations are shared."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(_schedule(config), weight_decay=config.weight_decay),
    )


@functools.cache
def _schedule(config: TrainConfig) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=max(1, round(config.warmup * config.steps)),
        decay_steps=max(2, config.steps),
        end_value=0.01 * config.learning_rate,
    )


@eqx.filter_jit(donate="all-except-first")
def train_steps(inputs: Any, state: TrainState) -> tuple[TrainState, Array, Array]:
    """`count` updates, the loss of each, and the last learning rate."""
    frozen, data, indices, count, start, key, objective, config = inputs
    optimizer = optimizer_of(config)

    def loss_of(params: Any, rows: Array, step_key: PRNGKeyArray) -> Array:
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        weights = () if batch.weights is None else (batch.weights,)
        return objective(assemble(params, frozen), batch.x, batch.cond, step_key, *weights)[0]

    def update(i: Array, carry: Any) -> Any:
        state, losses = carry
        step = start + i
        loss, gradient = eqx.filter_value_and_grad(loss_of)(
            state.params, indices[i], jax.random.fold_in(key, step)
        )
        # optax counts steps in int32 and multiplies by floats, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = eqx.apply_updates(state.params, updates)
        # A short memory at first, or the average would remember the initial weights.
        decay = jnp.minimum(config.ema, (1 + step) / (10 + step))
        ema = jax.tree.map(
            lambda old, new: old + (1 - decay).astype(new.dtype) * (new - old), state.ema, params
        )
        return TrainState(params, ema, opt_state), losses.at[i].set(loss.astype(losses.dtype))

    losses = jnp.full(indices.shape[0], jnp.nan)
    state, losses = lax.fori_loop(0, count, update, (state, losses))
    with jax.numpy_dtype_promotion("standard"):
        return state, losses, jnp.asarray(_schedule(config)(start + count - 1))
