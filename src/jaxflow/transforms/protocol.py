"""The interface of a transform from data space to flow space."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool

from jaxflow.runtime.shapes import Event, Scalar


@runtime_checkable
class Transform(Protocol):
    """An invertible map from data space `x` to flow space `u`.

    The methods take one sample; vectorise them with `jax.vmap`. `fit` trains the parameters
    of a transform if `train` names it, so the methods must not use `stop_gradient`.

    Optional methods and attributes:
        `image_shape`: shape of one point of flow space, if it differs from `event_shape`.
        `strict`: True if rows outside the support are mistakes: a flow then calls `check`, which
            raises, instead of returning a log-density of -inf.
        `check(x)`: raise ValueError unless every row of `x`, (rows, *event), can be transformed.
            All of the library's transforms have it.
        `inside(x) -> bool`: whether one sample lies in the support, where `forward` is defined.
            Outside, the density is 0. Without this method all samples are inside.

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
    """Shape of one point of a transform's flow space: `transform.image_shape` or `event_shape`."""
    return tuple(getattr(transform, "image_shape", transform.event_shape))


def inside(transform: Any, x: Event) -> Bool[Array, ""]:
    """Whether one sample lies in the support of a transform, where `forward` is defined.

    NaN counts as inside: it is a failure, not a density of 0. True without a method `inside`.
    """
    method = getattr(transform, "inside", None)
    return jnp.asarray(True) if method is None else method(x)


def is_strict(transform: Any) -> bool:
    """Whether rows outside the support of a transform, or of a part of it, raise."""
    return bool(getattr(transform, "strict", False))


def check_strict(transform: Any, x: Any) -> None:
    """Raise if rows lie outside the support of a `strict` part; no check under jit."""
    if not len(x) or isinstance(x, Tracer) or not is_strict(transform):
        return
    getattr(transform, "check_strict", transform.check)(x)
