"""`fit_classifier`: a classifier of noisy points, for classifier guidance."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diffusion import Schedule, denoiser_of, network_inputs
from jaxflow.flows.flow import check_arguments
from jaxflow.objectives.times import stratified
from jaxflow.training.config import TrainConfig
from jaxflow.training.minimise import minimise
from jaxflow.training.prepare import Rows

CONFIG = TrainConfig(steps=2000, batch_size=512, learning_rate=1e-3, ema=0.99, eval_every=500)


def fit_classifier(
    classifier: Any,
    flow: Any,
    x: Any,
    labels: Any,
    *,
    key: PRNGKeyArray,
    config: TrainConfig = CONFIG,
    progress: bool | None = None,
) -> Any:
    """Train a classifier on points with the noise of a diffusion model, by cross entropy.

    ```python
    classifier = Residual(2, outputs=8, key=key)
    classifier = fit_classifier(classifier, flow, x, labels, key=key)
    guided = Guided(denoiser_of(flow), classifier_guide(classifier, schedule), 2.0)
    ```

    Args:
        classifier: `f(t, x) -> logits`, such as `Residual(dim, outputs=classes, key=key)`.
        flow: the diffusion model, by `as_flow`; its schedule and transform are used.
        x: rows in data units, (n, *event).
        labels: whole numbers from 0, (n,).
        key: for minibatches, times and noise.
        config: settings; those of validation have no use here.
        progress: whether to show a progress bar; None shows it on a terminal only.

    Raises:
        TypeError: the flow is no diffusion model, labels that are no whole numbers.
        ValueError: bad rows, or labels that the classifier does not tell.
    """
    schedule = denoiser_of(flow).schedule
    flow, rows, _, _ = check_arguments(flow, x, None, "x")
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels have dtype {labels.dtype}; give whole numbers from 0")
    if labels.shape != (len(rows),):
        raise ValueError(f"labels have shape {labels.shape} for {len(rows)} rows of x")
    if not len(rows):
        raise ValueError("x has no rows")
    logits = jax.eval_shape(classifier, jnp.zeros((), rows.dtype), rows[0])
    if logits.ndim != 1:
        raise ValueError(f"the classifier gives logits of shape {logits.shape}: (classes,) belong")
    if labels.min() < 0 or labels.max() >= logits.shape[0]:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, and the classifier tells "
            f"{logits.shape[0]} classes: labels must lie in [0, {logits.shape[0] - 1}]"
        )
    classes = jax.nn.one_hot(jnp.asarray(labels), logits.shape[0], dtype=rows.dtype)
    data, loss = Rows(rows, classes), CrossEntropy(schedule)
    return minimise(classifier, data, loss, key, config, progress, enter=flow.transform)


@dataclass(frozen=True)
class CrossEntropy:
    """`-mean_i log p(y_i | x_i)` of noisy rows, times uniform on the schedule's span."""

    schedule: Schedule

    def __call__(
        self,
        classifier: Any,
        x: Float[Array, "rows *event"],
        cond: Float[Array, "rows classes"],
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss of a batch, and the `accuracy`."""
        schedule = self.schedule
        time_key, noise_key = jax.random.split(key)
        times = schedule.diffusion_time(stratified(time_key, len(x), x.dtype))

        def logits(s: Array, x: Array, noise: Array) -> Array:
            scale, time = network_inputs(schedule, s)
            return classifier(time, scale * schedule.noised(s, x, noise))

        found = jax.vmap(logits)(times, x, jax.random.normal(noise_key, x.shape, x.dtype))
        loss = -jnp.mean(jnp.sum(cond * jax.nn.log_softmax(found), axis=1))
        right = jnp.argmax(found, axis=1) == jnp.argmax(cond, axis=1)
        return loss, {"accuracy": jnp.mean(right.astype(x.dtype))}
