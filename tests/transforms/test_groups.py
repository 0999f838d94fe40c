"""Columns on a manifold: what is detected, what users may say, and the transform that follows."""

import math
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import transforms
from jaxflow.manifolds import SO3, Euclidean, Product, Projective, Sphere, Torus
from jaxflow.transforms import Blocks, LatLon, Standardise
from jaxflow.transforms.groups import GROUPS, NAMED
from jaxflow.transforms.periodic import Periodic
from jaxflow.transforms.place import Place
from jaxflow.transforms.rotations import Rotation
from jaxflow.transforms.unit_vectors import UnitVector

# The proposals of these tests have a surface.
propose: Any = transforms.propose
forward = eqx.filter_jit(lambda chart, x: jax.vmap(chart.forward)(x))
inverse = eqx.filter_jit(lambda chart, u: jax.vmap(chart.inverse)(u))
RNG = np.random.default_rng(3)
N = 2000


def directions(size, scale=1.0):
    x = RNG.normal(size=(N, size)) + np.eye(size)[0]
    return scale * x / np.linalg.norm(x, axis=1, keepdims=True)


def places():
    z = directions(3)
    return np.degrees(np.stack([np.arcsin(z[:, 2]), np.arctan2(z[:, 1], z[:, 0])], axis=1))


def turns():
    matrices = np.linalg.qr(RNG.normal(size=(N, 3, 3)))[0]
    return matrices * np.linalg.det(matrices)[:, None, None]


LINE = RNG.normal(size=(N, 1))
TURN = RNG.uniform(0, 1, (N, 1))
PLACES = places()
Q = directions(4)

# Columns by name, and the groups that are found.
CASES = {
    "degrees without a name": ({"a": 360 * TURN - 180}, [Periodic((0,), 360.0, -180.0)]),
    "radians": ({"a": 2 * math.pi * TURN}, [Periodic((0,), 2 * math.pi, 0.0)]),
    "hours": ({"hour": 24 * TURN}, [Periodic((0,), 24.0, 0.0)]),
    "months": ({"month": np.floor(12 * TURN) + 1}, [Periodic((0,), 12.0, 0.5)]),
    "weekdays": ({"week day": np.floor(7 * TURN)}, [Periodic((0,), 7.0, -0.5)]),
    "directions of the wind": (
        {"wind_dir": 10 * np.floor(36 * TURN) + 10},
        [Periodic((0,), 360.0, 5.0)],
    ),
    "compass points": ({"a": 22.5 * np.floor(16 * TURN)}, [Periodic((0,), 360.0, -11.25)]),
    "a grid with a gap at its end": (
        {"dir": 10 * np.floor(35 * TURN) + 20},
        [Periodic((0,), 360.0, 15.0)],
    ),
    "phases": ({"phase": TURN}, [Periodic((0,), 1.0, 0.0)]),
    "no hours without a name": ({"a": 24 * TURN}, []),
    "a rating from 1 to 7": ({"rating": np.floor(7 * TURN) + 1}, []),
    "a share": ({"share": TURN}, []),
    "a name is not enough": ({"angle": 30 * LINE}, []),
    "no values at the seam": ({"angle": 90 + 180 * TURN}, []),
    "beside other angles": (
        {"a": 360 * TURN, "zeta": 50 + 260 * RNG.uniform(size=(N, 1))},
        [Periodic((0,), 360.0, 0.0), Periodic((1,), 360.0, 0.0)],
    ),
    "a place": ({"lat": PLACES[:, :1], "lon": PLACES[:, 1:]}, [Place((0, 1), LatLon())]),
    "in the other order": (
        {"Longitude (deg)": PLACES[:, 1:], "depth": LINE, "Latitude (deg)": PLACES[:, :1]},
        [Place((2, 0), LatLon())],
    ),
    "the sky": (
        {"right_ascension": PLACES[:, 1:] % 360, "declination": PLACES[:, :1]},
        [Place((1, 0), LatLon(west=0))],
    ),
    "the sky in hours": (
        {"ra": PLACES[:, 1:] % 360 / 15, "dec": PLACES[:, :1]},
        [Place((1, 0), LatLon(hours=True, west=0))],
    ),
    "the sky with units": (
        {"dec_deg": PLACES[:, :1], "ra_hours": 3 + 0.05 * PLACES[:, 1:] % 12},
        [Place((0, 1), LatLon(hours=True, west=0))],
    ),
    "polar angles": (
        {"theta": np.radians(90 - PLACES[:, :1]), "phi": np.radians(PLACES[:, 1:])},
        [Place((0, 1), LatLon(degrees=False, polar=True))],
    ),
    "the galaxy": (
        {"l": PLACES[:, 1:] % 360, "b": PLACES[:, :1]},
        [Place((1, 0), LatLon(west=0))],
    ),
    "the galaxy by words": (
        {"glon": PLACES[:, 1:] % 360, "glat": PLACES[:, :1]},
        [Place((1, 0), LatLon(west=0))],
    ),
    "days of the week": ({"dayofweek": np.floor(7 * TURN)}, [Periodic((0,), 7.0, -0.5)]),
    "quaternions apart": (
        {"qw": Q[:, :1], "t": LINE, "qx": Q[:, 1:2], "qy": Q[:, 2:3], "qz": Q[:, 3:]},
        [UnitVector((0, 2, 3, 4), True)],
    ),
    "two places": (
        {f"{end}{each}": PLACES[:, i : i + 1] for end in ("start", "end") for i, each in
         enumerate(("Lat", "Lng"))},
        [Place((0, 1), LatLon()), Place((2, 3), LatLon())],
    ),
    "no latitudes": ({"lat": 3 * PLACES[:, :1], "lon": 50 * LINE}, []),
    "a small region": ({"lat": 52 + 0.1 * LINE, "lon": 13 + 0.1 * LINE[::-1]}, []),
    "small across the seam": (
        {"lat": LINE, "lon": (360 + 2 * LINE[::-1]) % 360 - 180},
        [Place((0, 1), LatLon())],
    ),
    "unit vectors": ({"a": LINE, "v": directions(3)}, [UnitVector((1, 2, 3))]),
    "unit vectors, rounded": ({"v": directions(3).round(4)}, [UnitVector((0, 1, 2))]),
    "quaternions": ({"q": directions(4)}, [UnitVector((0, 1, 2, 3), True)]),
    "four numbers of length 1": ({"v": directions(4)}, [UnitVector((0, 1, 2, 3))]),
    "cosine and sine": ({"v": directions(2)}, [UnitVector((0, 1))]),
    "rotation matrices": (
        {"a": LINE, "R": turns().reshape(N, 9)},
        [Rotation(tuple(range(1, 10)))],
    ),
    "reflections": ({"R": -turns().reshape(N, 9)}, []),
    "two rows of rotations": ({"R": turns().reshape(N, 9)[:, :6]}, []),
    "other lengths": ({"v": directions(3, 1.01)}, []),
    "one-hot": ({"v": np.eye(3)[RNG.integers(0, 3, N)]}, []),
}  # fmt: skip


def table_of(columns):
    names = [
        name + (f" {i}" if x.shape[1] > 1 else "")
        for name, x in columns.items()
        for i in range(x.shape[1])
    ]
    return np.concatenate(list(columns.values()), axis=1), names


@pytest.mark.parametrize("name", CASES)
def test_groups_are_found(name):
    columns, expected = CASES[name]
    x, names = table_of(columns)
    for dtype in (np.float64, np.float32):
        proposal = propose(x.astype(dtype), names)
        found = () if proposal.surface is None else proposal.surface.groups
        assert [type(each) for each in found] == [type(each) for each in expected]
        for group, other in zip(found, expected, strict=True):
            assert group.columns == other.columns
            if isinstance(other, Periodic):
                assert (group.period, group.start) == pytest.approx((other.period, other.start))
            else:
                assert group == other
    assert (": 'interval'}, or --kind" in str(proposal)) == bool(expected)
    assert proposal.flat.surface is None
    assert "circle" not in str(proposal.flat)


LAT, LON = PLACES.T
# Names, columns, and why they are not a place.
DOUBTS = {
    "hours or degrees": ("dec", LAT, "ra", LON % 300 / 15, "from 0.* to 19.*, which may be hours"),
    "longitudes to 24": ("lat", LAT, "lon", LON % 360 / 15, "may be hours: write place:hours or"),
    "radians beside": ("lat", LAT, "lon", np.radians(LON), "longitudes .*as in radians, beside"),
    "beside radians": ("lat", np.radians(LAT), "lon", LON, "latitudes .*as in radians, beside"),
    "one latitude of 95": (
        "lat", np.where(np.arange(N) == 7, 95.0, LAT), "lon", LON,
        "lat,lon: not taken for latitude and longitude in degrees, on a sphere, since 1 of 2000 "
        r"rows are out of range, first row 7: \[95.0, ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBTS)
def test_what_is_not_taken_for_a_place_is_said(name):
    first, lat, second, lon, words = DOUBTS[name]
    x, names = np.stack([lat, lon], axis=1), [first, second]
    proposal = propose(x, names)
    groups = () if proposal.surface is None else proposal.surface.groups
    assert not any(isinstance(group, Place) for group in groups)
    (note,) = (note for note in proposal.notes if "not taken" in note)
    assert re.search(words, note), note
    kinds = {f"{first},{second}": "place"}
    with pytest.raises(ValueError, match="first row 7" if "95" in name else words):
        propose(x, names, kinds)
    if "95" not in name:
        word = "place:hours" if "hours" in words else "place:degrees"
        assert isinstance(propose(x, names, dict.fromkeys(kinds, word)).surface.groups[0], Place)


def test_rows_of_rotations_are_no_directions():
    x = turns().reshape(N, 9)
    for rows in (x[:, :6], -x):
        (note,) = (note for note in propose(rows).notes if "not taken" in note)
        assert re.match("0, 1, .*: not taken for unit vectors, since they are orthogonal", note)
    x[3] *= 1.01
    with pytest.raises(ValueError, match="does not fit: x has 1 rows that are not rotation mat"):
        propose(x, kinds={",".join(map(str, range(9))): "rotation"})


def test_one_row_of_another_length_is_named():
    x, names = table_of({"v": directions(3), "flag": np.arange(N)[:, None] / N < 0.01})
    assert propose(x, names).surface.groups == (UnitVector((0, 1, 2)),)
    x[7, :3] *= 1.01
    proposal = propose(x, names)
    assert proposal.surface is None
    assert proposal.notes[0].startswith(
        "v 0, v 1, v 2: not taken for unit vectors, since 1 of 2000 rows have another length, "
        "first row 7: 1.01. Divide"
    )


@pytest.mark.parametrize("rows", [40, N])
def test_unit_vectors_rounded_to_two_decimals_are_divided_by_their_length(rows):
    x = directions(3)[:rows].round(2)
    names = ["x", "y", "z"]
    for kinds in ({}, {"x,y,z": "direction"}):
        proposal = propose(x, names, kinds)
        assert proposal.surface.groups == (UnitVector((0, 1, 2), rounded=0.01),)
        assert "rounded to 0.01: rows are divided by their length" in str(proposal)
    transform = proposal.surface.transform()
    transform.check(x)
    u, _ = forward(transform, x)
    np.testing.assert_allclose(u, x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-12)
    x[7] = [0.7, 0.7, 0.7]
    with pytest.raises(ValueError, match=r"x lies off Sphere\(2\) in 1 of .* first row 7"):
        transform.check(x)
    with pytest.raises(ValueError, match="rows have another length, first row"):
        propose(x, names, {"x,y,z": "direction"})


def test_rotations_rounded_to_two_decimals_are_no_directions():
    (note,) = (n for n in propose(turns().reshape(N, 9).round(2)).notes if "not taken" in n)
    assert "orthogonal to each other" in note
    assert propose(np.eye(3)[RNG.integers(0, 3, N)]).surface is None


def test_a_survey_in_degrees_needs_no_note():
    europe = np.stack([RNG.uniform(40, 60, N), RNG.uniform(0, 24, N)], axis=1)
    assert propose(europe, ["lat", "lon"]).notes == ()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[1]])
def test_the_transform_leads_to_the_manifold_and_back(name):
    x, names = table_of(CASES[name][0])
    surface = propose(x, names).surface
    others = x[:, np.asarray(surface.others, int)]
    transform = surface.transform(Standardise.fit(others) if surface.others else None)
    transform.check(x)
    u, log_det = map(np.asarray, forward(transform, x))
    surface.manifold.check(u)
    assert surface.base().event_shape == u.shape[1:] == surface.manifold.event_shape
    back, minus = map(np.asarray, inverse(transform, u))
    np.testing.assert_allclose(back, x, atol=1e-3)  # rounded unit vectors
    if not any(isinstance(group, UnitVector) for group in surface.groups):
        np.testing.assert_allclose(log_det, -minus, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(back, x, atol=1e-6)


def test_the_manifold_of_a_mixed_table():
    x, names = table_of({"depth": LINE, "hour": 24 * TURN, "lon": PLACES[:, 1:],
                         "q": directions(4), "lat": PLACES[:, :1], "az": 360 * TURN})  # fmt: skip
    surface = propose(x, names).surface
    assert surface.columns == (3, 4, 5, 6, 7, 2, 1, 8)
    assert surface.others == (0,)
    assert surface.manifold == Product(SO3(), Sphere(2), Torus(2), Euclidean(1))


def test_what_users_say_comes_first():
    x, names = table_of({"lat": 52 + LINE, "lon": 13 + LINE[::-1], "a": TURN, "n": directions(3)})
    surface = propose(x, names).surface
    assert [type(group) for group in surface.groups] == [UnitVector]
    kinds = {"lat,lon": "place", "a": "periodic:1", "n 0, n 1, n 2": "axis"}
    surface = propose(x, names, kinds).surface
    assert surface.groups == (
        Place((0, 1), LatLon()),
        UnitVector((3, 4, 5), True),
        Periodic((2,), 1.0, 0.0),
    )
    assert surface.manifold == Product(Sphere(2), Projective(2), Torus(1))
    assert propose(x, names, {("n 0", "n 1", "n 2"): "interval"}).surface is None
    by_number = propose(x, kinds={"2": "periodic:2pi:-1", 3: "interval"}).surface
    assert by_number.groups == (Periodic((2,), 2 * math.pi, -1.0),)
    radians = {"lat,lon": "place:radians"}
    assert propose(x / 60, names, radians).surface.groups[0].chart == LatLon(degrees=False)


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ({"a": "periodic:6.283"}, "from 10 to 350: give the period"),
        ({"a": "periodic"}, "needs the period"),
        ({"a": "circle"}, "unknown; choose place, direction"),
        ({"b": "periodic:360"}, "kinds names 'b'; the columns are a, lat, lon"),
        (
            {"lon,lat": "place"},
            "in this order and in degrees: .* of 2000 rows are out of range, first",
        ),
        ({"a": "place"}, "takes two columns"),
        (
            {"a,lat,lon": "direction"},
            "1: 2000 of 2000 rows have another length, first row 0: ",
        ),
        ({"a": "interval", "a,lat": "axis"}, "twice"),
        *(
            ({"a": f"periodic:{each}"}, f"periodic:{each}' needs a positive period, .*:360:-180")
            for each in ("x", "", "pipi", "0", "-1", "nan", "inf", "360:x", "360:nan", "360:0:1")
        ),
        ({"a": "interval:360"}, "takes no options"),
    ],
)
def test_what_users_say_must_fit(kinds, words):
    columns = {"a": np.linspace(10, 350, N)[:, None], "lat": PLACES[:, :1], "lon": PLACES[:, 1:]}
    x, names = table_of(columns)
    with pytest.raises(ValueError, match=words):
        propose(x, names, kinds)


def test_rounded_latitudes_are_spread_only_between_the_poles():
    rows = np.round(PLACES)
    away = rows[np.abs(rows[:, 0]) < 89]
    kept = propose(away, ["lat", "lon"]).surface
    np.testing.assert_array_equal(kept.parts[0].step, [1, 1])
    rows[0, 0] = 90
    assert propose(rows, ["lat", "lon"]).surface.parts == ()


def test_a_circle_on_a_grid_is_dequantised():
    for step in (10.0, 22.5, 30.0, 45.0):
        x = step * RNG.integers(1, round(360 / step) + 1, (N, 1))
        surface = propose(x, ["wind_dir"]).surface
        assert surface.groups == (Periodic((0,), 360.0, step / 2),)
        np.testing.assert_array_equal(surface.parts[0].step, [step])
        u, _ = forward(surface.transform(), x)
        back, _ = inverse(surface.transform(), u + 0.3 * step * math.pi / 180)
        np.testing.assert_allclose(back, x)
    (note, *_) = propose(np.append(x, [[0.0]], axis=0), ["dir"]).notes
    assert note.startswith("dir: not taken for a circle, since it has both 0 and 360")


@pytest.mark.parametrize("rows", [100, N])
@pytest.mark.parametrize(("low", "start"), [(0, -0.5), (-180, -180.5), (-179, -179.5)])
def test_whole_degrees_are_dequantised(rows, low, start):
    x = (low + RNG.permutation(np.arange(rows) % 360)).astype(float)[:, None]
    if rows < 360:  # no more than a few of the degrees
        x = np.where(np.arange(rows)[:, None] < 2, low + 359 * np.arange(rows)[:, None], x)
        x = np.where(np.arange(rows)[:, None] < 2, x, low + RNG.integers(0, 360, (rows, 1)))
    for kinds in ({}, {"dir": "periodic:360"}):
        proposal = propose(x, ["dir"], kinds)
        assert proposal.surface.groups == (Periodic((0,), 360.0, start, 1.0),)
        assert "a circle; steps of 1: dequantised, log_prob is log P" in str(proposal)
    transform = proposal.surface.transform()
    np.testing.assert_array_equal(proposal.surface.parts[0].step, [1.0])
    transform.check(x)
    u, _ = forward(transform, x)
    back, _ = inverse(transform, u + 0.3 * math.pi / 180)
    np.testing.assert_allclose(back, x)


def test_both_ends_of_whole_degrees_are_named():
    x = (RNG.permutation(np.arange(N)) % 361).astype(float)[:, None]
    for kinds in ({}, {"dir": "periodic:360:0"}):
        proposal = propose(x, ["dir"], kinds)
        assert proposal.surface.groups == (Periodic((0,), 360.0, 0.0),)
        assert proposal.surface.parts == ()
    (note, *_) = propose(x, ["dir"]).notes
    assert note.startswith("dir: in steps of 1, but taken as continuous, since it has both 0 and")


def test_whole_degrees_beside_others_count_as_the_same_circle():
    x, names = table_of({"a": np.arange(N)[:, None] % 360,
                         "zeta": 50 + 260 * RNG.uniform(size=(N, 1))})  # fmt: skip
    first, second = propose(x, names).surface.groups
    assert first == Periodic((0,), 360.0, -0.5, 1.0)
    assert second == Periodic((1,), 360.0, 0.0)


def test_every_group_has_a_word():
    assert len(GROUPS) == 4
    assert set(NAMED) == {"place", "direction", "rotation", "axis", "periodic", "interval"}


def test_blocks_take_columns_in_any_order():
    blocks = Blocks((LatLon(), Standardise.fit(LINE)), (2, 0, 1))
    x = jnp.asarray(np.column_stack([PLACES[:, 1], LINE[:, 0], PLACES[:, 0]])[:5])
    u, log_det = forward(blocks, x)
    turned, alike = forward(Blocks(blocks.blocks), np.asarray(x)[:, [2, 0, 1]])
    np.testing.assert_array_equal(u, turned)
    np.testing.assert_array_equal(log_det, alike)
    np.testing.assert_allclose(inverse(blocks, u)[0], x, rtol=1e-5)
    with pytest.raises(ValueError, match=r"of columns 2, 0: column 0 .* not a latitude"):
        blocks.check(x.at[0, 2].set(91.0))
    with pytest.raises(ValueError, match="must name each column from 0 to 2 once"):
        Blocks(blocks.blocks, (0, 1, 1))
