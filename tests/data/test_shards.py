"""Rows in many files: reads by number, in a random order that is the same in all processes."""

import json
import resource
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxflow import CNF, StandardNormal, TrainConfig, fit
from jaxflow.data import Shards, write_table
from jaxflow.data import shards as module
from jaxflow.data.permutation import shuffled
from jaxflow.dynamics import MLP
from jaxflow.objectives import FlowMatching
from jaxflow.runtime.keys import seed_words
from jaxflow.training.minibatches import ShardBatches, minibatches_of
from jaxflow.training.prepare import prepare

ROWS = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)


@given(st.integers(1, 5000), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_an_order_has_every_number_once(count, seed):
    order = shuffled(np.arange(count), count, [seed])
    assert np.array_equal(np.sort(order), np.arange(count))


def test_an_order_is_random():
    count = 100_000
    order = shuffled(np.arange(count), count, [0])
    # 1.96 / sqrt(n) is 0.006.
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.012
    assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.012
    means = order.reshape(100, -1).mean(axis=1) / count
    assert np.abs(means - 0.5).max() < 4.5 / np.sqrt(12 * 1000)
    assert np.mean(order == shuffled(np.arange(count), count, [1])) < 1e-3


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE_ROWS", 150)
    for i, part in enumerate(np.split(ROWS, [400, 600])):
        write_table(tmp_path / f"{i}.parquet", part, ["a", "b", "c"])
    return Shards.convert([tmp_path / f"{i}.parquet" for i in range(3)], tmp_path / "shards")


def test_rows_with_nan_are_left_out_on_request(tmp_path):
    values = ROWS[:6].copy()
    values[[1, 4], [0, 2]] = np.nan, np.inf
    write_table(tmp_path / "x.npy", values, ["a", "b", "c"])
    shards = Shards.convert([tmp_path / "x.npy"], tmp_path / "shards", drop_nan=True)
    assert (len(shards), shards.dropped) == (4, 2)
    np.testing.assert_array_equal(shards.rows(np.arange(4))[0], ROWS[[0, 2, 3, 5]])
    write_table(tmp_path / "y.npy", values[[1, 4]], ["a", "b", "c"])
    with pytest.raises(ValueError, match="no row is left of 2"):
        Shards.convert([tmp_path / "y.npy"], tmp_path / "none", drop_nan=True)
    large = np.where(np.isfinite(values), values.astype(float), np.nan)
    large[3, 0] = 1e300
    write_table(tmp_path / "z.npy", large, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"row.* 3"):
        Shards.convert([tmp_path / "z.npy"], tmp_path / "large", drop_nan=True)


def test_rows_come_by_number(shards):
    assert len(shards) == 1000
    assert len(shards.files) == 3 + 2 + 3
    numbers = np.random.default_rng(1).integers(0, 1000, 300)
    np.testing.assert_array_equal(shards.rows(numbers)[0], ROWS[numbers])
    again = Shards.open(shards.folder, cond=["b"])
    x, cond = again.rows(numbers)
    np.testing.assert_array_equal(x, ROWS[numbers][:, [0, 2]])
    np.testing.assert_array_equal(cond, ROWS[numbers][:, [1]])
    assert again.fingerprint() != shards.fingerprint() == Shards.open(shards.folder).fingerprint()


CONFIG = TrainConfig(steps=9, batch_size=40, eval_every=3, validation_rows=50)


def flow_of(dim, key, cond_dim=0):
    return CNF(MLP(dim, width=8, cond_dim=cond_dim, key=key), StandardNormal((dim,)))


def test_an_epoch_has_every_training_row_once_and_no_held_out_one(shards, key):
    problem = prepare(flow_of(3, key), shards, None, key, 0.1, None, CONFIG)["as given"]
    source = minibatches_of(problem, seed_words(key), None)
    assert isinstance(source, ShardBatches)
    assert problem.stream is not None
    # 950 rows in steps of 40: 23 steps, whose remainder of 30 rows waits for another epoch.
    numbers = np.concatenate([source.row_numbers(CONFIG, step) for step in range(0, 24, 3)])
    first, second = numbers[:23].ravel(), numbers[23]
    assert len(np.unique(first)) == 23 * 40
    held = problem.stream.validation_rows()
    assert len(held) == 50
    assert not np.intersect1d(numbers, held).size
    assert len(np.intersect1d(first, second)) > 30
    # Read ahead or not, on a mesh or not, the rows are the same, in the precision of the flow.
    for step in (0, 3, 12, 3):
        rows, steps = source.load(CONFIG, step, 3)
        assert rows.x.dtype == problem.train.x.dtype
        assert steps.tolist() == [0, 1, 2]
        np.testing.assert_array_equal(rows.x, ROWS[source.row_numbers(CONFIG, step)])


@pytest.mark.parametrize("mesh", [None, pytest.param(8, marks=pytest.mark.slow)])
def test_a_flow_is_trained_on_shards(shards, key, mesh, tmp_path):
    shards = Shards.open(shards.folder, cond=["b"])
    options = {"config": CONFIG, "objective": FlowMatching(), "progress": False, "mesh": mesh}
    flow = flow_of(2, key, 1)
    whole, history = fit(flow, shards, key=key, **options)
    assert history["step"][-1] == 9
    file = tmp_path / "state"
    fit(flow, shards, key=key, **options, checkpoint=file, callback=lambda row: row["step"] == 3)
    again, theirs = fit(flow, shards, key=key, **options, checkpoint=file, resume=True)
    assert theirs["validation"] == history["validation"]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), whole.field, again.field))


def test_what_does_not_fit_is_refused(shards, tmp_path, key):
    with pytest.raises(FileExistsError, match="is not empty"):
        Shards.convert([tmp_path / "0.parquet"], shards.folder)
    write_table(tmp_path / "other.parquet", ROWS[:5], ["a", "b", "d"])
    with pytest.raises(ValueError, match=r"other.parquet has columns \['a', 'b', 'd'\], and"):
        Shards.convert([tmp_path / "0.parquet", tmp_path / "other.parquet"], tmp_path / "x")
    bad = ROWS[:400].copy()
    bad[321, 1] = np.nan
    write_table(tmp_path / "bad.parquet", bad, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"bad.parquet has NaN or infinity.* rows 321 "):
        Shards.convert([tmp_path / "bad.parquet"], tmp_path / "y")
    np.save(tmp_path / "large.npy", np.full((3, 2), 1e300))
    with pytest.raises(ValueError, match=r"large.npy has NaN or infinity in 3 of 3 rows"):
        Shards.convert([tmp_path / "large.npy"], tmp_path / "z")
    # A failed conversion leaves nothing, and can be repeated.
    both = [tmp_path / "0.parquet", tmp_path / "bad.parquet"]
    for folder, exists in ((tmp_path / "new", False), (tmp_path / "empty", True)):
        if exists:
            folder.mkdir()
        for _ in range(2):
            with pytest.raises(ValueError, match=r"bad.parquet has NaN"):
                Shards.convert(both, folder)
        assert folder.exists() == exists
        assert not exists or not list(folder.iterdir())
    with pytest.raises(FileNotFoundError, match=r"has no shards.json"):
        Shards.open(tmp_path)
    with pytest.raises(ValueError, match=r"no columns \['z'\]"):
        Shards.open(shards.folder, cond=["z"])
    with pytest.raises(ValueError, match="already contains its conditions"):
        fit(flow_of(3, key), shards, ROWS, key=key)
    record = json.loads((shards.folder / "shards.json").read_text())
    np.save(shards.folder / shards.files[2], ROWS[:7])
    with pytest.raises(
        ValueError, match=r"part-000002.npy has shape \(7, 3\); shards.json says \(100, 3\)"
    ):
        Shards.open(shards.folder)
    (shards.folder / "shards.json").write_text(json.dumps(record | {"files": ["../x"] * 8}))
    with pytest.raises(ValueError, match="is damaged: it names no files"):
        Shards.open(shards.folder)


SCRIPT = """
import resource, sys
import jax, numpy as np
import jaxflow
shards = jaxflow.data.Shards.open(sys.argv[1])
flow = jaxflow.CNF(jaxflow.dynamics.MLP(10, width=16, key=jax.random.key(0)),
                   jaxflow.StandardNormal((10,)))
steps = len(shards) // 4096
config = jaxflow.TrainConfig(steps=steps, batch_size=4096, eval_every=200, validation_rows=512,
                             patience=None)
flow, history = jaxflow.fit(flow, shards, key=jax.random.key(1), config=config, progress=False,
                            objective=jaxflow.objectives.FlowMatching(coupling=
                                jaxflow.objectives.couplings.independent))
print(history["step"][-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_epoch_of_twenty_million_rows_takes_less_than_2_gib(tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for i in range(10):
        files.append(tmp_path / f"{i}.parquet")
        write_table(
            files[-1], rng.normal(size=(2_000_000, 10)).astype(np.float32), [*"abcdefghij"]
        )
    Shards.convert(files, tmp_path / "shards")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 < 2048
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "shards")],
        capture_output=True,
        text=True,
        check=True,
    )
    step, mib = map(float, run.stdout.split())
    assert step == 20_000_000 // 4096
    assert mib < 2048
