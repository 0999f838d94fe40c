"""`fit_noise`: the noise of whole-number columns, learned where it makes the bound tighter."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.flows.flow import Flow, with_transform
from jaxflow.objectives.weights import weighted_mean
from jaxflow.runtime.arguments import promote_dtypes
from jaxflow.training.config import TrainConfig
from jaxflow.training.minimise import minimise
from jaxflow.training.prepare import data_rows
from jaxflow.transforms import CellNoise, Chain, noise_of

CONFIG = TrainConfig(steps=1000, batch_size=256, eval_every=100)


class _Noisy(eqx.Module):
    """A flow and the noise that is learned for it."""

    noise: CellNoise
    flow: Any


def fit_noise(
    flow: Any,
    x: Any,
    cond: Any = None,
    *,
    key: PRNGKeyArray,
    weights: Any = None,
    width: int = 64,
    depth: int = 2,
    config: TrainConfig = CONFIG,
    progress: bool | None = None,
) -> Any:
    """Learn the noise `q(v | x)` of a fitted flow of whole numbers: variational dequantisation.

    ```python
    flow, _ = jaxflow.fit(flow, x, key=key, transform=jaxflow.transforms.propose(x))
    flow = jaxflow.fit_noise(flow, x, key=key)
    flow, _ = jaxflow.fit(flow, x, key=key)        # goes on with that noise
    ```
    For a flow as it is, minimises the mean of `log q(v | x) - log p(x + step v)` over `v ~ q`,
    whose negative is a bound of `log P(x)` (Ho et al. 2019, "Flow++", arXiv 1902.00275, equation
    12). The flow's density stays as it is: `log_prob` does not change, and `log_mass` takes its
    points where they count. `fit` afterwards spreads its rows by the learned noise, so that the
    two take turns in raising one bound.

    Args:
        flow: a fitted flow whose transform begins with a `Dequantise`.
        x: rows on the grid, (n, *event).
        cond: their conditions, (n, *condition).
        key: for the weights, minibatches and noise.
        weights: how often each row counts, (n,).
        width: hidden units of the noise's network.
        depth: its hidden layers.
        config: settings of the training; those of validation have no use here.
        progress: whether to show a progress bar; None shows it on a terminal only.

    Raises:
        ValueError, TypeError: bad rows, rows off the grid, or a flow without one.
        TrainingError: the bound or its gradient is not finite.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flow={flow!r} must be a CNF, a CouplingFlow or another jaxflow Flow")
    grid = noise_of(flow.transform)
    if grid is None:
        raise ValueError(
            f"transform={flow.transform} begins with no Dequantise, so there is no noise to "
            "learn: fit the flow with transform=jaxflow.transforms.propose(x) first"
        )
    flow, rows = promote_dtypes(flow, data_rows(flow, x, cond, "x", weights))
    grid.check(rows.x)
    net_key, fit_key = jax.random.split(key)
    noise = CellNoise(rows.x, width=width, depth=depth, key=net_key)
    noise = jax.tree.map(lambda leaf: leaf.astype(rows.x.dtype), noise)
    fitted = minimise(_Noisy(noise, flow), rows, _gap, fit_key, config, progress, fixed=("flow",))
    grid = grid.with_noise(fitted.noise)
    rest = flow.transform.parts[1:] if isinstance(flow.transform, Chain) else None
    return with_transform(flow, grid if rest is None else Chain((grid, *rest)))


def _gap(
    noisy: _Noisy,
    x: Float[Array, "rows *event"],
    cond: Array | None,
    key: PRNGKeyArray,
    weights: Array | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean of `log q(v | x) - log p(x + step v)`."""
    draw_key, trace_key = jax.random.split(key)
    grid = noise_of(noisy.flow.transform)
    assert grid is not None
    spread = grid.with_noise(noisy.noise).spread_with_log_prob
    inside, log_q = jax.vmap(spread)(x, jax.random.split(draw_key, len(x)))
    log_p, _ = noisy.flow.log_prob_rows(inside, cond, trace_key, training=True)
    return weighted_mean(log_q.astype(log_p.dtype) - log_p, weights), {}
