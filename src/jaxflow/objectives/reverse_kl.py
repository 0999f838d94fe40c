"""Reverse KL: train a flow on a density that is known up to a constant, without data."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from jaxflow.flows.flow import Flow
from jaxflow.objectives.protocol import Loss, Weights, check_function
from jaxflow.objectives.weights import weighted_mean
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.mesh import shard_rows

# Samples of a validation without conditions.
VALIDATION_SAMPLES = 4096


@dataclass(frozen=True, kw_only=True)
class ReverseKL:
    """Minimise `KL(q, p) = E_q[log q(x) - log p(x)]` up to a constant, by samples of the flow `q`.

    ```python
    import jax, jax.numpy as jnp
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import MLP
    from jaxflow.objectives import ReverseKL

    objective = ReverseKL(target=lambda x: -jnp.sum((x - 1) ** 2))
    key = jax.random.key(0)
    flow = CNF(MLP(2, width=8, depth=1, key=key), StandardNormal(2))
    loss, metrics = objective(flow, None, None, key)
    # train by jaxflow.fit(flow, None, key=key, objective=objective), and correct the samples by
    # jaxflow.importance_sample
    ```
    Samples at which the target is not finite are left out; the metric `non_finite` is their
    share. If the target is finite at no sample, the loss is 0 and `non_finite` is 1.

    **A missing mode does not show.** The loss and all its metrics come from samples of the flow: a
    mode of the target that the flow has left costs nothing and pulls no more. What helps: several
    starts with different keys, whose losses and `importance_sample(...).log_z` should agree;
    tempering, `target=lambda x: log_p(x) / T` for T falling to 1 over a few fits; a flow that
    starts wider than the target, or from data of it by maximum likelihood; and a check against
    data of the target by `jaxflow.diagnostics.diagnose`.

    With `path_gradient` the gradient runs through the samples only (Roeder, Wu and Duvenaud
    2017, "Sticking the landing", arXiv 1703.09194; Vaitl et al. 2022, "Gradients should stay on
    path", arXiv 2206.09016). It vanishes at `q = p` for every batch, at the price of a second
    solve.

    Attributes:
        target: `log p(x)` of one sample in data units, up to a constant; `log p(x, cond)` with
            conditions.
        num_samples: samples of a training step; with conditions, one for each of them.
        path_gradient: leave out the part of the gradient whose mean is 0.

    Raises:
        TypeError: `target` is not a function.
        ValueError: `num_samples` is less than 1.
    """

    target: Callable[..., Array]
    num_samples: int = 256
    path_gradient: bool = True
    # The target takes conditions in their own units.
    raw_conditions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_function("target", self.target, "a function x -> log p(x)")
        check_count("num_samples", self.num_samples)

    def __call__(
        self,
        flow: Flow,
        x: Any,
        cond: Array | None,
        key: PRNGKeyArray | None,
        weights: Weights = None,
    ) -> Loss:
        """Compute the loss in nats; arguments as in `jaxflow.objectives.protocol`, `x` unused.

        Returns:
            The loss. Metrics: `non_finite`, and `num_evals`, the evaluations of the field.

        Raises:
            ValueError: there is no key.
        """
        if key is None:
            raise ValueError("ReverseKL draws samples: pass key=jax.random.key(0)")
        sample_key, trace_key = jax.random.split(key)
        num = self.num_samples if cond is None else len(cond)
        keys = shard_rows(jax.random.split(sample_key, num))
        (samples, log_q), stats = flow.draw_rows(
            keys, cond, trace_key, with_log_prob=True, training=True
        )
        assert log_q is not None
        if self.path_gradient:
            constant = lax.stop_gradient(flow)
            log_q = constant.log_prob_rows(samples, cond, trace_key, training=True)[0]
        loss, non_finite = self._mean_log_ratio(samples, log_q, cond, weights)
        metrics = {"non_finite": non_finite}
        return loss, metrics if stats is None else {**metrics, "num_evals": stats.num_evals}

    def held_out(
        self, flow: Flow, cond: Array | None, key: PRNGKeyArray, weights: Weights = None
    ) -> tuple[float, float]:
        """Compute the loss by the evaluation solver, and the share of samples left out.

        The loss is NaN if the target is finite at no sample.
        """
        num = VALIDATION_SAMPLES if cond is None else len(cond)
        samples, log_q = flow.sample_and_log_prob(key, num, cond)
        value, non_finite = self._mean_log_ratio(samples, log_q, cond, weights)
        return float(value) if non_finite < 1 else math.nan, float(non_finite)

    def _mean_log_ratio(
        self, x: Array, log_q: Array, cond: Array | None, weights: Array | None
    ) -> tuple[Array, Array]:
        """Mean of `log q - log p` where `log p` is finite, and the share where it is not."""
        conditions = () if cond is None else (cond,)
        finite = jnp.isfinite(jax.vmap(self.target)(lax.stop_gradient(x), *conditions))
        # The target again, with a sample at which it is finite in place of the others: their NaN
        # would enter the gradient through the branch that `where` leaves out.
        mask = finite.reshape(-1, *[1] * (x.ndim - 1))
        safe = jnp.where(mask, x, lax.stop_gradient(x[jnp.argmax(finite)])[None])
        log_p = jax.vmap(self.target)(safe, *conditions)
        ratio = jnp.where(finite, log_q - log_p.astype(log_q.dtype), jnp.zeros_like(log_q))
        counted = finite.astype(ratio.dtype)
        if weights is not None:
            counted = counted * weights.astype(ratio.dtype)
        return weighted_mean(ratio, counted), jnp.mean(~finite, dtype=ratio.dtype)
