"""Plots show the numbers of the flow, in the axes that were passed."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageSequence
from scipy.linalg import expm
from scipy.stats import norm

from jaxflow import CNF, ODE, StandardNormal, plotting
from jaxflow.dynamics import Linear
from jaxflow.flows.coupling import CouplingFlow
from jaxflow.transforms import Standardise

LIMITS = (-3.0, 4.0, -2.0, 3.0)


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close("all")
    del figure


@pytest.fixture
def flow():
    matrix = jnp.asarray([[0.3, 0.5], [-0.4, -0.2]])
    transform = Standardise(jnp.asarray([0.5, -0.25]), jnp.asarray([1.5, 0.8]))
    return CNF(
        Linear(matrix=matrix),
        StandardNormal((2,)),
        transform=transform,
        ode_eval=ODE(solver="rk4", num_steps=32),
    )


def closed_form(flow, t, x):
    """Density of the linear flow at t, in data units: N(0, e^{tA} e^{tA}^T) behind the scaling."""
    push = expm(t * np.asarray(flow.field.matrix))
    mean, scale = np.asarray(flow.transform.mean), np.asarray(flow.transform.scale)
    z = np.linalg.solve(push, ((x - mean) / scale).T).T
    log_det = -np.linalg.slogdet(push)[1] - np.sum(np.log(scale))
    return np.exp(-0.5 * np.sum(z**2, axis=1) - np.log(2 * np.pi) + log_det)


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_density_image_is_the_density_at_the_pixel_centres(flow, ax, t):
    assert plotting.density(flow, ax, t=t, limits=LIMITS, resolution=20) is ax
    (image,) = ax.images
    assert tuple(image.get_extent()) == LIMITS
    assert image.origin == "lower"
    values = np.asarray(image.get_array())
    x = LIMITS[0] + (np.arange(20) + 0.5) / 20 * (LIMITS[1] - LIMITS[0])
    y = LIMITS[2] + (np.arange(20) + 0.5) / 20 * (LIMITS[3] - LIMITS[2])
    points = np.array([(a, b) for b in y for a in x])
    exact = closed_form(flow, t, points).reshape(20, 20)
    np.testing.assert_allclose(values, exact, rtol=1e-6)
    log_p = flow.log_prob_at(t, points)
    np.testing.assert_allclose(values.ravel(), np.exp(log_p), rtol=1e-12)


def test_the_frame_chosen_holds_nearly_all_of_the_mass(flow, ax):
    for t in (0.0, 1.0):
        ax.clear()
        plotting.density(flow, ax, t=t, resolution=40)
        (image,) = ax.images
        left, right, bottom, top = image.get_extent()
        pixel = (right - left) * (top - bottom) / 40**2
        assert float(np.sum(image.get_array()) * pixel) == pytest.approx(1.0, abs=0.03)


def test_paths_are_the_flows_from_base_to_data(flow, ax, key):
    assert plotting.trajectories(flow, key, 5, ax, limits=LIMITS) is ax
    lines, starts, ends = ax.collections
    start, end = np.asarray(starts.get_offsets()), np.asarray(ends.get_offsets())
    assert start.shape == end.shape == (5, 2)
    np.testing.assert_allclose(end, flow.transport(start, 0.0, 1.0), rtol=1e-6, atol=1e-8)
    segments = np.asarray(lines.get_segments()).reshape(5, -1, 2, 2)
    np.testing.assert_array_equal(segments[:, 0, 0], start)
    np.testing.assert_array_equal(segments[:, -1, 1], end)
    np.testing.assert_array_equal(segments[:, :-1, 1], segments[:, 1:, 0])
    times = np.asarray(lines.get_array()).reshape(5, -1)
    np.testing.assert_allclose(times[0], (np.arange(times.shape[1]) + 0.5) / times.shape[1])
    assert (*ax.get_xlim(), *ax.get_ylim()) == LIMITS


def test_new_axes_where_none_are_given(flow, key):
    before = set(plt.get_fignums())
    drawn = [
        plotting.density(flow, resolution=20, limits=LIMITS),
        plotting.trajectories(flow, key, 5),
        plotting.history({"step": [1.0], "loss": [2.0], "validation": [2.0]}),
    ]
    assert all(isinstance(ax, Axes) for ax in drawn)
    assert len(set(plt.get_fignums()) - before) == 3
    plt.close("all")


def test_density_over_time_has_a_picture_a_moment_and_the_paths(flow, key):
    figure = plotting.density_over_time(
        flow, key, (0.0, 0.25, 1.0), n=5, limits=LIMITS, resolution=20
    )
    assert isinstance(figure, Figure)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["t = 0", "t = 1/4", "t = 1", "paths x(t)"]
    for ax, t in zip(figure.axes, (0.0, 0.25, 1.0), strict=False):
        expected = plotting.density(flow, t=t, limits=LIMITS, resolution=20).images[0]
        np.testing.assert_array_equal(ax.images[0].get_array(), expected.get_array())
    assert len(figure.axes[-1].collections) == 3
    plt.close("all")


def test_history_shows_the_curves_and_the_best(ax):
    table = {"step": [10, 20, 30], "loss": [3.0, 2.0, 1.0], "validation": [3.5, 2.5, np.nan]}
    assert plotting.history(table, ax) is ax
    loss, validation, best = ax.lines
    np.testing.assert_array_equal(loss.get_xydata(), [[10, 3], [20, 2], [30, 1]])
    np.testing.assert_array_equal(validation.get_ydata(), [3.5, 2.5, np.nan])
    np.testing.assert_array_equal(best.get_xydata(), [[20, 2.5]])


def test_losses_of_different_stages_are_not_joined(ax):
    table = {"step": [10, 20, 30], "loss": [0.9, 0.8, 1.0], "validation": [3.5, 2.5, 2.0]}
    plotting.history(table | {"stage": [0, 0, 1]}, ax)
    right = next(other for other in ax.figure.axes if other is not ax)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[30, 1.0]])
    np.testing.assert_array_equal(right.lines[0].get_xydata(), [[10, 0.9], [20, 0.8]])


def test_columns_of_any_sort():
    rng = np.random.default_rng(0)
    x = {
        "city": np.array(["Oslo", None, "Rome", "Oslo"], object),
        "degrees": np.array([1.0, np.nan, 2.0, 3.0]),
        "constant": np.full(5, 0.25),
        "visits": rng.poisson(3.0, 100),
        "open": np.array([True, False, True]),
        "day": np.array(["2026-11-30", "NaT", "2026-12-01"], "datetime64[D]"),
    }
    figure = plotting.columns(x, x)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:6] == list(x)
    data, flow = figure.axes[0].containers
    np.testing.assert_allclose([bar.get_height() for bar in data], [2 / 3, 1 / 3])
    np.testing.assert_allclose([bar.get_height() for bar in flow], [2 / 3, 1 / 3])
    with pytest.raises(ValueError, match="reference lacks the columns"):
        plotting.columns(x, {"city": x["city"]})
    plt.close("all")


def test_a_flow_without_moments_has_a_density_at_the_end_alone(ax, key):
    flow = CouplingFlow(2, num_layers=2, width=4, key=key)
    plotting.density(flow, ax, limits=LIMITS, resolution=4)
    assert np.asarray(ax.images[0].get_array()).shape == (4, 4)
    with pytest.raises(ValueError, match=r"t=0.5: a CouplingFlow has a density at t=1 only"):
        plotting.density(flow, ax, t=0.5, limits=LIMITS, resolution=4)
    with pytest.raises(TypeError, match=r"flow is a CouplingFlow.*trajectories needs a CNF"):
        plotting.trajectories(flow, key, 5, ax)
    with pytest.raises(TypeError, match="density_over_time needs a CNF"):
        plotting.density_over_time(flow, key)


def test_an_animation_has_its_frames_and_moves(flow, key, tmp_path):
    path = plotting.animation(flow, key, tmp_path / "flow.gif", 20, frames=3, seconds=0.5)
    with Image.open(path) as picture:
        pictures = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(picture)]
    # The last frame stays, which a GIF may store as its duration.
    assert len(pictures) >= 3
    assert (pictures[0] != pictures[1]).any()
    with pytest.raises(FileExistsError):
        plotting.animation(flow, key, path)
    for name, value in (("n", 0), ("frames", 1), ("seconds", 0), ("resolution", 1)):
        wrong: Any = {name: value}
        with pytest.raises(ValueError, match=f"{name}={value!r} must be"):
            plotting.animation(flow, key, tmp_path / "no.gif", **wrong)
    with pytest.raises(ValueError, match="unknown suffix"):
        plotting.animation(flow, key, tmp_path / "no.mp4")


def test_an_animation_shows_the_density_of_each_moment(ax, flow, key, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "close", shown.append)
    path = tmp_path / "flow.gif"
    plotting.animation(flow, key, path, 5, frames=2, limits=LIMITS, resolution=8)
    (figure,) = shown
    images = figure.axes[0].images
    for t, image in zip((0.0, 1.0), images, strict=True):
        plotting.density(flow, ax, t=t, limits=LIMITS, resolution=8)
        np.testing.assert_array_equal(image.get_array(), ax.images[-1].get_array())
    # The file ends with the last moment.
    assert [image.get_visible() for image in images] == [False, True]


def test_a_corner_shows_each_column_and_each_pair():
    x, data = np.random.default_rng(0).normal(size=(2, 300, 3))
    axes = plotting.corner(x, data, columns=["a", "b", "c"])
    assert axes.shape == (3, 3)
    behind, front = axes[2, 0].collections
    np.testing.assert_allclose(np.asarray(front.get_offsets()), x[:, [0, 2]])
    np.testing.assert_allclose(np.asarray(behind.get_offsets()), data[:, [0, 2]])
    assert not axes[0, 2].axison
    assert axes[2, 1].get_xlabel() == "b"
    assert [text.get_text() for text in axes[0, 0].get_legend().get_texts()] == ["data", "flow"]
    for wrong, message in (
        ((x[:, :0],), r"give \(n, d\)"),
        ((np.ones((5, 13)),), "at most 12"),
        ((x, data[:, :2]), "reference has 2 columns"),
        ((np.full((3, 2), np.nan),), "rows 0, 1, 2"),
    ):
        with pytest.raises(ValueError, match=message):
            plotting.corner(*wrong)
    with pytest.raises(ValueError, match="2 names for 3"):
        plotting.corner(x, columns=["a", "b"])


def test_calibration_counts_the_rows_that_are_covered(ax):
    assert plotting.calibration([1e-3, 1e-4, 1e-5, 1e-5], [-5e-4, 1e-5, 2e-5, 0.0], ax) is ax
    assert ax.get_title() == "75.0% of 4 rows covered"
    good, bad = ax.collections
    assert len(good.get_offsets()) == 3
    np.testing.assert_allclose(np.asarray(bad.get_offsets()), [[1e-5, 2e-5]])
    with pytest.raises(ValueError, match="true has NaN or infinity in 1 of 2 rows: rows 1"):
        plotting.calibration([1.0, 1.0], [0.0, np.nan])


def test_coverage_of_normal_pulls_lies_on_the_diagonal(ax):
    pulls = norm.ppf((np.arange(4000) + 0.5) / 4000)
    plotting.coverage(pulls, ax, label="pulls")
    expected, found = ax.lines[1].get_data()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    plotting.coverage(2 * pulls, ax)
    expected, found = ax.lines[3].get_data()
    # Errors twice as large as stated: 68 % of the stated intervals' mass holds 38 %.
    np.testing.assert_allclose(np.interp(0.6827, expected, found), 0.3829, atol=3e-3)
    with pytest.raises(ValueError, match="pulls"):
        plotting.coverage([])


def test_bad_arguments_are_named(flow, ax, key):
    solid = CNF(flow.field, StandardNormal((3,)))
    with pytest.raises(ValueError, match=r"events of shape \(3,\); density draws the plane"):
        plotting.density(solid, ax)
    with pytest.raises(ValueError, match=r"limits=\(1, 0, 0, 1\) must be .*left < right"):
        plotting.density(flow, ax, limits=(1, 0, 0, 1))
    with pytest.raises(ValueError, match="resolution=1 must be an integer >= 2"):
        plotting.density(flow, ax, resolution=1)
    with pytest.raises(ValueError, match="n=0 must be an integer >= 1"):
        plotting.trajectories(flow, key, 0, ax)
    with pytest.raises(ValueError, match="times=\\(\\) is empty"):
        plotting.density_over_time(flow, key, ())
    with pytest.raises(ValueError, match="history has no validation"):
        plotting.history({"step": [1.0], "loss": [1.0]}, ax)


def test_without_matplotlib_the_error_says_what_to_install(flow, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"plotting needs matplotlib: pip install '.\[plot\]'"):
        plotting.density(flow)
