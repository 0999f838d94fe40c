"""Smooth activation functions, by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.dynamics.sine import sine
from jaxflow.runtime.checks import check_choice

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]

ACTIVATIONS: dict[str, Activation] = {
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "swish": jax.nn.swish,
    "gelu": jax.nn.gelu,
    "sigmoid": jax.nn.sigmoid,
    "sin": sine,
}
"""Activations by name, for `MLP(activation=...)` and other fields."""
KINKED = ("relu", "relu6", "leaky_relu", "selu")
KINKED += ("hard_tanh", "hard_sigmoid", "hard_swish", "hard_silu")


def check_activation(activation: str | Activation) -> str | Activation:
    """Return the activation; raise if its name is unknown, or it has a kink."""
    name = getattr(activation, "__name__", "") if callable(activation) else activation
    if name in KINKED:
        raise ValueError(
            f"activation={name!r} has a kink: the trace of df/dx would jump along a trajectory "
            "(adaptive steps collapse there) and its gradient would miss the jumps; choose one "
            f"of {list(ACTIVATIONS)}"
        )
    if not callable(activation):
        check_choice("activation", activation, ACTIVATIONS)
    return activation


def activation_function(activation: str | Activation) -> Activation:
    """The function with this name, or the function itself."""
    return activation if callable(activation) else ACTIVATIONS[activation]


def value_and_slope(
    activation: str | Activation, a: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`s(a)` and `s'(a)`, elementwise, in one pass."""
    return jax.jvp(activation_function(activation), (a,), (jnp.ones_like(a),))
