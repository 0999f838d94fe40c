"""Gradient fields of a scalar potential, with the exact trace of their Hessian."""

from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.closed_form import contract
from jaxflow.dynamics.layers import (
    ContextLinear,
    check_sizes,
    context_linear,
    plain_linear,
    read_inputs,
)
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Event, Scalar


class Potential(eqx.Module):
    """`f(t, x) = -grad_x Phi(t, x)`, the field of OT-Flow.

    With `y = (x, t, c)` and `s(a) = log(exp(a) + exp(-a))`, so `s' = tanh`,

    ```
    Phi = w . u_n + |A y|^2 / 2 + b . y
    u_0 = s(K_0 y + b_0),    u_i = u_{i-1} + h s(K_i u_{i-1} + b_i),    h = 1 / n
    ```
    for `depth = n + 1` layers. The gradient runs from the last layer to the first:

    ```
    z_{n+1} = w,    z_i = z_{i+1} + h K_i^T (s'(a_i) * z_{i+1}),    i = n ... 1
    grad_x Phi = K_0x^T (s'(a_0) * z_1) + A_x^T A y + b_x
    ```
    The trace of the Hessian, with `K_0x` and `A_x` the columns that multiply `x`, is

    ```
    tr = s''(a_0) * z_1 . |rows of K_0x|^2 + h sum_i s''(a_i) * z_{i+1} . |rows of K_i J_{i-1}|^2
         + tr(A_x^T A_x),    J_i = du_i/dx = J_{i-1} + h diag(s'(a_i)) K_i J_{i-1}
    ```
    The first term costs O(width) beyond the gradient, so with one layer the exact trace is free.
    Each further layer costs a (width x width)(width x dim) product per row, more than a probe;
    for a cheaper trace at more depth, use a `Sum` of fields.

    The Jacobian of a gradient field is symmetric: the field has no rotation, and a probe's
    Jacobian-vector product is a product with the Hessian of `Phi`.

    Onken, Wu Fung, Li and Ruthotto (2021), "OT-Flow: Fast and Accurate Continuous Normalizing
    Flows via Optimal Transport", arXiv 2006.00104.

    ```python
    import jax
    from jaxflow.dynamics import Potential

    field = Potential(2, width=32, depth=2, key=jax.random.key(0))
    ```

    Attributes:
        layers: `K_i` and `b_i`; only the first sees `x`, time and condition.
        output: `w`, (width,).
        quadratic: `A`, from `y` to `rank` numbers.
        linear: `b`. Its weights of time and condition shift `Phi` and do not change the field.
    """

    layers: tuple[ContextLinear, ...]
    output: Float[Array, " width"]
    quadratic: ContextLinear
    linear: ContextLinear
    dim: int = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: SupportsIndex,
        *,
        width: SupportsIndex = 128,
        depth: SupportsIndex = 1,
        cond_dim: SupportsIndex = 0,
        rank: SupportsIndex | None = None,
        key: PRNGKeyArray,
    ) -> None:
        """Make a field with random weights. `w` and `A` are small, so the field starts near 0.

        Args:
            dim: number of entries of an event; events of any shape are flattened.
            width: units of a layer.
            depth: number of layers, including the first.
            cond_dim: number of entries of a condition; 0 for none.
            rank: rows of `A`; None for `min(10, dim + 1)`.
            key: for the weights.

        Raises:
            ValueError: a size is out of range.
        """
        dim, width, depth, cond_dim = check_sizes(dim, width, depth, cond_dim)
        rank = min(10, dim + 1) if rank is None else check_count("rank", rank)
        kw, kq, kl, kf, *keys = jax.random.split(key, depth + 3)
        self.layers = (
            context_linear(dim, width, cond_dim, kf),
            *(plain_linear(width, width, k) for k in keys),
        )
        # The field starts at about 0.1: w multiplies columns of K_0 of length 1, A enters squared.
        self.output = 0.1 * (dim / width) ** 0.5 * jax.random.normal(kw, (width,))
        self.quadratic = context_linear(dim, rank, cond_dim, kq, bias=False, scale=0.1**0.5)
        self.linear = context_linear(dim, 1, cond_dim, kl, bias=False, scale=0.0)
        self.dim, self.cond_dim = dim, cond_dim

    def potential(self, t: Scalar, x: Event, cond: Array | None = None) -> Scalar:
        """`Phi` at one point."""
        t, h, c = read_inputs(t, x, cond, dim=self.dim, cond_dim=self.cond_dim)
        u, _ = self._forward(t, h, c)
        y = self.quadratic(h, t, c)
        return jnp.dot(self.output, u) + jnp.dot(y, y) / 2 + self.linear(h, t, c)[0]

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """`dx/dt = -grad_x Phi` at one point."""
        return self.value_and_parts(t, x, cond)[0]

    def value_and_parts(
        self, t: Scalar, x: Event, cond: Array | None = None
    ) -> tuple[Event, list[Array], list[Array]]:
        """The field's value, and `tanh(a_i)` and `z_{i+1}` of each layer."""
        t, h, c = read_inputs(t, x, cond, dim=self.dim, cond_dim=self.cond_dim)
        _, slopes = self._forward(t, h, c)
        z, adjoints = self.output, [self.output]
        for layer, slope in zip(self.layers[:0:-1], slopes[:0:-1], strict=True):
            z = z + self.step * (slope * z) @ layer.weight.T
            adjoints.append(z)
        gradient = (
            (slopes[0] * z) @ self.layers[0].weight.T
            + self.quadratic(h, t, c) @ self.quadratic.weight.T
            + self.linear.weight[:, 0]
        )
        return -gradient.reshape(x.shape), slopes, adjoints[::-1]

    @property
    def step(self) -> float:
        """`h`, the step of the residual layers."""
        return 1.0 / max(1, len(self.layers) - 1)

    def _forward(self, t: Array, x: Array, cond: Array | None) -> tuple[Array, list[Array]]:
        """`u_n`, and `s'(a_i)` of each layer."""
        first, *rest = self.layers
        a = first(x, t, cond)
        u, slopes = log_cosh(a), [jnp.tanh(a)]
        for layer in rest:
            a = layer(u)
            u = u + self.step * log_cosh(a)
            slopes.append(jnp.tanh(a))
        return u, slopes

    def prepare(self) -> "PreparedPotential":
        """The field with the weights of its trace computed."""
        return PreparedPotential(self)

    def with_trace(self, t: Scalar, x: Event, cond: Array | None = None) -> tuple[Event, Scalar]:
        """The field's value and `tr(df/dx) = -tr(Hessian of Phi)`."""
        return self.prepare().with_trace(t, x, cond)


class PreparedPotential(eqx.Module):
    """A `Potential` with the functions of its weights that its trace needs.

    For large `dim`, `J_i = B_i K_0x` is represented by its left factor `B_i`, and
    `|rows of B K_0x|^2 = diag(B G B^T)` uses the Gram matrix `G`.

    Attributes:
        field: the field.
        norms: `|rows of K_0x|^2`.
        constant: `tr(A_x^T A_x)`.
        gram: `G = K_0x K_0x^T` if products with it are cheaper than with `K_0x`, else None.
        first: `K_1 diag(.) K_0x`, transposed. It is linear in the diagonal, so the first product
            of a batch is one matrix product. None with one layer or with `gram`.
    """

    field: Potential
    norms: Float[Array, " width"]
    constant: Scalar
    gram: Float[Array, "width width"] | None
    first: Float[Array, "width dim width"] | None

    def __init__(self, field: Potential) -> None:
        k, *rest = (layer.weight for layer in field.layers)
        dim, width = k.shape
        self.field = field
        self.norms = jnp.sum(k**2, axis=0)
        self.constant = jnp.sum(field.quadratic.weight**2)
        # n products of width^2 dim, against n - 1 of width^3 (B_0 is diagonal) and n with G.
        n = len(rest)
        small = (2 * n - 1) * width < n * dim
        self.gram = k.T @ k if n and small else None
        self.first = k.T[:, :, None] * rest[0][:, None, :] if n and not small else None

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """The field's value."""
        return self.field(t, x, cond)

    def with_trace(self, t: Scalar, x: Event, cond: Array | None = None) -> tuple[Event, Scalar]:
        """The field's value and `tr(df/dx)`."""
        value, slopes, adjoints = self.field.value_and_parts(t, x, cond)
        curvatures = [(1 - s**2) * z for s, z in zip(slopes, adjoints, strict=True)]
        squares = [self.norms, *self._squares(slopes)]
        first, *rest = (contract(s, (c,)) for s, c in zip(squares, curvatures, strict=True))
        hessian = first + self.constant.astype(first.dtype) + self.field.step * sum(rest)
        return value, -hessian

    def _squares(self, slopes: list[Array]) -> list[Array]:
        """`|rows of K_i J_{i-1}|^2` for each layer after the first; arrays are transposed."""
        k, *rest = (layer.weight for layer in self.field.layers)
        squares = []
        j = k * slopes[0][None, :] if self.gram is None else jnp.diag(slopes[0])
        for i, (weight, slope) in enumerate(zip(rest, slopes[1:], strict=True)):
            if i > 0:
                product = j @ weight
            elif self.first is not None:
                product = jnp.tensordot(slopes[0], self.first, axes=1)
            else:
                product = slopes[0][:, None] * weight
            other = product if self.gram is None else self.gram @ product
            squares.append(jnp.sum(product * other, axis=0))
            j = j + self.field.step * product * slope[None, :]
        return squares


@jax.custom_jvp
def log_cosh(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(exp(a) + exp(-a))`, without overflow.

    The derivative is defined by hand: automatic second derivatives of `|a|` are wrong at 0.
    """
    size = jnp.abs(a)
    return size + jnp.log1p(jnp.exp(-2 * size))


@log_cosh.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return log_cosh(primals[0]), jnp.tanh(primals[0]) * tangents[0]
