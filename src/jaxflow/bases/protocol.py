"""The interface of a base, and its vectorised methods."""

import inspect
import operator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases.frozen import ScipyBase
from jaxflow.bases.seeded import SeededBase
from jaxflow.runtime.arguments import promote_dtypes
from jaxflow.runtime.lanes import per_row
from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.runtime.shapes import Event, Rows, Scalar


@runtime_checkable
class Base(Protocol):
    """The density at `t = 0` that a flow transports to the data.

    The methods take one event; the library vectorises them over rows. NumPyro's distributions
    satisfy this interface, if batch axes are made part of the event: `to_event(1)`. Flows also
    take those of distrax and TensorFlow Probability (`SeededBase`) and, for evaluation, frozen
    ones of scipy (`ScipyBase`). `fit` trains a base if `train` names it, so the methods must not
    use `stop_gradient`.

    Optional methods:
        `log_prob_rows(x) -> (rows,)` and `sample_rows(keys) -> (rows, *event)`: the same for many
            rows in one call, where that is cheaper than `jax.vmap`.
        `cdf(x) -> (*event)`: for independent coordinates, the distribution function of each.
            Diagnostics use it to test whether latent rows follow the base, and
            `jaxflow.quantile` inverts it.
        `icdf(q) -> (*event)`: its inverse, the quantile of each coordinate, where there is a
            closed form.

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


def as_base(base: Any) -> Any:
    """The object itself, or a base that wraps it, after a check of shapes that computes nothing.

    Takes an object with `event_shape`, `log_prob(x)`, and `sample(key)` or `sample(seed=key)`
    (distrax, TensorFlow Probability), or a frozen distribution of scipy. Raises TypeError if one
    of these is missing or an event is not one array, ValueError if `sample` does not draw one
    event, `log_prob` of it is not a number, or events are not continuous.
    """
    if hasattr(base, "rvs") and not hasattr(base, "log_prob"):
        base = ScipyBase(base)
    for name in ("event_shape", "log_prob", "sample"):
        if not hasattr(base, name):
            raise TypeError(f"base={base!r} has no {name}; give e.g. jaxflow.StandardNormal((d,))")
    try:
        tuple(map(operator.index, base.event_shape))
    except TypeError:
        raise TypeError(
            f"base={base!r} has event_shape={base.event_shape}; give a distribution whose events "
            "are one array, such as jaxflow.StandardNormal((d,))"
        ) from None
    if "seed" in inspect.signature(base.sample).parameters:
        base = SeededBase(base)
    _check_shapes(base)
    return base


def check_base(base: Any) -> None:
    """Raise, as `as_base` does, unless an object can be the base of a flow."""
    as_base(base)


def _check_continuous(base: Any, drawn: Any) -> None:
    """Raise if a distribution is discrete: by its `support`, or since it draws no floats."""
    is_discrete = getattr(getattr(base, "support", None), "is_discrete", False)  # NumPyro
    if is_discrete or not jnp.issubdtype(drawn, jnp.floating):
        raise ValueError(
            f"base={base!r} draws values of {drawn} and is discrete: its log_prob is that of a "
            "probability, and a flow needs a density. Give a continuous base, such as "
            "jaxflow.StandardNormal((d,)), and for counts as data "
            "transform=jaxflow.transforms.Dequantise(step)"
        )


def _check_shapes(base: Any) -> None:
    def log_prob(key: PRNGKeyArray) -> Array:
        wide, x = promote_dtypes(base, base.sample(key))
        return wide.log_prob(x)

    key, event = jax.random.key(0), tuple(base.event_shape)
    if isinstance(base, SeededBase):
        user_base = base.distribution
        sample = jax.eval_shape(lambda key: user_base.sample(seed=key), key)
    else:
        user_base = base
        sample = jax.eval_shape(lambda key: base.sample(key), key)
    _check_continuous(user_base, sample.dtype)
    wrong = f"sample(key) has shape {sample.shape}"
    if sample.shape == event:
        log_p = jax.eval_shape(log_prob, key)
        if log_p.shape == ():
            return
        wrong = f"log_prob of a sample has shape {log_p.shape}"
    batch = tuple(getattr(user_base, "batch_shape", ()))
    advice = "a base draws one event and gives it one number"
    if batch and hasattr(user_base, "to_event"):
        advice = f"make its batch of shape {batch} part of the event: base.to_event({len(batch)})"
    elif batch:
        advice = (
            f"make its batch of shape {batch} part of the event: "
            f"Independent(base, reinterpreted_batch_ndims={len(batch)})"
        )
    raise ValueError(f"base={user_base!r} has event_shape={event}, but {wrong}: {advice}")


def log_prob_rows(base: Base, z: Rows, *, grouped: bool = True) -> Float[Array, " rows"]:
    """Log-density of each row, in nats and the dtype of `z`, float32 at least.

    By `base.log_prob_rows` if it exists, else row by row.
    """
    z = z.astype(accumulation_dtype(z.dtype))
    together = getattr(base, "log_prob_rows", None)
    log_p = per_row(base.log_prob, z, grouped=grouped) if together is None else together(z)
    return log_p.astype(z.dtype)


def sample_rows(base: Base, keys: Array, dtype: Any = None, *, grouped: bool = True) -> Rows:
    """Draw one event for each key, rounded to `dtype`; None for the base's own.

    By `base.sample_rows` if it exists, else row by row.
    """
    together = getattr(base, "sample_rows", None)
    z = per_row(base.sample, keys, grouped=grouped) if together is None else together(keys)
    return z if dtype is None else z.astype(dtype)
