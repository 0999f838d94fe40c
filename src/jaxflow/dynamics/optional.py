"""A field that also accepts an empty condition, for classifier-free guidance."""

from typing import Any, SupportsIndex

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.dynamics.layers import flatten
from jaxflow.dynamics.protocol import Field
from jaxflow.dynamics.wrapper import AbstractWrapper, Run
from jaxflow.runtime.checks import check_count


class OptionalCondition(AbstractWrapper):
    """`f(t, x, (cond, 1))` with a condition, `f(t, x, (0, 0))` without one.

    The last entry tells the network whether there is a condition. Within a batch, a row whose
    condition is all NaN has none.

    ```python
    import jax, jax.numpy as jnp
    from jaxflow.dynamics import MLP, OptionalCondition

    network = OptionalCondition(MLP(2, cond_dim=10 + 1, key=jax.random.key(0)), 10)
    t, x = jnp.asarray(0.5), jnp.zeros(2)
    conditional, unconditional = network(t, x, jnp.eye(10)[3]), network(t, x)
    ```
    """

    network: Field
    cond_dim: int = eqx.field(static=True)

    inner = "network"

    def __init__(self, network: Any, cond_dim: SupportsIndex) -> None:
        """Make the condition of a network optional.

        Args:
            network: `f(t, x, cond)` for conditions of `cond_dim + 1` entries.
            cond_dim: number of entries of a condition.

        Raises:
            TypeError: `network` is not callable.
            ValueError: `network` was made for conditions of another size.
        """
        cond_dim = check_count("cond_dim", cond_dim)
        size = getattr(network, "cond_dim", cond_dim + 1)
        if size != cond_dim + 1:
            raise ValueError(
                f"network has cond_dim={size}, but an optional condition of {cond_dim} entries "
                f"needs one more: make the network with cond_dim={cond_dim + 1}"
            )
        self.network, self.cond_dim = network, cond_dim

    def apply(self, run: Run, t: Array, x: Array, cond: Array | None = None) -> Any:
        """The network's value (and trace) at the encoded condition."""
        return run(self.network, t, x, self.encode(cond, x))

    def encode(self, cond: Array | None, x: Array) -> Float[Array, " entries"]:
        """`(cond, 1)`, or zeros if `cond` is None or all NaN.

        Args:
            cond: condition of `cond_dim` entries, of any shape.
            x: the event; gives the dtype of the zeros.

        Returns:
            The network's condition, (cond_dim + 1,).

        Raises:
            ValueError: `cond` has another size.
        """
        if cond is None:
            return jnp.zeros(self.cond_dim + 1, x.dtype)
        flat = flatten(cond, self.cond_dim, "cond")
        present = ~jnp.all(jnp.isnan(flat))
        return jnp.append(jnp.where(present, flat, 0), present.astype(flat.dtype))


def accepts_none(field: Any) -> bool:
    """Whether a field, or a field inside it, is an `OptionalCondition`."""
    parts = field.parts() if isinstance(field, AbstractWrapper) else ()
    return isinstance(field, OptionalCondition) or any(map(accepts_none, parts))
