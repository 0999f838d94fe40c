"""The density of continuous columns given the discrete ones: scaling, Gaussian, flow."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxflow.density.error import LogDensity
from jaxflow.dynamics.protocol import Field
from jaxflow.flows.cnf import CNF
from jaxflow.tables.gaussian import Conditions, LinearGaussian

# Draws from the Gaussian are wider than it by this factor, so that no weight is very large.
WIDER = 1.1

Numbers = Float[np.ndarray, "n columns"]
Codes = Float[np.ndarray, "n variables"]


class Present(eqx.Module):
    """`f(t, x, (seen, c)) = seen g(t, seen x, (seen, c))`: absent entries stand still, unseen."""

    network: Field

    def __call__(self, t: Array, x: Array, cond: Array) -> Array:
        """`dx/dt` at one point."""
        seen = cond[: x.size].reshape(x.shape)
        return seen * self.network(t, seen * x, cond)


class Continuous(eqx.Module):
    """`p(y | seen, inputs)` of the present columns, in three steps: scaling, Gaussian, flow.

    A scaling of each column and a Gaussian with a mean linear in the inputs make scores z, whose
    density is the flow's. Absent columns are filled by `fill` before the scaling and have z = 0,
    where the flow leaves them. The flow's conditions are `(seen, inputs)`, or the inputs alone if
    no cell was absent in training (`masked`). `group` is the discrete variable whose label chooses
    the covariance, and `gates` has for each column the one that is 0 where it is present; -1 for
    none.
    """

    scaling: Any
    start: LinearGaussian
    flow: CNF
    fill: Float[Array, " columns"]
    masked: bool = eqx.field(static=True)
    group: int = eqx.field(static=True)
    gates: tuple[int, ...] = eqx.field(static=True)

    def conditions(self, codes: Codes, inputs: Float[np.ndarray, "n inputs"]) -> Conditions:
        """Conditions of the continuous cells of rows, from their discrete cells."""
        num_labels = self.start.covariances.shape[0]
        return Conditions(
            seen_in(codes, self.gates), inputs, labels_of(codes, self.group, num_labels)
        )

    def log_prob(self, y: Numbers, conditions: Conditions) -> Float[np.ndarray, " n"]:
        """Log-density of the present columns of rows, in nats; 0 for a row without one."""
        z, log_det = self.scores(y, conditions)
        log_p = np.asarray(self.flow.log_prob(z, self.cond(conditions)), np.float64)
        return log_p + _of_absent(conditions) + np.asarray(log_det, np.float64)

    def log_prob_with_error(self, y: Numbers, conditions: Conditions) -> LogDensity:
        """As `log_prob`, with the error of the flow's solve."""
        z, more = self.scored(y, conditions)
        answer: Any = self.flow.log_prob_with_error(z, self.cond(conditions))
        answer = jax.tree.map(np.asarray, answer)
        return answer._replace(value=answer.value + more, refined=answer.refined + more)

    def scored(self, y: Numbers, conditions: Conditions) -> tuple[Array, Float[np.ndarray, " n"]]:
        """Scores of rows, and the log-density of the present columns minus that of the scores."""
        z, log_det = self.scores(y, conditions)
        return z, np.asarray(log_det, np.float64) + _of_absent(conditions)

    def scores(self, y: Numbers, conditions: Conditions) -> tuple[Array, Array]:
        """Scores of rows, 0 where absent, and the log-determinants of the present columns."""
        filled = jnp.asarray(np.where(conditions.seen, y, np.asarray(self.fill)), float)
        return _scores(self.scaling, self.start, filled, conditions)

    def sample(self, key: PRNGKeyArray, conditions: Conditions) -> Numbers:
        """Draw the present columns of rows; NaN elsewhere."""
        z = self.flow.sample(key, len(conditions.seen), self.cond(conditions))
        y = np.asarray(_columns(self.scaling, self.start, z, conditions), np.float64)
        return np.where(conditions.seen, y, np.nan)

    def propose(
        self,
        key: PRNGKeyArray,
        y: Numbers,
        known: Bool[np.ndarray, "n columns"],
        conditions: Conditions,
    ) -> tuple[Numbers, Float[np.ndarray, " n"]]:
        """Draw unknown cells from the Gaussian given the known ones, with their log-density."""
        filled = jnp.asarray(np.where(known, y, np.asarray(self.fill)), float)
        drawn, log_q = _propose(
            self.scaling, self.start, key, filled, jnp.asarray(known), conditions
        )
        drawn = np.where(known, y, np.asarray(drawn, np.float64))
        return np.where(conditions.seen, drawn, np.nan), np.asarray(log_q, np.float64)

    def cond(self, conditions: Conditions) -> Array | None:
        """Conditions of the flow."""
        parts = [conditions.seen, conditions.inputs] if self.masked else [conditions.inputs]
        cond = jnp.concatenate([jnp.asarray(part, float) for part in parts], axis=1)
        return cond if cond.shape[1] else None


def _of_absent(conditions: Conditions) -> Float[np.ndarray, " n"]:
    """Minus the log-density of the base at the scores 0 of absent columns."""
    return 0.5 * math.log(2 * math.pi) * (~np.asarray(conditions.seen)).sum(axis=1)


def seen_in(codes: Codes, gates: tuple[int, ...]) -> Bool[np.ndarray, "n columns"]:
    """The columns whose gate is 0, or that have none."""
    each = [codes[:, gate] == 0 if gate >= 0 else np.ones(len(codes), bool) for gate in gates]
    return np.stack(each, axis=1)


def labels_of(codes: Codes, group: int, num_labels: int) -> Int[np.ndarray, " n"]:
    """The label that chooses the covariance, the last one where it is absent."""
    if group < 0:
        return np.zeros(len(codes), int)
    return np.nan_to_num(codes[:, group], nan=num_labels - 1.0).astype(int)


def scale(scaling: Any, y: Array) -> tuple[Array, Array]:
    """Scaled columns, and the logarithm of the slope of each; a column's scaling is its own."""

    def one(y: Array) -> tuple[Array, Array]:
        u, slope = jax.jvp(lambda y: scaling.forward(y)[0], (y,), (jnp.ones_like(y),))
        return u, jnp.log(slope)

    return jax.vmap(one)(y)


@eqx.filter_jit
def _scores(
    scaling: Any, start: LinearGaussian, y: Float[Array, "n columns"], conditions: Conditions
) -> tuple[Array, Array]:
    u, log_slopes = scale(scaling, y)
    z, log_det = jax.vmap(start.forward)(u, conditions)
    return z, log_det + jnp.sum(jnp.where(conditions.seen, log_slopes, 0.0), axis=1)


@eqx.filter_jit
def _propose(
    scaling: Any,
    start: LinearGaussian,
    key: PRNGKeyArray,
    y: Float[Array, "n columns"],
    known: Array,
    conditions: Conditions,
) -> tuple[Array, Array]:
    mean, factor = jax.vmap(start.rest)(scale(scaling, y)[0], known, conditions)
    noise = WIDER * jax.random.normal(key, mean.shape, mean.dtype)
    free = conditions.seen & ~known
    u = mean + jnp.einsum("nij,nj->ni", factor, jnp.where(free, noise, 0.0))
    y = jax.vmap(scaling.inverse)(u)[0]
    log_slopes = scale(scaling, y)[1] - jnp.log(jnp.diagonal(factor, axis1=1, axis2=2))
    log_normal = -0.5 * (noise / WIDER) ** 2 - jnp.log(WIDER) - 0.5 * math.log(2 * math.pi)
    return y, jnp.sum(jnp.where(free, log_normal + log_slopes, 0.0), axis=1)


@eqx.filter_jit
def _columns(scaling: Any, start: LinearGaussian, z: Array, conditions: Conditions) -> Array:
    u = jax.vmap(start.inverse)(z, conditions)
    return jax.vmap(scaling.inverse)(u)[0]
