"""`jax.vmap` of calls on a row each is the call on all rows: values, derivatives, bits, memory."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, CouplingFlow, StudentT
from jaxflow.dynamics import MLP
from jaxflow.runtime.joined import join_with_totals
from jaxflow.transforms import Standardise

RNG = np.random.default_rng(3)
ROWS = 6
X, COND = (jnp.asarray(RNG.normal(size=(ROWS, size))) for size in (2, 1))
KEYS = jax.random.split(jax.random.key(1), ROWS)
TRANSFORM = Standardise(jnp.asarray([0.2, -0.1]), jnp.asarray([1.5, 0.7]))


def grown(model):
    """With weights none of which is 0."""
    return jax.tree.map(
        lambda w: w + 0.3 * RNG.normal(size=w.shape) if eqx.is_inexact_array(w) else w, model
    )


FIELD = grown(MLP(2, width=4, depth=1, cond_dim=1, key=jax.random.key(0)))
ADAPTIVE = CNF(FIELD, StudentT(4.0, (2,)), transform=TRANSFORM, ode_eval=ODE(rtol=1e-6, atol=1e-6))
FIXED = replace(ADAPTIVE, ode_eval=ODE(num_steps=3, solver="rk4", gradient="direct"))
COUPLING = CouplingFlow(
    2, width=4, num_layers=2, cond_dim=1, transform=TRANSFORM, key=jax.random.key(2)
)
COUPLING = eqx.tree_at(lambda flow: flow.layers, COUPLING, grown(COUPLING.layers))
FLOWS = {"adaptive": ADAPTIVE, "fixed": FIXED, "coupling": COUPLING}
CALLS = {
    "log_prob": lambda x, cond: ADAPTIVE.log_prob(x, cond),
    "log_prob_with_error": lambda x, cond: ADAPTIVE.log_prob_with_error(x, cond),
    "encode": lambda x, cond: ADAPTIVE.encode(x, cond),
    "decode": lambda x, cond: FIXED.decode(x, cond),
    "log_prob_at": lambda x, cond: FIXED.log_prob_at(0.5, x, cond),
    "transport": lambda x, cond: FIXED.transport(x, 0.2, 0.7, cond),
    "coupling": lambda x, cond: COUPLING.log_prob(x, cond),
}


def agree(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), actual, expected
    )


@pytest.mark.quick("log_prob", "decode", "log_prob_at", "transport", "coupling")
@pytest.mark.parametrize("name", CALLS)
def test_vmap_of_rows_is_the_batch(name):
    call = CALLS[name]
    agree(jax.jit(jax.vmap(call))(X, COND), call(X, COND))


def test_nested_vmaps_and_one_condition_for_all_rows():
    x = X.reshape(3, 2, 2)
    each = jax.vmap(jax.vmap(FIXED.log_prob, (0, None)), (1, None), out_axes=1)
    agree(each(x, COND[0]), FIXED.log_prob(x, COND[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_vmap_over_keys_draws_what_each_key_draws(name):
    flow = FLOWS[name]
    for draw in (
        lambda key, cond: flow.sample_and_log_prob(key, 1, cond),
        lambda key, cond: flow.sample(key, (), cond),
    ):
        drawn = jax.vmap(draw)(KEYS, COND)
        agree(jax.tree.map(lambda leaf: leaf[4], drawn), draw(KEYS[4], COND[4]))


@pytest.mark.quick("coupling")
@pytest.mark.parametrize("name", FLOWS)
def test_gradients_of_a_vmap_those_in_a_vmap_and_those_of_the_batch_agree(name):
    arrays, static = eqx.partition(FLOWS[name], eqx.is_inexact_array)

    def log_p(arrays, x, cond):
        return eqx.combine(arrays, static).log_prob(x, cond)

    def total(arrays, x, cond):
        return jnp.sum(log_p(arrays, x, cond) ** 2)

    def total_of_vmap(arrays, x, cond):
        return jnp.sum(jax.vmap(log_p, (None, 0, 0))(arrays, x, cond) ** 2)

    batch = jax.jit(jax.grad(total, (0, 1, 2)))(arrays, X, COND)
    agree(jax.jit(jax.grad(total_of_vmap, (0, 1, 2)))(arrays, X, COND), batch)
    one_by_one = jax.jit(jax.vmap(jax.grad(total, (0, 1, 2)), (None, 0, 0)))
    of_arrays, *of_rows = one_by_one(arrays, X, COND)
    agree((jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), of_arrays), *of_rows), batch)


@pytest.mark.quick("coupling")
@pytest.mark.parametrize("name", ["fixed", "coupling"])
def test_forward_mode_through_a_vmap(name):
    def total(x):
        return jax.vmap(FLOWS[name].log_prob)(x, COND)

    gradient = jax.vmap(jax.grad(lambda x, cond: FLOWS[name].log_prob(x, cond)))(X, COND)
    agree(jax.jvp(total, (X,), (COND * X,))[1], jnp.sum(gradient * COND * X, axis=1))


def test_flows_of_an_ensemble_score_as_each_of_them():
    others = [replace(FIXED, field=field) for field in (FIELD, grown(FIELD))]
    ensemble = jax.tree.map(
        lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *others
    )
    each = eqx.filter_vmap(
        lambda flow, x, cond: flow.log_prob(x, cond), in_axes=(eqx.if_array(0), None, None)
    )(ensemble, X, COND)
    agree(each, jnp.stack([flow.log_prob(X, COND) for flow in others]))


def test_calls_with_rows_of_their_own_see_all_of_them_at_once_and_totals_stay_apart():
    seen = []

    def f(rows, weight):
        seen.append(len(rows))
        return weight * jnp.sum(rows**2), weight * rows

    def call(rows):
        return join_with_totals(f, rows, jnp.asarray(3.0))

    totals, outs = jax.vmap(call)(X.reshape(3, 2, 2))
    assert set(seen) == {2, 6}
    agree((totals, outs), (3 * jnp.sum(X.reshape(3, 4) ** 2, axis=1), 3 * X.reshape(3, 2, 2)))


SCRIPT = """
import json, sys
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from jaxflow import CNF, CouplingFlow, FlowBase, GaussianMixture
from jaxflow.dynamics import MLP
from jaxflow.transforms import Chain, Gaussianise, Standardise

dim, rows, thorough = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.normal(size=(rows, dim)).astype(np.float32)
grow = lambda w: w + jnp.asarray(0.1 * rng.normal(size=w.shape), w.dtype)
grown = lambda model: jax.tree.map(lambda w: grow(w) if eqx.is_inexact_array(w) else w, model)
transform = Chain((Standardise.fit(x), Gaussianise.fit(x)))
field = grown(MLP(dim, width=32, depth=2, key=jax.random.key(0)))
flow = CNF(field, GaussianMixture.fit(x, 3), transform=transform)
calls = {"log_prob": (flow, lambda flow, x: flow.log_prob(x))}
if thorough:
    above = CNF(field, FlowBase(flow))
    coupling = CouplingFlow(
        dim, width=16, num_layers=4, transform=transform, key=jax.random.key(1)
    )
    coupling = eqx.tree_at(lambda flow: flow.layers, coupling, grown(coupling.layers))
    error = lambda flow, x: flow.log_prob_with_error(x).ode_error
    gradient = lambda flow, x: jax.grad(lambda x: jnp.sum(flow.log_prob(x)))(x)
    calls |= {
        "with error": (flow, error),
        "above with error": (above, error),
        "encode": (flow, lambda flow, x: flow.encode(x)),
        "at": (flow, lambda flow, x: flow.log_prob_at(0.5, x)),
        "decode": (flow, lambda flow, x: flow.decode(x)),
        "gradient": (flow, gradient),
        "coupling": (coupling, lambda flow, x: flow.log_prob(x)),
        "gradient of coupling": (coupling, gradient),
    }
different, memory = {}, {}
for name, (model, call) in calls.items():
    # Parameters are arguments: XLA folds constants, and rounds as it does.
    arrays, static = eqx.partition(model, eqx.is_array)
    one = lambda arrays, x: call(eqx.combine(arrays, static), x)
    batch = jax.jit(one).lower(arrays, x).compile()
    vmap = jax.jit(jax.vmap(one, (None, 0))).lower(arrays, x).compile()
    expected = np.asarray(call(model, x))
    for kind, program in {"batch": batch, "vmap": vmap}.items():
        unequal = np.asarray(program(arrays, x)) != expected
        different[f"{name}, {kind}"] = int(unequal.reshape(rows, -1).any(axis=1).sum())
    sizes = [program.memory_analysis().temp_size_in_bytes for program in (batch, vmap)]
    memory[name] = sizes[1] / sizes[0]
print(json.dumps([different, memory]))
"""


def compare(dim, rows, *, thorough):
    """By call: the rows with other bits than in a batch, and vmap's share of the memory."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([dim, rows, thorough])],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
    )
    assert run.returncode == 0, run.stderr
    different, memory = json.loads(run.stdout)
    assert {name: count for name, count in different.items() if count} == {}
    assert max(memory.values()) <= 2, memory


@pytest.mark.slow
def test_vmap_of_rows_has_the_bits_and_the_memory_of_the_batch():
    compare(2, 64, thorough=False)


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "rows"), [(2, 64), (6, 300)])
def test_vmap_of_rows_has_the_bits_and_the_memory_of_the_batch_in_every_call(dim, rows):
    compare(dim, rows, thorough=True)
