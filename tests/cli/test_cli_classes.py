"""Classes of rows in tables, and diffusion models from the shell."""

import json

import numpy as np
import polars as pl
import pytest

from jaxflow.cli.classes import draw_classes, find_classes, one_hot, read_labels, select_labels
from jaxflow.data import read_table


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, values):
    """The rows with a class of each: the sign of the first column."""
    path = tmp_path_factory.mktemp("labelled") / "table.csv"
    names = np.where(values[:, 0] > 0, "up", "down")
    frame = pl.DataFrame({"a": values[:, 0], "kind": names, "b": values[:, 1]})
    frame.write_csv(path)
    return path


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory, fit, labelled):
    """A finished run of a diffusion model with classes."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = ("--objective", "ddpm", "--class-column", "kind", "--depth", 1)
    result = fit(out, *options, table=labelled)
    assert result.exit_code == 0, result.output
    return out, result


@pytest.mark.slow
def test_a_run_keeps_its_classes(jaxflow, diffusion):
    run, result = diffusion
    record = json.loads((run / "run.json").read_text())
    assert (record["classes"], record["class_column"]) == (["down", "up"], "kind")
    assert record["columns"] == ["a", "b"]
    assert "down, up" in result.stdout
    shown = jaxflow("info", run).stdout
    assert "down, up" in shown
    assert "diffusion, ddpm (residual)" in shown
    assert f"misses the noised data by {record['prior_gap']:.2g} nats per row" in shown


def test_samples_by_class_sampler_and_guidance(jaxflow, diffusion, tmp_path):
    run, _ = diffusion
    common = ("--num", 5, "--sampler", "dpm", "--steps", 3)
    found = {}
    for name, options in {
        "free": (),
        "up": ("--class", "up"),
        "none": ("--class", "up", "--guidance", 0),
        "one": ("--class", "up", "--guidance", 1),
    }.items():
        result = jaxflow("sample", run, "--out", tmp_path / f"{name}.csv", *common, *options)
        assert result.exit_code == 0, result.output
        found[name] = read_table(tmp_path / f"{name}.csv").values
    np.testing.assert_allclose(found["none"], found["free"], rtol=1e-4)
    np.testing.assert_allclose(found["one"], found["up"], rtol=1e-4)
    assert np.isfinite(found["up"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["langevin", "corrected", "ancestral"])
def test_noise_that_explodes(jaxflow, fit, table, tmp_path, sampler):
    run, out = tmp_path / "run", tmp_path / "x.csv"
    result = fit(run, "--objective", "ncsn", "--depth", 1)
    assert result.exit_code == 0, result.output
    assert "misses the noised data by" in result.stdout
    assert "diffusion, ncsn (residual)" in jaxflow("info", run).stdout
    assert jaxflow("sample", run, "--out", out, "--sampler", sampler, "--num", 5).exit_code == 0
    assert np.isfinite(read_table(out).values).all()
    far = fit(tmp_path / "far", "--objective", "ncsn", "--transform", "none", "--depth", 1)
    assert far.exit_code == 0, far.output
    assert ("Add --transform standardise to scale the data" in far.stderr) == (
        json.loads((tmp_path / "far" / "run.json").read_text())["prior_gap"] > 0.1
    )


@pytest.mark.slow
def test_scores_given_the_class(jaxflow, diffusion, labelled, tmp_path):
    run, _ = diffusion
    result = jaxflow("score", run, labelled, "--out", tmp_path / "own.csv")
    assert result.exit_code == 0, result.output
    own = pl.read_csv(tmp_path / "own.csv")["log_prob"].to_numpy()
    result = jaxflow("score", run, labelled, "--out", tmp_path / "up.csv", "--class", "up")
    up = pl.read_csv(tmp_path / "up.csv")["log_prob"].to_numpy()
    is_up = pl.read_csv(labelled)["kind"].to_numpy() == "up"
    np.testing.assert_array_equal(own[is_up], up[is_up])
    assert np.isfinite(own).all()
    for scale in (1, 3):
        out = tmp_path / f"{scale}.csv"
        result = jaxflow("score", run, labelled, "--out", out, "--guidance", scale)
        assert result.exit_code == 0, result.output
        guided = pl.read_csv(out)["log_prob"].to_numpy()
        assert np.allclose(guided, own, atol=1e-3) == (scale == 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--class", "left"), "--class left is unknown; the run has the classes down, up"),
        (("--class", "up", "--guidance", "nan"), "--guidance nan must be a finite number"),
        (("--class", "up", "--steps", 3), "--steps 3 needs a diffusion --sampler"),
        (("--sampler", "dpm", "--steps", 0), "Invalid value for '--steps'"),
    ],
)
def test_options_that_do_not_fit_are_refused(jaxflow, diffusion, tmp_path, options, says):
    run, _ = diffusion
    result = jaxflow("sample", run, "--out", tmp_path / "x.csv", *options)
    assert result.exit_code == 2
    assert says in result.stderr


def test_the_class_is_no_column_of_the_density(fit, labelled, tmp_path):
    result = fit(tmp_path / "r", "--class-column", "kind", "--columns", "a,kind", table=labelled)
    assert result.exit_code == 2
    assert "kind is in both --columns and --class-column" in result.stderr


@pytest.mark.slow
def test_a_run_without_classes_has_none(jaxflow, fitted, tmp_path):
    run, _ = fitted
    for options, says in (
        (("--class", "up"), "the run has no classes; fit it with --class-column"),
        (("--guidance", 2.0), "--guidance 2.0 needs a diffusion model with classes"),
        (("--sampler", "dpm"), "--sampler dpm needs a diffusion model, and"),
    ):
        result = jaxflow("sample", run, "--out", tmp_path / "x.csv", *options)
        assert result.exit_code == 2
        assert says in result.stderr


def test_labels_are_read_from_any_table(tmp_path):
    labels = [1.0, 10.0, 2.0, 1.0]
    frame = pl.DataFrame({"x": [0.1, 0.2, 0.3, 0.4], "y": labels})
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", frame.to_numpy())
    for name, column in (("t.csv", "y"), ("t.parquet", "y"), ("t.npy", "x1")):
        found = read_labels(tmp_path / name, column)
        assert found.tolist() == ["1", "10", "2", "1"]
        assert find_classes(found, column) == ["1", "2", "10"]
    cells = ["1000000000001", "1_0", "0.5", "True", "2e0", "007", "7"]
    (tmp_path / "u.csv").write_text("\n".join(["x,y", *(f"1,{cell}" for cell in cells)]) + "\n")
    found = read_labels(tmp_path / "u.csv", "y")
    assert found.tolist() == ["1000000000001", "1_0", "0.5", "true", "2", "007", "7"]
    assert find_classes(found[-2:], "y") == ["007", "7"]
    hot = one_hot(np.asarray(["2", "1"]), ["1", "2"], tmp_path)
    assert hot.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_bad_labels_are_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1,a\n2,\n3,b\n")
    with pytest.raises(ValueError, match="1 row without a label in 'y', first row 1"):
        select_labels(read_labels(path, "y"), np.arange(3), path, "y")
    assert select_labels(read_labels(path, "y"), np.asarray([0, 2]), path, "y").tolist() == [
        "a",
        "b",
    ]
    with pytest.raises(ValueError, match="no column 'z'; it has x, y"):
        read_labels(path, "z")
    with pytest.raises(ValueError, match=r"has 1 distinct label; it must have 2 to 1000"):
        find_classes(np.asarray(["a", "a"]), "y")
    with pytest.raises(ValueError, match=r"row 1 has the class 'c' \(1 such row\)"):
        one_hot(np.asarray(["a", "c"]), ["a", "b"], path)


@pytest.mark.slow
def test_classes_are_drawn_by_their_frequencies(jaxflow, fit, tmp_path, values):
    path, out = tmp_path / "t.csv", tmp_path / "s.csv"
    names = np.where(np.arange(len(values)) % 4 == 0, "007", "7")
    pl.DataFrame({"kind": names, "a": values[:, 0]}).write_csv(path)
    run = tmp_path / "run"
    result = fit(run, "--class-column", "kind", table=path)
    assert result.exit_code == 0, result.output
    result = jaxflow("sample", run, "--out", out, "--num", 2000)
    assert result.exit_code == 0, result.output
    drawn = pl.read_csv(out, infer_schema=False)
    assert drawn.columns == ["kind", "a"]
    shares = dict(drawn["kind"].value_counts(normalize=True).rows())
    assert abs(shares["007"] - 0.25) < 0.05
    assert set(shares) == {"007", "7"}
    # As few digits as float32 has.
    assert max(map(len, drawn["a"].to_list())) <= 14
    assert jaxflow("score", run, out, "--out", tmp_path / "scores.csv").exit_code == 0


def test_classes_without_counts_are_drawn_as_often(capsys):
    labels, hot = draw_classes({"classes": ["1", "2.5"]}, 100, 0)
    assert set(labels.tolist()) == {1.0, 2.5}
    np.testing.assert_array_equal(hot.argmax(axis=1), labels > 2)
    assert "each is drawn as often" in capsys.readouterr().err
