"""Reflow: a flow is straightened by training on its own pairs."""

from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import sample_rows
from jaxflow.objectives.matching import FlowMatching, squared_errors
from jaxflow.ode.status import raise_if_failed
from jaxflow.runtime.arguments import promote_dtypes
from jaxflow.runtime.mesh import shard_rows

# Checks of the flow, and the law of the times.
MATCHING = FlowMatching()


@final
class Reflow(eqx.Module):
    """Flow matching between the ends of a fitted flow's trajectories.

    ```python
    pairs = Reflow.of(flow, jax.random.key(1))
    straight, _ = jaxflow.fit(flow, x, key=key, objective=pairs)
    ```
    Trajectories do not cross, so the lines between their ends cross less than those of chance
    pairs do; the field that is trained on them is closer to constant along its own trajectories
    and takes fewer steps (Liu et al. 2022, "Flow Straight and Fast", arXiv 2209.03003). Samples
    come from the fitted flow, so that its errors stay; validation is by the data.

    Attributes:
        z: points of the base, (pairs, *event).
        x: where the fitted flow takes them, in flow space, (pairs, *event).
        cond: their conditions, (pairs, *condition), or None.
        transform: the fitted flow's, which made its flow space.
    """

    z: Float[Array, "pairs *event"]
    x: Float[Array, "pairs *event"]
    cond: Array | None = None
    transform: Any = None
    # Training needs no solve of the ODE.
    simulation_free: ClassVar[bool] = True
    # The pairs' conditions are as they were given, and the rows' must be too.
    raw_conditions: ClassVar[bool] = True

    @classmethod
    def of(cls, flow: Any, key: PRNGKeyArray, num: int = 32_768, cond: Any = None) -> "Reflow":
        """Pairs of a fitted flow, by its evaluation solve.

        Args:
            flow: a CNF.
            key: for the points of the base.
            num: how many pairs; with conditions, one for each of them.
            cond: conditions, (pairs, *condition).

        Raises:
            TypeError: a flow without a field.
            SolveError: a solve failed.
        """
        MATCHING.check(flow)
        if cond is not None:
            cond = jnp.asarray(cond)
            num = len(cond)
        flow, cond = promote_dtypes(flow, cond)
        z, x, stats = _pairs(flow, jax.random.split(key, num), cond)
        z, x = raise_if_failed((z, x), stats, "Reflow.of")
        return cls(z, x, cond, flow.transform)

    def check_transform(self, transform: Any) -> None:
        """Refuse another flow space than that of the pairs.

        Raises:
            ValueError: another transform than the fitted flow's.
        """
        if not eqx.tree_equal(self.transform, transform):
            raise ValueError(
                f"transform={transform} is not that of the flow which gave the pairs, "
                f"{self.transform}: fit that flow, or give it another field by "
                "dataclasses.replace(flow, field=...)"
            )

    def __call__(
        self,
        flow: Any,
        x: Float[Array, "rows *event"],
        cond: Array | None,
        key: PRNGKeyArray,
        weights: Float[Array, " rows"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss of as many pairs as there are rows; of the rows nothing else is used.

        Args:
            flow: a CNF.
            x: data rows.
            cond: their conditions; a pair has its own.
            key: for the choice of pairs and times.
            weights: none: pairs are of the fitted flow, which knows them already.

        Raises:
            ValueError: weights.
        """
        if weights is not None:
            raise ValueError(
                "Reflow trains on pairs of the fitted flow, which rows' weights do not reach: fit "
                "that flow with them, and leave weights out here"
            )
        pair_key, time_key = jax.random.split(key)
        rows = shard_rows(jax.random.randint(pair_key, (len(x),), 0, len(self.z)))
        z, end = self.z[rows], self.x[rows]
        t = MATCHING.times(time_key, len(rows), z.dtype)
        x_t = jax.vmap(lambda t, a, b: a + t * (b - a))(t, z, end)
        pair_cond = None if self.cond is None else self.cond[rows]
        errors = squared_errors(flow.field, t, x_t, end - z, pair_cond)
        speed = jnp.mean(jnp.sum((end - z).reshape(len(rows), -1) ** 2, axis=1))
        return jnp.mean(errors), {"velocity": speed}


@eqx.filter_jit
def _pairs(flow: Any, keys: Array, cond: Array | None) -> tuple[Array, Array, Any]:
    z = sample_rows(flow.base, keys)
    x, _, stats = flow.sample_rows(z, None, cond, None)
    return z, x, stats
