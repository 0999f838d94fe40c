"""`fit_images`: levels are found, networks fit the images, and layouts are checked."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow.dynamics import GuidedField, OptionalCondition, UNet
from jaxflow.training.fit_images import as_images, augmented, find_levels, image_field

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 5, (24, 4, 4, 1))


@pytest.mark.parametrize(("most", "levels"), [(1, 2), (16, 17), (31, 32), (200, 256), (300, 301)])
def test_levels_are_found_by_the_largest(most, levels):
    assert find_levels(np.array([0, most])) == levels


BAD = {
    "between 0 and 1": (IMAGES / 4, r"write np.round\(255 \* images\)"),
    "between -1 and 1": (IMAGES / 2 - 1, r"write np.round\(127.5 \* \(images \+ 1\)\)"),
    "NaN": (np.full((2, 4, 4), np.nan), "NaN or infinity"),
    "empty": (0 * IMAGES, "0 everywhere"),
    "channels first": (np.ones((2, 3, 32, 32)), r"write shape=\(32, 32, 3\)"),
    "several sizes": ([np.ones((4, 4)), np.ones((4, 5))], r"images\[1\] has shape \(4, 5\), and"),
    "a file": ("images.npz", r"dtype <U10: numbers are needed.*read_images\(path\)"),
    "one image": (np.ones((3, 8, 8)), r"write np.moveaxis\(images, 0, -1\)\[None\] for one image"),
    "one image, channels last": (np.ones((8, 8, 3)), r"last: write images\[None\] for one image"),
    "two axes": (np.ones((3, 4)), r"numbers \(n, height, width, channels\) are needed"),
}


@pytest.mark.parametrize(("images", "said"), BAD.values(), ids=BAD)
def test_what_is_no_image_is_named_with_what_was_expected(images, said):
    with pytest.raises(ValueError, match=said):
        as_images(images)


def test_values_beyond_the_depth_and_other_numbers_of_conditions_are_refused():
    with pytest.raises(ValueError, match=r"value 4, and levels=4 allows 0 to 3: give levels=5"):
        jaxflow.fit_images(IMAGES, key=KEY, levels=4)
    with pytest.raises(ValueError, match="cond has 3 rows for 24 images"):
        jaxflow.fit_images(IMAGES, np.ones((3, 1)), key=KEY)
    for labels in (np.arange(24) % 3, np.array(["cat", "dog"] * 12)):
        with pytest.raises(ValueError, match=r"one-hot: write classes, index = np.unique\(labels"):
            jaxflow.fit_images(IMAGES, labels, key=KEY)


@pytest.mark.parametrize(
    ("sides", "resolutions"),
    [((4, 4), 1), ((8, 8), 2), ((28, 28), 3), ((32, 32), 4), ((64, 48), 4), ((7, 8), 1)],
)
def test_the_network_halves_as_often_as_the_sides_allow(sides, resolutions):
    field = eqx.filter_eval_shape(lambda: image_field((*sides, 1), width=2, key=KEY))
    assert isinstance(field, UNet)
    assert len(field.down) == resolutions


def test_copies_are_the_images_moved_and_mirrored():
    x = np.arange(2 * 3 * 4, dtype=float).reshape(2, 3, 4, 1)
    np.testing.assert_array_equal(augmented(x, flips=False, shifts=0), x)
    both = augmented(x, flips=True, shifts=1)
    assert both.shape == (2 * 9 * 2, 3, 4, 1)
    np.testing.assert_array_equal(both[:2], x)
    np.testing.assert_array_equal(both[18:20], x[:, :, ::-1])
    np.testing.assert_array_equal(both[2:4, :, 1:], x[:, :, :-1])
    np.testing.assert_array_equal(both[2:4, :, 0], x[:, :, 0])
    assert len(np.unique(both, axis=0)) == 36


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="crop or pad the images"):
        image_field((45, 45, 3), key=KEY)


@pytest.mark.slow
def test_a_conditional_flow_draws_levels_also_guided_and_without_a_condition():
    cond = np.eye(2, dtype=np.float32)[np.arange(24) % 2]
    flow, history = jaxflow.fit_images(IMAGES, cond, key=KEY, width=2, steps=2, progress=False)
    assert history["step"][-1] == 2
    guided = replace(flow, field=GuidedField(flow.field, 2.0))
    for each, condition in ((flow, cond[0]), (guided, cond[0]), (flow, np.full(2, np.nan))):
        drawn = np.asarray(each.sample(KEY, 3, condition))
        assert drawn.shape == (3, 4, 4, 1)
        assert np.isin(drawn, np.arange(5)).all()
    again, _ = jaxflow.fit_images(IMAGES, cond, key=KEY, width=2, steps=2, progress=False)
    assert eqx.tree_equal(again, flow)


def test_guidance_is_linear_in_the_scale():
    field = OptionalCondition(lambda t, x, cond: t * x + jnp.sum(cond), 2)
    t, x, cond = jnp.asarray(0.5), jnp.arange(3.0), jnp.asarray([1.0, 2.0])
    conditional, unconditional = field(t, x, cond), field(t, x)
    for scale in (0.0, 1.0, 3.0):
        expected = unconditional + scale * (conditional - unconditional)
        np.testing.assert_allclose(GuidedField(field, scale)(t, x, cond), expected, atol=1e-12)
    with pytest.raises(ValueError, match="guidance needs a condition"):
        GuidedField(field)(t, x)
    with pytest.raises(ValueError, match=r"FlowMatching\(drop=0.1\)"):
        GuidedField(lambda t, x, cond: x)
