"""A full disk, or a file at its size limit, loses only the newest state."""

import contextlib
import sys

import jax
import numpy as np
import pytest

import jaxflow
from jaxflow import CNF, ODE, StandardNormal, TrainConfig, fit
from jaxflow.dynamics import Linear
from jaxflow.objectives import FlowMatching

KEY = jax.random.key(1)
X = np.random.default_rng(1).normal(size=(200, 4)) * [1.0, 3.0, 0.5, 2.0]
TOO_LARGE = r"\[Errno 27\] File too large: '.*{}'"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")


@contextlib.contextmanager
def at_most(size):
    """No file may grow beyond a size: a write ends in the middle, as on a full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_training_goes_on_from_the_last_checkpoint_that_was_written(tmp_path):
    flow = CNF(Linear(4, key=KEY), StandardNormal(4), ode_eval=ODE(solver="rk4", num_steps=4))
    settings = {
        "key": KEY,
        "config": TrainConfig(steps=60, eval_every=20, batch_size=50),
        "objective": FlowMatching(),
        "transform": None,
    }
    file, before = tmp_path / "state.safetensors", []

    with contextlib.ExitStack() as limits:

        def fill(row):
            if row["step"] == 40:
                before.append(file.read_bytes())
                limits.enter_context(at_most(len(before[0]) // 2))

        with pytest.raises(OSError, match=TOO_LARGE.format(file.name)):
            fit(flow, X, checkpoint=file, callback=fill, **settings)
    assert [file.read_bytes()] == before
    assert list(tmp_path.iterdir()) == [file]
    seen = []
    resumed, history = fit(
        flow, X, checkpoint=file, resume=True, callback=lambda row: seen.append(row), **settings
    )
    alone, expected = fit(flow, X, **settings)
    assert [row["step"] for row in seen] == [40, 60]
    assert history["validation"] == expected["validation"]
    jax.tree.map(np.testing.assert_array_equal, resumed.field, alone.field)


def test_a_flow_that_was_saved_outlives_one_that_does_not_fit(tmp_path):
    file = tmp_path / "flow.safetensors"
    flow = CNF(Linear(4, key=KEY), StandardNormal(4))
    jaxflow.save(file, flow)
    before = file.read_bytes()
    larger = CNF(Linear(40, key=KEY), StandardNormal(40))
    with at_most(len(before) + 1), pytest.raises(OSError, match=TOO_LARGE.format(file.name)):
        jaxflow.save(file, larger, overwrite=True)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    assert jaxflow.load(file).event_shape == (4,)
