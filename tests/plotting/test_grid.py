"""A sheet of images."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from jaxflow import plotting


def test_images_stand_in_rows_with_a_line_between_them():
    images = np.arange(5 * 4).reshape(5, 2, 2, 1)
    ax = plotting.grid(images, wide=3, limits=(0, 16))
    sheet = np.asarray(ax.images[0].get_array())
    assert sheet.shape == (5, 8)
    np.testing.assert_allclose(sheet[3:5, 3:5], images[4, :, :, 0].clip(0, 16) / 16)
    assert (sheet[2] == 1).all()
    assert (sheet[:, 2] == 1).all()
    plt.close("all")


def test_colour_and_grey_without_an_axis_are_drawn():
    assert plotting.grid(np.zeros((4, 2, 2, 3))).images[0].get_array().shape == (5, 5, 3)
    assert plotting.grid(np.zeros((4, 2, 2))).images[0].get_array().shape == (5, 5)
    plt.close("all")


@pytest.mark.parametrize("shape", [(0, 2, 2, 1), (4, 3, 8, 8), (8, 8)])
def test_what_is_no_set_of_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"channels first are np\.moveaxis"):
        plotting.grid(np.zeros(shape))
