"""`jaxflow fit` on images: arrays and folders, and the commands on their runs."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 2
IMAGES = (RNG.integers(0, 5, (40, 4, 4)) + 5 * LABELS[:, None, None]).astype(np.uint8)
TINY = ("--width", 2, "--steps", 4)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, images=IMAGES, labels=LABELS)
    return path


@pytest.fixture(scope="module")
def run(jaxflow, arrays):
    """A run on labelled images, and what its fit printed."""
    out = arrays.parent / "run"
    result = jaxflow("fit", arrays, "--out", out, *TINY, "--validation", 0.2)
    assert result.exit_code == 0, result.output
    return out, result


@pytest.mark.slow
def test_a_fit_says_what_it_found_and_states_bits_per_dimension(jaxflow, run):
    out, result = run
    assert "40 images of 4 x 4, grey, 10 levels, 2 classes" in result.stderr
    assert "images     32 for training, 8 held out" in result.stdout
    assert "at most" in result.stdout
    assert f"jaxflow sample {out} --grid samples.png" in result.stdout
    shown = jaxflow("info", out).stdout
    assert "cnf (U-Net), width 2, float32" in shown
    assert "bits/dim (standard errors: probes" in shown


@pytest.mark.slow
def test_the_options_of_a_run_repeat_it(jaxflow, run, tmp_path):
    out, _ = run
    result = jaxflow("fit", "--config", out / "run.toml", "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    one, other = (
        json.loads((each / "run.json").read_text()) for each in (out, tmp_path / "again")
    )
    assert one["bits_per_dim"] == other["bits_per_dim"]


@pytest.mark.slow
def test_options_of_training_are_those_of_fit_images(jaxflow, arrays, tmp_path):
    more = ("--flips", "--shifts", 1, "--ema", 0.9, "--noise", "truncated")
    out = tmp_path / "run"
    result = jaxflow("fit", arrays, "--out", out, *TINY, *more, "--objective", "fm")
    assert result.exit_code == 0, result.output
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert [settings[name] for name in ("flips", "shifts", "ema")] == [True, 1, 0.9]
    lines = (out / "run.toml").read_text().splitlines()
    assert {"flips = true", 'noise = "truncated"', 'objective = "fm"'} <= set(lines)


@pytest.mark.slow
def test_samples_are_levels_of_each_class_and_a_picture(jaxflow, run, tmp_path):
    out, grid = tmp_path / "new.npz", tmp_path / "new.png"
    result = jaxflow("sample", run[0], "--out", out, "--grid", grid, "-n", 6, "--guidance", 2)
    assert result.exit_code == 0, result.output
    with np.load(out) as file:
        assert file["images"].shape == (6, 4, 4, 1)
        assert file["images"].dtype == np.uint8
        assert file["images"].max() <= 9
        assert file["labels"].tolist() == ["0", "0", "0", "1", "1", "1"]
    with Image.open(grid) as picture:
        assert picture.width > 100
    result = jaxflow("sample", run[0], "--out", out, "--class", 1, "-n", 2, "--overwrite")
    assert result.exit_code == 0, result.output
    with np.load(out) as file:
        assert file["labels"].tolist() == ["1", "1"]


@pytest.mark.slow
def test_scores_are_bits_and_nats_of_each_image(jaxflow, run, arrays, tmp_path):
    result = jaxflow("score", run[0], arrays, "--out", tmp_path / "scores.csv", "--unusual", 2)
    assert result.exit_code == 0, result.output
    scores = pl.read_csv(tmp_path / "scores.csv")
    nats = -scores["bits_per_dim"].to_numpy() * 16 * np.log(2)
    np.testing.assert_allclose(scores["log_prob"].to_numpy(), nats)
    assert len(scores) == 40
    worst = int(scores["log_prob"].to_numpy().argmin())
    assert f"unusual 1  image {worst}:" in result.stdout
    out = tmp_path / "errors.csv"
    result = jaxflow("score", run[0], arrays, "--out", out, "--with-error")
    assert result.exit_code == 0, result.output
    errors = pl.read_csv(out)
    ratio = errors["log_prob_se"].to_numpy() / errors["bits_per_dim_se"].to_numpy()
    np.testing.assert_allclose(ratio, 16 * np.log(2))


@pytest.mark.slow
def test_check_states_every_error_and_its_report_has_pictures(jaxflow, run, arrays, tmp_path):
    report, card = tmp_path / "report.html", tmp_path / "README.md"
    result = jaxflow("check", run[0], arrays, "--report", report, "--card", card)
    assert result.exit_code == 0, result.output
    assert "only its 8 held-out images are tested" in result.stderr
    for words in ("probes", "draws", "8 images", "error of the solves", "nearest training image"):
        assert words in result.stdout
    text = report.read_text()
    for caption in ("Samples", "Samples, each beside the nearest training image", "Trajectories"):
        assert f"<figcaption>{caption}" in text
    assert "40 images of 4 x 4" in card.read_text()


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_flow(jaxflow, run, arrays, tmp_path, monkeypatch):
    from jaxflow.cli import training

    def interrupt(self, row):
        if row.step == 2:
            raise KeyboardInterrupt
        return False

    command = ("fit", arrays, "--out", tmp_path / "run", *TINY, "--validation", 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(training.Monitor, "__call__", interrupt)
        result = jaxflow(*command)
        assert result.exit_code == 130
        assert "--resume" in result.stderr
    result = jaxflow(*command, "--resume")
    assert result.exit_code == 0, result.output
    files = [(each / "flow.safetensors").read_bytes() for each in (run[0], tmp_path / "run")]
    weights = [data[8 + int.from_bytes(data[:8], "little") :] for data in files]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_images_of_another_kind_are_refused_by_a_run(jaxflow, run, tmp_path):
    other, out = tmp_path / "other.npz", ("--out", tmp_path / "scores.csv")
    for images, said in (
        (IMAGES[:, :3], "images have shape (4, 4, 1) here"),
        (np.stack([IMAGES] * 3, -1), "grey against colour"),
        (2 * IMAGES, "has the value 18, and levels=10 allows 0 to 9"),
        (IMAGES, "no labels, and"),
    ):
        np.savez(other, images=images)
        check_refused(jaxflow("score", run[0], other, *out), said)
    refused = jaxflow("check", run[0], other, "--picture", tmp_path / "a.png")
    check_refused(refused, "--picture is for tables, and")
    check_refused(jaxflow("distil", run[0], other), "was fitted to images")
    check_refused(jaxflow("sample", run[0]), "give --grid samples.png")


def test_options_of_tables_and_of_images_do_not_mix(jaxflow, arrays, table, tmp_path):
    out, first = ("--out", tmp_path / "run"), tmp_path / "first.npz"
    np.savez(first, images=np.ones((5, 3, 8, 8)))
    for result, said in (
        (jaxflow("fit", arrays, *out, "--columns", "a"), "--columns is for tables"),
        (jaxflow("fit", table, *out, "--levels", 5), "--levels is for images"),
        (jaxflow("fit", table, *out, "--flips"), "--flips is for images"),
        (jaxflow("fit", arrays, *out, "--objective", "ddpm"), "--objective ddpm is for tables"),
        (jaxflow("fit", arrays, *out, "--shifts", 2), "shifts=2 must be less than half"),
        (jaxflow("fit", arrays, *out, "--levels", 4), "images.npz: images has the value 9"),
        (jaxflow("fit", first, *out), "first.npz: shape=(3, 8, 8) has the channels first"),
    ):
        check_refused(result, said)
    assert not (tmp_path / "run").exists()


def test_folders_without_pictures_that_are_read_are_named(jaxflow, tmp_path):
    result = jaxflow("fit", tmp_path, "--out", tmp_path / "new")
    assert result.exit_code == 2
    assert "no pictures (.png, .jpg, .jpeg)" in " ".join(result.stderr.split())
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.bmp")
    result = jaxflow("fit", tmp_path, "--out", tmp_path / "new")
    assert result.exit_code == 2
    assert "would be left out" in " ".join(result.stderr.split())


def test_a_table_needs_an_output(jaxflow, fitted):
    check_refused(jaxflow("sample", fitted[0]), "give --out FILE")


def check_refused(result, said):
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
