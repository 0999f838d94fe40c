"""Maximum likelihood: the mean negative log-density of the data, and what may be added to it."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.accuracy import base_density
from jaxflow.flows.cnf import CNF
from jaxflow.flows.flow import Flow, to_flow_space
from jaxflow.objectives.penalties import PENALTIES, Penalty, penalised_change
from jaxflow.objectives.weights import weighted_mean
from jaxflow.ode import Stats


@dataclass(frozen=True, kw_only=True)
class MaximumLikelihood:
    """`-mean(log p(x))` in nats, by the flow's training settings.

    ```python
    jaxflow.fit(flow, x, key=key, objective=MaximumLikelihood(kinetic=0.02, jacobian=0.02))
    ```
    Weights of penalties (`jaxflow.objectives.penalties`) change what is learned, never what
    `log_prob` reports of it. A failed solve gives NaN, in the loss and in its gradient.

    Attributes:
        kinetic: weight of `int |f|^2 dt`.
        jacobian: weight of `int |df/dx|_F^2 dt`.
        taylor2: weight of `int |d^2 x / dt^2|^2 dt`.
        taylor3: weight of `int |d^3 x / dt^3|^2 dt`.
        hjb: weight of the Hamilton-Jacobi-Bellman residual, for potential fields.
        steer: training trajectories end at a random time within this of the base's, so that
            none can be steep there (Ghosh et al. 2020, "STEER", arXiv 2006.10711).

    Raises:
        ValueError: a weight that is negative or not finite, or `steer` of 1 and more.
    """

    kinetic: float = 0.0
    jacobian: float = 0.0
    taylor2: float = 0.0
    taylor3: float = 0.0
    hjb: float = 0.0
    steer: float = 0.0

    def __post_init__(self) -> None:
        for name in (*PENALTIES, "steer"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or a positive number")
        if not self.steer < 1:
            raise ValueError(f"steer={self.steer} must be less than 1, the length of the flow")

    def __call__(
        self,
        flow: Flow,
        x: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray,
        weights: Float[Array, " rows"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss, and as metrics what it is made of and the evaluations of the field."""
        metrics: dict[str, Array] = {}
        if self.penalties or self.steer:
            log_p, spent, stats = self._penalised(flow, x, cond, key)
            metrics = {name: weighted_mean(each, weights) for name, each in spent.items()}
        else:
            log_p, stats = flow.log_prob_rows(x, cond, key, training=True)
        loss = -weighted_mean(log_p, weights)
        for name in self.penalties:
            loss = loss + getattr(self, name) * metrics[name].astype(loss.dtype)
        return loss, metrics if stats is None else {**metrics, "num_evals": stats.num_evals}

    @property
    def penalties(self) -> tuple[Penalty, ...]:
        """The penalties that have a weight."""
        return tuple(name for name in PENALTIES if getattr(self, name) > 0)

    def _penalised(
        self, flow: Any, x: Array, cond: Array | None, key: PRNGKeyArray
    ) -> tuple[Array, dict[Penalty, Array], Stats]:
        if not isinstance(flow, CNF):
            raise TypeError(
                f"{self} is for flows that solve an ODE, and this is a {type(flow).__name__}: "
                "write MaximumLikelihood()"
            )
        u, log_det = to_flow_space(flow.transform, x)
        ode = replace(flow.ode, throw=False)
        trace = flow.trace_for(training=True)
        end_key, noise_key = jax.random.split(key)
        end = self.steer * jax.random.uniform(end_key, (), u.dtype, -1.0, 1.0)
        (z, change, _, stats), spent = penalised_change(
            trace, flow.field, u, 1.0, end, cond, noise_key, ode=ode, penalties=self.penalties
        )
        log_p = base_density(flow.base, z) - change
        return log_p + log_det.astype(log_p.dtype), spent, stats


maximum_likelihood = MaximumLikelihood()
