"""The linear field, whose flow is known in closed form."""

from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.layers import context_linear, flatten, flatten_cond
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.precision import as_floats
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar


class Linear(eqx.Module):
    """`f(t, x) = A x + b (+ C c)`, with trace `tr(A)` everywhere.

    Its flow maps a Gaussian to a Gaussian: with `b = 0`, `x(1) = expm(A) x(0)`.

    ```python
    import jax.numpy as jnp
    from jaxflow.dynamics import Linear

    rotation = Linear(matrix=jnp.asarray([[0.0, -1.0], [1.0, 0.0]]))
    value, trace = rotation.with_trace(jnp.asarray(0.0), jnp.asarray([1.0, 2.0]))  # trace 0
    ```

    Attributes:
        matrix: `A`, (dim, dim).
        bias: `b`, (dim,), 0 at the start.
        cond: `C^T`, (cond_dim, dim), or None.
    """

    matrix: Float[Array, "dim dim"]
    bias: Float[Array, " dim"]
    cond: Float[Array, "cond_dim dim"] | None

    def __init__(
        self,
        dim: SupportsIndex | None = None,
        *,
        matrix: ArrayInput | None = None,
        cond_dim: SupportsIndex = 0,
        key: PRNGKeyArray | None = None,
    ) -> None:
        """Make a field with a given matrix, or with a random one.

        Args:
            dim: number of entries of an event, for a random matrix.
            matrix: `A`, (dim, dim), instead of `dim`.
            cond_dim: number of entries of a condition; 0 for none.
            key: for the random weights.

        Raises:
            ValueError: both or neither of `matrix` and `dim` are given, `key` is missing, or the
                matrix is not square.
        """
        cond_dim = check_count("cond_dim", cond_dim, 0)
        if matrix is not None and dim is None:
            self.matrix = as_floats(matrix)
            if self.matrix.ndim != 2 or len(set(self.matrix.shape)) > 1:
                raise ValueError(f"matrix has shape {self.matrix.shape}: give (dim, dim)")
            if cond_dim and key is None:
                raise ValueError(f"cond_dim={cond_dim} needs key= for the condition's weights")
        elif dim is not None and key is not None and matrix is None:
            dim = check_count("dim", dim)
            self.matrix = jax.random.normal(key, (dim, dim)) / dim**0.5
        else:
            raise ValueError("write Linear(matrix=A), or Linear(dim, key=key) for a random one")
        size = self.matrix.shape[0]
        self.bias = jnp.zeros(size, self.matrix.dtype)
        self.cond = context_linear(0, size, cond_dim, key).cond if key is not None else None

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """`dx/dt` at one point."""
        h = flatten(x, self.matrix.shape[0], "x")
        c = flatten_cond(cond, 0 if self.cond is None else self.cond.shape[0])
        out = self.matrix @ h + self.bias
        if self.cond is not None and c is not None:
            out = out + c @ self.cond
        return out.reshape(x.shape)

    def with_trace(self, t: Scalar, x: Event, cond: Array | None = None) -> tuple[Event, Scalar]:
        """Value and trace, `(f, tr(A))`."""
        return self(t, x, cond), jnp.trace(self.matrix)
