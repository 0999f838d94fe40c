"""Reverse KL: a flow learns a density that is known up to a constant, without data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.flows.flow import Flow
from jaxflow.objectives.weights import weighted_mean
from jaxflow.runtime.mesh import shard_rows

# Samples of a validation.
HELD_OUT = 4096


@dataclass(frozen=True, kw_only=True)
class ReverseKL:
    """`KL(q, p) = E_q[log q(x) - log p(x)]` up to the constant of `p`, by samples of the flow `q`.

    ```python
    flow, _ = jaxflow.fit(flow, None, key=key, objective=ReverseKL(target=log_p))
    jaxflow.importance_sample(flow, log_p, 10_000, key=key)  # weights, log Z, how far to trust
    ```
    Samples at which the target is not finite take no part; their share is in the metrics. A
    target that is never finite gives NaN.

    With `path_gradient` the gradient runs through the samples alone (Roeder, Wu and Duvenaud
    2017, "Sticking the landing", arXiv 1703.09194; Vaitl et al. 2022, "Gradients should stay on
    path", arXiv 2206.09016): it vanishes where `q = p`, for every batch, at the price of a second
    solve.

    Attributes:
        target: `log p(x)` of one sample in data units, up to a constant; with conditions
            `log p(x, cond)`.
        num_samples: samples of a training step; with conditions as many as there are.
        path_gradient: whether to leave out the gradient's part whose mean is 0.

    Raises:
        TypeError: a target that is no function.
        ValueError: less than one sample.
    """

    target: Callable[..., Array]
    num_samples: int = 256
    path_gradient: bool = True
    # The target takes conditions as they are.
    raw_conditions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.target):
            raise TypeError(f"target={self.target!r} must be a function x -> log p(x)")
        if not isinstance(self.num_samples, int) or self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples} must be a whole number, 1 or more")

    def __call__(
        self,
        flow: Flow,
        x: Any,
        cond: Array | None,
        key: PRNGKeyArray | None,
        weights: Float[Array, " rows"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss in nats; of the data only the conditions are used.

        Raises:
            ValueError: no key.
        """
        if key is None:
            raise ValueError("ReverseKL draws samples: pass key=jax.random.key(0)")
        draw_key, trace_key = jax.random.split(key)
        num = self.num_samples if cond is None else len(cond)
        keys = shard_rows(jax.random.split(draw_key, num))
        (drawn, log_q), stats = flow.draw_rows(
            keys, cond, trace_key, with_log_prob=True, training=True
        )
        assert log_q is not None
        if self.path_gradient:
            still = lax.stop_gradient(flow)
            log_q = still.log_prob_rows(drawn, cond, trace_key, training=True)[0]
        loss, missing = self._gap(drawn, log_q, cond, weights)
        metrics = {"non_finite": missing}
        return loss, metrics if stats is None else {**metrics, "num_evals": stats.num_evals}

    def held_out(self, flow: Flow, cond: Array | None, key: PRNGKeyArray) -> tuple[float, float]:
        """The value by the evaluation's solve, and the share of samples that it leaves out."""
        num = HELD_OUT if cond is None else len(cond)
        drawn, log_q = flow.sample_and_log_prob(key, num, cond)
        value, missing = self._gap(drawn, log_q, cond, None)
        return float(value), float(missing)

    def _gap(
        self, x: Array, log_q: Array, cond: Array | None, weights: Array | None
    ) -> tuple[Array, Array]:
        """Mean of `log q - log p` where it is finite, and the share where it is not."""
        given = () if cond is None else (cond,)
        good = jnp.isfinite(jax.vmap(self.target)(lax.stop_gradient(x), *given))
        # Twice, so that no NaN comes back through the branch that is left out.
        log_p = jax.vmap(self.target)(jnp.where(_rowwise(good, x), x, _some(x, good)), *given)
        gap = jnp.where(good, log_q - log_p.astype(log_q.dtype), jnp.zeros_like(log_q))
        kept = good.astype(gap.dtype) * (1.0 if weights is None else weights.astype(gap.dtype))
        return weighted_mean(gap, kept), jnp.mean(~good, dtype=gap.dtype)


def _rowwise(good: Array, x: Array) -> Array:
    return good.reshape(-1, *[1] * (x.ndim - 1))


def _some(x: Array, good: Array) -> Array:
    """A row at which the target is finite, if there is any, in the place of every row."""
    return jnp.broadcast_to(lax.stop_gradient(x[jnp.argmax(good)]), x.shape)
