"""`minimise`: train a module on a loss of its own, where there is no likelihood to validate by."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxflow.runtime.mesh import replicate
from jaxflow.runtime.progress import Progress
from jaxflow.training.config import TrainConfig
from jaxflow.training.prepare import Rows, seed_of
from jaxflow.training.step import (
    Objective,
    TrainingError,
    TrainState,
    minibatches,
    optimizer_of,
    train_steps,
)
from jaxflow.training.trainable import combine_trainable, partition_trainable


def minimise(
    module: Any,
    data: Rows,
    loss: Objective,
    key: PRNGKeyArray,
    config: TrainConfig,
    progress: bool | None,
    *,
    fixed: tuple[str, ...] = (),
    enter: Any = None,
) -> Any:
    """The module with the averaged weights after `config.steps` steps.

    Args:
        module: what is trained.
        data: rows on the device.
        loss: `(module, x, cond, key) -> (loss, metrics)`.
        key: for minibatches and the loss.
        config: settings; those of validation have no use here.
        progress: whether to show a progress bar; None shows it on a terminal only.
        fixed: names of the module's parts that are not trained.
        enter: transform through which every minibatch goes first; None for none.

    Raises:
        TrainingError: the loss or its gradient is not finite.
    """
    params, frozen = partition_trainable(module, fixed=fixed)
    # Copies: the compiled call gives its input's memory to its output.
    copies = jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, params)
    state = TrainState(*copies, optimizer_of(config).init(params))
    with Progress(config.steps, show=progress) as shown:
        for step in range(0, config.steps, config.eval_every):
            count = min(config.eval_every, config.steps - step)
            indices = minibatches(len(data.x), config, seed_of(key), step, count)
            numbers = jnp.asarray(count), jnp.asarray(step), jnp.asarray(0)
            inputs = ((frozen, data, enter, loss), indices, *numbers, key, config, replicate)
            state, losses, _ = train_steps(inputs, state)
            good = np.isfinite(np.asarray(losses)[:count])
            if not good.all():
                raise TrainingError(
                    "the loss or its gradient is not finite at step "
                    f"{step + np.argmin(good) + 1}; lower learning_rate={config.learning_rate}"
                )
            shown.update(step + count, f"loss {float(jnp.mean(losses[:count])):.3g}")
    return combine_trainable(state.ema, frozen)
