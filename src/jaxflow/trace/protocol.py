"""The interface of a stochastic trace: how to draw probes and how to estimate from them."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

_METHODS = {
    "draw": "draw(key, shape, dtype) -> probes (k, *shape)",
    "estimate": "estimate(divergences, probes, span) -> (value, standard error or None)",
}


@runtime_checkable
class Estimator(Protocol):
    """A stochastic estimate of the trace; implement it for one of your own.

    The flow calls `draw` once before a solve, with another key for each row, and holds the probes
    `v_i` fixed through it. With `J` the Jacobian of the field integrated along a row's
    trajectory, the solve computes `v_i^T J v_i` for each probe, and `estimate` turns these into
    the trace of `J` and its standard error. It is unbiased if

    ```
    E[estimate((v_i^T A v_i)_i, v, span)] = tr(A)    for every matrix A
    ```
    Both methods must be pure and run under `jax.jit` and `jax.vmap`. The class should be an
    `equinox.Module` or a frozen dataclass, so that compiled functions can take it.

    Example:
        ```python
        import equinox as eqx
        import jax
        import jax.numpy as jnp
        from jaxflow import CNF, StandardNormal
        from jaxflow.dynamics import MLP


        class Signs(eqx.Module):
            num_probes: int = 4

            def draw(self, key, shape, dtype):
                return jax.random.rademacher(key, (self.num_probes, *shape), dtype)

            def estimate(self, divergences, probes, span):
                error = jnp.std(divergences, ddof=1) / self.num_probes**0.5
                return jnp.mean(divergences), error


        flow = CNF(MLP(3, width=8, key=jax.random.key(0)), StandardNormal(3), trace=Signs())
        log_p = flow.log_prob(jnp.ones((5, 3)), key=jax.random.key(1))
        ```
    """

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Draw the probes of one event.

        Args:
            key: random key.
            shape: shape of the event.
            dtype: dtype of the event.

        Returns:
            Probes, (k, *shape).
        """
        ...

    def estimate(
        self, divergences: Float[Array, " k"], probes: Float[Array, "k ..."], span: ArrayLike
    ) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
        """Estimate the integral of the trace over the interval of time.

        Args:
            divergences: integral of `v^T (df/dx) v` for each probe.
            probes: the probes, (k, *event).
            span: length of the interval, negative backwards in time.

        Returns:
            The estimate, and its standard error or None if it is unknown.
        """
        ...


def check_estimator(trace: Any) -> None:
    """Raise TypeError unless `trace` is an instance with both methods that jax can take."""
    if isinstance(trace, type):
        raise TypeError(f"trace={trace.__name__} is a class: write trace={trace.__name__}(...)")
    missing = [text for name, text in _METHODS.items() if not callable(getattr(trace, name, None))]
    if missing:
        raise TypeError(
            f"trace={trace!r} is not a stochastic trace: it lacks {' and '.join(missing)}; "
            "see jaxflow.trace.Estimator"
        )
    # jax treats an object that is not a pytree as a constant, and must hash it.
    if not isinstance(trace, eqx.Module) and type(trace).__hash__ is None:
        raise TypeError(
            f"trace={trace!r} cannot be hashed: make {type(trace).__name__} an equinox.Module, "
            "or a dataclass with frozen=True"
        )
