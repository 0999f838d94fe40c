"""Training loops of a user's own: objectives as losses, and the tree of what is trained."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow
from jaxflow import (
    CNF,
    ODE,
    CouplingFlow,
    DiagonalNormal,
    FlowBase,
    GaussianMixture,
    StandardNormal,
    TrainConfig,
    fit,
    trainable,
)
from jaxflow.dynamics import MLP, ConditionScaling, Linear, StandardisedCondition
from jaxflow.objectives import FlowMatching, MaximumLikelihood, ReverseKL, maximum_likelihood
from jaxflow.runtime.keys import seed_words
from jaxflow.training.minibatches import minibatch_indices
from jaxflow.transforms import Bounded, Chain, Dequantise, Standardise

KEY = jax.random.key(11)
RNG = np.random.default_rng(5)
X = RNG.normal(size=(200, 2)) * [2.0, 0.5] + [1.0, -3.0]
BASE = DiagonalNormal(jnp.asarray([0.5, 0.0]), jnp.asarray([1.0, 2.0]))
SCALE = Standardise.fit(X)


def cnf(**settings):
    field = MLP(2, width=8, depth=1, cond_dim=settings.pop("cond_dim", 0), key=KEY)
    # Weights that do something: the last layer starts at 0.
    field = jax.tree.map(lambda leaf: leaf + 0.1 if eqx.is_inexact_array(leaf) else leaf, field)
    return CNF(field, settings.pop("base", BASE), **settings)


def arrays(tree):
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    }


def same_bits(one, other):
    ours, theirs = arrays(one), arrays(other)
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[name], theirs[name]) for name in ours
    )


# The log-density of the training settings.


COUPLING = CouplingFlow(2, num_layers=2, width=8, depth=1, base=BASE, transform=SCALE, key=KEY)
FLOWS = {"cnf": cnf(transform=SCALE), "coupling": COUPLING}


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_it_is_the_density_that_training_differentiates(flow):
    expected = jax.jit(lambda x: flow.log_prob_rows(x, training=True)[0])(jnp.asarray(X))
    np.testing.assert_allclose(flow.train_log_prob(X), expected, rtol=1e-13)
    np.testing.assert_allclose(flow.train_log_prob(X[:6].reshape(3, 2, 2)).ravel(), expected[:6])
    assert flow.train_log_prob(X[0]).shape == ()
    assert flow.train_log_prob(X[:0]).shape == (0,)
    fine = flow
    if isinstance(flow, CNF):
        fine = dataclasses.replace(flow, ode=ODE(solver="rk4", num_steps=40))
    np.testing.assert_allclose(fine.train_log_prob(X), fine.log_prob(X), atol=2e-4)


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_jit_vmap_and_scan_change_nothing(flow):
    x, expected = jnp.asarray(X[:8]), flow.train_log_prob(X[:8])
    scanned = jax.lax.scan(lambda carry, x: (carry, flow.train_log_prob(x)), 0, x)[1]
    for values in (
        jax.jit(lambda x: flow.train_log_prob(x))(x),
        eqx.filter_jit(flow.train_log_prob)(x),
        jax.vmap(flow.train_log_prob)(x),
        jax.checkpoint(lambda x: flow.train_log_prob(x))(x),
        scanned,
    ):
        np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.slow
def test_an_ensemble_is_a_vmap_over_flows():
    def make(key):
        return CNF(MLP(2, width=8, depth=1, key=key), StandardNormal(2))

    keys = jax.random.split(KEY, 3)
    many = eqx.filter_vmap(make)(keys)
    values = eqx.filter_vmap(lambda flow: flow.train_log_prob(X))(many)
    expected = [make(key).train_log_prob(X) for key in keys]
    np.testing.assert_allclose(values, jnp.stack(expected), rtol=1e-12)


def test_it_has_derivatives_in_data_conditions_and_parameters():
    flow = cnf(cond_dim=1, transform=SCALE)
    x, cond = jnp.asarray(X[:4]), jnp.asarray(X[4:8, :1])
    params, static = eqx.partition(flow, eqx.is_inexact_array)

    @jax.jit
    def f(params, x, cond):
        return jnp.sum(eqx.combine(params, static).train_log_prob(x, cond))

    slopes = jax.jit(jax.grad(f, argnums=(0, 1, 2)))(params, x, cond)
    slopes = jax.tree.map(np.asarray, slopes)
    rng = np.random.default_rng(0)
    point = jax.tree.map(np.asarray, (params, x, cond))
    for i, (slope, at) in enumerate(zip(slopes, point, strict=True)):
        leaves, structure = jax.tree.flatten(at)
        step = structure.unflatten([rng.normal(size=leaf.shape) for leaf in leaves])

        def moved(h, i=i, at=at, step=step):
            ends = jax.tree.map(lambda a, b: a + h * b, at, step)
            return f(*point[:i], ends, *point[i + 1 :])

        expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
        inner = jax.tree.map(lambda a, b: np.sum(a * b), slope, step)
        assert float(sum(jax.tree.leaves(inner))) == pytest.approx(float(expected), rel=1e-7)
    # Everything has a gradient: base and transform too.
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(slopes[0]))


def test_bad_arguments_are_named():
    flow = FLOWS["cnf"]
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\).*expected 2 columns, got 3"):
        flow.train_log_prob(np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\)"):
        jax.jit(lambda x: flow.train_log_prob(x))(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2 rows"):
        flow.train_log_prob([[0.0, 1.0], [np.nan, 0.0]])
    with pytest.raises(ValueError, match="key"):
        dataclasses.replace(flow, trace=jaxflow.Hutchinson(1)).train_log_prob(X)


def test_a_failed_solve_gives_no_number():
    ode = ODE(solver="tsit5", rtol=1e-8, atol=1e-8, max_steps=1)
    assert np.isnan(cnf(ode=ode).train_log_prob(X)).all()


# The tree.


def named(flow, *train):
    tree = trainable(flow, *train)
    assert jax.tree.structure(tree) == jax.tree.structure(flow)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path) for path, chosen in leaves if chosen}


def test_the_tree_names_the_parts():
    flow = cnf(transform=SCALE)
    field = {name for name in arrays(flow) if name.startswith(".field")}
    base, transform = {".base.mean", ".base.scale"}, {".transform.mean", ".transform.scale"}
    assert named(flow) == field
    assert named(flow, ("base",)) == base == named(flow, "base")
    assert named(flow, ("field", "base", "transform")) == field | base | transform
    assert named(COUPLING) == {n for n in arrays(COUPLING) if n.startswith(".layers.network")}
    inner = CNF(MLP(2, key=KEY), FlowBase(COUPLING))
    assert all(name.startswith(".field") for name in named(inner))
    assert {".base.flow.base.mean"} < named(inner, ("base",))


def test_facts_about_the_data_are_not_trained():
    limits, grid = Bounded([0.0, -np.inf], [np.inf, 1.0]), Dequantise([1.0, 0.0])
    flow = cnf(cond_dim=1, transform=Chain((grid, limits, SCALE)))
    field = StandardisedCondition(flow.field, ConditionScaling([0.0], [1.0]))
    flow = dataclasses.replace(flow, field=field)
    assert named(flow, ("transform",)) == {".transform.parts[2].mean", ".transform.parts[2].scale"}
    assert not any("scaling" in name for name in named(flow))


def test_a_tree_without_arrays_is_refused():
    closed = cnf().field
    with pytest.raises(ValueError, match=r"holds are constants: write jax\.tree_util"):
        trainable(CNF(lambda t, x, cond=None: closed(t, x), BASE, trace="exact"))
    with pytest.raises(ValueError, match=r"train names the base, and base=StandardNormal"):
        trainable(cnf(base=StandardNormal(2)), ("field", "base"))
    with pytest.raises(ValueError, match=r"train=\('layers',\) must name parts .* field, base"):
        trainable(COUPLING, ("layers",))
    with pytest.raises(ValueError, match=r"train=\(\) must name parts"):
        trainable(COUPLING, ())


OBJECTIVES = {
    "likelihood": MaximumLikelihood(),
    "penalised": MaximumLikelihood(kinetic=0.1),
    "matching": FlowMatching(),
    "reverse": ReverseKL(target=lambda x: -0.5 * jnp.sum(x**2), num_samples=16),
}


def own_loop(flow, objective, optimizer, x, steps, *, train=("field",), loop_key=KEY):
    """A user's loop, as the page writes it."""
    params, static = eqx.partition(flow, trainable(flow, train))
    state = optimizer.init(params)

    @eqx.filter_jit
    def step(params, state, key):
        def loss(params):
            return objective(eqx.combine(params, static), x, None, key)[0]

        value, slopes = eqx.filter_value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            updates, state = optimizer.update(slopes, state, params)
        return eqx.apply_updates(params, updates), state, value

    values = []
    for i in range(steps):
        params, state, value = step(params, state, jax.random.fold_in(loop_key, i))
        values.append(float(value))
    return eqx.combine(params, static), values


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "matching")) for n in OBJECTIVES]
)
def test_an_objective_is_a_loss(name):
    flow = cnf(transform=SCALE)
    trained, values = own_loop(flow, OBJECTIVES[name], optax.adam(1e-2), jnp.asarray(X), 12)
    assert np.mean(values[-3:]) < np.mean(values[:3])
    assert same_bits((trained.base, trained.transform), (flow.base, flow.transform))


def test_weight_decay_by_the_tree_leaves_base_and_transform_bit_for_bit():
    # All arrays are given to the optimiser, as loops that know no flows do.
    flow = cnf(transform=SCALE)
    optimizer = optax.masked(optax.adamw(1e-2, weight_decay=1e-2), trainable(flow))
    fixed = jax.tree.map(lambda leaf: not leaf, trainable(flow))
    optimizer = optax.chain(optimizer, optax.masked(optax.set_to_zero(), fixed))
    params, static = eqx.partition(flow, eqx.is_inexact_array)
    state = optimizer.init(params)

    def loss(params):
        return -jnp.mean(eqx.combine(params, static).train_log_prob(X))

    @eqx.filter_jit
    def step(params, state):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(eqx.filter_grad(loss)(params), state, params)
        return eqx.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    trained = eqx.combine(params, static)
    assert same_bits((trained.base, trained.transform), (flow.base, flow.transform))
    assert not same_bits(trained.field, flow.field)
    optimizer = optax.adamw(1e-2, weight_decay=1e-2)
    trained, _ = own_loop(flow, maximum_likelihood, optimizer, jnp.asarray(X), 3)
    assert same_bits((trained.base, trained.transform), (flow.base, flow.transform))


@pytest.mark.slow
def test_objectives_see_data_as_they_are_where_the_flow_has_a_transform():
    flow, x = cnf(transform=SCALE), jnp.asarray(X)
    plain, u = dataclasses.replace(flow, transform=None), jax.vmap(SCALE.forward)(x)[0]
    one, other = (FlowMatching()(f, r, None, KEY)[0] for f, r in ((flow, x), (plain, u)))
    assert float(one) == pytest.approx(float(other), rel=1e-12)
    # Beyond a limit there is no point of flow space, and no loss.
    bounded = cnf(transform=Bounded([0.0, 0.0], [np.inf, np.inf]))
    assert np.isnan(FlowMatching()(bounded, -jnp.abs(x), None, KEY)[0])
    # Integers get fresh noise each step.
    grid = dataclasses.replace(flow, transform=Dequantise([1.0, 1.0]))
    keys = KEY, KEY, jax.random.key(1)
    one, same, other = (maximum_likelihood(grid, jnp.round(x), None, key)[0] for key in keys)
    assert one == same != other


@pytest.mark.slow
def test_a_loop_with_fits_optimizer_batches_and_keys_gives_fits_weights():
    steps, rows, x_val = 200, jnp.asarray(X[:180]), X[180:]
    config = TrainConfig(
        steps=steps,
        batch_size=64,
        learning_rate=5e-3,
        weight_decay=1e-2,
        ema=0.0,
        eval_every=steps,
    )
    flow = cnf()
    fitted, _ = fit(
        flow, rows, key=KEY, validation=x_val, transform=SCALE, config=config,
        objective=maximum_likelihood,
    )  # fmt: skip
    schedule = optax.warmup_cosine_decay_schedule(0.0, 5e-3, 10, steps, 5e-5)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip_norm), optax.adamw(schedule, weight_decay=1e-2)
    )
    flow = dataclasses.replace(flow, transform=SCALE)
    params, static = eqx.partition(flow, trainable(flow))
    state = optimizer.init(params)

    @eqx.filter_jit
    def step(params, state, x, key):
        def loss(params):
            return maximum_likelihood(eqx.combine(params, static), x, None, key)[0]

        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(eqx.filter_grad(loss)(params), state, params)
        return eqx.apply_updates(params, updates), state

    batches = minibatch_indices(len(rows), config, seed_words(KEY), 0, steps)
    for i in range(steps):
        params, state = step(params, state, rows[batches[i]], jax.random.fold_in(KEY, i))
    ours = eqx.combine(params, static)
    assert not same_bits(ours.field, flow.field)
    for one, other in zip(*map(jax.tree.leaves, (ours, fitted)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


# `fit` with more than the field.


ZERO = Linear(matrix=jnp.zeros((2, 2)))
CONFIG = TrainConfig(
    steps=400, batch_size=180, learning_rate=0.05, eval_every=400, ema=0.0, patience=None
)


@pytest.mark.slow
def test_a_gaussian_base_alone_learns_mean_and_standard_deviation():
    x, tight = jnp.asarray(X), 1e-6
    flow = CNF(ZERO, BASE, ode=ODE(num_steps=1))
    trained, _ = own_loop(
        flow, maximum_likelihood, optax.adam(optax.cosine_decay_schedule(0.1, 600)), x, 600,
        train=("base",),
    )  # fmt: skip
    np.testing.assert_allclose(trained.base.mean, X.mean(axis=0), atol=tight * 10)
    np.testing.assert_allclose(trained.base.scale, X.std(axis=0), rtol=tight * 10)
    assert same_bits(trained.field, flow.field)
    rows = X[:180]
    fitted, _ = fit(
        flow, rows, key=KEY, validation=X[180:], config=CONFIG, transform=None, train=("base",)
    )
    np.testing.assert_allclose(fitted.base.mean, rows.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(fitted.base.scale, rows.std(axis=0), rtol=1e-4)
    assert same_bits(fitted.field, flow.field)


def test_a_transform_alone_learns_the_scale_of_the_data():
    rows = X[:180]
    flow = CNF(ZERO, StandardNormal(2), ode=ODE(num_steps=1))
    start = Standardise(jnp.zeros(2), jnp.ones(2))
    fitted, history = fit(
        flow, rows, key=KEY, validation=X[180:], config=CONFIG, transform=start,
        train=("transform",),
    )  # fmt: skip
    np.testing.assert_allclose(fitted.transform.mean, rows.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(fitted.transform.scale, rows.std(axis=0), rtol=1e-3)
    # Loss and validation are in the data's units, as for a fixed transform.
    value = -float(np.mean(fitted.log_prob(X[180:])))
    assert history["validation"][-1] == pytest.approx(value, abs=1e-9)


SHORT = TrainConfig(steps=6, batch_size=32, eval_every=3, weight_decay=0.1, ema=0.0)


@pytest.mark.slow
def test_the_tree_itself_says_what_fit_trains():
    flow = cnf(transform=SCALE)
    tree = eqx.tree_at(lambda tree: tree.base.mean, trainable(flow), True)
    settings = {"key": KEY, "config": SHORT, "objective": maximum_likelihood}
    fitted, _ = fit(flow, X, train=tree, **settings)
    assert same_bits((fitted.base.scale, fitted.transform), (flow.base.scale, flow.transform))
    assert not np.array_equal(fitted.base.mean, flow.base.mean)
    everything = trainable(flow, ("field", "base", "transform"))
    one, _ = fit(flow, X, train=everything, **settings)
    other, _ = fit(flow, X, train=("field", "base", "transform"), **settings)
    assert same_bits(one, other)
    assert not same_bits(one.transform, flow.transform)
    # By default, this tree.
    one, _ = fit(flow, X, train=trainable(flow), **settings)
    other, _ = fit(flow, X, **settings)
    assert same_bits(one, other)


def test_what_fit_cannot_train_is_named():
    flow = cnf(transform=SCALE)
    run = partial(fit, flow, X, key=KEY, config=SHORT)
    with pytest.raises(ValueError, match=r"is no likelihood, .* trained base shrinks to a point"):
        run(train=("field", "base"), objective=FlowMatching())
    with pytest.raises(ValueError, match=r"another structure than the flow"):
        run(train=trainable(cnf()))
    with pytest.raises(TypeError, match=r"train has f64\[2,8\] at \.field.* True or False"):
        run(train=flow)
    with pytest.raises(ValueError, match="train is False everywhere"):
        run(train=jax.tree.map(lambda leaf: False, flow))
    with pytest.raises(ValueError, match="the flow's own transform, and transform="):
        run(train=trainable(flow, ("transform",)), transform=Standardise.fit(2 * X))


def test_a_fit_with_another_train_is_not_resumed(tmp_path):
    settings = {"key": KEY, "config": SHORT, "transform": None, "objective": maximum_likelihood}
    settings |= {"checkpoint": tmp_path / "state"}
    whole, _ = fit(cnf(), X, train=("field", "base"), **settings)
    again, _ = fit(cnf(), X, train=("field", "base"), resume=True, **settings)
    assert same_bits(whole, again)
    with pytest.raises(ValueError, match=r"another flow: flow.base.mean was"):
        fit(cnf(), X, resume=True, **settings)


@pytest.mark.slow
def test_a_mixture_learns_its_weights(tmp_path):
    rng = np.random.default_rng(0)
    side = rng.random(4000) < 0.3
    x = np.where(side[:, None], -5.0, 5.0) + rng.normal(size=(4000, 2))
    base = GaussianMixture([0.5, 0.5], [[-5.0, -5.0], [5.0, 5.0]], np.tile(np.eye(2), (2, 1, 1)))
    config = dataclasses.replace(CONFIG, batch_size=4000, learning_rate=0.02)
    flow = CNF(ZERO, base, ode=ODE(num_steps=1))
    flow, _ = fit(flow, x, key=KEY, validation=x, config=config, transform=None, train=("base",))
    share = flow.base.weights / flow.base.weights.sum()
    assert float(share[0]) == pytest.approx(side.mean(), abs=2e-3)
    # What was learned is a mixture, also from a file.
    jaxflow.save(tmp_path / "flow", flow)
    assert same_bits(jaxflow.load(tmp_path / "flow"), flow)


@pytest.mark.slow
def test_rows_are_split_among_devices_by_shard_map():
    flow, mesh = FLOWS["cnf"], jaxflow.rows_mesh(4)
    spec = jax.sharding.PartitionSpec(mesh.axis_names)
    # The solve starts from zeros, which are the same on every device.
    split = {"mesh": mesh, "in_specs": spec, "out_specs": spec, "check_vma": False}
    each = jax.shard_map(lambda x: flow.train_log_prob(x), **split)
    values = jax.jit(each)(jnp.asarray(X))
    np.testing.assert_allclose(values, flow.train_log_prob(X), rtol=1e-12)


def test_trained_arrays_go_through_files_of_other_libraries(tmp_path):
    flow = FLOWS["cnf"]
    params, static = eqx.partition(flow, trainable(flow))
    eqx.tree_serialise_leaves(tmp_path / "params.eqx", params)
    blank = jax.tree.map(jnp.zeros_like, params)
    again = eqx.tree_deserialise_leaves(tmp_path / "params.eqx", blank)
    assert same_bits(eqx.combine(again, static), flow)
    orbax = pytest.importorskip("orbax.checkpoint")
    with orbax.StandardCheckpointer() as writer:
        writer.save(tmp_path / "params", arrays(params))
        writer.wait_until_finished()
        stored = writer.restore(tmp_path / "params", arrays(blank))
    leaves = [stored[name] for name in arrays(params)]
    again = jax.tree.unflatten(jax.tree.structure(params), leaves)
    assert same_bits(eqx.combine(again, static), flow)
