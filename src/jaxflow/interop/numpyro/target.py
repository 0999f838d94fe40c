"""A NumPyro model's posterior as a target for a flow."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import initialize_model

from jaxflow.runtime.arguments import as_rows


class Target(NamedTuple):
    """A model's unnormalised posterior, as a density of one unconstrained vector.

    Attributes:
        log_prob: `x -> log p(x, data)` of one vector (dim,), nats: the log-joint of the model at
            the constrained values, and the log-determinant of the way there. The integral of
            its exponential is the model's evidence.
        unflatten: `(*batch, dim) -> {name: (*batch, *site)}`, the constrained value of each
            latent site, and of each deterministic one.
        dim: entries of the vector.
    """

    log_prob: Callable[[Any], Any]
    unflatten: Callable[[Any], dict[str, Any]]
    dim: int


def target_of(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Target:
    """A NumPyro model, given its data, as a target for a flow.

    ```python
    target = target_of(model, data)
    flow = CNF(MLP(target.dim, key=key), StandardNormal((target.dim,)))
    objective = ReverseKL(target=target.log_prob)
    flow, _ = jaxflow.fit(flow, None, key=key, objective=objective)
    drawn = jaxflow.importance_sample(flow, target.log_prob, 10_000, key=key)
    target.unflatten(drawn.x)                  # with drawn.log_weights, drawn.log_z
    ```

    Args:
        model: a NumPyro model with continuous latent sites.
        *args: its arguments, data among them.
        **kwargs: its keyword arguments.

    Raises:
        ValueError: a model without latent sites.
        RuntimeError: of NumPyro, where the log-density is finite at no initial point.
    """
    info = initialize_model(
        jax.random.key(0), model, model_args=args, model_kwargs=kwargs, validate_grad=False
    )
    flat, unravel = ravel_pytree(info.param_info.z)
    if not flat.size:
        raise ValueError(f"model={model!r} has no continuous latent site to infer")

    # Compiled, since tracing a model costs more than evaluating it.
    @jax.jit
    def log_prob(x: Any) -> Any:
        return -info.potential_fn(unravel(x))

    constrain = jax.jit(jax.vmap(lambda row: info.postprocess_fn(unravel(row))))

    def unflatten(x: Any) -> dict[str, Any]:
        rows, batch = as_rows(x, (flat.size,), "x")
        sites = constrain(rows)
        return jax.tree.map(lambda site: site.reshape(*batch, *site.shape[1:]), sites)

    return Target(log_prob, unflatten, flat.size)
