"""The interface of a transform from data space to flow space."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxflow.runtime.shapes import ArrayInput, Event, Scalar


@runtime_checkable
class Transform(Protocol):
    """An invertible map from data space `x` to flow space `u`.

    The methods take one sample; vectorise them with `jax.vmap`. `fit` trains the parameters
    of a transform only if `train` names it, so the methods may cut no gradient (`stop_gradient`).

    Optional methods and attributes:
        `image_shape`: shape of one point of flow space, if it is another than `event_shape`.
        `strict`: True if rows outside the support are mistakes: a flow then raises by `check`
            where it would give a log-density of -inf.
        `check(x)`: raise ValueError unless every row of `x`, (rows, *event), can be transformed.
            The library's transforms all have it.
        `inside(x) -> bool`: whether one sample lies in the support, where `forward` is defined.
            Without it, all samples do. Outside, the density is 0.

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


def image_shape(transform: Any) -> tuple[int, ...]:
    """Shape of one point of a transform's flow space: `transform.image_shape` or `event_shape`.

    ```python
    from jaxflow.transforms import LatLon, image_shape

    print(image_shape(LatLon()))  # (3,)
    ```
    """
    return tuple(getattr(transform, "image_shape", transform.event_shape))


def inside(transform: Any, x: Event) -> Bool[Array, ""]:
    """Whether one sample lies in the support of a transform, where `forward` is defined.

    ```python
    import jax, jax.numpy as jnp
    from jaxflow.transforms import Bounded, inside

    positive = Bounded([0.0], [jnp.inf])
    print(jax.vmap(lambda x: inside(positive, x))(jnp.asarray([[1.0], [0.0]])))  # [True, False]
    ```

    Args:
        transform: a transform, or None.
        x: one sample, (*event). NaN counts as inside: it is a failure, not a density of 0.

    Returns:
        True or False, (); True for a transform without a method `inside`.
    """
    method = getattr(transform, "inside", None)
    return jnp.asarray(True) if method is None else method(x)


def check_strict(transform: Any, x: ArrayInput) -> None:
    """Raise where rows are mistakes: outside the support of a `strict` transform, or part of one.

    Args:
        transform: a transform, or None.
        x: rows, (rows, *event).

    Raises:
        ValueError: as `transform.check`.
    """
    method = getattr(transform, "check_strict", None)
    if method is not None:
        method(x)
    elif getattr(transform, "strict", False):
        transform.check(x)
