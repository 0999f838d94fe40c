"""A checkpoint knows what it was trained with, and goes on with nothing else."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, DiagonalNormal, StandardNormal, TrainConfig, fit
from jaxflow.dynamics import MLP
from jaxflow.io import checkpoint as files
from jaxflow.objectives import FlowMatching, MaximumLikelihood, ReverseKL, maximum_likelihood
from jaxflow.training.identity import check_same, describe, fingerprint
from jaxflow.transforms import Standardise, propose

KEY = jax.random.key(4)
X = np.random.default_rng(0).normal(size=(64, 2))
CONFIG = TrainConfig(steps=2, batch_size=32, eval_every=1)


def flow(activation="tanh", **settings):
    field = MLP(2, width=4, depth=1, activation=activation, key=KEY)
    return CNF(field, settings.pop("base", StandardNormal(2)), **settings)


def scaled(scale):
    def objective(flow, x, cond, key):
        loss, metrics = maximum_likelihood(flow, x, cond, key)
        return scale * loss, metrics

    return objective


FLOW = flow()

SCALE, SEEN, CALLS = (1.0, "mean"), [], 0


def helper(loss):
    return [each * loss for each in SCALE[:1]][0]  # noqa: RUF015


@jax.jit
def calls_helper(loss):
    return helper(loss)


def of_globals(flow, x, cond, key):
    global CALLS
    CALLS += 1
    SEEN.append(x.shape)
    loss, metrics = maximum_likelihood(flow, x, cond, key)
    return calls_helper(loss), metrics


def train(file, flow=FLOW, objective: Any = maximum_likelihood, transform=None, **settings):
    return fit(
        flow, X, key=KEY, config=CONFIG, checkpoint=file, transform=transform,
        objective=objective, **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    file = tmp_path_factory.mktemp("states") / "state"
    train(file, objective=scaled(2.0))
    return file


def test_the_same_call_goes_on(state):
    train(state, objective=scaled(2.0), resume=True)


SOLVER = ODE(solver="rk4", num_steps=5)
MOVED = DiagonalNormal(jnp.ones(2), jnp.ones(2))
SHIFT = Standardise(jnp.ones(2), jnp.ones(2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": maximum_likelihood}, r"another objective: objective was .*scaled"),
        ({"objective": FlowMatching()}, r"and is jaxflow\.objectives\.matching\.FlowMatching"),
        ({"objective": scaled(3.0)}, r"objective\.scale was 2\.0 and is 3\.0;"),
        ({"flow": flow("softplus")}, r"another flow: flow\.field\.\S*activation\S* was .*tanh"),
        ({"flow": flow(ode_eval=SOLVER)}, r"flow\.ode_eval\.\S+ was .* more; resume with the"),
        ({"flow": flow(trace="hutchinson")}, r"flow\.trace was .*Auto.*Hutchinson"),
        ({"flow": flow(base=MOVED)}, r"flow\.base was .*StandardNormal .*DiagonalNormal"),
        ({"transform": SHIFT}, r"flow\.transform was None and is .*Standardise"),
    ],
)
def test_another_objective_or_flow_is_refused(state, change, says):
    settings = {"objective": scaled(2.0)} | change
    with pytest.raises(ValueError, match=says):
        train(state, **settings, resume=True)


def test_an_earlier_checkpoint_is_refused_in_words(state, tmp_path):
    old = tmp_path / "old"
    content = json.loads(json.dumps(files.load_extra(state)))
    del content["flow"], content["objective"]
    files.save_leaves(old, {}, extra=content | {"data": "0123456789abcdef"})
    with pytest.raises(ValueError, match=r"an earlier jaxflow.* finish it with that version"):
        train(old, objective=scaled(2.0), resume=True)


@pytest.mark.slow
def test_proposed_transforms_are_told_from_none(tmp_path):
    rng = np.random.default_rng(1)
    x = np.stack([rng.poisson(30.0, 300), rng.normal(size=300)], axis=1)
    settings = {"key": KEY, "config": CONFIG, "checkpoint": tmp_path / "state"}
    fit(flow(), x, transform=propose(x), **settings)
    with pytest.raises(ValueError, match=r"flow\.transform was .*Chain and is .*"):
        fit(flow(), x, **settings, resume=True)


@pytest.mark.parametrize("x64", [False, True])
def test_data_are_hashed_as_given(x64):
    seconds = 1.7e9 + np.arange(5.0)
    with jax.enable_x64(x64):
        one = fingerprint(seconds)
        assert fingerprint(seconds + np.eye(1, 5)[0] * 60) != one
        assert fingerprint(seconds + np.eye(1, 5)[0] * 2**-20) != one
        assert fingerprint(list(seconds)) == one
        half = np.linspace(0, 1, 5, dtype=np.float32)
        assert (
            fingerprint(half) == fingerprint(half.astype(float)) == fingerprint(jnp.asarray(half))
        )
        nanoseconds = np.asarray(1_700_000_000_000_000_000)
        assert fingerprint(nanoseconds) != fingerprint(nanoseconds + 1)
        assert fingerprint(np.zeros((2, 3))) != fingerprint(np.zeros((3, 2)))


def test_objectives_are_told_apart():
    two, three = 2.0, 3.0
    cases = [
        maximum_likelihood, FlowMatching(), MaximumLikelihood(kinetic=0.1),
        ReverseKL(target=lambda x: -jnp.sum((x - 1) ** 2)),
        ReverseKL(target=lambda x: -jnp.sum((x - 7) ** 2)),
        ReverseKL(target=lambda x: -jnp.sum((x - two) ** 2)),
        ReverseKL(target=lambda x: -jnp.sum((x - three) ** 2)),
        ReverseKL(target=jax.jit(lambda x: -jnp.max(x))),
        ReverseKL(target=functools.partial(jnp.sum, axis=0)),
        ReverseKL(target=functools.partial(jnp.sum, axis=-1)),
        ReverseKL(target=jnp.sum), scaled(2.0), scaled(3.0),
    ]  # fmt: skip
    texts = [json.dumps(describe(case, "objective")) for case in cases]
    assert len(set(texts)) == len(cases)
    assert not any("0x" in text for text in texts)
    assert texts == [json.dumps(describe(case, "objective")) for case in cases]


def test_what_a_training_changes_is_no_part_of_an_objective():
    seen = []

    def objective(flow, x, cond, key):
        seen.append(x.shape)
        return maximum_likelihood(flow, x, cond, key)

    before = describe(objective, "objective")
    seen.append(1)
    assert describe(objective, "objective") == before

    # A function that calls itself ends.
    def power(n):
        return 1 if n == 0 else 2 * power(n - 1)

    assert list(describe(power, "objective")) == ["objective"]
    assert dataclasses.is_dataclass(FlowMatching)


def test_the_globals_that_an_objective_reads_are_part_of_it(monkeypatch):
    before = describe(of_globals, "objective")
    monkeypatch.setitem(globals(), "CALLS", 7)
    monkeypatch.setitem(globals(), "SEEN", [1])
    assert describe(of_globals, "objective") == before
    monkeypatch.setitem(globals(), "SCALE", (2.0, "mean"))
    with pytest.raises(
        ValueError, match=r"another objective: .*test_resume.SCALE\[0\] was 1.0 and"
    ):
        check_same("objective", describe(of_globals, "objective"), before, "state")
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "helper", lambda loss: loss + 1)
    with pytest.raises(ValueError, match=r"another objective: .*test_resume.helper was"):
        check_same("objective", describe(of_globals, "objective"), before, "state")
    monkeypatch.undo()
    assert describe(of_globals, "objective") == before
