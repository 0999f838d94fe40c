"""The interface of a transform from data space to flow space."""

from typing import Protocol, runtime_checkable

from jaxflow.runtime.shapes import Event, Scalar


@runtime_checkable
class Transform(Protocol):
    """An invertible map from data space `x` to flow space `u`.

    The methods take one sample; vectorise them with `jax.vmap`. Parameters of the library's
    transforms describe the data and are not trained: their gradient is exactly 0.

    Optional method:
        `check(x)`: raise ValueError unless every row of `x`, (rows, *event), can be transformed.
            The library's transforms all have it.

    Example:
        ```python
        import jax, jax.numpy as jnp
        from jaxflow.transforms import Standardise, Transform

        x = jax.random.normal(jax.random.key(0), (100, 2)) * jnp.asarray([1.0, 5.0])
        transform = Standardise.fit(x)
        assert isinstance(transform, Transform)
        u, log_det = jax.vmap(transform.forward)(x)
        ```
    """

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        ...

    def forward(self, x: Event, /) -> tuple[Event, Scalar]:
        """Map one sample to flow space: `(u, log|det du/dx|)`."""
        ...

    def inverse(self, u: Event, /) -> tuple[Event, Scalar]:
        """Map one point of flow space back to data space: `(x, log|det dx/du|)`."""
        ...
