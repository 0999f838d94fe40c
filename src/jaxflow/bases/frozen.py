"""Frozen distributions of scipy as bases, for evaluation."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxflow.runtime.shapes import Event, Scalar

# Distributions of vectors with a density; scipy's others are on surfaces or of matrices.
VECTORS = ("multivariate_normal_frozen", "multivariate_t_frozen")


class ScipyBase(eqx.Module):
    """A frozen continuous distribution of `scipy.stats`, computed by scipy on the host.

    For evaluation and sampling, also under `jax.jit` and `jax.vmap`, and for training objectives
    that do not differentiate the base, such as flow matching. The log-density has no gradient,
    so maximum likelihood and `log_prob_with_error` are refused. A univariate distribution with
    arrays as parameters gives independent coordinates.

    ```python
    import scipy.stats

    from jaxflow import CNF

    base = scipy.stats.multivariate_normal([0.0, 1.0], [[1.0, 0.5], [0.5, 2.0]])
    flow = CNF(lambda t, x: -x, base)
    log_p = flow.log_prob([[0.5, 0.5]])
    ```

    Attributes:
        distribution: the frozen distribution.
        event_shape: shape of one event.
    """

    distribution: Any = eqx.field(static=True)
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, distribution: Any) -> None:
        """Wrap a distribution.

        Args:
            distribution: of one number, such as `scipy.stats.norm(mean, scale)`, or
                `scipy.stats.multivariate_normal(mean, cov)` or `multivariate_t`.

        Raises:
            TypeError: `distribution` is another one.
            ValueError: its covariance is singular, so that it has no density.
        """
        kind = type(distribution).__name__
        is_vector = kind in VECTORS
        if not is_vector and not (
            hasattr(distribution, "logpdf") and hasattr(distribution, "ppf")
        ):
            raise TypeError(
                f"base={kind} of scipy is not a density of numbers or vectors; allowed are "
                "continuous distributions of one number, such as scipy.stats.norm(mean, scale), "
                "scipy.stats.multivariate_normal(mean, cov) and multivariate_t, each frozen"
            )
        covariance = vars(distribution).get("cov_object", vars(distribution).get("shape_info"))
        if covariance is not None and covariance.rank < distribution.dim:
            raise ValueError(
                f"base={kind} of scipy has a covariance of rank {covariance.rank} in "
                f"{distribution.dim} dimensions, so no density: drop the dependent columns, or "
                "add a small multiple of the identity to the covariance"
            )
        self.distribution = distribution
        drawn = np.shape(distribution.rvs(random_state=np.random.default_rng(0)))
        # Scipy draws numbers, not vectors, from a distribution of vectors with one entry.
        self.event_shape = drawn or ((1,) if is_vector else ())

    def log_prob(self, x: Event) -> Scalar:
        """Log-density of one event, in nats, computed in float64; it has no gradient."""
        return _log_prob(self.distribution, self.event_shape, x)

    def sample(self, key: PRNGKeyArray) -> Event:
        """Draw one event, by NumPy's generator with the bits of the key as its seed."""
        out = jax.ShapeDtypeStruct(self.event_shape, jnp.result_type(float))

        def draw(bits: Any) -> np.ndarray:
            """An event for each key, whose bits are (*batch, bits)."""
            bits = np.asarray(bits)
            seeds = bits.reshape(-1, bits.shape[-1])
            events = [self.distribution.rvs(random_state=np.random.default_rng(s)) for s in seeds]
            return np.asarray(events, out.dtype).reshape(bits.shape[:-1] + out.shape)

        bits = jax.random.key_data(key)
        return jax.pure_callback(draw, out, bits, vmap_method="broadcast_all")


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _log_prob(distribution: Any, event_shape: tuple[int, ...], x: Array) -> Array:
    def density(x: Any) -> np.ndarray:
        values = np.asarray(x, np.float64)
        batch = values.shape[: values.ndim - len(event_shape)]
        log_p = np.asarray(distribution.logpdf(values)).reshape(*batch, -1)
        return np.asarray(log_p.sum(axis=-1), x.dtype)

    out = jax.ShapeDtypeStruct((), x.dtype)
    return jax.pure_callback(density, out, x, vmap_method="broadcast_all")


@_log_prob.defjvp
def _no_gradient(
    distribution: Any, event_shape: tuple[int, ...], primals: Any, tangents: Any
) -> Any:
    raise TypeError(
        f"the base {type(distribution).__name__} is computed by scipy and has no gradient, which "
        "maximum likelihood, log_prob_with_error, atol_nats= and samplers need: give a base of "
        "jax, such as jaxflow.DiagonalNormal, jaxflow.StudentT or a distribution of NumPyro"
    )
