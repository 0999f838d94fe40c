"""Training by two processes gives the flow of one, and ends if a process is lost."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxflow import join_processes

SCRIPT = """
import sys
import jax
import numpy as np
import jaxflow
index, count, port, file, steps, resume = sys.argv[1:]
if int(count) > 1:
    jaxflow.join_processes(f"127.0.0.1:{port}", int(count), int(index))
x = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
key = jax.random.key(0)
flow = jaxflow.CNF(jaxflow.dynamics.MLP(2, width=8, key=key), jaxflow.StandardNormal((2,)))
config = jaxflow.TrainConfig(steps=int(steps), batch_size=64, eval_every=2, validation_rows=32,
                             patience=None)
flow, history = jaxflow.fit(
    flow, x, key=key, config=config, transform=None, mesh=jaxflow.rows_mesh(), progress=False,
    objective=jaxflow.objectives.FlowMatching(), resume=resume == "resume",
    checkpoint=jaxflow.training.Checkpoints(file) if "folder" in file else file,
    callback=lambda row: print("step", row["step"], flush=True),
)
if resume == "resume":
    with jaxflow.use_devices():
        log_p = np.asarray(flow.log_prob(x))
    assert np.array_equal(log_p, np.asarray(flow.log_prob(x)))
leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(flow.field) if hasattr(leaf, "shape")]
np.savez(f"{file}.{index}.npz", *leaves)
"""


def start(index, count, port, file, steps, resume="new", devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, (index, count, port, file, steps, resume))],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def finish(*processes):
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err


def weights(file, index=0):
    with np.load(f"{file}.{index}.npz") as stored:
        return [stored[name] for name in stored.files]


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.slow
def test_two_processes_train_the_flow_of_two_devices(tmp_path):
    port = free_port()
    finish(*(start(i, 2, port, tmp_path / "two", 2) for i in range(2)))
    finish(start(0, 1, port, tmp_path / "one", 2, devices=2))
    assert same(weights(tmp_path / "two", 0), weights(tmp_path / "two", 1))
    assert same(weights(tmp_path / "two"), weights(tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["job", "folder"])
def test_a_lost_process_ends_the_job_which_goes_on_to_the_same_bits(tmp_path, name):
    steps, place = 40, tmp_path / name
    finish(start(0, 1, 0, tmp_path / "whole", steps, devices=2))
    port = free_port()
    pair = [start(i, 2, port, place, steps) for i in range(2)]
    told = pair[1].stdout
    assert told is not None
    while "step 6" not in told.readline():
        assert pair[1].poll() is None
    pair[1].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    pair[1].communicate()
    _, err = pair[0].communicate(timeout=300)
    assert pair[0].returncode != 0
    assert "lost another process" in err
    assert "resume from the checkpoint" in err
    assert time.monotonic() - begun < 200
    port = free_port()
    finish(*(start(i, 2, port, place, steps, "resume") for i in range(2)))
    assert same(weights(place), weights(tmp_path / "whole"))


def test_a_coordinator_that_does_not_answer_is_named():
    port = free_port()
    with pytest.raises(ConnectionError, match=f"coordinator=127.0.0.1:{port} did not answer in 1"):
        join_processes(f"127.0.0.1:{port}", 2, 1, timeout=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("127.0.0.1:1", 2, None), "belong together"),
        (("127.0.0.1:1", 2, 2), "process_index=2 must be below num_processes=2"),
        (("127.0.0.1", 2, 0), "must be an address host:port"),
        (("127.0.0.1:1", 0, 0), "num_processes=0 must be an integer"),
    ],
)
def test_wrong_arguments_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        join_processes(*given)
