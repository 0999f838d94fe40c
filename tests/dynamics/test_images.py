"""Fields for images: the Fourier transform knows the answers, and layouts are checked."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import FIELDS

from jaxflow import CNF, ODE, StandardNormal
from jaxflow.dynamics import Convolutional, DiT, Rounded, UNet
from jaxflow.dynamics.convolve import convolve
from jaxflow.dynamics.dit import cut, paste
from jaxflow.trace import exact_trace

KEY = jax.random.key(0)
T = jnp.asarray(0.3)
SHAPE = (6, 8, 2)
LAYOUTS = {
    "channels first": ((2, 6, 8), r"images have shape \(6, 8, 2\).*jnp.moveaxis\(x, -3, -1\)"),
    "no channels": ((6, 8), r"no axis of channels: write x\[\.\.\., None\]"),
    "grey against colour": ((6, 8, 1), "it has 1 channels and not 2"),
    "another size": ((8, 8, 2), "make the model for this shape"),
}
SHAPES = {
    "two axes": ((8, 8), r"must be \(height, width, channels\)"),
    "channels first": ((3, 32, 32), r"channels first: write shape=\(32, 32, 3\)"),
    "empty": ((8, 0, 1), "at least 1"),
}


def linear():
    field = Convolutional(SHAPE, depth=0, padding="circular", key=KEY)
    return eqx.tree_at(lambda f: f.layers[0].weight, field, replace_fn=lambda w: 5 * w)


def symbols(field):
    """The matrix of each frequency: a circular convolution is diagonal in blocks."""
    window = np.zeros((*SHAPE[:2], 2, 2))
    for i in range(3):
        for j in range(3):
            # lax correlates: the entry (i, j) of the window reads the place (i - 1, j - 1) away.
            window[1 - i, 1 - j] += np.asarray(field.layers[0].weight)[i, j, :2]
    return np.moveaxis(np.fft.fft2(window, axes=(0, 1)), 2, 3)


def test_a_circular_convolution_has_the_trace_of_its_fourier_transform():
    field = linear()
    x = jax.random.normal(KEY, SHAPE)
    f, trace = exact_trace(field, T, x)
    expected = np.trace(symbols(field), axis1=2, axis2=3).sum()
    assert float(trace) == pytest.approx(expected.real, abs=1e-8)
    spectrum = np.einsum("ijab,ijb->ija", symbols(field), np.fft.fft2(x, axes=(0, 1)))
    affine = field(T, jnp.zeros(SHAPE))
    np.testing.assert_allclose(f - affine, np.fft.ifft2(spectrum, axes=(0, 1)).real, atol=1e-12)


@pytest.mark.slow
def test_its_flow_has_the_log_determinant_of_its_fourier_transform():
    field = linear()
    ode = ODE(solver="dopri8", rtol=1e-10, atol=1e-10)
    flow = CNF(field, StandardNormal(SHAPE), ode_eval=ode)
    x = jax.random.normal(KEY, (2, *SHAPE))
    eigenvalues = np.linalg.eigvals(symbols(field))
    change = flow.base.log_prob(flow.encode(x[0])) - flow.log_prob(x[0])
    assert float(change) == pytest.approx(eigenvalues.sum().real, abs=1e-8)


def by_lax(h, weight, padding):
    h = jnp.pad(h, ((1, 1), (1, 1), (0, 0)), mode="wrap" if padding == "circular" else "constant")
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(h[None], weight, (1, 1), "VALID", None, None, layout)[0]


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_convolutions_have_the_values_and_derivatives_of_lax(padding):
    keys = jax.random.split(KEY, 4)
    h, dh = (jax.random.normal(k, (3, *SHAPE)) for k in keys[:2])
    w, dw = (jax.random.normal(k, (3, 3, 2, 5)) for k in keys[2:])

    def answers(f):
        def value(h, w):
            return jax.vmap(lambda h: f(h, w, padding))(h)

        def tangent(h, w):
            value_, change = jax.jvp(value, (h, w), (dh, dw))
            return jnp.sum(change * jnp.sin(value_))

        stacked = jax.vmap(lambda w, h: f(h, w, padding))(jnp.stack([w, dw]), h[:2])
        outer = jax.vmap(jax.grad(lambda w, h: jnp.sum(f(h, w, padding) ** 2)), (None, 0))(w, h)
        return value(h, w), jax.grad(tangent, (0, 1))(h, w), stacked, outer

    own, lax = jax.jit(lambda: answers(convolve))(), jax.jit(lambda: answers(by_lax))()
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(lax), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere lax's own gradient is fast")
def test_on_a_cpu_convolutions_are_those_of_lax_and_gradients_of_weights_are_products():
    h, w = jnp.ones((2, *SHAPE)), jnp.ones((3, 3, 2, 5))

    def value(w):
        return jnp.sum(jax.vmap(convolve, (0, None))(h, w) ** 2)

    forward, gradient = (jax.jit(f).lower(w).as_text() for f in (value, jax.grad(value)))
    assert forward.count("stablehlo.convolution") == gradient.count("stablehlo.convolution") == 1
    assert "dot_general" not in forward
    assert "dot_general" in gradient


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convolutional", "unet, condition", "dit, condition"])
def test_gradients_by_adjoint_and_checkpoints_are_those_of_autodiff(name):
    case = FIELDS[name]
    field = jax.tree.map(lambda w: 0.3 * w if eqx.is_inexact_array(w) else w, case.field)
    x = jax.random.normal(KEY, (1, *case.event_shape))

    def gradient(ode):
        def loss(field):
            flow = CNF(field, StandardNormal(case.event_shape), trace="hutchinson", ode=ode)
            return flow.train_log_prob(x, case.cond, KEY).mean()

        return jax.tree.leaves(eqx.filter_jit(eqx.filter_grad(loss))(field))

    exact = gradient(ODE(solver="rk4", num_steps=60))
    for method in ("adjoint", "checkpointed"):
        solved = gradient(ODE(solver="dopri5", rtol=1e-9, atol=1e-9, gradient=method))
        for g, e in zip(solved, exact, strict=True):
            np.testing.assert_allclose(g, e, atol=1e-6)


@pytest.mark.parametrize(("shape", "words"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("make", [Convolutional, UNet, DiT])
def test_another_layout_is_named(make, shape, words):
    field = eqx.filter_eval_shape(lambda: make(SHAPE, width=4, key=KEY))
    with pytest.raises(ValueError, match=words):
        eqx.filter_eval_shape(field, T, jnp.ones(shape))


@pytest.mark.parametrize(("shape", "words"), SHAPES.values(), ids=SHAPES)
def test_shapes_of_no_image_are_refused(shape, words):
    with pytest.raises(ValueError, match=words):
        Convolutional(shape, key=KEY)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"must be multiples of 2\^\(levels - 1\)"):
        UNet((6, 6, 1), multipliers=(1, 2, 2), key=KEY)
    with pytest.raises(ValueError, match=r"shape=\(6, 8, 2\) must be multiples of patch=4"):
        DiT(SHAPE, patch=4, key=KEY)
    with pytest.raises(ValueError, match="width=6 must be a multiple of heads=4"):
        DiT(SHAPE, width=6, heads=4, key=KEY)
    with pytest.raises((ValueError, TypeError), match="padding"):
        Convolutional(SHAPE, padding="same", key=KEY)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="has a kink"):
        Convolutional(SHAPE, activation="relu", key=KEY)


@pytest.mark.slow
def test_a_unet_starts_at_zero_and_is_close_in_bfloat16():
    x = jax.random.normal(KEY, (4, 4, 1), jnp.float32)
    start = eqx.filter_jit(lambda x: UNet((4, 4, 1), width=2, key=KEY)(T, x))
    assert not np.any(start(x.astype(float)))
    field = jax.tree.map(lambda w: w.astype(jnp.float32), FIELDS["unet, condition"].field)
    cond = jnp.ones(3, jnp.float32)
    full, rounded = (eqx.filter_jit(f)(T, x, cond) for f in (field, Rounded(field)))
    assert full.dtype == rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, full, atol=0.1 * float(jnp.abs(full).max()))


def test_patches_are_put_back_where_they_were_cut():
    x = jax.random.normal(KEY, (4, 6, 3))
    patches = cut(x, 2)
    assert patches.shape == (2, 3, 12)
    np.testing.assert_array_equal(patches[1, 2], x[2:4, 4:6].reshape(12))
    np.testing.assert_array_equal(paste(patches, 2), x)


def test_a_dit_starts_at_zero_and_without_places_its_patches_are_exchangeable():
    field = DiT((4, 4, 1), width=4, depth=1, heads=2, key=KEY)
    x = jax.random.normal(KEY, (4, 4, 1))
    call = eqx.filter_jit(lambda field, x: field(T, x))
    assert not np.any(call(field, x))
    field = jax.tree.map(lambda w: w + 0.3 if eqx.is_inexact_array(w) else w, field)
    field = eqx.tree_at(lambda f: f.places, field, replace_fn=jnp.zeros_like)
    swapped = paste(cut(x, 2)[::-1], 2)
    expected = paste(cut(call(field, x), 2)[::-1], 2)
    np.testing.assert_allclose(call(field, swapped), expected, atol=1e-12)


def test_a_batch_of_rows_is_one_convolution(monkeypatch):
    field = Convolutional((8, 8, 1), width=4, depth=1, key=KEY)
    rows, times = jax.random.normal(KEY, (5, 8, 8, 1)), jnp.linspace(0.0, 1.0, 5)

    def batch():
        # A function of its own: jax remembers the programs of those that it has seen.
        return lambda t, x: jax.vmap(lambda t, x: field(t, x))(t, x)

    on_cpu = str(jax.make_jaxpr(batch())(times, rows))
    # Two layers, and their channels of time, which no row repeats.
    assert on_cpu.count("convolve_inside") == 4
    assert "f64[5,8,8,4] = convolve_inside" in on_cpu
    values = batch()(times, rows)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    convolutions = str(jax.make_jaxpr(batch())(times, rows))
    assert convolutions.count("conv_general_dilated[") == 4
    assert "f64[5,8,8,4] = conv_general_dilated" in convolutions
    np.testing.assert_allclose(batch()(times, rows), values, atol=1e-12)
