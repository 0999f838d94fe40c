"""Many devices and more rows than fit in memory, from the command line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.data import read_table, write_table


@pytest.fixture
def no_cache():
    """Nothing of a test's cache of compiled programs reaches the others."""
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.mark.slow
@pytest.mark.usefixtures("no_cache")
def test_shards_are_fitted_and_scored(jaxflow, fit, values, tmp_path):
    for i, part in enumerate(np.split(values, 2)):
        write_table(tmp_path / f"{i}.npy", part, ["x0", "x1"])
    made = jaxflow("shards", tmp_path / "0.npy", tmp_path / "1.npy", "--out", tmp_path / "shards")
    assert "200 rows" in made.stdout
    profile, cache = tmp_path / "profile", tmp_path / "cache"
    result = fit(
        tmp_path / "run", "--devices", 2, "--profile", profile, "--compile-cache", cache,
        table=tmp_path / "shards",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert list(profile.rglob("*.xplane.pb"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["rows"], record["rows_held_out"]) == (200, 20)
    assert "jaxflow sample" in result.stdout
    scores = tmp_path / "scores.npy"
    score = "score", tmp_path / "run", tmp_path / "0.npy", "--out", scores, "--devices", 3
    assert jaxflow(*score).exit_code == 0
    assert read_table(scores).values.shape == (100, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--columns", "x0"), "--columns x0: "),
        (("--drop-nan",), "--drop-nan: "),
        (("--devices", 1000), "devices=1000 exceeds the 8 available (cpu)"),
        (("--process-index", 1), "--processes and --process-index require --coordinator"),
        (("--coordinator", "here", "--processes", 2), "process_index=None belong together"),
    ],
)
def test_what_does_not_go_is_refused_in_a_line(fit, values, tmp_path, options, message):
    write_table(tmp_path / "x.npy", values, ["x0", "x1"])
    table = tmp_path / "x.npy"
    if options[0] in ("--columns", "--drop-nan"):
        from jaxflow.data import Shards

        table = Shards.convert([table], tmp_path / "shards").folder
    result = fit(tmp_path / "run", *options, table=table)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_device_without_float64_is_named(fit, tmp_path, monkeypatch):
    ones = jnp.ones
    monkeypatch.setattr(jnp, "ones", lambda shape, dtype=None: ones(shape, jnp.float32))
    result = fit(tmp_path / "run", "--float64")
    assert result.exit_code == 2
    assert "--float64: the device cpu has no float64" in result.stderr
