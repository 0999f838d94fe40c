"""Flow matching of the residuals of a Gaussian regression, both trained at once."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import StandardNormal
from jaxflow.flows import CNF
from jaxflow.objectives.couplings import independent
from jaxflow.objectives.matching import FlowMatching
from jaxflow.objectives.protocol import Loss, Weights
from jaxflow.objectives.times import Power
from jaxflow.objectives.units import to_field
from jaxflow.objectives.weights import weighted_mean

MATCHING = FlowMatching(coupling=independent, time=Power(1.0))


@dataclass(frozen=True)
class FramedMatching:
    """Minimise a normal regression's loss plus flow matching of its residuals.

    ```
    mean(sum(r^2 / 2 + log s)) + flow matching of r,    r = (u - m(x)) / s(x)
    ```
    for a flow with the field `EncodedCondition(LocationScale(field), encoder)`. However narrow a
    posterior is, `r` is of order one, so that the field has no narrow target to find. Residuals
    are constants of the second term. Times are denser near the data (Wildberger et al. 2023,
    arXiv 2305.17161, section 3.3).
    """

    simulation_free: ClassVar[bool] = True

    def __call__(
        self,
        flow: Any,
        x: Float[Array, "rows d"],
        cond: Array | None,
        key: PRNGKeyArray,
        weights: Weights = None,
    ) -> Loss:
        """The loss and its two parts."""
        x, key = to_field(flow, x, key)
        dim = x.shape[1]
        encoded = jax.vmap(flow.field.encode)(cond)
        at = encoded.shape[1] - 2 * dim
        features, location, log_scale = jnp.split(encoded, [at, at + dim], axis=1)
        residuals = (x - location) * jnp.exp(-log_scale)
        regression = weighted_mean(jnp.sum(0.5 * residuals**2 + log_scale, axis=1), weights)
        fixed = jax.lax.stop_gradient(jnp.concatenate([location, log_scale], axis=1))
        seen = jnp.concatenate([features, fixed], axis=1)
        inner = CNF(flow.field.field.field, StandardNormal(dim))
        constant = jax.lax.stop_gradient(residuals)
        matching, metrics = MATCHING(inner, constant, seen, key, weights)
        return regression + matching, metrics | {"regression": regression}
