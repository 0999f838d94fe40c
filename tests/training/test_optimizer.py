"""`fit` with any optimiser, schedule and callback."""

import csv
import dataclasses
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxflow import CNF, StandardNormal, TrainConfig, fit
from jaxflow.dynamics import MLP
from jaxflow.objectives import FlowMatching, Staged, maximum_likelihood
from jaxflow.runtime.keys import seed_words
from jaxflow.training import Record
from jaxflow.training.minibatches import minibatch_indices
from jaxflow.training.optimizer import Choice
from jaxflow.training.step import TrainingError

KEY = jax.random.key(4)
X = np.random.default_rng(0).normal(size=(64, 2)) * [1.0, 2.0]
FLOW = CNF(MLP(2, width=4, depth=1, key=KEY), StandardNormal(2))
CONFIG = TrainConfig(steps=8, batch_size=32, eval_every=2, learning_rate=1e-2, ema=0.0)


def train(config=CONFIG, objective: Any = maximum_likelihood, **settings: Any):
    return fit(FLOW, X, key=KEY, config=config, transform=None, objective=objective, **settings)


def same(one, other):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def default_schedule(config=CONFIG, **settings):
    peak = config.learning_rate
    values = {"warmup_steps": max(1, round(config.warmup * config.steps))} | settings
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, decay_steps=config.steps, end_value=0.01 * peak, **values
    )


@pytest.mark.slow
def test_fits_own_optimizer_may_be_written_out():
    flow, history = train()
    adamw = optax.adamw(default_schedule(), weight_decay=0.0)
    adamw = optax.chain(optax.clip_by_global_norm(5.0), adamw)
    again, other = train(optimizer=adamw)
    # Not the same bits: its own optimiser treats all weights as one vector.
    arrays = (jax.tree.leaves(eqx.filter(each, eqx.is_array)) for each in (flow, again))
    for ours, written in zip(*arrays, strict=True):
        np.testing.assert_allclose(ours, written, atol=1e-9)
    # Nobody can read the rate out of such a chain.
    assert np.isnan(other["learning_rate"]).all()
    again, other = train(schedule=default_schedule())
    assert same(flow, again)
    assert other["learning_rate"] == history["learning_rate"]


SGD = optax.chain(optax.trace(0.9), optax.scale(-1e-2))


@pytest.mark.slow
def test_the_optimizer_makes_the_updates():
    # One step of gradient descent, by hand.
    config = dataclasses.replace(CONFIG, steps=1, eval_every=1)
    flow, history = fit(
        FLOW, X, key=KEY, config=config, transform=None, objective=maximum_likelihood,
        validation=X, optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    )  # fmt: skip
    rows = jnp.asarray(X)[minibatch_indices(64, config, seed_words(KEY), 0, 1)[0]]

    def loss(flow):
        return maximum_likelihood(flow, rows, None, jax.random.fold_in(KEY, 0))[0]

    slope = eqx.filter_grad(loss)(FLOW).field.layers[-1].bias
    expected = FLOW.field.layers[-1].bias - 0.1 * slope
    np.testing.assert_allclose(flow.field.layers[-1].bias, expected, rtol=1e-12)
    # A rate that the state holds is recorded.
    assert history["learning_rate"] == [pytest.approx(0.1)]


OPTIMIZERS = {
    "sgd with momentum": SGD,
    "schedule free": optax.contrib.schedule_free_adamw(1e-2, warmup_steps=2),
    "prodigy": optax.contrib.prodigy(),
    "lookahead of the loss": optax.contrib.reduce_on_plateau(patience=1),
    "momo": optax.contrib.momo_adam(1e-2),
    "by place": optax.multi_transform(
        {"bias": optax.sgd(1e-2), "other": optax.adam(1e-2)},
        lambda tree: {name: "bias" if name.endswith("bias") else "other" for name in tree},
    ),
}
QUICK = ("schedule free",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in OPTIMIZERS]
)
def test_a_training_resumes_bit_for_bit_with_any_optimizer(name, tmp_path):
    optimizer = OPTIMIZERS[name]
    if "loss" in name:
        optimizer = optax.chain(optax.sgd(1e-2), optimizer)
    whole, history = train(optimizer=optimizer)
    assert not same(whole, FLOW)
    settings = {"optimizer": optimizer, "checkpoint": tmp_path / "state"}
    train(**settings, callback=lambda record: record.step == 4)
    again, columns = train(**settings, resume=True)
    assert same(whole, again)
    assert columns["loss"] == history["loss"]


def test_another_optimizer_or_schedule_is_not_resumed(tmp_path):
    file = {"checkpoint": tmp_path / "state"}
    train(**file, optimizer=optax.adam(1e-2), callback=lambda record: True)
    train(**file, optimizer=optax.adam(1e-2), callback=lambda record: True, resume=True)
    others: tuple[Any, ...] = (
        {"optimizer": optax.adam(2e-2)},
        {"optimizer": optax.sgd(1e-2)},
        {"schedule": optax.constant_schedule(1e-2)},
        {},
    )
    for other in others:
        with pytest.raises(ValueError, match="made with another optimizer: optimizer"):
            train(**file, **other, resume=True)


def test_a_schedule_counts_the_steps_of_the_entire_training():
    staged = Staged(((FlowMatching(), 1.0), (maximum_likelihood, 1.0)))
    schedule = lambda step: 1e-3 * (step + 1)  # noqa: E731
    _, history = train(objective=staged, schedule=schedule)
    np.testing.assert_allclose(history["learning_rate"], 1e-3 * np.asarray(history["step"]))


class Adam:
    """An optimiser as other libraries write them."""


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (
            {"optimizer": Adam},
            TypeError,
            r"is a class, not an optax.* write .*optax\.adam\(1e-3\)",
        ),
        ({"optimizer": optax.adam}, TypeError, r"is a function, .* what it returns, such as"),
        ({"optimizer": 1e-3}, TypeError, r"optimizer=0.001 is a float, .*write optax\.adam"),
        ({"schedule": 1e-3}, TypeError, r"schedule=0.001 is a number: .*constant_schedule\(0.001"),
        ({"schedule": jnp.asarray(1e-3)}, TypeError, r"is a number"),
        ({"schedule": Adam}, TypeError, r"is not a function step -> learning rate"),
        ({"schedule": "cosine"}, TypeError, r"schedule='cosine' is not a function"),
        ({"schedule": lambda step: jnp.ones(3) * step}, ValueError, r"gives shape \(3,\)"),
        (
            {"schedule": lambda step: 1e-3 if step < 5 else 1e-4},
            TypeError,
            r"branches on the value of its step.* jnp\.where",
        ),
        (
            {"schedule": optax.constant_schedule(1.0), "optimizer": optax.sgd(1.0)},
            ValueError,
            r"both given.* optimizer=optax\.adam\(schedule\)",
        ),
    ],
)
def test_a_wrong_optimizer_or_schedule_is_named_before_training(settings, error, says):
    # Not by `fit`, whose annotations the tests check first.
    with pytest.raises(error, match=says):
        Choice(**settings)


def test_a_callback_gets_a_record_of_numbers(tmp_path):
    seen, path = [], tmp_path / "log.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, Record.__dataclass_fields__)
        writer.writeheader()

        def log(record):
            seen.append(record)
            writer.writerow(record)

        _, history = train(callback=log)
    assert all(isinstance(record, Record) for record in seen)
    assert [dict(record) for record in seen] == [
        {name: values[i] for name, values in history.items()} for i in range(4)
    ]
    json.dumps(dict(seen[0]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen[0].loss = 0.0
    with pytest.raises(KeyError):
        seen[0]["get"]
    with path.open() as file:
        rows = [{n: float(v) for n, v in row.items()} for row in csv.DictReader(file)]
    assert rows == [dict(record) for record in seen]


class Pruned(Exception):
    """As tools raise it to end a trial."""


def stop_at(step):
    def callback(record):
        if record.step == step:
            raise Pruned("enough")

    return callback


def test_a_callback_that_raises_loses_nothing(tmp_path):
    whole, history = train()
    with pytest.raises(Pruned, match="enough") as caught:
        train(callback=stop_at(4))
    error: Any = caught.value
    assert error.history["step"] == [2, 4]
    assert history["loss"][:2] == error.history["loss"]
    half, _ = train(callback=lambda record: record.step == 4)
    assert same(error.flow, half)
    assert any("error.flow has the best weights so far" in note for note in error.__notes__)
    # With a checkpoint the last step is in it, and the training goes on from there.
    file = tmp_path / "state"
    with pytest.raises(Pruned) as caught:
        train(callback=stop_at(6), checkpoint=file)
    assert any("resume=True" in note for note in caught.value.__notes__)
    steps = []
    again, columns = train(
        checkpoint=file, resume=True, callback=lambda record: steps.append(record.step)
    )
    assert steps == [8]
    assert columns["loss"] == history["loss"]
    assert same(again, whole)


@pytest.mark.slow
def test_a_step_that_is_not_finite_ends_the_training_of_any_optimizer():
    with pytest.raises(TrainingError, match="lower the learning rate of the optimizer"):
        train(optimizer=optax.sgd(1e200))
