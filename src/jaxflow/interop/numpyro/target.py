"""The posterior of a NumPyro model as a target of `ReverseKL`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import initialize_model

from jaxflow.runtime.arguments import as_rows


class Target(NamedTuple):
    """Unnormalised posterior of a model, as a density of one unconstrained vector.

    Attributes:
        log_prob: `x -> log p(x, data)` of one vector (dim,), in nats: the model's log-joint at the
            constrained values plus the log-determinant of the map to them. Its exponential
            integrates to the evidence.
        unflatten: `(*batch, dim) -> {name: (*batch, *site)}`, constrained values of all latent and
            deterministic sites.
        dim: length of the vector.
    """

    log_prob: Callable[[Any], Any]
    unflatten: Callable[[Any], dict[str, Any]]
    dim: int


def target_of(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Target:
    """Turn a NumPyro model and its data into a target of `ReverseKL` and `importance_sample`.

    ```python
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jaxflow.interop.numpyro import target_of
    from jaxflow.objectives import ReverseKL


    def model(y):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


    target = target_of(model, jnp.array([0.3, 1.1]))
    objective = ReverseKL(target=target.log_prob)  # for jaxflow.fit(flow, None, ...)
    sites = target.unflatten(jnp.zeros((5, target.dim)))
    ```

    Args:
        model: a NumPyro model with continuous latent sites.
        *args: its arguments, data included.
        **kwargs: its keyword arguments.

    Returns:
        The target, in unconstrained coordinates.

    Raises:
        ValueError: the model has no latent site.
        RuntimeError: NumPyro found no initial point with a finite log-density.
    """
    info = initialize_model(
        jax.random.key(0), model, model_args=args, model_kwargs=kwargs, validate_grad=False
    )
    flat, unravel = ravel_pytree(info.param_info.z)
    if not flat.size:
        raise ValueError(f"model={model!r} has no continuous latent site to infer")

    # Compiled: tracing a model costs more than evaluating it.
    @jax.jit
    def log_prob(x: Any) -> Any:
        return -info.potential_fn(unravel(x))

    constrain = jax.jit(jax.vmap(lambda row: info.postprocess_fn(unravel(row))))

    def unflatten(x: Any) -> dict[str, Any]:
        rows, batch = as_rows(x, (flat.size,), "x")
        sites = constrain(rows)
        return jax.tree.map(lambda site: site.reshape(*batch, *site.shape[1:]), sites)

    return Target(log_prob, unflatten, flat.size)
