"""`jaxflow fit` of places, angles and directions."""

import numpy as np
import pytest

import jaxflow as library
from jaxflow.dynamics import MLP
from jaxflow.manifolds import Euclidean, Product, Sphere, Torus

SMALL = ("--width", 8, "--depth", 1, "--steps", 4)


@pytest.fixture(scope="module")
def places(tmp_path_factory, write):
    """Places across the date line, with a depth."""
    rng = np.random.default_rng(0)
    lon = (180 + 60 * rng.normal(size=120) + 180) % 360 - 180
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, 120)))
    path = tmp_path_factory.mktemp("places") / "places.csv"
    return write(path, np.column_stack([lat, rng.normal(size=120), lon]), "lat,depth,lon")


@pytest.mark.slow
def test_a_table_of_places_is_fitted_on_the_sphere(jaxflow, places, tmp_path):
    run = tmp_path / "run"
    result = jaxflow("fit", places, "--out", run, *SMALL)
    assert result.exit_code == 0, result.output
    assert "lat, lon: latitude and longitude in degrees, on a sphere" in result.stderr
    assert "--kind lat,lon=interval" in result.stderr
    assert "latlon, standardise" in result.stdout
    assert "12 held-out rows" in result.stdout
    flow = library.load(run / "flow.safetensors")
    assert flow.field.manifold == Product(Sphere(2), Euclidean(1))

    samples = tmp_path / "samples.csv"
    assert jaxflow("sample", run, "--out", samples, "-n", 200).exit_code == 0
    drawn = np.genfromtxt(samples, delimiter=",", names=True)
    assert drawn.dtype.names == ("lat", "depth", "lon")
    assert np.abs(drawn["lon"]).max() <= 180
    assert np.abs(drawn["lat"]).max() <= 90
    scored = jaxflow("score", run, samples, "--out", tmp_path / "scores.csv")
    assert scored.exit_code == 0, scored.output
    scores = np.genfromtxt(tmp_path / "scores.csv", delimiter=",", names=True)
    assert np.isfinite(scores["log_prob"]).all()
    report = tmp_path / "report.html"
    checked = jaxflow("check", run, places, "--report", report)
    assert report.exists(), checked.output
    assert "Density and rows on the sphere: lat, lon" in report.read_text()


@pytest.mark.slow
def test_the_user_may_say_otherwise(jaxflow, places, tmp_path):
    kinds = ("--kind", "lat=interval", "--kind", "lon=periodic:360")
    result = jaxflow("fit", places, "--out", tmp_path / "circle", *SMALL, *kinds)
    assert result.exit_code == 0, result.output
    assert "lon: repeats after 360, from -180 on: a circle" in result.stderr
    flow = library.load(tmp_path / "circle" / "flow.safetensors")
    assert flow.field.manifold == Product(Torus(1), Euclidean(2))
    flat = ("--kind", "lat,lon=interval")
    result = jaxflow("fit", places, "--out", tmp_path / "flat", *SMALL, *flat)
    assert result.exit_code == 0, result.output
    assert "sphere" not in result.stderr
    assert isinstance(library.load(tmp_path / "flat" / "flow.safetensors").field, MLP)


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["lon=periodic:6.28"], "has a period of 6.28, and values from"),
        (["lat,lon=place", "depth=category"], "is for tables of numbers alone"),
        (["lon,lat=place"], "needs latitude and longitude, in this order"),
        (["east=periodic:360"], "--kind east=periodic:360 names 'east'"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(jaxflow, places, tmp_path, kinds, words):
    options = [part for kind in kinds for part in ("--kind", kind)]
    result = jaxflow("fit", places, "--out", tmp_path / "run", *SMALL, *options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


@pytest.mark.slow
def test_places_beside_text_or_a_gap_are_noted(jaxflow, places, tmp_path):
    header, *rows = places.read_text().splitlines()
    tables = {
        "text": [f"{header},sort", *(f"{row},{'ab'[len(row) % 2]}" for row in rows)],
        "gap": [header, *rows[:-1], "1.5,,2.5"],
    }
    for name, lines in tables.items():
        table = tmp_path / f"{name}.csv"
        table.write_text("\n".join(lines))
        result = jaxflow("fit", table, "--out", tmp_path / name, *SMALL)
        assert result.exit_code == 0, result.output
        note = "lat, lon: fitted as lines here, but complete rows look like this: latitude and"
        assert result.stderr.count(note) == 1
        assert "jaxflow fit --columns lat,depth,lon --drop-nan" in result.stderr
