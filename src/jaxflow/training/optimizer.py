"""The optimiser of a training: `fit`'s own by default, or any of optax."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxflow.training.config import TrainConfig
from jaxflow.training.phases import Phase

Schedule = Callable[[Any], Any]


@dataclass(frozen=True)
class Optimizer:
    """What turns gradients into updates; one object per setting, to share compilations.

    The state of the transformation starts anew with each phase. `schedule` is its learning rate by
    the number of the update; None if it is not known. Transformations `by_entry` treat all entries
    of all arrays alike, so that they may get one vector.
    """

    transformation: optax.GradientTransformation
    schedule: Schedule | None
    by_entry: bool = False

    def update(self, gradient: Any, state: Any, params: Any, loss: Array, loss_of: Any) -> Any:
        """The updates and the new state; the loss is for optimisers that look at it."""
        update = optax.with_extra_args_support(self.transformation).update
        return update(gradient, state, params, value=loss, grad=gradient, value_fn=loss_of)

    def rate(self, count: Array, state: Any) -> Array:
        """The learning rate at the update `count`, NaN if it is not known."""
        if self.schedule is not None:
            return jnp.asarray(self.schedule(count))
        entries = optax.tree_utils.tree_get_all_with_path(state, "learning_rate")
        rates = [value for _, value in entries if jnp.ndim(value) == 0]
        return jnp.asarray(rates[0] if rates else jnp.nan)


def optimizer_of(config: TrainConfig) -> Optimizer:
    """AdamW with clipping, and a rate that rises linearly and falls as a cosine."""
    warmup = max(1, round(config.warmup * config.steps))
    schedule = _cosine(config.learning_rate, warmup, max(2, config.steps))
    return _adamw(schedule, config.clip_norm, config.weight_decay)


@functools.lru_cache(maxsize=32)
def _cosine(peak: float, warmup: int, steps: int) -> Schedule:
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, 0.01 * peak)


# Both caches know only the settings that a step depends on: another object is another program.
@functools.lru_cache(maxsize=32)
def _adamw(schedule: Schedule, clip_norm: float, weight_decay: float) -> Optimizer:
    transformation = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, weight_decay=weight_decay),
    )
    return Optimizer(transformation, schedule, by_entry=True)


@dataclass(frozen=True)
class Choice:
    """The arguments `optimizer` and `schedule` of `fit`, checked; None for its own."""

    optimizer: Any = None
    schedule: Any = None

    def __post_init__(self) -> None:
        if self.optimizer is not None:
            _check_optimizer(self.optimizer)
        if self.schedule is not None:
            _check_schedule(self.schedule)
        if self.optimizer is not None and self.schedule is not None:
            raise ValueError(
                "optimizer and schedule are both given, and an optimizer has a learning rate of "
                "its own: write optimizer=optax.adam(schedule), and leave schedule out"
            )

    def lower(self, config: TrainConfig) -> str:
        """What to do against steps that are too long."""
        if self.optimizer is None and self.schedule is None:
            return f"lower learning_rate={config.learning_rate}"
        return f"lower the learning rate of the {'optimizer' if self.optimizer else 'schedule'}"

    def at(self, phase: Phase) -> Optimizer:
        """The optimiser of a phase of the training."""
        if self.optimizer is not None:
            return _of_user(self.optimizer)
        if self.schedule is not None:
            schedule = _from_step(self.schedule, phase.first)
            return _adamw(schedule, phase.config.clip_norm, phase.config.weight_decay)
        return optimizer_of(phase.config)


@functools.lru_cache(maxsize=32)
def _of_user(transformation: optax.GradientTransformation) -> Optimizer:
    return Optimizer(transformation, None)


@functools.lru_cache(maxsize=32)
def _from_step(schedule: Schedule, first: int) -> Schedule:
    # A phase counts its updates from 0, and the schedule those of the entire training.
    return lambda count: schedule(count + first)


def _check_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, optax.GradientTransformation):
        return
    kind, advice = f"a {type(optimizer).__name__}", ""
    if isinstance(optimizer, type):
        kind, advice = "a class", "an object of optax, such as "
    elif callable(optimizer):
        kind, advice = "a function", "what it returns, such as "
    raise TypeError(
        f"optimizer={optimizer!r} is {kind}, not an optax.GradientTransformation: write {advice}"
        "optax.adam(1e-3)"
    )


def _check_schedule(schedule: Any) -> None:
    if isinstance(schedule, Real | np.ndarray | jax.Array):
        raise TypeError(
            f"schedule={schedule!r} is a number: write schedule=optax.constant_schedule("
            f"{schedule!r}), or TrainConfig(learning_rate={schedule!r}) for its peak"
        )
    if not callable(schedule) or isinstance(schedule, type):
        raise TypeError(
            f"schedule={schedule!r} is not a function step -> learning rate: write "
            "optax.cosine_decay_schedule(1e-3, steps)"
        )
    try:
        with jax.numpy_dtype_promotion("standard"):
            rate = jax.eval_shape(lambda step: jnp.asarray(schedule(step)), jnp.asarray(0))
    except jax.errors.ConcretizationTypeError as error:
        raise TypeError(
            f"schedule={schedule!r} branches on the value of its step, unknown under jit: write "
            "jnp.where(step < n, a, b), or optax.join_schedules"
        ) from error
    if rate.shape != ():
        raise ValueError(f"schedule={schedule!r} gives shape {rate.shape}: give one number")
