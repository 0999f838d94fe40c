"""The flow as its users call it: shapes, conditions, units, precision, errors."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import grown

from jaxflow import CNF, ODE, DiagonalNormal, SolveError, StandardNormal
from jaxflow.dynamics import MLP
from jaxflow.runtime.chunking import CHUNK_ROWS
from jaxflow.runtime.lanes import lanes_for
from jaxflow.training.trainable import combine_trainable, partition_trainable
from jaxflow.transforms import Gaussianise, Standardise

# Fixed steps compile quickly and keep rows apart; adaptive ones are the default of a CNF.
ODE_EVAL = ODE(solver="midpoint", num_steps=1000, gradient="direct")
FIELD = grown(MLP(3, width=5, depth=1, key=jax.random.key(0)))
FLOW = CNF(FIELD, StandardNormal(3), ode_eval=ODE_EVAL)
CONDITIONED = CNF(
    grown(MLP(3, width=5, depth=1, cond_dim=2, key=jax.random.key(0))),
    StandardNormal(3),
    ode_eval=ODE_EVAL,
)
X = jax.random.normal(jax.random.key(4), (4, 3))


class Shrink(eqx.Module):
    """`v = -x`, without arrays or a closed form."""

    def __call__(self, t, x):
        return -x


# --- densities ---


def test_log_prob_at_runs_from_the_base_to_the_data():
    np.testing.assert_allclose(FLOW.log_prob_at(1.0, X), FLOW.log_prob(X), rtol=1e-13)
    np.testing.assert_allclose(FLOW.log_prob_at(0.0, X), jax.vmap(FLOW.base.log_prob)(X))


def test_repeated_calls_are_the_same_to_the_bit():
    np.testing.assert_array_equal(FLOW.log_prob(X), FLOW.log_prob(X))
    key = jax.random.key(1)
    drawn = FLOW.sample(key, 4)
    np.testing.assert_array_equal(drawn, FLOW.sample(key, 4))
    np.testing.assert_allclose(FLOW.sample_and_log_prob(key, 4)[0], drawn, rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (2, 2), (0,), (2, 0)])
def test_batches_of_any_shape(shape):
    n = math.prod(shape)
    log_p = FLOW.log_prob(X[:n].reshape(*shape, 3))
    assert log_p.shape == shape
    np.testing.assert_allclose(log_p.reshape(-1), FLOW.log_prob(X)[:n], atol=1e-6)
    assert FLOW.sample(jax.random.key(0), shape).shape == (*shape, 3)


def test_scalars_are_rows_of_shape_n_or_n_1():
    field = grown(MLP(1, width=5, key=jax.random.key(0)))
    x = jnp.asarray([0.3, -1.0, 2.0])
    scalar, vector = (CNF(field, StandardNormal(shape), ode_eval=ODE_EVAL) for shape in ((), (1,)))
    np.testing.assert_allclose(scalar.log_prob(x), vector.log_prob(x[:, None]), rtol=1e-12)
    assert scalar.sample(jax.random.key(0), 5).shape == (5,)
    assert vector.sample(jax.random.key(0), 5).shape == (5, 1)
    with pytest.raises(
        ValueError, match=r"x has shape \(3,\); this flow needs .*write x\[:, None\]"
    ):
        vector.log_prob(x)


def test_transport_there_and_back_and_at_times_between():
    there = FLOW.transport(X, 0.2, 0.9)
    np.testing.assert_allclose(FLOW.transport(there, 0.9, 0.2), X, atol=1e-6)
    path = FLOW.transport(X.reshape(2, 2, 3), 0.0, 1.0, save_at=[0.5, 1.0])
    assert path.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(path[1].reshape(4, 3), FLOW.decode(X), atol=1e-6)
    np.testing.assert_allclose(path[0].reshape(4, 3), FLOW.transport(X, 0.0, 0.5), atol=1e-6)


def test_more_rows_than_a_chunk_are_the_same_as_their_pieces():
    flow = dataclasses.replace(FLOW, ode_eval=ODE(solver="heun", num_steps=2))
    n = CHUNK_ROWS + 300
    x = jax.random.normal(jax.random.key(2), (n, 3))
    pieces = [flow.log_prob(x[:CHUNK_ROWS]), flow.log_prob(x[CHUNK_ROWS:])]
    np.testing.assert_allclose(flow.log_prob(x), jnp.concatenate(pieces), rtol=1e-12)
    drawn, log_p = flow.sample_and_log_prob(jax.random.key(3), n)
    assert drawn.shape == (n, 3)
    assert len(np.unique(drawn, axis=0)) == n
    assert log_p.shape == (n,)


# --- conditions ---


def test_one_condition_a_row_or_one_for_all():
    cond = jnp.asarray([[0.5, -1.0], [2.0, 0.0], [0.5, -1.0], [0.0, 0.0]])
    together = CONDITIONED.log_prob(X, cond)
    for i in range(4):
        alone = CONDITIONED.log_prob(X[i], cond[i])
        assert float(together[i]) == pytest.approx(float(alone), abs=1e-6)
    np.testing.assert_array_equal(
        CONDITIONED.log_prob(X, cond[0]), CONDITIONED.log_prob(X, jnp.tile(cond[:1], (4, 1)))
    )
    x, log_p = CONDITIONED.sample_and_log_prob(jax.random.key(0), 4, cond)
    np.testing.assert_allclose(CONDITIONED.log_prob(x, cond), log_p, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 2), (2, 4, 2)])
def test_conditions_of_another_batch_are_refused(shape):
    with pytest.raises(ValueError, match=r"cond has|model was made for"):
        CONDITIONED.log_prob(X, jnp.ones(shape))


def test_a_missing_or_unwanted_condition_is_refused():
    with pytest.raises(ValueError, match="cond_dim=2: pass cond of shape"):
        CONDITIONED.log_prob(X)
    with pytest.raises(ValueError, match=r"cond of shape .* without conditions"):
        FLOW.log_prob(X, jnp.ones(2))


# --- units ---


def test_scaled_columns_change_the_density_by_their_log_scales():
    x = np.asarray(jax.random.normal(jax.random.key(6), (50, 2)))
    scales = np.asarray([1000.0, 0.01])
    flow = CNF(grown(MLP(2, width=5, key=jax.random.key(0))), StandardNormal(2), ode_eval=ODE_EVAL)
    one = dataclasses.replace(flow, transform=Standardise.fit(x)).log_prob(x)
    other = dataclasses.replace(flow, transform=Standardise.fit(x * scales)).log_prob(x * scales)
    np.testing.assert_allclose(one - other, math.log(10), atol=1e-6)


@pytest.mark.parametrize(
    "transform", [Standardise, pytest.param(Gaussianise, marks=pytest.mark.slow)]
)
def test_transforms_are_part_of_the_density(transform):
    data = np.exp(np.asarray(jax.random.normal(jax.random.key(6), (300, 3)))) * 20 + 5
    flow = dataclasses.replace(FLOW, transform=transform.fit(data))
    x = jnp.asarray(data[:3])
    jacobian = jax.jit(jax.jacfwd(lambda x: flow.encode(x)))(x[0])
    _, log_det = np.linalg.slogdet(jacobian)
    expected = flow.base.log_prob(flow.encode(x)[0]) + log_det
    assert float(flow.log_prob(x)[0]) == pytest.approx(float(expected), abs=1e-5)
    np.testing.assert_allclose(flow.decode(flow.encode(x)), x, rtol=1e-6)
    drawn, log_p = flow.sample_and_log_prob(jax.random.key(0), 3)
    np.testing.assert_allclose(flow.log_prob(drawn), log_p, atol=1e-5)
    np.testing.assert_allclose(flow.log_prob_at(1.0, x), flow.log_prob(x), rtol=1e-13)


def test_training_leaves_base_and_transform_alone():
    base, transform = DiagonalNormal(jnp.zeros(3), jnp.ones(3)), Standardise.fit(X)
    flow = CNF(FIELD, base, transform=transform)
    trained, frozen = partition_trainable(flow)
    assert len(trained) == len(jax.tree.leaves(FIELD)) == 6
    assert all(name.startswith(".field.layers") for name in trained)
    whole = combine_trainable({name: 2.0 * leaf for name, leaf in trained.items()}, frozen)
    doubled = jax.tree.map(lambda leaf: 2.0 * leaf, FIELD)
    for one, other in ((whole.field, doubled), (whole.base, base), (whole.transform, transform)):
        jax.tree.map(np.testing.assert_array_equal, one, other)


# --- precision ---


def test_the_wider_precision_of_data_and_model_is_kept():
    single = jax.tree.map(lambda w: w.astype(jnp.float32), FIELD)
    narrow = CNF(single, StandardNormal(3), ode_eval=ODE(solver="rk4", num_steps=8))
    x = X.astype(jnp.float32)
    exact = FLOW.log_prob(X)
    for flow, data, dtype in (
        (FLOW, x, "float64"),
        (narrow, X, "float64"),
        (narrow, x, "float32"),
    ):
        log_p = flow.log_prob(data)
        assert log_p.dtype == dtype
        np.testing.assert_allclose(log_p, exact, atol=1e-3)
    assert FLOW.log_prob(np.asarray([[1, 2, 3]])).dtype == "float64"


# --- settings ---


def test_training_takes_the_training_settings():
    x = jnp.ones((2, 5))
    flow = CNF(Shrink(), StandardNormal(5), ode=ODE(solver="euler", num_steps=3))
    with pytest.raises(ValueError, match="needs random probes"):
        flow.log_prob_rows(x, training=True)
    log_p, stats = flow.log_prob_rows(x, key=jax.random.key(0), training=True)
    assert stats is not None
    assert int(stats.num_evals) == 3
    # Back from 1 to 0 in three Euler steps: x grows by (4/3)^3, log p by the trace 5.
    z = jnp.asarray(np.full(5, (4 / 3) ** 3))
    np.testing.assert_allclose(log_p, flow.base.log_prob(z) + 5, rtol=1e-12)


# --- transformations of jax ---


def test_jit_vmap_and_grad_of_log_prob():
    expected = FLOW.log_prob(X)
    np.testing.assert_allclose(jax.jit(lambda x: FLOW.log_prob(x))(X), expected, rtol=1e-12)
    np.testing.assert_allclose(eqx.filter_jit(FLOW.log_prob)(X), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(FLOW.log_prob)(X), expected, atol=1e-6)
    score = jax.grad(FLOW.log_prob)(X[0])
    # Four rows, as above: the program is compiled already.
    x, step = np.asarray(X[:1]), 1e-4 * np.eye(4, 3)
    ends = [np.asarray(FLOW.log_prob(x + each))[:3] for each in (step, -step)]
    np.testing.assert_allclose(score, (ends[0] - ends[1]) / 2e-4, atol=1e-3)


def test_scoring_the_same_shape_again_does_not_trace_again():
    calls = []

    class Counting(eqx.Module):
        rate: jax.Array

        def __call__(self, t, x):
            calls.append(1)
            return self.rate * x

    flow = CNF(Counting(jnp.asarray(0.3)), StandardNormal(2))
    flow.log_prob(jnp.ones((7, 2)))
    first = len(calls)
    assert first > 0
    flow.log_prob(jnp.zeros((7, 2)))
    CNF(Counting(jnp.asarray(0.9)), StandardNormal(2)).log_prob(jnp.zeros((7, 2)))
    assert len(calls) == first
    # Batches are filled up to whole lanes, so other sizes share the compilation.
    flow.log_prob(jnp.zeros((8, 2)))
    assert len(calls) == first
    flow.log_prob(jnp.zeros((lanes_for(2) + 1, 2)))
    assert len(calls) > first


# --- fields of all kinds ---


def test_a_field_without_arrays_can_be_scored():
    log_p = CNF(Shrink(), StandardNormal(2), ode_eval=ODE_EVAL).log_prob(jnp.ones((1, 2)))
    assert float(log_p[0]) == pytest.approx(-(np.e**2) - math.log(2 * math.pi) + 2, rel=1e-6)


def test_a_field_without_arrays_can_be_sampled():
    drawn = CNF(Shrink(), StandardNormal(2)).sample(jax.random.key(0), 5)
    assert drawn.shape == (5, 2)


@pytest.mark.slow
def test_steps_may_be_set_by_dt():
    by_dt = dataclasses.replace(FLOW, ode_eval=ODE(solver="rk4", dt=0.25)).log_prob(X)
    by_number = dataclasses.replace(FLOW, ode_eval=ODE(solver="rk4", num_steps=4)).log_prob(X)
    np.testing.assert_array_equal(by_dt, by_number)


def test_the_density_at_a_moment_by_dt():
    by_dt = dataclasses.replace(FLOW, ode_eval=ODE(solver="rk4", dt=0.25)).log_prob_at(0.5, X)
    by_number = dataclasses.replace(FLOW, ode_eval=ODE(solver="rk4", num_steps=2))
    np.testing.assert_array_equal(by_dt, by_number.log_prob_at(0.5, X))


def test_settings_that_a_flow_has_by_default():
    flow = CNF(MLP(2, width=4, key=jax.random.key(0)), StandardNormal(2))
    assert flow.ode == ODE(solver="rk4", num_steps=4)
    assert flow.ode_eval == ODE(solver="tsit5", rtol=1e-5, atol=1e-5)


def test_a_condition_with_a_gap_is_named():
    field = MLP(2, width=4, cond_dim=2, key=jax.random.key(0))
    flow = CNF(field, StandardNormal(2))
    cond = jnp.asarray([[0.0, 1.0], [jnp.nan, 1.0], [jnp.inf, 0.0]])
    with pytest.raises(ValueError, match=r"cond is not finite in 2 of 3 rows, first row 1"):
        flow.log_prob(jnp.zeros((3, 2)), cond)
    with pytest.raises(ValueError, match=r"cond is not finite in 1 of 1 rows"):
        flow.sample(jax.random.key(0), 3, cond[1])


def test_conditions_may_be_integers():
    cond = jnp.asarray([[1, 0]] * 4)
    np.testing.assert_array_equal(
        CONDITIONED.log_prob(X, cond), CONDITIONED.log_prob(X, cond.astype(float))
    )


# --- errors ---


def test_rows_that_are_not_finite_are_named():
    x = X.at[1, 2].set(jnp.nan).at[3, 0].set(jnp.inf)
    for call in (FLOW.log_prob, FLOW.encode, lambda x: FLOW.transport(x, 0.0, 1.0)):
        with pytest.raises(ValueError, match=r"x has NaN or infinity in 2 of 4 rows: rows 1, 3"):
            call(x)
    with pytest.raises(ValueError, match="z has NaN or infinity in 2 of 4 rows"):
        FLOW.decode(x)


def test_data_of_another_shape_or_kind_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \(4, 2\).*expected 3 columns, got 2"):
        FLOW.log_prob(X[:, :2])
    with pytest.raises(ValueError, match=r"x has shape \(\); this flow needs \(\*batch, 3\)"):
        FLOW.log_prob(1.0)
    with pytest.raises(TypeError, match="x is a random key; it must be an array of shape"):
        FLOW.log_prob(jax.random.key(0))
    with pytest.raises(TypeError, match="x has dtype complex128; it must hold real numbers"):
        FLOW.log_prob(X.astype(complex))
    with pytest.raises(TypeError, match="x has dtype bool"):
        FLOW.log_prob(X > 0)
    with pytest.raises(ValueError, match="shape=-1 must not be negative"):
        FLOW.sample(jax.random.key(0), -1)


def test_a_key_in_the_place_of_the_condition_is_named():
    with pytest.raises(TypeError, match="cond is a random key"):
        FLOW.log_prob(X, jax.random.key(0))


def test_no_rows_give_no_answers():
    flow, none = dataclasses.replace(FLOW, ode_eval=ODE()), jnp.zeros((0, 3))
    assert flow.log_prob(none).shape == (0,)
    assert flow.log_prob(none, atol_nats=1e-3).shape == (0,)
    assert flow.log_prob(none, atol_nats=1e-3, verify=True).shape == (0,)
    assert flow.log_prob_with_error(none).value.shape == (0,)
    assert flow.integrated_jacobian(none).shape == (0, 3, 3)
    for same in (flow.encode(none), flow.decode(none), flow.transport(none, 0.0, 0.5)):
        assert same.shape == (0, 3)


def test_a_solve_that_fails_raises_or_gives_nan():
    ode = ODE(solver="bosh3", rtol=1e-9, atol=1e-9, max_steps=2)
    flow = CNF(Shrink(), StandardNormal(3), ode_eval=ode)
    key = jax.random.key(0)
    with pytest.raises(SolveError, match=r"log_prob failed in row 0 \(and 3 more\) at t = 0\.\d"):
        flow.log_prob(X)
    with pytest.raises(SolveError, match="sample failed in row 0"):
        flow.sample(key, 2)
    with pytest.raises(SolveError, match="encode failed in row 0"):
        flow.encode(X)
    quiet = dataclasses.replace(flow, ode_eval=dataclasses.replace(flow.ode_eval, throw=False))
    assert np.isnan(quiet.log_prob(X)).all()
    drawn, log_p = quiet.sample_and_log_prob(key, 2)
    assert np.isnan(drawn).all()
    assert np.isnan(log_p).all()


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="field=3 must be a field or a function f"):
        CNF(3, StandardNormal(3))
    with pytest.raises(TypeError, match=r"base=3 has no event_shape; give e.g. jaxflow.Standard"):
        CNF(FIELD, 3)


# --- rows ---

ADAPTIVE = CNF(
    grown(MLP(3, width=16, key=jax.random.key(0))),
    StandardNormal(3),
    ode_eval=ODE(rtol=1e-4, atol=1e-4, throw=False),
)


# Compiled as for users, which is where the bits are promised (tests/laws/test_bits.py).
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_row_has_the_same_bits_alone_and_in_any_batch(seed):
    x = 2 * jax.random.normal(jax.random.key(3), (300, 3))
    together = ADAPTIVE.log_prob(x)
    moved = ADAPTIVE.encode(x)
    rng = np.random.default_rng(seed)
    order = rng.permutation(300)[: rng.integers(1, 300)]
    np.testing.assert_array_equal(ADAPTIVE.log_prob(x[order]), together[order])
    np.testing.assert_array_equal(ADAPTIVE.encode(x[order]), moved[order])
    assert float(ADAPTIVE.log_prob(x[order[0]])) == float(together[order[0]])


@pytest.mark.slow
def test_a_hard_row_leaves_its_neighbours_alone():
    x = jax.random.normal(jax.random.key(3), (20, 3))
    answer = ADAPTIVE.log_prob_with_error(x.at[4].set(1e300))
    kept = np.delete(np.arange(20), 4)
    np.testing.assert_allclose(answer.value[kept], ADAPTIVE.log_prob(x)[kept], rtol=1e-12)
    assert np.all(answer.status[kept] == 0)
    assert len(np.unique(answer.num_evals)) > 1
