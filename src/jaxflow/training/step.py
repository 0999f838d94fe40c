"""One compiled call for many training steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray

from jaxflow.objectives.protocol import Objective
from jaxflow.runtime.mesh import replicate, shard_rows
from jaxflow.training.augment import BatchTransform
from jaxflow.training.optimizer import Optimizer
from jaxflow.training.trainable import combine_trainable


class TrainingError(RuntimeError):
    """Training failed; the message names the step and the setting to change.

    Attributes:
        trained: the model with the weights so far; None if no step was taken.
    """

    def __init__(self, message: str, trained: Any = None) -> None:
        super().__init__(message)
        self.trained = trained


class TrainState(eqx.Module):
    """Everything that a step changes; a checkpoint restores it bit for bit."""

    params: Any
    ema: Any
    opt_state: Any


class Steps(NamedTuple):
    """The inputs of `train_steps`."""

    loss_args: tuple[Any, Any, Any, Objective]  # the first four arguments of `batch_loss`
    indices: Array  # rows of each minibatch, (steps, batch)
    count: Array  # number of steps to take, at most len(indices)
    start: Array  # number of the first of them, from 0 over the entire training
    first: Array  # step from which the learning rate and the average of the weights count
    key: PRNGKeyArray
    ema: float  # decay of the average of the weights
    optimizer: Optimizer
    place: Callable[[Any], Any]  # distributes the state over a mesh between steps


def initial_state(params: dict[str, Array], optimizer: Optimizer) -> TrainState:
    """The state before the first step, in copies: `train_steps` reuses the memory of its input."""
    # Some optimisers keep the weights themselves.
    opt_state = copy_arrays(optimizer.transformation.init(params))
    return TrainState(copy_arrays(params), copy_arrays(params), opt_state)


def copy_arrays(tree: Any) -> Any:
    """A copy of each array."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def batch_loss(
    frozen: Any,
    data: Any,
    batch_transform: BatchTransform | None,
    objective: Objective,
    params: dict[str, Array],
    indices: Array,
    step_key: PRNGKeyArray,
) -> tuple[Array, dict[str, Array]]:
    """The objective's loss and metrics on the minibatch `data[indices]`."""
    batch = shard_rows(jax.tree.map(lambda leaf: leaf[indices], data))
    x = batch.x
    if batch_transform is not None:
        noise_key, step_key = jax.random.split(step_key)
        x = batch_transform(x, noise_key)
    weights = () if batch.weights is None else (batch.weights,)
    return objective(combine_trainable(params, frozen), x, batch.cond, step_key, *weights)


def num_finite(losses: Array, count: int) -> int:
    """The number of losses, of the first `count`, before one is not finite."""
    finite = np.isfinite(np.asarray(losses)[:count])
    return count if finite.all() else int(np.argmin(finite))


def first_non_finite(
    loss_args: tuple[Any, Any, Any, Objective],
    params: dict[str, Array],
    indices: Array,
    step_key: PRNGKeyArray,
) -> str:
    """Name the first value of a step that is not finite: a metric, the loss, or a gradient."""
    loss_of = eqx.filter_value_and_grad(partial(batch_loss, *loss_args), has_aux=True)
    (loss, metrics), gradient = eqx.filter_jit(loss_of)(params, indices, step_key)
    values = {f"the metric {name!r}": value for name, value in metrics.items()}
    values |= {"the loss": loss}
    values |= {f"the gradient in {name}": value for name, value in gradient.items()}
    bad = (name for name, value in values.items() if not jnp.all(jnp.isfinite(value)))
    return next(bad, "none when it is computed again")


def _joined(state: TrainState) -> tuple[TrainState, Callable[[Array], Any], Callable[..., Any]]:
    """Join each dict of arrays in a training state to one vector.

    Returns the joined state, a function from a vector of weights to their dict, and one from a
    joined state to the state.
    """

    def is_dict(node: Any) -> bool:
        return isinstance(node, dict)

    def join(node: Any) -> Any:
        return ravel_pytree(node)[0] if is_dict(node) else node

    def unjoin(joined: TrainState) -> TrainState:
        def split_node(node: Any, joined: Any) -> Any:
            return split(joined) if is_dict(node) else joined

        return jax.tree.map(split_node, state, joined, is_leaf=is_dict)

    _, split = ravel_pytree(state.params)
    return jax.tree.map(join, state, is_leaf=is_dict), split, unjoin


@eqx.filter_jit(donate="all-except-first")
def train_steps(inputs: Steps, state: TrainState) -> tuple[TrainState, Array, Array]:
    """Take `inputs.count` steps.

    The first loss or gradient that is not finite ends them: it changes no weight, and the
    remaining losses are NaN.

    Returns:
        The new state, the loss of each step, and the last learning rate.
    """
    loss_args, indices, count, start, first, key, ema, optimizer, place = inputs
    split = unjoin = lambda params: params
    # In one vector an optimiser that works entry by entry is a few operations, not some per array.
    if (
        optimizer.by_entry
        and place is replicate
        and len({p.dtype for p in state.params.values()}) == 1
    ):
        state, split, unjoin = _joined(state)

    def loss_of(params: Any, indices: Array, step_key: PRNGKeyArray) -> Any:
        return batch_loss(*loss_args, split(params), indices, step_key)

    def update(carry: Any) -> Any:
        i, _, state, losses = carry
        step = start + i
        batch = indices[i], jax.random.fold_in(key, step)
        (loss, _), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(
            state.params, *batch
        )
        # optax counts steps in int32 and multiplies by floats, which strict promotion rejects.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(
                gradient, state.opt_state, state.params, loss, lambda p: loss_of(p, *batch)[0]
            )
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in (loss, *jax.tree.leaves(gradient))]
        good = jnp.all(jnp.stack(finite))
        updates = jax.tree.map(lambda leaf: jnp.where(good, leaf, jnp.zeros_like(leaf)), updates)
        params = eqx.apply_updates(state.params, updates)
        # A short memory at first, or the average would remember the initial weights.
        age = step - first
        decay = jnp.minimum(ema, (1 + age) / (10 + age))
        average = jax.tree.map(
            lambda old, new: old + (1 - decay).astype(new.dtype) * (new - old), state.ema, params
        )
        loss = jnp.where(good, loss, jnp.nan).astype(losses.dtype)
        state = place(TrainState(params, average, opt_state))
        return i + 1, good, state, losses.at[i].set(loss)

    carry = jnp.zeros_like(count), jnp.asarray(True), state, jnp.full(len(indices), jnp.nan)
    *_, state, losses = lax.while_loop(lambda c: (c[0] < count) & c[1], update, carry)
    state = unjoin(state)
    with jax.numpy_dtype_promotion("standard"):
        rate = optimizer.rate(start + count - 1 - first, state.opt_state)
        return state, replicate(losses), rate
