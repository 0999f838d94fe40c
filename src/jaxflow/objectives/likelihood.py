"""Maximum likelihood: the mean negative log-density of the data."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.model import Flow


def maximum_likelihood(
    flow: Flow,
    x: Float[Array, "rows *event"],
    cond: Array | None,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], dict[str, Int[Array, ""]]]:
    """`-mean(log p(x))` in nats, by the flow's training settings.

    A failed solve gives NaN, in the loss and in its gradient.

    Returns:
        The loss, and the evaluations of the field as a metric where the flow solves an ODE.
    """
    log_p, stats = flow.log_prob_rows(x, cond, key, training=True)
    return -jnp.mean(log_p), {} if stats is None else {"num_evals": stats.num_evals}
