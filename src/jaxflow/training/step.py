"""Many training steps in one compiled call, on minibatches that the step's number decides."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from jaxflow.flows.flow import to_flow_space
from jaxflow.runtime.mesh import replicate, shard_rows
from jaxflow.training.config import TrainConfig
from jaxflow.training.trainable import combine_trainable
from jaxflow.transforms import spread_rows

Objective = Callable[..., tuple[Array, dict[str, Array]]]


class TrainingError(RuntimeError):
    """Training could not go on; the message says at which step and what to try."""


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


def batch_loss(
    frozen: Any,
    data: Any,
    enter: Any,
    objective: Objective,
    params: Any,
    rows: Array,
    step_key: PRNGKeyArray,
) -> tuple[Array, dict[str, Array]]:
    """The objective's loss and metrics on the rows of a minibatch."""
    batch = shard_rows(jax.tree.map(lambda leaf: leaf[rows], data))
    x = batch.x
    if enter is not None:
        noise_key, step_key = jax.random.split(step_key)
        x, _ = to_flow_space(enter, spread_rows(enter, x, noise_key))
    weights = () if batch.weights is None else (batch.weights,)
    return objective(combine_trainable(params, frozen), x, batch.cond, step_key, *weights)


def first_bad(given: Any, params: Any, rows: Array, step_key: PRNGKeyArray) -> str:
    """The first number of a step that is not finite: a metric, the loss, or a gradient."""
    loss_of = eqx.filter_value_and_grad(partial(batch_loss, *given), has_aux=True)
    (loss, metrics), gradient = eqx.filter_jit(loss_of)(params, rows, step_key)
    numbers = {f"the metric {name!r}": value for name, value in metrics.items()}
    numbers |= {"the loss": loss}
    numbers |= {f"the gradient in {name}": value for name, value in gradient.items()}
    bad = (name for name, value in numbers.items() if not jnp.all(jnp.isfinite(value)))
    return next(bad, "none when it is computed again")


@eqx.filter_jit(donate="all-except-first")
def train_steps(inputs: Any, state: TrainState) -> tuple[TrainState, Array, Array]:
    """`count` updates from step `start` on, the loss of each, and the last learning rate.

    Learning rate and average of weights count from the step `first`.
    The first loss or gradient that is not finite ends them: it changes no weight, and later
    losses are NaN. `place` says where the state is between updates, on a mesh.
    """
    given, indices, count, start, first, key, config, place = inputs
    optimizer = optimizer_of(config)
    loss_of = partial(batch_loss, *given)

    def update(carry: Any) -> Any:
        i, _, state, losses = carry
        step = start + i
        (loss, _), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(
            state.params, indices[i], jax.random.fold_in(key, step)
        )
        # optax counts steps in int32 and multiplies by floats, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in (loss, *jax.tree.leaves(gradient))]
        good = jnp.all(jnp.stack(finite))
        updates = jax.tree.map(lambda leaf: jnp.where(good, leaf, jnp.zeros_like(leaf)), updates)
        params = eqx.apply_updates(state.params, updates)
        # A short memory at first, or the average would remember the initial weights.
        age = step - first
        decay = jnp.minimum(config.ema, (1 + age) / (10 + age))
        ema = jax.tree.map(
            lambda old, new: old + (1 - decay).astype(new.dtype) * (new - old), state.ema, params
        )
        loss = jnp.where(good, loss, jnp.nan).astype(losses.dtype)
        state = place(TrainState(params, ema, opt_state))
        return i + 1, good, state, losses.at[i].set(loss)

    start_of = jnp.zeros_like(count), jnp.asarray(True), state, jnp.full(len(indices), jnp.nan)
    *_, state, losses = lax.while_loop(lambda c: (c[0] < count) & c[1], update, start_of)
    with jax.numpy_dtype_promotion("standard"):
        return state, replicate(losses), jnp.asarray(_schedule(config)(start + count - 1 - first))
