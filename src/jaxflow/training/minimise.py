"""`minimise`: train a module on a loss alone, without validation."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxflow.objectives.protocol import Objective
from jaxflow.runtime.keys import seed_words
from jaxflow.runtime.mesh import replicate
from jaxflow.runtime.progress import Progress
from jaxflow.training.augment import BatchTransform
from jaxflow.training.config import TrainConfig
from jaxflow.training.minibatches import minibatch_indices
from jaxflow.training.optimizer import optimizer_of
from jaxflow.training.rows import Dataset
from jaxflow.training.step import (
    Steps,
    TrainingError,
    copy_arrays,
    initial_state,
    num_finite,
    train_steps,
)
from jaxflow.training.trainable import arrays_where, combine_trainable, partition_trainable


def minimise(
    module: Any,
    data: Dataset,
    loss: Objective,
    key: PRNGKeyArray,
    config: TrainConfig,
    progress: bool | None,
    *,
    trained: Any = None,
    batch_transform: Any = None,
) -> Any:
    """Take `config.steps` steps and return the module with the averaged weights.

    A loss or gradient that is not finite ends the training with a warning, and raises
    TrainingError at the first step. The result is then the averaged weights at the end of the
    interval of `eval_every` steps with the least mean loss. `trained` is a tree of the arrays to
    train, None for all; `batch_transform` is applied to each minibatch of `data` first.
    """
    trained = arrays_where(module, lambda part: True) if trained is None else trained
    params, frozen = partition_trainable(module, trained)
    into = None if batch_transform is None else BatchTransform(batch_transform)
    optimizer, loss_args = optimizer_of(config), (frozen, data, into, loss)
    state = initial_state(params, optimizer)
    best, least = None, math.inf
    with Progress(config.steps, show=progress) as bar:
        for step in range(0, config.steps, config.eval_every):
            count = min(config.eval_every, config.steps - step)
            indices = minibatch_indices(len(data.x), config, seed_words(key), step, count)
            numbers = jnp.asarray(count), jnp.asarray(step), jnp.asarray(0)
            inputs = Steps(loss_args, indices, *numbers, key, config.ema, optimizer, replicate)
            state, losses, _ = train_steps(inputs, state)
            taken = num_finite(losses, count)
            mean = float(jnp.mean(losses[:taken])) if taken else math.inf
            if taken and (best is None or mean < least):
                best, least = copy_arrays(state.ema), mean
            if taken < count:
                failure = f"the loss or its gradient is not finite at step {step + taken + 1}"
                if best is None:
                    raise TrainingError(f"{failure}; lower learning_rate={config.learning_rate}")
                bar.warn(
                    f"{failure}: training stops and keeps the best weights so far, of mean loss "
                    f"{least:.3g}; lower learning_rate={config.learning_rate}"
                )
                return combine_trainable(best, frozen)
            bar.update(step + count, f"loss {mean:.3g}")
    return combine_trainable(state.ema, frozen)
