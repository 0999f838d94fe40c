"""Evaluation on many devices gives the same bits as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, Hutchinson, StandardNormal, use_devices
from jaxflow.dynamics import MLP
from jaxflow.flows.flow import map_rows
from jaxflow.runtime import chunking

ROWS = np.random.default_rng(0).normal(size=(1001, 3))


@pytest.fixture
def flow(key):
    return CNF(MLP(3, width=16, depth=2, key=key), StandardNormal((3,)))


def test_every_row_has_the_bits_of_one_device(flow):
    one = flow.log_prob(ROWS)
    with use_devices(3):
        assert np.array_equal(one, flow.log_prob(ROWS))


@pytest.mark.slow
def test_samples_errors_and_probes_have_the_bits_of_one_device(flow, key, monkeypatch):
    # Chunks with a key have the same size on any number of devices.
    monkeypatch.setattr(chunking, "CHUNK_ROWS", 256)
    noisy = CNF(flow.field, flow.base, trace=Hutchinson(2))

    def everything():
        return (
            *flow.log_prob_with_error(ROWS),
            flow.sample(key, 1001),
            noisy.log_prob(ROWS, key=key),
        )

    one = everything()
    for devices in (3, 8):
        with use_devices(devices):
            many = everything()
        assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True))


def test_devices_take_chunks_in_turn(flow, monkeypatch):
    used = []

    def score(x, key):
        used.extend(x.devices())
        return jnp.sum(x, axis=1), None

    with use_devices(4):
        # Two groups of lanes for each device.
        log_p, _ = map_rows(flow, score, (jnp.asarray(ROWS[:900]),), None, False)
    assert used == jax.devices()[:4]
    assert log_p.devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(log_p, ROWS[:900].sum(axis=1))


@pytest.mark.slow
def test_derivatives_and_jit_stay_on_one_device(flow):
    slope = jax.jit(jax.grad(lambda x: flow.log_prob(x).sum()))
    x = jnp.asarray(ROWS[:300])
    with use_devices(2):
        many = slope(x)
    np.testing.assert_array_equal(slope(x), many)


def test_too_many_devices_are_refused():
    with pytest.raises(ValueError, match="devices=100 exceeds the 8 available"), use_devices(100):
        pass
