"""`FlowMap`: a flow in a few evaluations, by networks for the flow map and its divergence."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.protocol import prepare
from jaxflow.flows.cnf import CNF
from jaxflow.flows.map_flow import MapFlow
from jaxflow.flows.summary import size_words, words
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.trace import exact_trace


@final
@dataclass(frozen=True)
class MapError:
    """Error of the fast log-density against the exact one, on rows that did not train it.

    Attributes:
        median: median of the absolute difference, nats.
        q90: its 90 % quantile.
        q99: its 99 % quantile.
        bias: mean of fast minus exact, nats.
        num_rows: number of rows.
    """

    median: float
    q90: float
    q99: float
    bias: float
    num_rows: int


class FlowMap(MapFlow):
    """A CNF's flow map over `num_steps` equal times, with one evaluation of its field in each.

    For neighbouring times `s` and `t` a network gives the difference between the mean velocity
    and divergence on the way and the field's own at `s`,

        x(t) = x(s) + (t - s) (f(s, x(s)) + u),    log p_t = log p_s - (t - s) (tr df/dx + d)

    with `(u, d) = net(x(s), s, t)`. Predicting velocity and divergence by a network follows Ai et
    al. 2025 (F2D2, arXiv 2512.02636); here it learns from solved trajectories and only corrects
    the field. Nothing but the data makes the two outputs consistent, so `log_prob` is an
    approximation: `error` holds its measured error, and `exact=True` solves instead.
    `jaxflow.distil` makes one.

    Attributes:
        net: a field of `dim + 1` outputs, `net(s, (x, 0), (t, cond))`.
        exact: the flow that was distilled.
        num_steps: steps of a sample or a log-density, each one evaluation of field and network.
        error: measured error; None if not measured.
    """

    net: Any
    exact: CNF
    num_steps: int = eqx.field(static=True)
    error: MapError | None = eqx.field(static=True)

    def __init__(
        self, net: Any, exact: CNF, num_steps: int, error: MapError | None = None
    ) -> None:
        self.net, self.exact, self.num_steps, self.error = net, exact, num_steps, error

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Explain that the map lacks an attribute that the distilled flow has."""
            if hasattr(vars(self).get("exact"), name):
                raise AttributeError(
                    f"a FlowMap has no {name}: its networks approximate the way from base to "
                    "data, and know no error of a row. Use the distilled flow's, "
                    f"flow.exact.{name}"
                )
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def summary(self) -> dict[str, str]:
        """A text for each part, by its name; as `Flow.summary`."""
        rows = {
            "network": f"{words(self.net)}, {size_words(self.net)}",
            "steps": words(self.num_steps),
            "error": "not measured" if self.error is None else words(self.error),
        }
        return rows | {f"exact {name}": text for name, text in self.exact.summary().items()}

    @property
    def base(self) -> Any:
        """The base of the distilled flow."""
        return self.exact.base

    @property
    def transform(self) -> Any:
        """The transform of the distilled flow."""
        return self.exact.transform

    def log_prob(
        self,
        x: ArrayInput,
        cond: ArrayInput | None = None,
        key: PRNGKeyArray | None = None,
        *,
        exact: bool = False,
        progress: bool | None = False,
    ) -> Float[Array, "*batch"]:
        """Approximate log-density in nats, by `num_steps` evaluations; see `error`.

        Args:
            x: data, (*batch, *event).
            cond: conditions, (*batch, *condition), or one vector for all rows.
            key: random key for the distilled flow's trace, if that is stochastic.
            exact: whether to solve the distilled flow instead.
            progress: whether to show a progress bar; None shows it on a terminal only.

        Returns:
            Log-densities, (*batch).
        """
        if exact:
            return self.exact.log_prob(x, cond, key, progress=progress)
        return super().log_prob(x, cond, progress=progress)

    def sample(
        self,
        key: PRNGKeyArray,
        shape: tuple[int, ...] | SupportsIndex = (),
        cond: ArrayInput | None = None,
        *,
        exact: bool = False,
        progress: bool | None = False,
    ) -> Float[Array, "..."]:
        """Draw samples in data units by `num_steps` evaluations; arguments as for `Flow.sample`.

        The points of the base are those that the distilled flow draws from the same key;
        `exact=True` solves that flow.
        """
        if exact:
            return self.exact.sample(key, shape, cond, progress=progress)
        return super().sample(key, shape, cond, progress=progress)

    def step(
        self, k: int, to: int, x: Float[Array, "*event"], cond: Array | None
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """Move one row from time `k / num_steps` to `to / num_steps`; also the change of log p."""
        s, t = (jnp.asarray(i / self.num_steps, x.dtype) for i in (k, to))
        velocity, trace = exact_trace(prepare(self.exact.field), s, x, cond)
        padded = jnp.concatenate([x.ravel(), jnp.zeros(1, x.dtype)])
        inputs = t[None] if cond is None else jnp.concatenate([t[None], cond.ravel()])
        out = self.net(s, padded, inputs)
        mean = velocity + out[:-1].reshape(x.shape), trace + out[-1]
        return x + (t - s) * mean[0], -(t - s) * mean[1]

    def from_base(
        self, z: Event, cond: Float[Array, "*condition"] | None = None
    ) -> tuple[Event, Scalar]:
        """Map one row of the base to flow space; also `log p_0 - log p_1` along the way."""
        return self._walk(range(self.num_steps), 1, z, cond)

    def to_base(
        self, u: Event, cond: Float[Array, "*condition"] | None = None
    ) -> tuple[Event, Scalar]:
        """Map one row of flow space to the base; also `log p_1 - log p_0` along the way."""
        return self._walk(range(self.num_steps, 0, -1), -1, u, cond)

    def _walk(
        self, steps: range, direction: int, x: Array, cond: Array | None
    ) -> tuple[Array, Array]:
        total = jnp.zeros((), x.dtype)
        for k in steps:
            x, change = self.step(k, k + direction, x, cond)
            total = total + change
        return x, -total
