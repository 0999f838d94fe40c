"""Training: resumes bit for bit, compiles once, keeps the best, refuses bad data."""

import logging
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow.ode import ODE
from jaxflow.training import TrainConfig, TrainingError, fit
from jaxflow.transforms import Gaussianise, Standardise

TINY = TrainConfig(steps=20, batch_size=32, eval_every=10)


def normal(n, mean=(5.0, -3.0), sd=(0.5, 1000.0), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, len(mean))) * np.asarray(sd) + np.asarray(mean)).astype(float)


def small_flow(key, dim=2, **settings):
    field = jaxflow.dynamics.MLP(dim, width=8, depth=1, key=key)
    return jaxflow.CNF(field, jaxflow.StandardNormal((dim,)), **settings)


def leaves_equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs if eqx.is_array(x))


@pytest.mark.slow
def test_samples_have_the_datas_mean_and_spread(key):
    flow, history = fit(
        small_flow(key), normal(2000), key=key, config=TrainConfig(steps=150, eval_every=50)
    )
    x = np.asarray(flow.sample(key, (4000,)))
    np.testing.assert_allclose(x.std(axis=0), [0.5, 1000.0], rtol=0.05)
    np.testing.assert_allclose(x.mean(axis=0)[0], 5.0, rtol=0.05)
    assert abs(x.mean(axis=0)[1] + 3.0) < 0.05 * 1000
    entropy = 1 + math.log(2 * math.pi) + math.log(0.5 * 1000)
    assert abs(history["validation"][-1] - entropy) < 0.15


@pytest.mark.slow
def test_columns_in_other_units_give_the_same_fit(key):
    x = normal(400, sd=(1.0, 2.0))
    scale = np.asarray([1000.0, 0.01])
    transforms = Standardise.fit(x), Standardise.fit(x * scale)
    one, _ = fit(small_flow(key), x, key=key, config=TINY, transform=transforms[0])
    other, _ = fit(small_flow(key), x * scale, key=key, config=TINY, transform=transforms[1])
    drop = one.log_prob(x[:50]) - other.log_prob(x[:50] * scale)
    np.testing.assert_allclose(drop, math.log(10.0), atol=1e-6)


def test_training_resumes_bit_for_bit(key, tmp_path):
    x = normal(100)
    config = TrainConfig(steps=40, batch_size=32, eval_every=10)
    whole, history = fit(small_flow(key), x, key=key, config=config, checkpoint=tmp_path / "a")
    file = tmp_path / "b"

    def stop_half_way(row):
        return row["step"] == 20

    fit(small_flow(key), x, key=key, config=config, checkpoint=file, callback=stop_half_way)
    again, second = fit(small_flow(key), x, key=key, config=config, checkpoint=file, resume=True)
    assert leaves_equal(whole, again)
    for name in ("step", "loss", "validation", "coarse", "learning_rate"):
        assert history[name] == second[name]
    # The files hold weights, averages and the optimizer's moments.
    from safetensors.numpy import load_file

    one, two = load_file(tmp_path / "a"), load_file(file)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_file_is_not_overwritten_by_checkpoints(key, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="exists: continue its fit with resume=True"):
        fit(small_flow(key), normal(100), key=key, config=TINY, checkpoint=tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine"


def test_resuming_with_other_settings_is_refused(key, tmp_path):
    file = tmp_path / "state"
    fit(small_flow(key), normal(100), key=key, config=TINY, checkpoint=file)
    other = TrainConfig(steps=30, batch_size=32, eval_every=10)
    with pytest.raises(ValueError, match=r"made with \{'steps': 20\}"):
        fit(small_flow(key), normal(100), key=key, config=other, checkpoint=file, resume=True)


def test_a_step_is_traced_at_most_twice(key):
    traces = []

    def objective(flow, x, cond, step_key):
        traces.append(x.shape)
        return jaxflow.objectives.maximum_likelihood(flow, x, cond, step_key)

    config = TrainConfig(steps=55, batch_size=16, eval_every=10)
    fit(small_flow(key), normal(80), key=key, config=config, objective=objective)
    assert len(traces) <= 2


@pytest.mark.parametrize("rows", [pytest.param(20, marks=pytest.mark.slow), 36, 37])
def test_few_rows_work(key, rows):
    # 20 and 36 rows leave fewer than the batch of 33 to train on, 37 leave one more.
    config = TrainConfig(steps=6, batch_size=33, eval_every=3)
    _, history = fit(small_flow(key), normal(rows), key=key, config=config)
    assert np.isfinite(history["loss"]).all()


def test_every_row_is_seen_once_an_epoch():
    from jaxflow.training.minibatches import minibatch_indices

    config = TrainConfig(batch_size=5, eval_every=6)
    batches = np.asarray(minibatch_indices(15, config, (1, 2), 0, 6))
    assert sorted(batches[:3].ravel()) == sorted(batches[3:].ravel()) == list(range(15))
    np.testing.assert_array_equal(minibatch_indices(15, config, (1, 2), 4, 2)[:2], batches[4:])


def test_nan_is_never_best_and_stops_training(key, caplog):
    def objective(flow, x, cond, step_key):
        loss, metrics = jaxflow.objectives.maximum_likelihood(flow, x, cond, step_key)
        weight = flow.field.layers[-1].bias[0]
        # NaN as soon as the weights have moved by more than a few steps' worth.
        return loss + jnp.where(jnp.abs(weight) > 0.02, jnp.nan, 0.0) * weight, metrics

    config = TrainConfig(steps=200, batch_size=32, eval_every=5, learning_rate=1e-2, ema=0.0)
    x = normal(100, sd=(1.0, 1.0))
    flow, history = fit(
        small_flow(key), x, key=key, config=config, objective=objective,
        transform=Standardise(jnp.zeros(2), jnp.ones(2)),
    )  # fmt: skip
    assert math.isnan(history["loss"][-1])
    assert 0 < history["step"][-1] < 200
    step = history["step"][-1] + 1
    assert f"loss or its gradient is not finite at step {step}, first the loss" in caplog.text
    assert np.isfinite(flow.log_prob(x)).all()
    assert min(v for v in history["validation"] if math.isfinite(v)) == pytest.approx(
        -float(flow.log_prob(jaxflow_validation(x, key)).mean())
    )


def jaxflow_validation(x, key):
    """The rows that `fit` holds out."""
    from jaxflow.data import split
    from jaxflow.runtime.keys import host_seed

    return x[split(len(x), 0.1, host_seed(key))[1]]


def test_no_finite_validation_raises(key):
    def objective(flow, x, cond, step_key):
        return jnp.nan * jnp.sum(flow.field.layers[0].weight), {}

    with pytest.raises(TrainingError, match="not finite at step 1, first the loss"):
        fit(small_flow(key), normal(100), key=key, config=TINY, objective=objective)


@pytest.mark.slow
def test_a_coarse_training_solve_is_refined_and_says_so(key, caplog):
    flow = small_flow(key, ode=ODE(solver="euler", num_steps=1))
    config = TrainConfig(steps=60, batch_size=64, eval_every=20, learning_rate=2e-2)
    x = np.concatenate([normal(200, (-4.0, 0.0), (0.3, 1.0)), normal(200, (4.0, 0.0), (0.3, 1.0))])
    with caplog.at_level(logging.WARNING, logger="jaxflow"):
        fitted, history = fit(
            flow,
            x,
            key=key,
            config=config,
            transform=Standardise(jnp.zeros(2), jnp.ones(2)),
            objective=jaxflow.objectives.maximum_likelihood,
        )
    assert (fitted.ode.num_steps or 0) > 1
    assert "the training solve was off by" in caplog.text
    assert abs(history["coarse"][0] - history["validation"][0]) > 0.01


@pytest.mark.slow
def test_base_and_transform_are_not_trained(key):
    base = jaxflow.DiagonalNormal(jnp.asarray([0.5, 0.0]), jnp.asarray([1.0, 2.0]))
    x = normal(60)
    transform = Gaussianise.fit(x)
    flow = jaxflow.CNF(jaxflow.dynamics.MLP(2, width=8, key=key), base, transform=transform)
    config = TrainConfig(steps=10, batch_size=32, eval_every=10, weight_decay=0.1)
    fitted, _ = fit(flow, x, key=key, config=config)
    assert leaves_equal((fitted.base, fitted.transform), (base, transform))
    assert not leaves_equal(fitted.field, flow.field)


def test_an_array_that_field_and_base_share_is_trained_in_the_field_alone():
    from jaxflow.training.trainable import combine_trainable, partition_trainable

    shared = jnp.ones((2, 2))
    base = jaxflow.DiagonalNormal(shared, shared)
    flow = jaxflow.CNF(jaxflow.dynamics.Linear(matrix=shared), base)
    trained, frozen = partition_trainable(flow)
    assert set(trained) == {".field.matrix", ".field.bias"}
    assert leaves_equal(combine_trainable(trained, frozen), flow)


@pytest.mark.slow
def test_conditions_reach_the_density(key):
    rng = np.random.default_rng(0)
    cond = rng.normal(size=(1000, 1))
    x = 2.0 * cond + 0.1 * rng.normal(size=(1000, 1))
    field = jaxflow.dynamics.MLP(1, width=16, depth=1, cond_dim=1, key=key)
    flow = jaxflow.CNF(field, jaxflow.StandardNormal((1,)))
    config = TrainConfig(steps=300, batch_size=256, eval_every=100, learning_rate=1e-2)
    fitted, history = fit(flow, x, cond, key=key, config=config)
    exact = 0.5 * math.log(2 * math.pi * math.e * 0.01)
    assert history["validation"][-1] < exact + 0.3
    drawn = fitted.sample(key, (200,), cond=jnp.asarray([1.0]))
    assert abs(float(drawn.mean()) - 2.0) < 0.1


@pytest.mark.slow
def test_a_coupling_flow_is_trained_by_the_same_call(key):
    flow = jaxflow.CouplingFlow(2, num_layers=2, width=8, key=key)
    _, history = fit(flow, normal(200), key=key, config=TINY)
    assert history["num_evals"] == [0.0, 0.0]
    assert np.isfinite(history["validation"]).all()


@pytest.mark.slow
def test_float32_data_with_a_float64_model_are_computed_in_float64(key):
    x = normal(50).astype(np.float32)
    fitted, _ = fit(small_flow(key), x, key=key, config=TINY)
    assert fitted.field.layers[0].weight.dtype == jnp.float64
    assert fitted.log_prob(x).dtype == jnp.float64


class TestRefused:
    def refuse(self, key, x, match, error=ValueError, **settings):
        with pytest.raises(error, match=match):
            fit(small_flow(key), x, key=key, config=TINY, **settings)

    def test_nan_rows(self, key):
        x = normal(50)
        x[[3, 7], 1] = np.nan
        self.refuse(key, x, r"x has NaN or infinity in 2 of 50 rows: rows 3, 7")

    def test_nan_in_validation(self, key):
        held = normal(5)
        held[4, 0] = np.inf
        self.refuse(key, normal(50), "validation has NaN or infinity .* rows 4", validation=held)

    def test_constant_column(self, key):
        x = normal(50)
        x[:, 1] = 2.5
        self.refuse(key, x, r"constant .* 1 = 2.5")

    def test_no_rows(self, key):
        self.refuse(key, np.zeros((0, 2)), r"shape \(0, 2\); give rows of shape \(n, 2\)")

    def test_one_dimensional(self, key):
        self.refuse(key, np.zeros(10), r"shape \(10,\)")

    def test_columns(self, key):
        self.refuse(key, normal(10, (0.0,) * 3, (1.0,) * 3), "expected 2 columns, got 3")

    def test_not_a_flow(self, key):
        with pytest.raises(TypeError, match="must be a CNF"):
            fit("flow", normal(10), key=key)

    def test_transform_name(self, key):
        self.refuse(key, normal(50), "transform='none' is unknown", transform="none")

    def test_conditions_of_validation(self, key):
        self.refuse(
            key, normal(50), r"validation=\(x_val, cond_val\)", cond=np.zeros((50, 1)),
            validation=normal(5),
        )  # fmt: skip

    @pytest.mark.parametrize(
        "setting", [{"steps": 0}, {"batch_size": -1}, {"ema": 1.0}, {"patience": 0}]
    )
    def test_settings(self, setting):
        name, value = next(iter(setting.items()))
        with pytest.raises(ValueError, match=f"{name}={value}"):
            TrainConfig(**setting)
