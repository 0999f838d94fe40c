"""Gradient fields of a scalar potential, with the exact trace of their Hessian."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.closed_form import contract
from jaxflow.dynamics.layers import (
    ContextLinear,
    check_sizes,
    context_linear,
    flatten,
    flatten_cond,
)
from jaxflow.runtime.checks import check_count


class Parts(NamedTuple):
    """What an evaluation leaves for the trace: `s' = tanh(a_i)` and `z_{i+1}`, a layer each."""

    slopes: list[Array]
    adjoints: list[Array]


class Potential(eqx.Module):
    """`f(t, x) = -grad_x Phi(t, x)`, the field of OT-Flow.

    With `y = (x, t, c)` and `s(a) = log(exp(a) + exp(-a))`, so `s' = tanh`,

    ```
    Phi = w . u_n + |A y|^2 / 2 + b . y
    u_0 = s(K_0 y + b_0),    u_i = u_{i-1} + h s(K_i u_{i-1} + b_i),    h = 1 / n
    ```
    for `depth = n + 1` layers. The gradient is written out, from the last layer to the first:

    ```
    z_{n+1} = w,    z_i = z_{i+1} + h K_i^T (s'(a_i) * z_{i+1}),    i = n ... 1
    grad_x Phi = K_0x^T (s'(a_0) * z_1) + A_x^T A y + b_x
    ```
    and so is the trace of the Hessian (`K_0x`, `A_x`: the columns of `x`):

    ```
    tr = s''(a_0) * z_1 . |rows of K_0x|^2 + h sum_i s''(a_i) * z_{i+1} . |rows of K_i J_{i-1}|^2
         + tr(A_x^T A_x),    J_i = du_i/dx = J_{i-1} + h diag(s'(a_i)) K_i J_{i-1}
    ```
    The first term costs O(width) next to the gradient, so one layer has its exact trace for
    nothing. Each further layer costs a (width x width)(width x dim) product a row, more than a
    probe: take depth by a sum of fields (`Sum`) where that matters.

    The Jacobian of a gradient field is symmetric, so the Jacobian-vector product of a Hutchinson
    probe is a product with the Hessian of `Phi`, and the field has no rotation.

    Onken, Wu Fung, Li and Ruthotto (2021), "OT-Flow: Fast and Accurate Continuous Normalizing
    Flows via Optimal Transport", arXiv 2006.00104.

    Attributes:
        layers: `K_i` and `b_i`; only the first sees `x`, time and condition.
        output: `w`, (width,).
        quadratic: `A`, from `y` to `rank` numbers.
        linear: `b`. What it has for time and condition shifts `Phi` and leaves the field alone.
        dim: number of entries of an event; events of any shape are flattened.
        cond_dim: number of entries of a condition.
    """

    layers: tuple[ContextLinear, ...]
    output: Float[Array, " width"]
    quadratic: ContextLinear
    linear: ContextLinear
    dim: int = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        width: int = 128,
        depth: int = 1,
        cond_dim: int = 0,
        rank: int | None = None,
        key: PRNGKeyArray,
    ) -> None:
        """Make a field with random weights; `w` and `A` are small, so the flow starts near 0.

        Args:
            dim: number of entries of an event.
            width: units of a layer.
            depth: number of layers, the first among them.
            cond_dim: number of entries of a condition; 0 for none.
            rank: rows of `A`; `min(10, dim + 1)` by default.
            key: for the weights.

        Raises:
            ValueError: a size out of range.
        """
        check_sizes(dim, width, depth, cond_dim)
        rank = min(10, dim + 1) if rank is None else rank
        check_count("rank", rank)
        kw, kq, kl, kf, *keys = jax.random.split(key, depth + 3)
        self.layers = (
            context_linear(dim, width, cond_dim, kf),
            *(context_linear(width, width, 0, k, time=False) for k in keys),
        )
        # Fields of about 0.1 at first: w meets columns of K_0 of length 1, A counts squared.
        self.output = 0.1 * (dim / width) ** 0.5 * jax.random.normal(kw, (width,))
        self.quadratic = context_linear(dim, rank, cond_dim, kq, bias=False, scale=0.1**0.5)
        self.linear = context_linear(dim, 1, cond_dim, kl, bias=False, scale=0.0)
        self.dim, self.cond_dim = dim, cond_dim

    def potential(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, ""]:
        """`Phi` at one point."""
        t, h, c = self._inputs(t, x, cond)
        u, _ = self._forward(t, h, c)
        y = self.quadratic(h, t, c)
        return jnp.dot(self.output, u) + jnp.dot(y, y) / 2 + self.linear(h, t, c)[0]

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`dx/dt = -grad_x Phi` at one point."""
        return self.value_and_parts(t, x, cond)[0]

    def value_and_parts(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Float[Array, "*event"], Parts]:
        """The field's value, and what its trace is made of."""
        t, h, c = self._inputs(t, x, cond)
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
        return -gradient.reshape(x.shape), Parts(slopes, adjoints[::-1])

    @property
    def step(self) -> float:
        """`h`, the step of the residual layers."""
        return 1.0 / max(1, len(self.layers) - 1)

    def _inputs(self, t: Array, x: Array, cond: Array | None) -> tuple[Array, Array, Array | None]:
        h, c = flatten(x, self.dim, "x"), flatten_cond(cond, self.cond_dim)
        return jnp.asarray(t, h.dtype), h, c

    def _forward(self, t: Array, x: Array, cond: Array | None) -> tuple[Array, list[Array]]:
        """`u_n`, and `s'(a_i)` of each layer."""
        first, *rest = self.layers
        a = first(x, t, cond)
        u, slopes = log_cosh(a), [jnp.tanh(a)]
        for layer in rest:
            a = layer(u, t, None)
            u = u + self.step * log_cosh(a)
            slopes.append(jnp.tanh(a))
        return u, slopes

    def prepare(self) -> "PreparedPotential":
        """The field with the weights of its trace computed, once a solve."""
        return PreparedPotential(self)

    def with_trace(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The field's value and `tr(df/dx)`, minus the trace of the Hessian of `Phi`."""
        return self.prepare().with_trace(t, x, cond)


class PreparedPotential(eqx.Module):
    """A `Potential` together with what its trace needs of the weights alone.

    Where `dim` is large, `J_i` is known by its left factor `B_i`, `J_i = B_i K_0x`, and
    `|rows of B K_0x|^2 = diag(B G B^T)` by the Gram matrix `G`.

    Attributes:
        field: the field.
        norms: `|rows of K_0x|^2`.
        constant: `tr(A_x^T A_x)`.
        gram: `G = K_0x K_0x^T`, where products with it are cheaper than with `K_0x`; else None.
        first: `K_1 diag(.) K_0x`, transposed; linear in the diagonal, it makes the first product
            one of matrices for a batch. None with one layer, and with the Gram matrix.
    """

    field: Potential
    norms: Float[Array, " width"]
    constant: Float[Array, ""]
    gram: Float[Array, "width width"] | None
    first: Float[Array, "width dim width"] | None

    def __init__(self, field: Potential) -> None:
        k, *rest = (layer.weight for layer in field.layers)
        dim, width = k.shape
        self.field = field
        self.norms = jnp.sum(k**2, axis=0)
        self.constant = jnp.sum(field.quadratic.weight**2)
        # n products of width^2 dim against n - 1 of width^3, for B_0 is diagonal, and n with G.
        n = len(rest)
        small = (2 * n - 1) * width < n * dim
        self.gram = k.T @ k if n and small else None
        self.first = k.T[:, :, None] * rest[0][:, None, :] if n and not small else None

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """The field's value."""
        return self.field(t, x, cond)

    def with_trace(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The field's value and `tr(df/dx)`."""
        value, (slopes, adjoints) = self.field.value_and_parts(t, x, cond)
        curvatures = [(1 - s**2) * z for s, z in zip(slopes, adjoints, strict=True)]
        squares = [self.norms, *self._squares(slopes)]
        first, *rest = (contract(s, (c,)) for s, c in zip(squares, curvatures, strict=True))
        hessian = first + self.constant.astype(first.dtype) + self.field.step * sum(rest)
        return value, -hessian

    def _squares(self, slopes: list[Array]) -> list[Array]:
        """`|rows of K_i J_{i-1}|^2` for each layer but the first; arrays are transposed."""
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

    Its derivative is given, since those of `|a|` are wrong at 0 from the second on.
    """
    size = jnp.abs(a)
    return size + jnp.log1p(jnp.exp(-2 * size))


@log_cosh.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return log_cosh(primals[0]), jnp.tanh(primals[0]) * tangents[0]
