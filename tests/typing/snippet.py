"""jaxflow as a user writes it, for the type checker: `make lint` checks it, nothing runs it.

Types that shall be known are asserted; calls that shall be refused are marked, and a mark that
is not needed is an error too.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import Any, assert_type

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxflow
from jaxflow import CNF, ODE, Hutchinson, StandardNormal, Stats, TrainConfig
from jaxflow.diagnostics import check_trace
from jaxflow.dynamics import MLP
from jaxflow.estimator import FlowDensity
from jaxflow.objectives import FlowMatching, MaximumLikelihood, Staged
from jaxflow.trace import Estimator
from jaxflow.training import History


class Constant(eqx.Module):
    """A field of a user's own."""

    velocity: Array

    def __call__(self, t: Array, x: Array, cond: Array | None = None) -> Array:
        """`dx/dt`."""
        return self.velocity


class Ones(eqx.Module):
    """A trace of a user's own; it says nothing of its error."""

    def draw(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """One vector."""
        return jnp.ones((1, *shape), dtype)

    def estimate(self, divergences: Array, probes: Array, span: Any) -> tuple[Array, None]:
        """Its integral as it is."""
        return divergences[0], None


def objective(
    flow: CNF, x: Array, cond: Array | None, key: Array
) -> tuple[Array, dict[str, Array]]:
    """An objective of a user's own."""
    return -jnp.mean(flow.log_prob(x, cond, key)), {}


def flows(x: np.ndarray) -> None:
    """Fit, score, sample."""
    key = jax.random.key(0)
    flow = CNF(MLP(2, width=64, key=key), StandardNormal(2), ode=ODE(solver="rk4", num_steps=4))
    assert_type(flow.log_prob(x), Array)
    assert_type(flow.log_prob(x, atol_nats=1e-3, verify=True), Array)
    assert_type(flow.sample(key, (10, 3)), Array)
    assert_type(flow.sample(key, 10, cond=jnp.ones(3)), Array)
    assert_type(flow.sample_and_log_prob(key, 10), tuple[Array, Array])
    assert_type(flow.log_prob_at(0.5, x), Array)
    assert_type(flow.transport(x, 0.0, 1.0), Array)
    answer = flow.log_prob_with_error(x, key=key)
    assert_type(answer.value, Array)
    assert_type(answer.trace_se, Array | None)
    assert_type(answer.ode_error, Array | None)
    assert_type(flow.choose_probes(x, key=key), CNF)
    ensemble = jaxflow.Ensemble([flow, flow], [1, 2])
    assert_type(ensemble.log_prob(x, atol_nats=1e-3), Array)
    assert_type(ensemble.sample_and_log_prob(key, 10), tuple[Array, Array])
    trained, history = jaxflow.fit(
        flow, x, key=key, config=TrainConfig(steps=10), objective=Staged()
    )
    assert_type(trained, CNF)
    assert_type(history, History)
    jaxflow.fit(flow, x, key=key, objective=objective, callback=lambda row: row["loss"] > 3)
    jaxflow.fit(flow, x, key=key, objective=FlowMatching(), validation=(x, None, None))
    jaxflow.fit(flow, x, key=key, objective=MaximumLikelihood(kinetic=0.1))
    jaxflow.save("flow.safetensors", flow, extra={"seed": 0})
    jaxflow.load("flow.safetensors", like=flow)


def parts(x: np.ndarray) -> None:
    """Fields and traces of one's own, solves, scikit-learn's face."""
    CNF(Constant(jnp.ones(2)), StandardNormal(2), trace="exact")
    CNF(lambda t, x: -x, StandardNormal((2,)), trace=Hutchinson(4, "orthogonal"))
    CNF(Constant(jnp.ones(2)), StandardNormal(2), trace=Ones())
    trace: Estimator = Ones()
    CNF(Constant(jnp.ones(2)), StandardNormal(2), trace=trace)
    y1, stats = jaxflow.odeint(lambda t, y, rate: -rate * y, jnp.ones(3), 0.0, 2.0, 0.5)
    assert_type(y1, Any)
    assert_type(stats, Stats)
    assert_type(check_trace(MLP(2, key=jax.random.key(0)), x), float)
    estimator = FlowDensity(contamination=0.1).fit(x)
    assert_type(estimator, FlowDensity)
    assert_type(estimator.score_samples(x), np.ndarray)
    assert_type(estimator.sample(5), np.ndarray)


def refused(x: np.ndarray, flow: CNF) -> None:
    """What the checker finds before it runs."""
    CNF(MLP(2, key=jax.random.key(0)), StandardNormal(2), trace="nope")  # pyright: ignore[reportArgumentType]
    CNF(MLP(2, key=jax.random.key(0)), StandardNormal(2), trace=3)  # pyright: ignore[reportArgumentType]
    ODE(gradient="nope")  # pyright: ignore[reportArgumentType]
    flow.log_prob(x, verify="yes")  # pyright: ignore[reportArgumentType]
    jaxflow.fit(flow, x)  # pyright: ignore[reportCallIssue]
    flow.sample("key")  # pyright: ignore[reportArgumentType]
