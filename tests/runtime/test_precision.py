"""Densities use matrix products of full precision; the number of lanes fits the platform."""

import jax
import jax.numpy as jnp
import pytest

from jaxflow import CNF, ODE, StandardNormal
from jaxflow.dynamics import MLP
from jaxflow.ode import odeint
from jaxflow.runtime.lanes import fill_up, lanes_for

X = jnp.ones((3, 2))
FLOW = CNF(MLP(2, width=4, key=jax.random.key(0)), StandardNormal(2))


def precisions(f, *args):
    """Precisions of the matrix products in the jaxpr of `f`."""
    names = set()

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                names.add(str(equation.params["precision"]))
            for each in jax.tree.leaves(
                equation.params,
                is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"),
            ):
                inner = getattr(each, "jaxpr", each)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(f)(*args).jaxpr)
    return names


FULL = {"(Precision.HIGHEST, Precision.HIGHEST)"}


@pytest.mark.parametrize(
    "evaluate",
    [
        FLOW.log_prob,
        FLOW.encode,
        lambda x: FLOW.log_prob_with_error(x).value,
        lambda x: FLOW.log_prob(x, atol_nats=1e-2),
        lambda x: FLOW.sample_and_log_prob(jax.random.key(1), 3)[1],
        jax.grad(lambda x: jnp.sum(FLOW.log_prob(x))),
    ],
    ids=["log_prob", "encode", "with error", "to a tolerance", "sample", "gradient"],
)
def test_evaluation_uses_full_precision(evaluate):
    assert precisions(evaluate, X) == FULL


def test_training_with_fixed_steps_keeps_the_precision_of_jax():
    assert precisions(lambda x: FLOW.log_prob_rows(x, training=True)[0], X) == {"None"}


def test_adaptive_steps_use_full_precision():
    weight = jnp.eye(2)

    def solve(y, ode):
        return odeint(lambda t, y, w: y @ w, y, 0.0, 1.0, weight, ode=ode)[0]

    assert precisions(lambda y: solve(y, ODE()), X) == FULL
    assert precisions(lambda y: solve(y, ODE(num_steps=2)), X) == {"None"}
    back = jax.grad(lambda y: jnp.sum(solve(y, ODE(gradient="adjoint"))))
    assert precisions(back, X) == FULL


def test_the_precision_set_by_the_user_has_priority():
    with jax.default_matmul_precision("tensorfloat32"):
        assert not precisions(FLOW.log_prob, X) & FULL


def test_lanes_depend_only_on_the_platform_and_the_size_of_a_row(monkeypatch):
    assert [lanes_for(size) for size in (1, 32, 33, 64, 65, 10_000)] == [120, 120, 56, 56, 56, 56]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [lanes_for(size) for size in (3, 44, 10**7)] == [2**16, 4096, 256]


def test_batches_are_filled_up_to_few_sizes():
    sizes = {fill_up(num, 128) for num in range(1, 8193)}
    assert len(sizes) == 20
    assert {fill_up(num, 128) for num in (1, 100, 128)} == {128}
    assert all(
        num <= fill_up(num, 128) <= max(num + 127, 1.25 * num + 127) for num in (1, 1153, 8000)
    )
