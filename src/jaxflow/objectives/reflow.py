"""Reflow: straighten a flow by training on the ends of its own trajectories."""

from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases import sample_rows
from jaxflow.dynamics.on_manifold import manifold_of
from jaxflow.manifolds import Manifold, Product, Torus
from jaxflow.objectives.matching import FlowMatching, velocity_loss
from jaxflow.objectives.protocol import Loss, Weights
from jaxflow.ode.status import raise_if_failed
from jaxflow.runtime.arguments import promote_dtypes
from jaxflow.runtime.mesh import shard_rows
from jaxflow.runtime.precision import sample_dtype
from jaxflow.runtime.shapes import ArrayInput, Event, Rows, Scalar, split

# Reflow shares its check of the flow and its distribution of times.
MATCHING = FlowMatching()


@final
class Reflow(eqx.Module):
    """Minimise the flow-matching loss between the ends of a fitted flow's trajectories.

    Trajectories do not cross, so straight lines between their ends cross less often than lines
    between independent pairs. The trained field is closer to constant along its own trajectories
    and needs fewer steps (Liu et al. 2022, "Flow Straight and Fast", arXiv 2209.03003). The pairs
    come from the fitted flow and keep its errors; `fit` validates on the data. On curved manifolds
    the lines are geodesics.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import MLP
    from jaxflow.objectives import Reflow

    key = jax.random.key(0)
    flow = CNF(MLP(2, key=key), StandardNormal(2))  # in practice, a fitted one
    x = jax.random.normal(key, (256, 2))
    pairs = Reflow.of(flow, key, num=512)
    loss, metrics = pairs(flow, x, None, key)  # or jaxflow.fit(flow, x, key=key, objective=pairs)
    ```

    Attributes:
        z: base samples, (pairs, *event).
        x: where the fitted flow takes them, in flow space, (pairs, *event).
        cond: conditions, (pairs, *condition), or None.
        transform: the transform of the fitted flow.
    """

    z: Float[Array, "pairs *event"]
    x: Float[Array, "pairs *event"]
    cond: Array | None = None
    transform: Any = None
    # Training needs no solve of the ODE.
    simulation_free: ClassVar[bool] = True
    # The pairs' conditions are not standardised, so those of the rows must not be either.
    raw_conditions: ClassVar[bool] = True

    @classmethod
    def of(
        cls, flow: Any, key: PRNGKeyArray, num: int = 32_768, cond: ArrayInput | None = None
    ) -> "Reflow":
        """Solve a fitted flow from base samples, by its evaluation solver.

        Args:
            flow: a CNF.
            key: for the base samples.
            num: number of pairs; with conditions, one pair for each of them.
            cond: conditions, (pairs, *condition).

        Returns:
            The objective that trains on these pairs.

        Raises:
            TypeError: the flow has no field.
            SolveError: a solve failed.
        """
        MATCHING.check(flow)
        conditions = None if cond is None else jnp.asarray(cond)
        keys = jax.random.split(key, num if conditions is None else len(conditions))
        flow, conditions = promote_dtypes(flow, conditions)
        z, x, stats = _pairs(flow, keys, conditions)
        z, x = raise_if_failed((z, x), stats, "Reflow.of")
        return cls(z, x, conditions, flow.transform)

    def check_transform(self, transform: Any) -> None:
        """Check that a flow to be trained has the transform of the pairs.

        Raises:
            ValueError: it has another one.
        """
        if not eqx.tree_equal(self.transform, transform):
            raise ValueError(
                f"transform={transform} differs from {self.transform}, the transform of the flow "
                f"that made the pairs: fit that flow, or give it another field by "
                "dataclasses.replace(flow, field=...)"
            )

    def __call__(
        self, flow: Any, x: Rows, cond: Array | None, key: PRNGKeyArray, weights: Weights = None
    ) -> Loss:
        """Compute the loss of as many random pairs as `x` has rows.

        Arguments as in `jaxflow.objectives.protocol`; the values of `x` and `cond` are not used.

        Returns:
            The loss, and the metric `velocity`: the mean squared velocity.

        Raises:
            ValueError: there are weights.
        """
        if weights is not None:
            raise ValueError(
                "Reflow trains on pairs of the fitted flow, to which weights of rows do not "
                "apply: fit that flow with weights, and leave weights out here"
            )
        pair_key, time_key = jax.random.split(key)
        rows = shard_rows(jax.random.randint(pair_key, (len(x),), 0, len(self.z)))
        z, end = self.z[rows], self.x[rows]
        t = MATCHING.times(time_key, len(rows), z.dtype)
        manifold = manifold_of(flow.field)
        x_t, velocity = jax.vmap(lambda t, a, b: _line(manifold, t, a, b))(t, z, end)
        pair_cond = None if self.cond is None else self.cond[rows]
        return velocity_loss(flow.field, t, x_t, velocity, pair_cond)


def _line(manifold: Manifold | None, t: Scalar, z: Event, end: Event) -> tuple[Event, Event]:
    """The point at time `t` on the way from `z` to `end`, and its velocity."""
    if isinstance(manifold, Product):
        sizes = [factor.event_shape[0] for factor in manifold.factors]
        parts = zip(manifold.factors, split(z, sizes), split(end, sizes), strict=True)
        points, velocities = zip(*(_line(m, t, a, b) for m, a, b in parts), strict=True)
        return jnp.concatenate(points), jnp.concatenate(velocities)
    # Trajectories on a torus leave the period, so lines follow them, not the shorter way.
    if manifold is None or isinstance(manifold, Torus):
        return z + t * (end - z), end - z
    return manifold.geodesic(t, z, end)


@eqx.filter_jit
def _pairs(flow: Any, keys: Array, cond: Array | None) -> tuple[Array, Array, Any]:
    z = sample_rows(flow.base, keys, sample_dtype(flow, cond), grouped=False)
    x, _, stats = flow.sample_rows(z, None, cond, None)
    return z, x, stats
