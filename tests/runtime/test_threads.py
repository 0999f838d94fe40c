"""Chunks on the cores of a CPU: the same bits, the caller's settings, errors in order."""

import threading
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from jaxflow import CNF, StandardNormal, TrainConfig, fit
from jaxflow.dynamics import MLP
from jaxflow.runtime import chunking
from jaxflow.runtime.chunking import map_chunks
from jaxflow.runtime.threads import Ahead, in_threads
from jaxflow.training.run import Run

KEY = jax.random.key(0)
ROWS: dict[str, Any] = {"row_size": 1, "lanes": 4}


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunking, "chunk_size", lambda *_: 8)
    monkeypatch.setattr(chunking, "num_threads", lambda: 3)


def test_rows_of_a_flow_have_the_same_bits(small_chunks, monkeypatch):
    flow = CNF(MLP(2, width=8, key=KEY), StandardNormal(2))
    x = np.random.default_rng(0).normal(size=(61, 2))
    together = flow.log_prob(x), flow.sample(KEY, 61)
    monkeypatch.setattr(chunking, "num_threads", lambda: 1)
    in_turn = flow.log_prob(x), flow.sample(KEY, 61)
    for ours, theirs in zip(together, in_turn, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_threads_have_the_settings_of_the_caller(small_chunks):
    seen = []

    def f(x, key):
        if isinstance(x, Tracer):  # what the program calls is looked at
            return jnp.asarray(x, float) + 1
        config: Any = jax.config
        name = threading.current_thread().name
        seen.append((name, config.jax_enable_x64, config.jax_default_matmul_precision))
        return jnp.asarray(x, float) + 1

    with jax.enable_x64(False), jax.default_matmul_precision("highest"):
        out = map_chunks(f, (np.arange(40.0, dtype=np.float32),), **ROWS)
    np.testing.assert_array_equal(np.asarray(out), np.arange(1.0, 41.0))
    assert out.dtype == np.float32
    assert len(seen) == 5
    assert sum(name.startswith("jaxflow") for name, _, _ in seen) == 4
    assert {each[1:] for each in seen} == {(False, "highest")}


def test_cores_share_the_rows_and_at_once_from_the_second_call_on(monkeypatch):
    monkeypatch.setattr(chunking, "num_threads", lambda: 2)
    seen = []

    def f(shift, x, key):
        if not isinstance(x, Tracer):
            seen.append((threading.current_thread().name.startswith("jaxflow"), len(x)))
        return x + shift

    def call(count, shift):
        seen.clear()
        out = map_chunks(partial(f, jnp.asarray(shift)), (jnp.arange(float(count)),), **ROWS)
        np.testing.assert_array_equal(out, np.arange(count) + shift)
        return sorted(seen)

    assert call(61, 1.0) == [(False, 32), (True, 32)]
    assert call(61, 2.0) == [(True, 32), (True, 32)]
    assert call(20, 1.0) == [(False, 20)]


def test_a_program_that_calls_lapack_runs_alone(small_chunks):
    names = []

    def f(x, key):
        if not isinstance(x, Tracer):
            names.append(threading.current_thread().name)
        return x + jnp.linalg.cholesky(jnp.eye(2))[0, 0]

    for _ in range(2):
        np.testing.assert_array_equal(map_chunks(f, (jnp.arange(40.0),), **ROWS), np.arange(1, 41))
    assert len(names) == 10
    assert not any(name.startswith("jaxflow") for name in names)


@pytest.mark.slow
def test_a_flow_that_is_differentiated_stays_in_its_thread(monkeypatch):
    monkeypatch.setattr(chunking, "num_threads", lambda: 2)
    flow = CNF(MLP(2, width=4, key=KEY), StandardNormal(2))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1100, 2)))
    for _ in range(2):
        flow.log_prob(x)
    slopes = eqx.filter_grad(lambda flow: flow.log_prob(x).mean())(flow)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_derivatives_are_taken_in_one_thread(small_chunks):
    def loss(scale):
        names = []

        def f(x, key):
            names.append(threading.current_thread().name)
            return scale * x

        value = map_chunks(f, (jnp.arange(40.0),), **ROWS).sum()
        assert not any(name.startswith("jaxflow") for name in names)
        return value

    assert jax.grad(loss)(2.0) == sum(range(40))


def test_programs_compiled_ahead_change_no_bit(monkeypatch):
    x = np.random.default_rng(0).normal(size=(80, 2))
    flow = CNF(MLP(2, width=4, key=KEY), StandardNormal(2))
    config = TrainConfig(steps=20, eval_every=10, batch_size=40)
    names = []
    compiled = Run.compile_ahead

    def watched(run):
        ahead = compiled(run)
        names.extend(future for future in ahead._futures)
        return ahead

    fits = []
    for ahead in (watched, lambda run: Ahead()):
        monkeypatch.setattr(Run, "compile_ahead", ahead)
        trained, _ = fit(flow, x, key=KEY, config=config, transform=None)
        fits.append(jax.tree.leaves(trained.field))
    assert len(names) == 3
    assert all(future.exception() is None for future in names)
    for ours, theirs in zip(*fits, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_first_error_is_raised():
    started = []

    def call(number):
        started.append(number)
        if number == 1:
            raise ValueError("row 1")
        return number

    with pytest.raises(ValueError, match="row 1"):
        list(in_threads([partial(call, number) for number in range(50)], 2))
    assert len(started) < 10
