"""What makes a stochastic trace: vectors, and a rule that turns their integrals into an answer."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

_PARTS = {
    "draw": "draw(key, shape, dtype) -> vectors (k, *shape)",
    "estimate": "estimate(divergences, probes, span) -> (value, standard error or None)",
}


@runtime_checkable
class Estimator(Protocol):
    """A stochastic trace, jaxflow's or yours.

    Vectors are drawn once a solve, for each row its own, and held fixed; with `J` the Jacobian
    integrated along a row's trajectory, the solve gives `v_i^T J v_i` for each of them, and
    `estimate` makes of these the trace of `J` and its standard error. Unbiased where

    ```
    E[estimate((v_i^T A v_i)_i, v, span)] = tr(A)    for every matrix A
    ```
    Both methods are pure and run under `jax.jit` and `jax.vmap`. An Equinox module will do.
    """

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        """Vectors for one event of this shape, (k, *event)."""
        ...

    def estimate(
        self, divergences: Float[Array, " k"], probes: Float[Array, "k ..."], span: Any
    ) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
        """The integral of the trace and its standard error, None where nothing is known of it.

        Args:
            divergences: integral of `v^T (df/dx) v` over the interval, for each vector.
            probes: the vectors.
            span: length of the interval of time, negative backwards.
        """
        ...


def check_estimator(trace: Any) -> None:
    """Refuse what cannot estimate a trace.

    Raises:
        TypeError: a class in the place of its instance, a method that is missing, or a value
            that no compiled function can take.
    """
    if isinstance(trace, type):
        raise TypeError(f"trace={trace.__name__} is a class: write trace={trace.__name__}(...)")
    missing = [text for name, text in _PARTS.items() if not callable(getattr(trace, name, None))]
    if missing:
        raise TypeError(
            f"trace={trace!r} is no stochastic trace, for it has no {' and no '.join(missing)}; "
            "see jaxflow.trace.Estimator"
        )
    # What JAX does not take apart is a constant of the compiled function.
    if not isinstance(trace, eqx.Module) and type(trace).__hash__ is None:
        raise TypeError(
            f"trace={trace!r} cannot be hashed: make {type(trace).__name__} an equinox.Module, "
            "or a dataclass with frozen=True"
        )
