"""A row of pictures for the values of a setting, and sliders in a notebook."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt

from jaxflow import plotting


@pytest.fixture
def drawn():
    yield []
    plt.close("all")


@pytest.fixture
def draw(drawn):
    def line(ax, **values):
        drawn.append(values)
        ax.plot([0.0, values["gamma"]])

    return line


def test_a_row_has_a_picture_for_each_value_of_the_first_setting(draw, drawn):
    figure = plotting.explore(draw, gamma=[0, 1.5], steps=(5, 50), figsize=(7, 2))
    assert drawn == [{"gamma": 0, "steps": 5}, {"gamma": 1.5, "steps": 5}]
    assert [ax.get_title() for ax in figure.axes] == ["gamma = 0", "gamma = 1.5"]
    for ax, value in zip(figure.axes, (0, 1.5), strict=True):
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.0, value])
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    np.testing.assert_array_equal(figure.get_size_inches(), [7, 2])


@pytest.mark.parametrize("values", [jnp.asarray([1.0, 2.0]), np.asarray([1.0, 2.0]), range(1, 3)])
def test_values_of_an_array_are_numbers(draw, drawn, values):
    figure = plotting.explore(draw, gamma=values)
    assert drawn == [{"gamma": 1}, {"gamma": 2}]
    assert [ax.get_title() for ax in figure.axes] == ["gamma = 1", "gamma = 2"]
    np.testing.assert_array_equal(figure.get_size_inches(), [6, 3])


def test_in_a_notebook_sliders_below_the_row_redraw(draw, drawn, monkeypatch):
    shown: list[Any] = []

    widgets: Any = ModuleType("ipywidgets")
    widgets.__spec__ = SimpleNamespace(name="ipywidgets")
    widgets.SelectionSlider, widgets.VBox = SimpleNamespace, list
    widgets.interactive_output = lambda redraw, sliders: redraw
    monkeypatch.setitem(sys.modules, "ipywidgets", widgets)
    kernel: Any = ModuleType("IPython")
    kernel.get_ipython = lambda: SimpleNamespace(kernel=True)
    kernel.display = SimpleNamespace(display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    before = plt.get_fignums()

    figure = plotting.explore(draw, gamma=[0, 1.5], steps=[5, 50])
    assert shown[0] is figure
    gamma, steps, redraw = shown[1]
    assert (gamma.description, gamma.options) == ("gamma", [("0", 0), ("1.5", 1.5)])
    assert (steps.description, steps.options) == ("steps", [("5", 5), ("50", 50)])
    redraw(gamma=1.5, steps=50)
    assert drawn[-1] == {"gamma": 1.5, "steps": 50}
    (ax,) = shown[2].axes
    assert ax.get_title() == "gamma = 1.5"
    # A notebook would show an open figure a second time.
    assert plt.get_fignums() == before


def test_bad_arguments_are_named(draw):
    with pytest.raises(ValueError, match=r"needs a setting.*explore\(draw, gamma="):
        plotting.explore(draw)
    with pytest.raises(ValueError, match=r"gamma=\[\] must have at least one value"):
        plotting.explore(draw, gamma=np.zeros(0))
    for value in (2.0, "abc"):
        with pytest.raises(
            TypeError, match=rf"gamma={value!r} must be a sequence: gamma=\[{value!r}"
        ):
            plotting.explore(draw, gamma=value)
    with pytest.raises(TypeError, match=r"draw=3 must be a function draw\(ax, \*\*values\)"):
        plotting.explore(3, gamma=[1])
