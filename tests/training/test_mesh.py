"""Training on many devices equals that on one, up to the order of sums."""

import itertools
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxflow import CNF, ODE, StandardNormal, TrainConfig, fit, rows_mesh
from jaxflow.dynamics import MLP
from jaxflow.objectives import (
    Denoising,
    FlowMatching,
    MaximumLikelihood,
    Reflow,
    ReverseKL,
    maximum_likelihood,
)
from jaxflow.objectives.couplings import OptimalTransport
from jaxflow.ode import Status, odeint_together
from jaxflow.training import Checkpoints, step

ROWS = np.random.default_rng(0).normal(size=(3000, 2)) * [1.0, 3.0]
# 1,001 rows are no multiple of 8.
CONFIG = TrainConfig(steps=4, batch_size=1001, eval_every=2, validation_rows=256)


def small_flow(key):
    return CNF(MLP(2, width=16, depth=2, key=key), StandardNormal((2,)))


def trained(key, mesh, config=CONFIG, x: Any = ROWS, **options):
    return fit(
        small_flow(key), x, key=key, config=config, transform=None, progress=False, mesh=mesh,
        **options,
    )  # fmt: skip


def distance(a, b):
    leaves = (jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (a, b))
    return max(float(jnp.max(jnp.abs(p - q))) for p, q in zip(*leaves, strict=True))


@pytest.mark.parametrize("shard_weights", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_uneven_batch_on_eight_devices_is_that_of_one(key, shard_weights):
    one, history = trained(key, None, objective=maximum_likelihood)
    many, theirs = trained(key, 8, objective=maximum_likelihood, shard_weights=shard_weights)
    assert distance(one, many) < 1e-13
    np.testing.assert_allclose(history["loss"], theirs["loss"], rtol=1e-13)
    np.testing.assert_allclose(history["validation"], theirs["validation"], rtol=1e-12)


OBJECTIVES = {
    "matching": FlowMatching(),
    "exact transport": FlowMatching(coupling=OptimalTransport()),
    "penalised": MaximumLikelihood(kinetic=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_on_a_mesh(name, key):
    runs = [trained(key, mesh, objective=OBJECTIVES[name])[0] for mesh in (None, 8)]
    assert distance(*runs) < 1e-12


@pytest.mark.slow
def test_reflow_on_a_mesh(key):
    pairs = Reflow.of(small_flow(key), key, 64)
    runs = [trained(key, mesh, objective=pairs)[0] for mesh in (None, 8)]
    assert distance(*runs) < 1e-12


@pytest.mark.slow
def test_reverse_kl_on_a_mesh(key):
    target = ReverseKL(target=lambda x: -jnp.sum((x - 1) ** 2), num_samples=30)
    runs = [trained(key, mesh, x=None, objective=target)[0] for mesh in (None, 4)]
    assert distance(*runs) < 1e-12


@pytest.mark.slow
def test_losses_of_200_steps(key):
    config = TrainConfig(steps=200, batch_size=256, eval_every=1, validation_rows=16)
    histories = [trained(key, mesh, config)[1] for mesh in (None, 8)]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-9)


@pytest.mark.slow
def test_weights_are_split_on_request(key):
    seen = []
    trained(key, 8, shard_weights=True, callback=lambda row: seen.append(live_shapes()))
    # A layer of 16 x 16 weights has 256 entries, too few to be worth it; see the larger one.
    wide = CNF(MLP(2, width=64, depth=2, key=key), StandardNormal((2,)))
    fit(
        wide, ROWS, key=key, config=CONFIG, transform=None, progress=False, mesh=8,
        shard_weights=True, callback=lambda row: seen.append(live_shapes()),
    )  # fmt: skip
    assert (8, 64) not in itertools.chain.from_iterable(seen[:1])
    assert (8, 64) in seen[-1] or (64, 8) in seen[-1]


def live_shapes():
    """Shapes of the parts of all arrays that are split among devices."""
    split = [a for a in jax.live_arrays() if len(a.devices()) == 8 and not a.is_fully_replicated]
    return {a.addressable_data(0).shape for a in split}


@pytest.mark.slow
def test_one_compilation_for_a_training(key):
    step.train_steps._cached.clear_cache()
    trained(key, 8, TrainConfig(steps=20, batch_size=64, eval_every=5, validation_rows=64))
    # Flow matching, then likelihood.
    assert step.train_steps._cached._cache_size() == 2


@pytest.mark.slow
@pytest.mark.parametrize("folder", [False, True])
def test_a_run_goes_on_with_other_devices(key, tmp_path, folder, caplog):
    config = TrainConfig(steps=30, batch_size=64, eval_every=5, validation_rows=64)
    options: dict[str, Any] = {"config": config, "objective": FlowMatching()}
    whole, history = trained(key, 8, **options)
    place = Checkpoints(tmp_path / "states") if folder else tmp_path / "state"
    options |= {"checkpoint": place, "resume": True}
    anew: dict[str, Any] = {**options, "resume": False}
    with caplog.at_level("INFO", "jaxflow"):
        trained(key, 8, **anew, callback=lambda row: row["step"] == 10)
        trained(key, 4, **options, callback=lambda row: row["step"] == 20)
        again, theirs = trained(key, None, **options)
    assert "devices were 8 and are 4" in caplog.text
    assert "devices were 4 and are 1" in caplog.text
    assert theirs["step"] == history["step"]
    np.testing.assert_allclose(theirs["validation"], history["validation"], rtol=1e-12)
    assert distance(whole, again) < 1e-12
    if folder:
        with pytest.raises(FileExistsError, match="continue its fit with resume=True"):
            trained(key, 2, **anew)
        assert len(list((tmp_path / "states").glob("[0-9]*"))) == 2


def test_a_state_of_other_data_is_refused(key, tmp_path):
    file = tmp_path / "state"
    trained(key, None, checkpoint=file)
    other = ROWS + np.eye(3000, 2)
    for change in ({"x": other}, {"validation": 0.2}, {"key": jax.random.key(1)}):
        options: dict[str, Any] = {"key": key, "x": ROWS} | change
        with pytest.raises(ValueError, match="cannot be resumed with different data"):
            trained(options.pop("key"), None, **options, checkpoint=file, resume=True)


def test_too_many_devices_are_refused(key):
    with pytest.raises(ValueError, match=r"devices=1000 exceeds the 8 available \(cpu\); to try"):
        rows_mesh(1000)
    with pytest.raises(ValueError, match=r"batch_size=4 has less than a row for each of mesh=8"):
        trained(key, 8, TrainConfig(steps=2, batch_size=4))
    with pytest.raises(ValueError, match="devices=0 must be an integer"):
        rows_mesh(0)


@pytest.mark.slow
def test_a_mesh_of_ones_own(key):
    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("data", "model"))
    one, many = (trained(key, m, objective=FlowMatching())[0] for m in (None, mesh))
    assert distance(one, many) < 1e-13


@pytest.mark.slow
def test_rows_of_a_program_are_split_among_devices(key):
    flow, x = small_flow(key), jnp.asarray(ROWS[:301])
    program = eqx.filter_jit(lambda flow: flow.log_prob_rows(x)[0])
    log_p = program(flow)
    with jax.set_mesh(rows_mesh(8)):
        np.testing.assert_allclose(program(flow), log_p, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["direct", "adjoint", "checkpointed"])
def test_so_is_their_gradient(key, gradient):
    flow, x = small_flow(key), jnp.asarray(ROWS[:301])
    if gradient != "direct":
        flow = replace(flow, ode_eval=replace(flow.ode_eval, gradient=gradient))
    else:
        flow = replace(flow, ode_eval=replace(flow.ode_eval, num_steps=8))
    slope = eqx.filter_jit(eqx.filter_grad(lambda flow: jnp.mean(flow.log_prob_rows(x)[0])))
    one = slope(flow)
    with jax.set_mesh(rows_mesh(8)):
        assert distance(one, slope(flow)) < 1e-12


@pytest.mark.parametrize("bad", [0, 41])
def test_a_row_that_fails_on_one_device_fails_the_solve(bad):
    y0 = jnp.ones((64, 2)).at[bad].set(jnp.nan)

    @jax.jit
    def solve(y0):
        field = lambda t, y, rate, row: -rate * y  # noqa: E731
        ode = ODE(num_steps=2, throw=False)
        return odeint_together(field, y0, 0.0, 1.0, 1.0, None, ode=ode)[1].status

    with jax.set_mesh(rows_mesh(8)):
        assert int(solve(y0)) == Status.NON_FINITE
        assert int(solve(jnp.ones((64, 2)))) == Status.SUCCESS


def test_a_gradient_is_summed_among_devices_once(key):
    flow, x = small_flow(key), jnp.asarray(ROWS[:64])

    def loss(flow):
        return -jnp.mean(flow.log_prob_rows(x, training=True)[0])

    with jax.set_mesh(rows_mesh(8)):
        lowered = eqx.filter_jit(eqx.filter_value_and_grad(loss)).lower(flow)
        program = lowered.compile().compiled.as_text()
    assert program.count(" all-reduce(") == 1
    assert program.count(" while(") >= 1


@pytest.mark.slow
def test_denoising_on_a_mesh(key):
    from jaxflow.diffusion import Denoiser, VariancePreserving, as_flow

    flow = as_flow(Denoiser(MLP(2, width=16, key=key), VariancePreserving()), (2,))
    runs = [
        fit(
            flow, ROWS, key=key, config=CONFIG, transform=None, progress=False, mesh=mesh,
            objective=Denoising(),
        )[0]
        for mesh in (None, 8)
    ]  # fmt: skip
    assert distance(*runs) < 1e-12
