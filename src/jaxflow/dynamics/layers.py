"""Affine layers that see time and a condition, and the checks that all fields share."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.runtime.checks import check_count


class ContextLinear(eqx.Module):
    """`h -> h W + b + t w + c V`: an affine layer on the concatenation `(h, t, c)`.

    The parts are kept apart so that `b + t w` is formed once for a batch at one time. A layer
    of no inputs, `W` of shape (0, outputs), is affine in time and condition alone.

    Attributes:
        weight: (inputs, outputs).
        bias: (outputs,); None leaves it out.
        time: (outputs,); None if the layer does not see time.
        cond: (conditions, outputs); None if the layer does not see the condition.
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None
    time: Float[Array, " outputs"] | None
    cond: Float[Array, "conditions outputs"] | None

    def __call__(
        self, h: Float[Array, " inputs"], t: Float[Array, ""], cond: Array | None
    ) -> Float[Array, " outputs"]:
        """The layer's value."""
        return h @ self.weight + self.context(t, cond)

    def context(self, t: Float[Array, ""], cond: Array | None) -> Float[Array, " outputs"]:
        """The part that does not depend on `h`."""
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
    """A layer with weights of variance `scale^2 / fan-in` (LeCun) and biases 0."""
    kw, kt, kc = jax.random.split(key, 3)
    fan = inputs + time + cond_dim
    std = scale / fan**0.5
    return ContextLinear(
        std * jax.random.normal(kw, (inputs, outputs)),
        jnp.zeros(outputs) if bias else None,
        std * jax.random.normal(kt, (outputs,)) if time else None,
        std * jax.random.normal(kc, (cond_dim, outputs)) if cond_dim else None,
    )


def network_from_zero(
    inputs: int, outputs: int, *, width: int, depth: int, cond_dim: int = 0, key: PRNGKeyArray
) -> tuple[ContextLinear, ...]:
    """Layers of a tanh network of no time whose last layer is 0, so that its value is 0 at first.

    The first layer alone sees the condition.
    """
    sizes = [inputs] + [width] * depth
    keys = jax.random.split(key, depth)
    hidden = [
        context_linear(sizes[i], width, 0 if i else cond_dim, keys[i], time=False)
        for i in range(depth)
    ]
    return (*hidden, ContextLinear(jnp.zeros((width, outputs)), jnp.zeros(outputs), None, None))


def apply_network(
    layers: tuple[ContextLinear, ...], h: Float[Array, " inputs"], cond: Array | None
) -> Float[Array, " outputs"]:
    """The value of a tanh network of no time."""
    no_time = jnp.zeros((), h.dtype)
    *hidden, last = layers
    for layer in hidden:
        h = jnp.tanh(layer(h, no_time, cond))
    return last(h, no_time, cond)


def check_sizes(dim: int, width: int, depth: int, cond_dim: int) -> None:
    """Sizes of a network.

    Raises:
        ValueError: one of them is out of its range.
    """
    for name, value, least in [
        ("dim", dim, 1),
        ("width", width, 1),
        ("depth", depth, 1),
        ("cond_dim", cond_dim, 0),
    ]:
        check_count(name, value, least)


def flatten(x: Array, size: int, name: str) -> Array:
    """One event or condition as a vector.

    Raises:
        ValueError: it does not have `size` entries.
    """
    if x.size != size:
        raise ValueError(
            f"{name} has shape {x.shape}, so {x.size} entries, but this model was made for {size}"
        )
    return x.reshape(size)


def flatten_cond(cond: Array | None, cond_dim: int) -> Array | None:
    """The condition as a vector, or None for a field without one.

    Raises:
        ValueError: a condition is missing, not expected, or of another size.
    """
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
