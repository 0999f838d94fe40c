"""`Ensemble`: the average of several flows' densities, which is a density itself."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.error import LogDensity
from jaxflow.density.mixture import mix
from jaxflow.flows.averaging import (
    averaged,
    checked_flows,
    checked_weights,
    choose,
    exact_answer,
    flow_words,
    joint_stats,
    named,
    nesting,
    refusal,
    side_by_side,
    states_error,
    succeed_where,
    take_drawn,
)
from jaxflow.flows.data_space import mark_outside
from jaxflow.flows.flow import Flow
from jaxflow.ode import Stats
from jaxflow.runtime.arguments import batch_shape, promote_dtypes
from jaxflow.runtime.shapes import ArrayInput

# Folded into the key of a row to choose its flow: far from the numbers that bases fold in.
CHOICE = 2**20


class Ensemble(Flow):
    """The average of the densities of several flows, `p(x) = sum_k w_k p_k(x)`.

    The log-density of a row is never below the weighted average of the flows' own (Jensen's
    inequality). Weights that maximise it on held-out rows are those of stacking (Smyth and
    Wolpert 1999, "Linearly combining density estimators via stacking", Machine Learning 36).
    Log-densities and samples cost a solve of every flow.

    A mixture is not one invertible map, so it has no `encode`, `decode`, `transport` or
    `log_prob_at`: each of `ensemble.flows` has its own. An ensemble of one flow gives the bits of
    that flow.

    ```python
    import jax
    from jaxflow import CNF, Ensemble, StandardNormal
    from jaxflow.dynamics import MLP

    keys = jax.random.split(jax.random.key(0), 3)
    flows = [CNF(MLP(2, key=key), StandardNormal(2)) for key in keys]  # fitted ones in practice
    ensemble = Ensemble(flows)
    x = ensemble.sample(keys[0], 5)
    print(ensemble.log_prob(x))  # nats
    ```

    Attributes:
        flows: a sequence of flows, each with its own base, map and transform, for events of one
            shape. If they are conditional, all of them take the same conditions.
        weights: positive numbers, (flows,), divided by their sum; None for equal ones.
            `jaxflow.trainable` leaves them out.

    Raises:
        TypeError: `flows` is not a sequence of flows.
        ValueError: there is no flow, events have different shapes, or `weights` are not one
            positive number for each flow.
    """

    flows: tuple[Any, ...]
    weights: Float[Array, " flows"]

    def __init__(self, flows: Any, weights: Any = None) -> None:
        self.flows = checked_flows(flows)
        self.weights = checked_weights(weights, self.flows)

    def check_loaded(self) -> None:
        """Raise unless flows and weights from a file fit each other."""
        checked_weights(self.weights, checked_flows(self.flows))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Explain that a mixture lacks an attribute that its flows have."""
            if any(hasattr(flow, name) for flow in vars(self).get("flows", ())):
                raise AttributeError(refusal(name))
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def _no_part(self) -> Any:
        raise AttributeError

    # After an AttributeError, Python asks `__getattr__`.
    base = transform = property(_no_part)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.flows[0].event_shape

    def summary(self) -> dict[str, str]:
        """A text for each flow; as `Flow.summary`."""
        return flow_words(self.flows, self.weights)

    def with_flows(self, flows: Sequence[Any]) -> "Ensemble":
        """The ensemble with these flows in place of its own, and the same weights."""
        return eqx.tree_at(lambda each: each.flows, self, tuple(flows))

    def choose_probes(
        self, x: ArrayInput, cond: ArrayInput | None = None, key: PRNGKeyArray | None = None
    ) -> "Ensemble":
        """The ensemble with the number of probes that each flow needs, as `Flow.choose_probes`."""
        each = zip(self.flows, self._keys(key), strict=True)
        return self.with_flows([flow.choose_probes(x, cond, own) for flow, own in each])

    def log_prob(
        self,
        x: ArrayInput,
        cond: ArrayInput | None = None,
        key: PRNGKeyArray | None = None,
        *,
        atol_nats: float | None = None,
        verify: bool = False,
        progress: bool | None = False,
    ) -> Float[Array, "*batch"]:
        """Log-density of `x` in nats; arguments as for `CNF.log_prob`.

        It is -inf outside the support of all flows. With `atol_nats` each flow is as accurate,
        and so is the mixture, up to rounding. The key is split for the traces of several flows.

        Returns:
            Log-densities, (*batch).

        Raises:
            ValueError: as `CNF.log_prob`.
            TypeError: `atol_nats` with a `FlowMap`, which states no error.
            SolveError: a flow's solve failed, or misses `atol_nats`, in some row, even where its
                share of the density is negligible (`log_prob_with_error` states the error of the
                mixture).
        """
        target: dict[str, Any] = {"atol_nats": atol_nats, "verify": verify}
        target = {} if atol_nats is None and not verify else target
        values = []
        for name, flow, own in self._each(key):
            accuracy = target if target and states_error(flow, name) else {}
            with named(name):
                values.append(flow.log_prob(x, cond, own, progress=progress, **accuracy))
        return averaged(self, values)

    def log_prob_with_error(
        self,
        x: ArrayInput,
        cond: ArrayInput | None = None,
        key: PRNGKeyArray | None = None,
        *,
        atol_nats: float | None = None,
        progress: bool | None = False,
    ) -> LogDensity:
        """Log-density of `x` with an estimate of its error; as `CNF.log_prob_with_error`.

        The errors of flows count by their share `r_k = w_k p_k / p` of the density: `ode_error`
        is `log(sum_k r_k exp(e_k))`, at most the largest `e_k`, plus the rounding of the sum, and
        `trace_se` is `sqrt(sum_k (r_k se_k)^2)`. Flows without a solve count as exact. What one
        of the flows cannot state is None. With `atol_nats`, `INACCURATE` are the rows where the
        error of the mixture is larger.

        Raises:
            ValueError: as `CNF.log_prob_with_error`.
            TypeError: one of the flows is a `FlowMap`, which states no error.
            SolveError: one of the flows failed in a row.
        """
        answers = []
        for name, flow, own in self._each(key):
            solved = states_error(flow, name)
            score = flow.log_prob_with_error if solved else flow.log_prob
            target = {"atol_nats": atol_nats} if solved else {}
            with named(name):
                answer = score(x, cond, own, progress=progress, **target)
            answers.append(answer if solved else exact_answer(answer))
        return averaged(self, answers, atol_nats)

    def encode(self, *args: Any, **settings: Any) -> NoReturn:
        """Refused with a TypeError: each flow has its own map."""
        raise TypeError(refusal("encode"))

    def decode(self, *args: Any, **settings: Any) -> NoReturn:
        """Refused with a TypeError: each flow has its own map."""
        raise TypeError(refusal("decode"))

    def sample_rows(self, *args: Any, **settings: Any) -> NoReturn:
        """Refused with a TypeError: each flow has its own base; `draw_rows` draws samples."""
        raise TypeError(refusal("sample_rows"))

    def density_rows(self, *args: Any, **settings: Any) -> tuple[Array, Stats | None]:
        """Log-density of rows in data units: the same as `log_prob_rows`."""
        return self.log_prob_rows(*args, **settings)

    def log_prob_rows(
        self,
        x: Float[Array, "rows *event"],
        cond: Array | None = None,
        key: PRNGKeyArray | None = None,
        *,
        training: bool = False,
    ) -> tuple[Float[Array, " rows"], Stats | None]:
        """Log-density of rows in data units, without checks; as `Flow.log_prob_rows`."""
        values, counts = [], []
        for flow, own in zip(self.flows, self._keys(key), strict=True):
            value, stats = flow.log_prob_rows(x, cond, own, training=training)
            values.append(value)
            counts.append(stats)
        log_p = mix(side_by_side(values), self.weights, grouped=not training)
        return log_p, mark_outside(joint_stats(counts), log_p)

    def draw_rows(
        self,
        keys: Array,
        cond: Array | None = None,
        key: PRNGKeyArray | None = None,
        *,
        with_log_prob: bool = False,
        training: bool = False,
    ) -> tuple[tuple[Float[Array, "rows *event"], Float[Array, " rows"] | None], Stats | None]:
        """Draw one sample for each key, without checks; as `Flow.draw_rows`.

        Each flow draws from the same keys, and a row is that of one of them: gradients reach the
        flows through the samples, and the weights not at all.
        """
        flows, cond = promote_dtypes(self.flows, cond)
        own_keys, index, drawn, counts = self._keys(key), self._choose(keys), [], []
        for k, flow in enumerate(flows):
            draw, stats = flow.draw_rows(
                keys, cond, key, with_log_prob=with_log_prob, training=training
            )
            drawn.append(draw)
            counts.append(succeed_where(index != k, stats))

        def score(k: int, x: Array) -> Array:
            log_p, stats = flows[k].log_prob_rows(x, cond, own_keys[k], training=training)
            counts.append(stats)
            return log_p

        x, values = take_drawn(index, drawn, score)
        log_p = mix(side_by_side(values), self.weights, grouped=not training) if values else None
        return (x, log_p), joint_stats(counts)

    def _sample_batch(
        self,
        key: PRNGKeyArray,
        shape: tuple[int, ...] | SupportsIndex,
        cond: Any,
        progress: bool | None,
        *,
        with_log_prob: bool,
    ) -> tuple[Array, Array | None]:
        batch, (row_key, probe_key) = batch_shape(shape), jax.random.split(key)
        index = self._choose(jax.random.split(row_key, math.prod(batch))).reshape(batch)
        each, drawn = list(self._each(probe_key)), []
        for name, flow, _ in each:
            draw = flow.sample_and_log_prob if with_log_prob else flow.sample
            with named(name):
                draw = draw(key, batch, cond, progress=progress)
            drawn.append(draw if with_log_prob else (draw, None))

        def score(k: int, x: Array) -> Array:
            name, flow, own = each[k]
            # A failed sample, of flows that do not raise, has the log-density NaN already.
            solved = jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x))
            with named(name):
                return flow.log_prob(solved, cond, own, progress=progress)

        x, values = take_drawn(index, drawn, score)
        return x, averaged(self, values) if values else None

    def _each(self, key: PRNGKeyArray | None) -> Iterator[tuple[str, Any, Any]]:
        """Name, flow and key of each; all flows in the widest of their dtypes."""
        names = (f"flows[{k}]" for k in range(len(self.flows)))
        return zip(names, promote_dtypes(*self.flows), self._keys(key), strict=True)

    def _keys(self, key: PRNGKeyArray | None) -> list[Any]:
        """A key for each flow, so that errors of their traces are independent; one keeps `key`."""
        num = len(self.flows)
        return [key] * num if key is None or num == 1 else list(jax.random.split(key, num))

    def _choose(self, keys: Array) -> Array:
        # Ensembles within this one, as flows or in bases, get the same keys.
        return choose(keys, self.weights, CHOICE + nesting(self, Ensemble))


def members(flow: Flow) -> tuple[Flow, ...]:
    """The flow itself, or the flows of an ensemble and of ensembles in it."""
    if not isinstance(flow, Ensemble):
        return (flow,)
    return tuple(each for inner in flow.flows for each in members(inner))
