"""`fit_images`: levels are found, networks fit the images, and layouts are checked."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow.diagnostics import bits_per_dim
from jaxflow.dynamics import Convolutional, GaussianVelocity, GuidedField, OptionalCondition, UNet
from jaxflow.training.augment import Moves, augment_rows
from jaxflow.training.fit_images import as_images, find_levels, image_field
from jaxflow.transforms import Standardise, TruncatedNormal, noise_of

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


def test_moves_are_all_moved_and_mirrored_images_and_equally_likely():
    x = np.arange(3 * 4, dtype=float).reshape(3, 4, 1)
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    moved = [padded[i : i + 3, j : j + 4] for i in range(3) for j in range(3)]
    every = np.stack(moved + [each[:, ::-1] for each in moved])
    moves = Moves(flips=True, shifts=1, shape=x.shape)
    drawn = np.asarray(augment_rows(moves, jnp.asarray(np.stack([x] * 3600)), KEY))
    which = (drawn[:, None] == every).all(axis=(2, 3, 4))
    assert (which.sum(axis=1) == 1).all()
    # Six standard errors of a count of 200.
    assert np.abs(which.sum(axis=0) - 200).max() < 6 * 200**0.5


def test_moves_out_of_range_are_refused():
    for settings, said in (
        ({"shifts": 2}, r"shifts=2 must be less than half of the sides of the images, 4 x 4"),
        ({"shifts": -1}, "shifts=-1"),
        ({"shifts": 0.5}, "shifts"),
        ({"flips": 3}, "flips"),
    ):
        bad: dict[str, Any] = settings
        with pytest.raises((TypeError, ValueError), match=said):
            jaxflow.fit_images(IMAGES, key=KEY, **bad)


def test_a_fit_changes_rows_in_data_units_at_each_step():
    x = np.random.default_rng(0).normal(size=(40, 2)) + 3
    flow = jaxflow.CNF(jaxflow.dynamics.MLP(2, width=4, key=KEY), jaxflow.StandardNormal(2))
    config = jaxflow.TrainConfig(steps=2, eval_every=2, batch_size=8)
    seen = []

    def loss(flow, x, cond, key):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return jnp.mean(flow.field(jnp.asarray(0.5), x[0])), {}

    def augment(row, key):
        return row + 100

    settings = {"transform": Standardise(jnp.full(2, 1.0), jnp.full(2, 2.0)), "progress": False}
    jaxflow.fit(flow, x, key=KEY, objective=loss, augment=augment, config=config, **settings)
    jax.effects_barrier()
    np.testing.assert_allclose(np.mean(seen), (x.mean() + 99) / 2, atol=0.5)


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


@pytest.mark.slow
def test_likelihood_follows_flow_matching_on_moved_images_with_truncated_noise():
    field = Convolutional((4, 4, 1), width=2, depth=1, key=KEY)
    settings: dict[str, Any] = {"flips": True, "shifts": 1, "ema": 0.9, "noise": "truncated"}
    flow, history = jaxflow.fit_images(
        IMAGES, key=KEY, field=field, steps=20, objective="staged", progress=False, **settings
    )
    assert history["stage"][-1] == 1
    assert history["step"][-1] == 20
    grid = noise_of(flow.transform)
    assert grid is not None
    assert isinstance(grid.noise, TruncatedNormal)
    assert np.isfinite(bits_per_dim(flow, IMAGES, bits=3, key=KEY).bits)


def test_unknown_noise_and_objectives_are_refused():
    with pytest.raises(ValueError, match=r"noise='normal' is unknown; choose one of 'unif"):
        jaxflow.fit_images(IMAGES, key=KEY, noise="normal")
    with pytest.raises(ValueError, match="objective='likelihood' is unknown"):
        jaxflow.fit_images(IMAGES, key=KEY, objective="likelihood")


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


@pytest.mark.slow
def test_images_of_256_entries_start_from_their_gaussian():
    images = np.random.default_rng(0).integers(0, 4, (30, 16, 16, 1))
    flow, _ = jaxflow.fit_images(images, key=jax.random.key(0), width=4, steps=1, progress=False)
    _, start = flow.field.fields
    assert isinstance(start, GaussianVelocity)
    assert start.mean.shape == (16, 16, 1)
