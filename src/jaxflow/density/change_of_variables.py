"""The change of variables by a dense Jacobian: the discrete rule that continuity generalises."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.runtime.shapes import Event, Scalar


def dense_log_det(
    g: Callable[[Event], Float[Array, "*image"]], x: Event
) -> tuple[Float[Array, "*image"], Scalar]:
    """Evaluate `g(x)` and `log |det dg/dx|` by the dense Jacobian, at one point.

    For any invertible `g` with `z = g(x)`, the change of variables

    ```
    log p_x(x) = log p_z(g(x)) + log |det dg/dx|
    ```
    costs d Jacobian-vector products and an LU decomposition, O(d^3). A continuous flow has
    `d log p / dt = -tr(df/dx)` instead: O(d^2) for the trace by the same products, without a
    matrix or a decomposition, or O(d) for an estimate by probes.

    ```python
    import jax.numpy as jnp
    from jaxflow.density import dense_log_det

    z, log_det = dense_log_det(jnp.sinh, jnp.asarray([0.5, -1.0]))
    ```

    Args:
        g: a smooth map of one event to an image with as many entries.
        x: one event, (*event), of d entries.

    Returns:
        `g(x)`, and the log-determinant in nats; -inf if the Jacobian is singular.

    Raises:
        ValueError: `g(x)` has more or fewer entries than `x`.
    """

    def value_and_copy(x: Array) -> tuple[Array, Array]:
        y = g(x)
        return y, y

    jacobian, y = jax.jacfwd(value_and_copy, has_aux=True)(x)
    if y.size != x.size:
        raise ValueError(
            f"g maps x of shape {x.shape} to shape {y.shape}: {x.size} entries to {y.size}, so "
            "dg/dx is not square and has no determinant; g must keep the number of entries"
        )
    return y, jnp.linalg.slogdet(jacobian.reshape(y.size, x.size))[1]
