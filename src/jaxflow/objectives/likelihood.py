"""Maximum likelihood: the mean negative log-density of the data, with optional penalties."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from jaxtyping import Array, PRNGKeyArray

from jaxflow.bases import log_prob_rows
from jaxflow.flows.cnf import CNF
from jaxflow.flows.data_space import to_flow_space
from jaxflow.flows.flow import Flow
from jaxflow.objectives.penalties import PENALTIES, Penalty, penalised_change
from jaxflow.objectives.protocol import Loss, Weights
from jaxflow.objectives.units import with_noise
from jaxflow.objectives.weights import weighted_mean
from jaxflow.ode import Stats
from jaxflow.runtime.shapes import Rows


@dataclass(frozen=True, kw_only=True)
class MaximumLikelihood:
    """Minimise `-mean(log p(x))` in nats, plus weighted penalties on the field.

    Uses the flow's training solver. Penalties (`jaxflow.objectives.penalties`) change the flow
    that is learned, never the log-density it reports. A failed solve gives a loss and gradient
    of NaN. `maximum_likelihood` is this objective without penalties.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import MLP
    from jaxflow.objectives import MaximumLikelihood

    key = jax.random.key(0)
    flow = CNF(MLP(2, key=key), StandardNormal(2))
    x = jax.random.normal(key, (256, 2))
    objective = MaximumLikelihood(kinetic=0.02, jacobian=0.02)
    loss, metrics = objective(flow, x, None, key)  # or jaxflow.fit(..., objective=objective)
    ```

    Attributes:
        kinetic: weight of `int |f|^2 dt`.
        jacobian: weight of `int |df/dx|_F^2 dt`.
        taylor2: weight of `int |d^2 x / dt^2|^2 dt`.
        taylor3: weight of `int |d^3 x / dt^3|^2 dt`.
        hjb: weight of the residual of the Hamilton-Jacobi-Bellman equation, for potential fields.
        steer: training trajectories end at a random time within `steer` of the base's, which
            keeps them from being steep there (Ghosh et al. 2020, "STEER", arXiv 2006.10711).

    Raises:
        ValueError: a weight is negative or not finite, or `steer` is 1 or more.
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
        self, flow: Flow, x: Rows, cond: Array | None, key: PRNGKeyArray, weights: Weights = None
    ) -> Loss:
        """Compute the loss of a batch; arguments as in `jaxflow.objectives.protocol`.

        Returns:
            The loss in nats. Metrics: each penalty without its weight, and `num_evals`, the
            evaluations of the field.

        Raises:
            TypeError: penalties or `steer` with a flow that is not a CNF.
        """
        x, key = with_noise(flow, x, key)
        metrics: dict[str, Array] = {}
        if self.penalties or self.steer:
            log_p, integrals, stats = self._penalised(flow, x, cond, key)
            metrics = {name: weighted_mean(each, weights) for name, each in integrals.items()}
        else:
            log_p, stats = flow.log_prob_rows(x, cond, key, training=True)
        loss = -weighted_mean(log_p, weights)
        for name in self.penalties:
            loss = loss + getattr(self, name) * metrics[name].astype(loss.dtype)
        return loss, metrics if stats is None else {**metrics, "num_evals": stats.num_evals}

    @property
    def penalties(self) -> tuple[Penalty, ...]:
        """Names of the penalties with a positive weight."""
        return tuple(name for name in PENALTIES if getattr(self, name) > 0)

    def _penalised(
        self, flow: Any, x: Array, cond: Array | None, key: PRNGKeyArray
    ) -> tuple[Array, dict[Penalty, Array], Stats]:
        if not isinstance(flow, CNF):
            raise TypeError(
                f"{self} is for flows that solve an ODE, and this is a {type(flow).__name__}: "
                "write MaximumLikelihood()"
            )
        u, log_det = to_flow_space(flow.transform, x, grouped=False)
        ode = replace(flow.ode, throw=False)
        trace = flow.trace_for(training=True)
        end_key, probe_key = jax.random.split(key)
        end = self.steer * jax.random.uniform(end_key, (), u.dtype, -1.0, 1.0)
        (z, change, _, stats), integrals = penalised_change(
            trace, flow.field, u, 1.0, end, cond, probe_key, ode=ode, penalties=self.penalties
        )
        log_p = log_prob_rows(flow.base, z, grouped=False) - change
        return log_p + log_det.astype(log_p.dtype), integrals, stats


maximum_likelihood = MaximumLikelihood()
"""`MaximumLikelihood()`, without penalties."""
