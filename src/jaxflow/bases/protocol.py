"""The interface of a base, and its vectorised methods."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.runtime.lanes import per_row
from jaxflow.runtime.shapes import Event, Rows, Scalar


@runtime_checkable
class Base(Protocol):
    """The density at `t = 0` that a flow transports to the data.

    The methods take one event; the library vectorises them over rows. NumPyro's distributions
    satisfy this interface. Parameters of the library's bases are not trained.

    Optional methods:
        `log_prob_rows(x) -> (rows,)` and `sample_rows(keys) -> (rows, *event)`: the same for many
            rows in one call, where that is cheaper than `jax.vmap`.
        `cdf(x) -> (*event)`: for independent coordinates, the distribution function of each.
            Diagnostics use it to test whether latent rows follow the base.

    Example:
        ```python
        import jax
        from jaxflow.bases import Base, StudentT

        base = StudentT(4.0, event_shape=2)
        assert isinstance(base, Base)
        x = base.sample(jax.random.key(0))
        print(base.log_prob(x))
        ```
    """

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event; `()` for scalars."""
        ...

    def log_prob(self, x: Event, /) -> Scalar:
        """Log-density of one event, in nats."""
        ...

    def sample(self, key: PRNGKeyArray, /) -> Event:
        """Draw one event."""
        ...


def check_base(base: Any) -> None:
    """Check that an object can be the base of a flow.

    Raises:
        TypeError: it has no `event_shape`, `log_prob` or `sample`.
    """
    for name in ("event_shape", "log_prob", "sample"):
        if not hasattr(base, name):
            raise TypeError(f"base={base!r} has no {name}; give e.g. jaxflow.StandardNormal((d,))")


def log_prob_rows(base: Base, z: Rows, *, grouped: bool = True) -> Float[Array, " rows"]:
    """Log-density of each row, in nats: by `base.log_prob_rows` if it exists, else row by row."""
    together = getattr(base, "log_prob_rows", None)
    return per_row(base.log_prob, z, grouped=grouped) if together is None else together(z)


def sample_rows(base: Base, keys: Array, *, grouped: bool = True) -> Rows:
    """Draw one event for each key: by `base.sample_rows` if it exists, else row by row."""
    together = getattr(base, "sample_rows", None)
    return per_row(base.sample, keys, grouped=grouped) if together is None else together(keys)
