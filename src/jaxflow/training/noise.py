"""`fit_noise`: learn the dequantisation noise of integer columns."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray

from jaxflow.flows.data_space import with_transform
from jaxflow.objectives.protocol import Loss, Weights
from jaxflow.objectives.weights import weighted_mean
from jaxflow.runtime.arguments import promote_dtypes
from jaxflow.runtime.precision import cast_floats
from jaxflow.runtime.shapes import ArrayInput, Rows
from jaxflow.training.config import TrainConfig
from jaxflow.training.minimise import minimise
from jaxflow.training.rows import data_rows, repeat_rows
from jaxflow.training.trainable import arrays_where, check_flow
from jaxflow.transforms import CellNoise, Chain, noise_of

CONFIG = TrainConfig(steps=1000, batch_size=256, eval_every=100)


class _NoisyFlow(eqx.Module):
    noise: CellNoise
    flow: Any


def fit_noise(
    flow: Any,
    x: ArrayInput,
    cond: ArrayInput | None = None,
    *,
    key: PRNGKeyArray,
    weights: ArrayInput | None = None,
    width: int = 64,
    depth: int = 2,
    config: TrainConfig = CONFIG,
    progress: bool | None = None,
) -> Any:
    """Learn the noise `q(v | x)` of a fitted flow of integers: variational dequantisation.

    Minimises the mean of `log q(v | x) - log p(x + step v)` over `v ~ q` for a fixed flow; its
    negative is a lower bound of `log P(x)` (Ho et al. 2019, "Flow++", arXiv 1902.00275, eq. 12).
    `log_prob` of the flow does not change, and `log_mass` places its points by the noise. A
    further `fit` spreads its rows by the learned noise, so the two raise one bound in turn.

    ```python
    import jax, jax.numpy as jnp
    from jaxflow import CouplingFlow, TrainConfig, fit_noise
    from jaxflow.transforms import Dequantise

    key = jax.random.key(0)
    x = jax.random.poisson(key, 4.0, (300, 2)).astype(float)
    grid = Dequantise(step=jnp.ones(2), origin=jnp.zeros(2))
    # In practice, fit(flow, x, key=key, transform=jaxflow.transforms.propose(x)) comes first.
    flow = CouplingFlow(2, num_layers=2, width=8, key=key, transform=grid)
    config = TrainConfig(steps=20, eval_every=20)  # 1000 steps by default
    flow = fit_noise(flow, x, key=key, config=config)
    ```

    Args:
        flow: a fitted flow whose transform starts with a `Dequantise`.
        x: data on the grid, (n, *event).
        cond: conditions, (n, *condition), or None.
        key: for the initial weights, minibatches and noise.
        weights: how often each row counts, (n,); None for once.
        width: hidden units of the noise's network.
        depth: hidden layers of the noise's network.
        config: settings of the training; it has no validation.
        progress: show a progress bar; None for only on a terminal.

    Returns:
        The flow with the learned noise in its transform.

    Raises:
        ValueError, TypeError: bad rows, rows off the grid, or a flow without one.
        TrainingError: the bound or its gradient is not finite at the first step. A later one
            ends the training with a warning, and the best weights so far are kept.
    """
    check_flow(flow)
    grid = noise_of(flow.transform)
    if grid is None:
        raise ValueError(
            f"transform={flow.transform} does not start with a Dequantise, so there is no noise "
            "to learn: fit the flow with transform=jaxflow.transforms.propose(x) first"
        )
    flow, rows = promote_dtypes(flow, data_rows(flow.event_shape, x, cond, "x", weights))
    grid.check(rows.x)
    net_key, fit_key = jax.random.split(key)
    noise = CellNoise(repeat_rows(rows).x, width=width, depth=depth, key=net_key)
    noise = cast_floats(noise, rows.x.dtype)
    noisy = _NoisyFlow(noise, flow)
    trained = arrays_where(noisy, lambda part: part == "noise")
    noisy = minimise(noisy, rows, _bound, fit_key, config, progress, trained=trained)
    grid = grid.with_noise(noisy.noise)
    rest = flow.transform.parts[1:] if isinstance(flow.transform, Chain) else None
    return with_transform(flow, grid if rest is None else Chain((grid, *rest)))


def _bound(
    noisy: _NoisyFlow, x: Rows, cond: Array | None, key: PRNGKeyArray, weights: Weights = None
) -> Loss:
    """Mean of `log q(v | x) - log p(x + step v)`."""
    noise_key, trace_key = jax.random.split(key)
    grid = noise_of(noisy.flow.transform)
    assert grid is not None
    spread = grid.with_noise(noisy.noise).spread_with_log_prob
    inside, log_q = jax.vmap(spread)(x, jax.random.split(noise_key, len(x)))
    log_p, _ = noisy.flow.log_prob_rows(inside, cond, trace_key, training=True)
    return weighted_mean(log_q.astype(log_p.dtype) - log_p, weights), {}
