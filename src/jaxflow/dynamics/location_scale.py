"""A field in a frame that the condition moves and stretches: regression before the flow."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.dynamics.condition import ConditionScaling
from jaxflow.dynamics.trees import Trees
from jaxflow.dynamics.wrapper import AbstractWrapper, Run


class Regression(eqx.Module):
    """`A c + b + trees(c)`: a prediction of numbers from a condition.

    It describes the data and is not trained (`jaxflow.trainable`).

    ```python
    import jax.numpy as jnp
    from jaxflow.dynamics import Regression

    line = Regression(jnp.asarray([[2.0, 0.0]]), jnp.asarray([1.0]))
    print(line(jnp.asarray([3.0, 5.0])))  # 7
    ```

    Attributes:
        matrix: `A`, (outputs, entries).
        bias: `b`, (outputs,).
        trees: for each output a `Trees`, or None.
    """

    matrix: Float[Array, "outputs entries"]
    bias: Float[Array, " outputs"]
    trees: tuple[Trees | None, ...] = ()

    def __call__(self, c: Float[Array, " entries"]) -> Float[Array, " outputs"]:
        """The prediction at one condition."""
        value = self.matrix.astype(c.dtype) @ c + self.bias.astype(c.dtype)
        each = self.trees or (None,) * len(self.bias)
        sums = [jnp.zeros((), c.dtype) if part is None else part(c) for part in each]
        return value + jnp.stack(sums).astype(c.dtype)


class Moments(eqx.Module):
    """An encoder of conditions: `c -> (scaling(c), location(c), log_scale(c))`.

    `LocationScale` reads the last two.

    Attributes:
        scaling: standardises the condition; the regressions see it standardised.
        location: predicts each entry of an event.
        log_scale: predicts the logarithm of the spread around the location.
    """

    scaling: ConditionScaling
    location: Regression
    log_scale: Regression

    def __call__(self, cond: Array) -> Float[Array, " entries"]:
        """Encode one condition, of any shape."""
        c = self.scaling(cond).reshape(-1)
        return jnp.concatenate([c, self.location(c), self.log_scale(c)])


class LocationScale(AbstractWrapper):
    """`x(t) = t m + s^t y(t)`, where `y` follows an inner field; the condition holds m and log s.

    So `dx/dt = m + log(s) (x - t m) + s^t field(t, (x - t m) / s^t, cond)`, with the trace
    `sum(log s)` plus that of the inner field. With an inner field of 0 it carries the base
    `N(0, 1)` to `N(m, s^2)`: the inner field learns what the regression leaves unexplained.

    ```python
    import jax
    import jax.numpy as jnp
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import LocationScale

    field = LocationScale(lambda t, y, cond: 0.0 * y)
    flow = CNF(field, StandardNormal(1))
    mean, log_spread = 3.0, -1.0
    log_p = flow.log_prob(jnp.asarray([3.0]), cond=jnp.asarray([mean, log_spread]))
    ```

    Attributes:
        field: the inner field `f(t, y, cond)`, which sees the whole condition. For events of d
            entries, the last 2 d entries of the condition are m and log s.

    Raises:
        TypeError: `field` is not callable.
    """

    field: Any

    def apply(self, run: Run, t: Array, x: Array, cond: Array | None = None) -> Any:
        """The field's value (and trace)."""
        if cond is None or cond.size < 2 * x.size:
            shape = None if cond is None else cond.shape
            raise ValueError(
                f"cond has shape {shape}; LocationScale needs the location and the logarithm of "
                f"the spread of {x.size} entries as its last {2 * x.size}"
            )
        location, log_scale = cond.reshape(-1)[-2 * x.size :].reshape(2, *x.shape)
        scale = jnp.exp(t * log_scale)
        gap = x - t * location
        result = run(self.field, t, gap / scale, cond)
        value, *trace = result if isinstance(result, tuple) else (result,)
        value = location + log_scale * gap + scale * value
        return (value, trace[0] + jnp.sum(log_scale)) if trace else value
