"""A network that knows what no condition is."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.dynamics.protocol import check_field, evaluate_with_trace, has_closed_form, prepare


class OptionalCondition(eqx.Module):
    """`f(t, x, (cond, 1))` with a condition, and `f(t, x, (0, 0))` without one.

    ```python
    network = OptionalCondition(MLP(2, cond_dim=10 + 1, key=key), 10)
    network(t, x), network(t, x, one_hot)
    ```
    The network sees one entry more than the condition has, which says whether there is one. In
    a batch, a row whose condition is NaN has none.

    Attributes:
        network: `f(t, x, cond)` with conditions of `cond_dim + 1` entries.
        cond_dim: entries of a condition.

    Raises:
        TypeError: a network that is not callable.
        ValueError: one made for conditions of another size.
    """

    network: Any
    cond_dim: int = eqx.field(static=True)

    def __init__(self, network: Any, cond_dim: int) -> None:
        check_field(network, "network")
        size = getattr(network, "cond_dim", cond_dim + 1)
        if size != cond_dim + 1:
            raise ValueError(
                f"the network was made with cond_dim={size}; for conditions of {cond_dim} entries "
                f"that may be absent make it with cond_dim={cond_dim + 1}"
            )
        self.network, self.cond_dim = network, cond_dim

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """The network's value."""
        return self.network(t, x, self.encode(cond, x))

    def prepare(self) -> "OptionalCondition":
        """With the network prepared."""
        return eqx.tree_at(lambda optional: optional.network, self, prepare(self.network))

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond=None) -> (f, tr(df/dx))`; None if the network has no closed form."""
        return self._with_trace if has_closed_form(self.network) else None

    def _with_trace(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Array, Array]:
        return evaluate_with_trace(self.network, t, x, self.encode(cond, x))

    def encode(self, cond: Array | None, x: Array) -> Float[Array, " entries"]:
        """What the network sees.

        Raises:
            ValueError: a condition of another size.
        """
        if cond is None:
            return jnp.zeros(self.cond_dim + 1, x.dtype)
        if cond.size != self.cond_dim:
            raise ValueError(
                f"cond has shape {cond.shape}; this model was made for conditions of "
                f"{self.cond_dim} entries"
            )
        flat = cond.reshape(-1)
        there = ~jnp.all(jnp.isnan(flat))
        return jnp.append(jnp.where(there, flat, 0), there.astype(flat.dtype))
