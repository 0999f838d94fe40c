"""Fields of flax.nnx, flax.linen and haiku, and plain functions, with the weights of an `MLP`."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import jaxflow
from jaxflow import CNF, ODE, Hutchinson, StandardNormal, TrainConfig, fit, trainable
from jaxflow.dynamics import MLP
from jaxflow.objectives import FlowMatching, maximum_likelihood
from jaxflow.training import Checkpoints
from jaxflow.training.identity import describe

nnx = pytest.importorskip("flax.nnx")
linen = pytest.importorskip("flax.linen")
hk = pytest.importorskip("haiku")

KEY = jax.random.key(8)
RNG = np.random.default_rng(3)
X, COND = RNG.normal(size=(64, 2)), RNG.normal(size=(64, 1))
BASE = StandardNormal(2)
SETTINGS: dict[str, Any] = {
    "ode": ODE(solver="rk4", num_steps=2),
    "ode_eval": ODE(solver="rk4", num_steps=4),
}
CONFIG = TrainConfig(steps=4, batch_size=32, eval_every=2, learning_rate=1e-2)
SIZES = (6, 6, 2)


def inputs(h, t, cond):
    return jnp.concatenate([h, jnp.asarray(t)[None], *([] if cond is None else [cond])])


class Module(nnx.Module):
    """The weights are in an `nnx.List`, as the layers of most networks."""

    def __init__(self, weights):
        self.layers = nnx.List()
        for kernel, bias in weights:
            layer = nnx.Linear(*kernel.shape, rngs=nnx.Rngs(0))
            layer.kernel, layer.bias = nnx.Param(kernel), nnx.Param(bias)
            self.layers.append(layer)

    def __call__(self, t, x, cond=None):
        *hidden, last = self.layers
        for layer in hidden:
            x = jnp.tanh(layer(inputs(x, t, cond)))
        return last(inputs(x, t, cond))


class Network(linen.Module):
    sizes: tuple[int, ...]

    @linen.compact
    def __call__(self, t, x, cond=None):
        for size in self.sizes[:-1]:
            x = jnp.tanh(linen.Dense(size, param_dtype=x.dtype)(inputs(x, t, cond)))
        return linen.Dense(self.sizes[-1], param_dtype=x.dtype)(inputs(x, t, cond))


def in_haiku(t, x, cond=None):
    for i, size in enumerate(SIZES[:-1]):
        x = jnp.tanh(hk.Linear(size, name=f"layer_{i}")(inputs(x, t, cond)))
    return hk.Linear(SIZES[-1], name=f"layer_{len(SIZES) - 1}")(inputs(x, t, cond))


def plain(params, t, x, cond=None):
    *hidden, (kernel, bias) = params
    for weight, shift in hidden:
        x = jnp.tanh(inputs(x, t, cond) @ weight + shift)
    return inputs(x, t, cond) @ kernel + bias


def of_linen(weights):
    layers = {f"Dense_{i}": {"kernel": k, "bias": b} for i, (k, b) in enumerate(weights)}
    return Partial(Network(SIZES).apply, {"params": layers})


def of_haiku(weights):
    layers = {f"layer_{i}": {"w": k, "b": b} for i, (k, b) in enumerate(weights)}
    return Partial(hk.without_apply_rng(hk.transform(in_haiku)).apply, layers)


MAKE = {"nnx": Module, "linen": of_linen, "haiku": of_haiku, "plain": lambda w: Partial(plain, w)}


def mlp(cond_dim=0):
    field = MLP(2, width=6, cond_dim=cond_dim, key=KEY)
    *hidden, last = field.layers
    # A last layer that matters, and biases.
    last = jax.tree.map(lambda leaf: 5 * leaf, last)
    layers = jax.tree.map(lambda leaf: leaf + 0.1, (*hidden, last))
    return eqx.tree_at(lambda field: field.layers, field, layers)


def weights_of(field):
    """The matrix for `(h, t, cond)` and the bias of each layer."""
    return [
        (
            jnp.concatenate([w.weight, w.time[None], *([] if w.cond is None else [w.cond])]),
            w.bias,
        )
        for w in field.layers
    ]


def pair(name, cond_dim=0, **settings):
    """A flow of another library, and the same flow of jaxflow."""
    field = mlp(cond_dim)
    settings = SETTINGS | settings
    return CNF(MAKE[name](weights_of(field)), BASE, **settings), CNF(field, BASE, **settings)


def size(tree):
    return optax.tree_utils.tree_norm(eqx.filter(tree, eqx.is_inexact_array))


@pytest.mark.parametrize("name", MAKE)
def test_the_same_weights_have_the_same_log_densities(name):
    flow, ours = pair(name)
    np.testing.assert_allclose(flow.train_log_prob(X), ours.train_log_prob(X), atol=1e-12)
    assert all(jax.tree.leaves(trainable(flow).field))


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_conditions_samples_and_gradients_agree_too(name):
    flow, ours = pair(name)
    np.testing.assert_allclose(flow.log_prob(X), ours.log_prob(X), atol=1e-12)
    flow, ours = pair(name, cond_dim=1)
    np.testing.assert_allclose(flow.log_prob(X, COND), ours.log_prob(X, COND), atol=1e-12)
    for one, other in zip(
        flow.sample_and_log_prob(KEY, 5, COND[0]),
        ours.sample_and_log_prob(KEY, 5, COND[0]),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-12)

    @eqx.filter_jit
    def gradient(flow, x, cond):
        return eqx.filter_grad(lambda flow: flow.train_log_prob(x, cond).sum())(flow)

    slopes = gradient(flow, X, COND), gradient(ours, X, COND)
    np.testing.assert_allclose(size(slopes[0]), size(slopes[1]), rtol=1e-12)
    assert size(slopes[0]) > 1
    values = jax.jit(flow.log_prob)(X, COND)
    np.testing.assert_allclose(values, flow.log_prob(X, COND), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_a_stochastic_trace_takes_the_same_probes(name):
    flow, ours = pair(name, trace=Hutchinson(3))
    values = flow.log_prob(X, key=KEY), ours.log_prob(X, key=KEY)
    np.testing.assert_allclose(*values, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_as_users_run_it_in_float32(name):
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        flow, ours = pair(name)
        value = flow.log_prob(X)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, ours.log_prob(X), atol=1e-5)
        flow, _ = fit(flow, X, key=KEY, config=CONFIG)
        assert {leaf.dtype for leaf in jax.tree.leaves(flow.field)} == {np.dtype("float32")}
    # Rows of float64 lift such a flow, as every other.
    assert flow.log_prob(X).dtype == jnp.float64


@pytest.mark.slow
@pytest.mark.parametrize("objective", [maximum_likelihood, FlowMatching()], ids=["nll", "fm"])
@pytest.mark.parametrize("name", MAKE)
def test_fit_trains_it_as_ours_and_a_file_keeps_it(name, objective, tmp_path):
    settings = {"key": KEY, "config": CONFIG, "objective": objective}
    flow, ours = pair(name, cond_dim=1, trace="exact")
    before = flow.log_prob(X, COND)
    trained, _ = fit(flow, X, COND, **settings)
    same, _ = fit(ours, X, COND, **settings)
    np.testing.assert_allclose(trained.log_prob(X, COND), same.log_prob(X, COND), atol=1e-9)
    assert np.max(np.abs(trained.log_prob(X, COND) - before)) > 1e-2
    # What was given is as it was, weights of an nnx module included.
    np.testing.assert_array_equal(flow.log_prob(X, COND), before)

    # A fitted transform, and a scaling of conditions around the field, come from the file.
    jaxflow.save(tmp_path / "flow", trained)
    with pytest.raises(ValueError, match=r"'field.field' is .*parts=\{'field.field': it\}"):
        jaxflow.load(tmp_path / "flow")
    blank = MAKE[name]([(jnp.zeros_like(k), b) for k, b in weights_of(mlp(1))])
    again = jaxflow.load(tmp_path / "flow", parts={"field.field": blank})
    np.testing.assert_array_equal(again.log_prob(X, COND), trained.log_prob(X, COND))
    whole = jaxflow.load(tmp_path / "flow", like=eqx.filter_eval_shape(lambda: trained))
    np.testing.assert_array_equal(whole.log_prob(X, COND), trained.log_prob(X, COND))


@pytest.mark.slow
@pytest.mark.parametrize("folder", [False, True], ids=["file", "orbax"])
@pytest.mark.parametrize("name", MAKE)
def test_a_training_goes_on_bit_for_bit(name, folder, tmp_path):
    settings = {"key": KEY, "config": CONFIG, "objective": maximum_likelihood}
    expected, _ = fit(pair(name)[0], X, **settings)
    store = Checkpoints(tmp_path / "states") if folder else tmp_path / "state"
    stopped = {"checkpoint": store, "callback": lambda record: True}
    fit(pair(name)[0], X, **settings, **stopped)
    # Built anew, as in another process.
    flow, history = fit(pair(name)[0], X, **settings, checkpoint=store, resume=True)
    assert history["step"] == [2, 4]
    for one, other in zip(*map(jax.tree.leaves, (flow.field, expected.field)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_another_process_knows_it_as_the_same_field():
    code = f"""
import json, jax
jax.config.update("jax_enable_x64", True)
from {__name__} import MAKE, describe, mlp, weights_of
print(json.dumps({{n: describe(make(weights_of(mlp())), "field") for n, make in MAKE.items()}}))
"""
    root = Path(__file__).parent.parent.parent
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    ours = {name: describe(make(weights_of(mlp())), "field") for name, make in MAKE.items()}
    assert json.loads(run.stdout) == ours


@pytest.mark.slow
def test_the_optimizer_of_nnx_trains_a_module_in_place():
    module, ours = Module(weights_of(mlp())), CNF(mlp(), BASE, **SETTINGS)
    optimizer = nnx.Optimizer(module, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer):
        def loss(module):
            return -CNF(module, BASE, **SETTINGS).train_log_prob(X).mean()

        value, gradient = nnx.value_and_grad(loss)(module)
        with jax.numpy_dtype_promotion("standard"):
            optimizer.update(module, gradient)
        return value

    losses = [float(step(module, optimizer)) for _ in range(5)]
    assert losses[0] == pytest.approx(-float(ours.train_log_prob(X).mean()), abs=1e-12)
    assert losses == sorted(losses, reverse=True)


WEIGHTS = weights_of(mlp())


@pytest.mark.parametrize("name", MAKE)
def test_a_file_has_every_weight(name, tmp_path):
    flow = CNF(MAKE[name](WEIGHTS), BASE)
    blank = MAKE[name](jax.tree.map(jnp.zeros_like, WEIGHTS))
    jaxflow.save(tmp_path / "flow", flow)
    again = jaxflow.load(tmp_path / "flow", parts={"field": blank})
    for one, other in zip(*map(jax.tree.leaves, (again, flow)), strict=True):
        np.testing.assert_array_equal(one, other)
    spoilt = CNF(MAKE[name](jax.tree.map(lambda leaf: leaf * jnp.nan, WEIGHTS)), BASE)
    jaxflow.save(tmp_path / "spoilt", spoilt)
    with pytest.raises(ValueError, match=r"'field.* holds NaN or infinity"):
        jaxflow.load(tmp_path / "spoilt", parts={"field": blank})


# What is refused.

MODULE = Module(WEIGHTS)
VARIABLES, PARAMS = of_linen(WEIGHTS).args[0], of_haiku(WEIGHTS).args[0]
TRANSFORMED = hk.without_apply_rng(hk.transform(in_haiku))


class Held(nnx.Module):
    def __init__(self):
        self.inner = MODULE

    def velocity(self, t, x):
        return self.inner(t, x)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (lambda t, x: MODULE(t, x), "<lambda>"),
        (Held().velocity, "Held.velocity"),
        (functools.partial(Network(SIZES).apply, VARIABLES), r"partial\(Network\(.*\).apply\)"),
        (lambda t, x: Network(SIZES).apply(VARIABLES, t, x), "<lambda>"),
        (functools.partial(TRANSFORMED.apply, PARAMS), r"partial\(apply_fn\)"),
        (functools.partial(plain, WEIGHTS), r"partial\(plain\)"),
    ],
    ids=["nnx closure", "nnx method", "linen partial", "linen closure", "haiku", "plain"],
)
def test_weights_that_are_closed_over_are_refused_by_name(field, name):
    flow = CNF(field, BASE, **SETTINGS)
    with pytest.raises(ValueError, match=f"field={name} has no arrays.*Partial.apply") as error:
        fit(flow, X, key=KEY, config=CONFIG)
    assert len(str(error.value)) < 400  # and without the weights


def test_a_bound_module_of_linen_is_refused():
    with pytest.raises(TypeError, match=r"field is or holds a Network.*Partial\(module\.apply"):
        CNF(Network(SIZES).bind(VARIABLES), BASE)


class Noisy(nnx.Module):
    def __init__(self, layer):
        self.layer = layer

    def __call__(self, t, x, cond=None):
        return self.layer(x)


def norm():
    return nnx.BatchNorm(2, use_running_average=True, param_dtype=float, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_flax_refuses_modules_that_change():
    dropout, updated = nnx.Dropout(0.5, rngs=nnx.Rngs(0)), norm()
    updated.use_running_average = False
    with jax.numpy_dtype_promotion("standard"):
        for layer in (dropout, updated):
            with pytest.raises(Exception, match=r"Cannot mutate .* from a different trace level"):
                CNF(Noisy(layer), BASE, **SETTINGS).log_prob(X)
    module = Noisy(dropout)
    module.eval()
    still = CNF(lambda t, x: x, BASE, **SETTINGS).log_prob(X)
    np.testing.assert_allclose(CNF(module, BASE, **SETTINGS).log_prob(X), still, atol=1e-12)


def test_averages_that_are_closed_over_are_not_trained():
    assert sum(jax.tree.leaves(trainable(CNF(Noisy(norm()), BASE)))) == 4
    graph, params, rest = nnx.split(Noisy(norm()), nnx.Param, ...)
    field = Partial(lambda params, t, x: nnx.merge(graph, params, rest)(t, x), params)
    assert sum(jax.tree.leaves(trainable(CNF(field, BASE)))) == 2
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(field(0.0, X[0]), X[0], rtol=1e-4)


def test_print_names_the_function_and_counts_its_weights():
    rows = {name: CNF(make(WEIGHTS), BASE).summary()["field"] for name, make in MAKE.items()}
    count = sum(leaf.size for leaf in jax.tree.leaves(WEIGHTS))
    words = {
        "nnx": "Module",
        "linen": "Partial(Network(sizes=(6, 6, 2)).apply)",
        "haiku": "Partial(apply_fn)",
        "plain": "Partial(plain)",
    }
    assert rows == {n: f"{text}, {count} parameters, float64" for n, text in words.items()}
