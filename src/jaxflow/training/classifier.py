"""`fit_classifier`: train a classifier of noisy samples, for classifier guidance."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diffusion import Schedule, denoiser_of, network_inputs
from jaxflow.flows.data_space import check_arguments
from jaxflow.objectives.protocol import Loss
from jaxflow.objectives.times import stratified
from jaxflow.runtime.shapes import ArrayInput, Rows
from jaxflow.training.config import TrainConfig
from jaxflow.training.minimise import minimise
from jaxflow.training.rows import Dataset

CONFIG = TrainConfig(steps=2000, batch_size=512, learning_rate=1e-3, ema=0.99, eval_every=500)


def fit_classifier(
    classifier: Any,
    flow: Any,
    x: ArrayInput,
    labels: ArrayInput,
    *,
    key: PRNGKeyArray,
    config: TrainConfig = CONFIG,
    progress: bool | None = None,
) -> Any:
    """Train a classifier on samples with the noise of a diffusion model, by cross entropy.

    ```python
    import jax, jax.numpy as jnp
    from jaxflow import TrainConfig, fit_classifier
    from jaxflow.diffusion import (
        Denoiser, Guided, VariancePreserving, as_flow, classifier_guide, denoiser_of
    )
    from jaxflow.dynamics import MLP, Residual

    key = jax.random.key(0)
    schedule = VariancePreserving()
    flow = as_flow(Denoiser(MLP(2, key=key), schedule), 2)  # in practice, a fitted one
    labels = jnp.arange(200) % 2
    x = jax.random.normal(key, (200, 2)) + 2 * labels.astype(float)[:, None]
    classifier = Residual(2, outputs=2, width=16, depth=1, key=key)
    config = TrainConfig(steps=20, eval_every=20)  # 2000 steps by default
    classifier = fit_classifier(classifier, flow, x, labels, key=key, config=config)
    guided = Guided(denoiser_of(flow), classifier_guide(classifier, schedule), 2.0)
    ```
    Dhariwal and Nichol 2021, arXiv 2105.05233, section 4.

    Args:
        classifier: `f(t, x) -> logits`, such as `Residual(dim, outputs=classes, key=key)`.
        flow: a diffusion model by `as_flow`, for its schedule and transform.
        x: samples in data units, (n, *event).
        labels: integers from 0 to the number of classes less 1, (n,).
        key: for minibatches, times and noise.
        config: settings of the training; it has no validation.
        progress: show a progress bar; None for only on a terminal.

    Returns:
        The trained classifier, with averaged weights.

    Raises:
        TypeError: the flow is not a diffusion model, or the labels are not integers.
        ValueError: bad rows, or labels without a logit.
        TrainingError: the loss or its gradient is not finite at the first step. A later one
            ends the training with a warning, and the best weights so far are kept.
    """
    schedule = denoiser_of(flow).schedule
    flow, rows, _, _ = check_arguments(flow, x, None, "x")
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels have dtype {labels.dtype}; give integers from 0")
    if labels.shape != (len(rows),):
        raise ValueError(f"labels have shape {labels.shape} for {len(rows)} rows of x")
    if not len(rows):
        raise ValueError("x has no rows")
    logits = jax.eval_shape(classifier, jnp.zeros((), rows.dtype), rows[0])
    if logits.ndim != 1:
        raise ValueError(
            f"the classifier returns logits of shape {logits.shape}; they must be (classes,)"
        )
    if labels.min() < 0 or labels.max() >= logits.shape[0]:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, and the classifier has "
            f"{logits.shape[0]} classes: labels must lie in [0, {logits.shape[0] - 1}]"
        )
    classes = jax.nn.one_hot(jnp.asarray(labels), logits.shape[0], dtype=rows.dtype)
    data, loss = Dataset(rows, classes), CrossEntropy(schedule)
    return minimise(classifier, data, loss, key, config, progress, batch_transform=flow.transform)


@dataclass(frozen=True)
class CrossEntropy:
    """`-mean_i log p(y_i | x_i)` of noisy samples, at times uniform over the schedule."""

    schedule: Schedule

    def __call__(
        self, classifier: Any, x: Rows, cond: Float[Array, "rows classes"], key: PRNGKeyArray
    ) -> Loss:
        """Compute the loss of a batch, and the metric `accuracy`; `cond` are one-hot labels."""
        schedule = self.schedule
        time_key, noise_key = jax.random.split(key)
        times = schedule.diffusion_time(stratified(time_key, len(x), x.dtype))

        def logits_of(s: Array, x: Array, noise: Array) -> Array:
            scale, time = network_inputs(schedule, s)
            return classifier(time, scale * schedule.noised(s, x, noise))

        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        logits = jax.vmap(logits_of)(times, x, noise)
        loss = -jnp.mean(jnp.sum(cond * jax.nn.log_softmax(logits), axis=1))
        correct = jnp.argmax(logits, axis=1) == jnp.argmax(cond, axis=1)
        return loss, {"accuracy": jnp.mean(correct.astype(x.dtype))}
