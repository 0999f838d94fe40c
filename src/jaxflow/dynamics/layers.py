"""Affine layers that see time and a condition, and input checks shared by all networks."""

from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.weights import normal_weights
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Scalar


class ContextLinear(eqx.Module):
    """`h W + b + t w + c V`: an affine layer on the concatenation `(h, t, c)`.

    The terms are kept apart so that `b + t w` is computed once for a batch at one time. A layer
    without inputs, `W` of shape (0, outputs), is affine in time and condition.

    Attributes:
        weight: `W`, (inputs, outputs).
        bias: `b`, (outputs,), or None.
        time: `w`, (outputs,), or None if the layer does not see time.
        cond: `V`, (conditions, outputs), or None if the layer does not see the condition.
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None
    time: Float[Array, " outputs"] | None
    cond: Float[Array, "conditions outputs"] | None

    def __call__(
        self, h: Float[Array, " inputs"], t: Scalar | float = 0.0, cond: Array | None = None
    ) -> Float[Array, " outputs"]:
        """The layer's value; a layer that does not see time needs no `t`."""
        return h @ self.weight + self.context(t, cond)

    def context(self, t: Scalar | float, cond: Array | None) -> Float[Array, " outputs"]:
        """The terms that do not depend on `h`: `b + t w + c V`."""
        parts = [] if self.bias is None else [self.bias]
        if self.time is not None:
            parts.append(t * self.time)
        if self.cond is not None and cond is not None:
            parts.append(cond @ self.cond)
        return sum(parts[1:], start=parts[0])


def context_linear(
    inputs: int,
    outputs: int,
    cond_dim: int,
    key: PRNGKeyArray,
    *,
    time: bool = True,
    bias: bool = True,
    scale: float = 1.0,
) -> ContextLinear:
    """A random layer: weights of variance `scale^2 / fan-in` (LeCun), biases 0."""
    kw, kt, kc = jax.random.split(key, 3)
    fan = inputs + time + cond_dim
    std = scale / fan**0.5
    return ContextLinear(
        normal_weights(kw, (inputs, outputs), std),
        jnp.zeros(outputs) if bias else None,
        normal_weights(kt, (outputs,), std) if time else None,
        normal_weights(kc, (cond_dim, outputs), std) if cond_dim else None,
    )


def plain_linear(
    inputs: int, outputs: int, key: PRNGKeyArray, scale: float = 1.0
) -> ContextLinear:
    """A random layer that sees neither time nor a condition."""
    return context_linear(inputs, outputs, 0, key, time=False, scale=scale)


def network_from_zero(
    inputs: int, outputs: int, *, width: int, depth: int, cond_dim: int = 0, key: PRNGKeyArray
) -> tuple[ContextLinear, ...]:
    """Layers of a time-independent tanh network whose last layer is 0, so its value starts at 0.

    Only the first layer sees the condition.
    """
    sizes = [inputs] + [width] * depth
    keys = jax.random.split(key, depth)
    hidden = [
        context_linear(sizes[i], width, 0 if i else cond_dim, keys[i], time=False)
        for i in range(depth)
    ]
    return (*hidden, ContextLinear(jnp.zeros((width, outputs)), jnp.zeros(outputs), None, None))


def apply_network(
    layers: tuple[ContextLinear, ...], h: Float[Array, " inputs"], cond: Array | None = None
) -> Float[Array, " outputs"]:
    """The value of a time-independent tanh network."""
    *hidden, last = layers
    for layer in hidden:
        h = jnp.tanh(layer(h, cond=cond))
    return last(h, cond=cond)


def check_sizes(
    dim: SupportsIndex, width: SupportsIndex, depth: SupportsIndex, cond_dim: SupportsIndex
) -> tuple[int, int, int, int]:
    """The sizes as ints; raises unless `cond_dim` is at least 0 and the others at least 1."""
    return (
        check_count("dim", dim),
        check_count("width", width),
        check_count("depth", depth),
        check_count("cond_dim", cond_dim, 0),
    )


def read_inputs(
    t: Array, x: Array, cond: Array | None, *, dim: int, cond_dim: int
) -> tuple[Scalar, Float[Array, " dim"], Array | None]:
    """Time in the dtype of `x`, the flattened event and the flattened condition."""
    h = flatten(x, dim, "x")
    return jnp.asarray(t, h.dtype), h, flatten_cond(cond, cond_dim)


def flatten(x: Array, size: int, name: str) -> Array:
    """One event or condition as a vector; raises unless it has `size` entries."""
    if x.size != size:
        raise ValueError(
            f"{name} has shape {x.shape}, so {x.size} entries, but this model was made for {size}"
        )
    return x.reshape(size)


def flatten_cond(cond: Array | None, cond_dim: int) -> Array | None:
    """The condition as a vector, or None for a model without conditions; raises if they differ."""
    if cond is None:
        if cond_dim:
            raise ValueError(
                f"this model was made with cond_dim={cond_dim}: pass cond of shape "
                f"(*batch, {cond_dim})"
            )
        return None
    if not cond_dim:
        raise ValueError(
            f"cond of shape {cond.shape} was given to a model without conditions: make it with "
            f"cond_dim={cond.size}"
        )
    return flatten(cond, cond_dim, "cond")
