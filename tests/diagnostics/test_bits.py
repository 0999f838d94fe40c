"""Bits per dimension of densities whose bits are known."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, Hutchinson, StandardNormal
from jaxflow.diagnostics import bits_per_dim
from jaxflow.dynamics import MLP
from jaxflow.flows import Flow
from jaxflow.transforms import Chain, Dequantise, Standardise, pixels

KEY = jax.random.key(0)
SHAPE = (3, 2, 1)
DIM = 6


class Cells(Flow):
    """Independent pixels: a density that is constant in each of the cells between two limits."""

    probability: jax.Array
    limits: tuple[float, float] = eqx.field(static=True)
    base: StandardNormal = StandardNormal(SHAPE)
    transform: Dequantise | None = None

    def density_rows(self, u, cond, key, *, training):
        low, high = self.limits
        levels = len(self.probability)
        width = (high - low) / levels
        at = jnp.floor((u - low) / width).astype(int)
        inside = (at >= 0) & (at < levels)
        density = self.probability[jnp.clip(at, 0, levels - 1)] / width
        return jnp.sum(jnp.log(jnp.where(inside, density, 0.0)), axis=(1, 2, 3)), None

    def sample_rows(self, *args, **kwargs):
        raise NotImplementedError


UNIFORM = {
    "8 bits on [-1, 1]": (8, (-1.0, 1.0)),
    "8 bits on [0, 1]": (8, (0.0, 1.0)),
    "5 bits on [-1, 1]": (5, (-1.0, 1.0)),
    "5 bits, a unit a level": (5, None),
}


@pytest.mark.parametrize(("bits", "limits"), UNIFORM.values(), ids=UNIFORM)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_uniform_density_has_the_bits_of_the_depth(bits, limits, dtype):
    flow = Cells(probability=jnp.ones(1, dtype), limits=limits or (0.0, 2.0**bits))
    levels = np.arange(5 * DIM).reshape(5, *SHAPE) % 2**bits
    levels[0] = 2**bits - 1
    answer = bits_per_dim(flow, levels, bits=bits, limits=limits, key=KEY)
    assert answer.bits == pytest.approx(bits, abs=1e-6)
    assert answer.tighter == pytest.approx(bits, abs=1e-6)
    assert answer.standard_error == pytest.approx(0.0, abs=1e-6)


def test_independent_pixels_have_their_entropy():
    probability = np.asarray([0.5, 0.25, 0.125, 0.125])
    # Each level as often as it is likely, in all pixels.
    column = np.repeat([0, 1, 2, 3], [4, 2, 1, 1])
    levels = np.stack([np.roll(column, k) for k in range(DIM)], axis=1).reshape(8, *SHAPE)
    flow = Cells(probability=jnp.asarray(probability), limits=(-1.0, 1.0))
    answer = bits_per_dim(flow, levels, bits=2, limits=(-1.0, 1.0), key=KEY)
    entropy = -np.sum(probability * np.log2(probability))
    assert answer.bits == pytest.approx(entropy, abs=1e-9)
    assert answer.draw_se == pytest.approx(0.0, abs=1e-9)
    bits = -np.log2(probability)[levels].reshape(8, -1).mean(axis=1)
    assert answer.test_se == pytest.approx(bits.std(ddof=1) / 8**0.5, abs=1e-9)


def test_errors_of_draws_are_those_of_repeated_answers():
    grid = Dequantise(jnp.ones(SHAPE))
    scaling = Standardise(jnp.full(SHAPE, 2.0), jnp.full(SHAPE, 0.7))
    settings = {"base": StandardNormal(SHAPE), "ode_eval": ODE(solver="rk4", num_steps=2)}
    flow = CNF(lambda t, x: 0 * x, transform=scaling, **settings)
    levels = np.random.default_rng(0).integers(1, 4, (200, *SHAPE))
    answers = [bits_per_dim(flow, levels, bits=2, key=jax.random.key(k)) for k in range(30)]
    assert answers[0].probe_se == 0
    spread = np.std([each.bits for each in answers], ddof=1)
    assert answers[0].draw_se == pytest.approx(spread, rel=0.4)
    # The exact integral over the cells [k, k + 1), by the distribution function.
    edges = np.arange(5)
    cdf = 0.5 * (1 + np.vectorize(math.erf)((edges - 2.0) / 0.7 / 2**0.5))
    exact = -np.log2(np.diff(cdf))[levels].mean()
    assert answers[0].tighter is not None
    assert exact < answers[0].tighter < answers[0].bits
    # The same cells, about the points of a grid of the flow's own.
    centred = Standardise(jnp.full(SHAPE, 1.5), scaling.scale)
    own = CNF(flow.field, transform=Chain((grid, centred)), **settings)
    answer = bits_per_dim(own, levels, bits=2, key=jax.random.key(0))
    assert answer.bits == pytest.approx(answers[0].bits, abs=1e-9)


def test_errors_of_probes_are_those_of_repeated_answers():
    field = jax.tree.map(lambda w: 3 * w, MLP(DIM, width=3, key=KEY))
    ode = ODE(solver="rk4", num_steps=2)
    flow = CNF(field, StandardNormal(SHAPE), trace=Hutchinson(1), ode_eval=ode)
    levels = np.random.default_rng(0).integers(0, 4, (64, *SHAPE))
    answers = [
        bits_per_dim(flow, levels, bits=2, limits=(-1.0, 1.0), key=jax.random.key(k))
        for k in range(20)
    ]
    assert answers[0].tighter is None
    assert answers[0].solver_error is None
    spread = np.std([each.bits for each in answers], ddof=1)
    assert answers[0].draw_se is not None
    both = math.hypot(answers[0].probe_se, answers[0].draw_se)
    assert both == pytest.approx(spread, rel=0.5)
    # Those of the images add up to those of the mean.
    assert answers[0].each_se is not None
    assert both == pytest.approx(np.sqrt(np.mean(answers[0].each_se ** 2) / 64), rel=1e-9)
    one = bits_per_dim(flow, levels, bits=2, limits=(-1.0, 1.0), key=KEY, num_draws=1)
    assert one.each_se is None
    assert answers[0].probe_se > 0


def test_probes_are_measured_on_images_from_all_of_a_sorted_file():
    ode = ODE(solver="rk4", num_steps=1)
    # Black images have a diagonal Jacobian, whose trace one probe knows.
    flow = CNF(
        lambda t, x: jnp.where(x > 0, x[::-1], x),
        StandardNormal(SHAPE),
        trace=Hutchinson(1),
        ode_eval=ode,
    )
    levels = np.repeat([0, 3], 100)[:, None, None, None] * np.ones(SHAPE)
    answer = bits_per_dim(flow, levels, bits=2, limits=(-1.0, 1.0), key=KEY)
    assert answer.probe_se > 0
    # A trace by probes is not exact because it looks so on these images.
    answer = bits_per_dim(flow, levels[:100], bits=2, limits=(-1.0, 1.0), key=KEY)
    assert answer.probe_se == pytest.approx(0.0, abs=1e-9)
    assert answer.tighter is None


def test_levels_outside_the_range_of_the_flow_are_refused():
    levels = np.arange(17)[:, None, None, None] * np.ones(SHAPE)
    settings = {"transform": pixels(levels, 17), "ode_eval": ODE(solver="euler", num_steps=1)}
    flow = CNF(lambda t, x: 0 * x, StandardNormal(SHAPE), **settings)
    with pytest.raises(
        ValueError, match=r"images\[1\] has levels from 20 to 20.*outside the range"
    ):
        bits_per_dim(flow, [levels[16], levels[16] + 4], bits=5, key=KEY)


MISTAKES = {
    "too bright": (np.full((2, *SHAPE), 4), {}, r"levels from 4 to 4, and bits=2 allows 0 to 3"),
    "negative": (np.full((2, *SHAPE), -1), {}, "allows 0 to 3"),
    "not finite": (np.full((2, *SHAPE), np.nan), {}, "allows 0 to 3"),
    "scaled": (np.full((2, *SHAPE), 0.4), {}, r"level 0\.4.*np.round\(3 \* images\)"),
    "channels first": (np.zeros((2, 1, 3, 2)), {}, "channels come first"),
    "one image": (np.zeros(SHAPE), {}, r"shape of one image.*write images\[None\]"),
    "one, channels first": (np.zeros((1, 3, 2)), {}, r"np.moveaxis\(images, 0, -1\)\[None\]"),
    "several sizes": (
        [np.zeros(SHAPE), np.zeros((2, 2, 1))],
        {},
        r"images\[1\] has shape \(2, 2,",
    ),
    "a file": ("images.npz", {}, r"numbers are needed.*read_images\(path\)"),
    "three limits": (np.zeros((2, *SHAPE)), {"limits": (-1.0, 0.0, 1.0)}, "must be two numbers"),
    "none": (np.zeros((0, *SHAPE)), {}, "one image or more"),
    "limits": (np.zeros((2, *SHAPE)), {"limits": (1.0, -1.0)}, "lower one first"),
    "draws": (np.zeros((2, *SHAPE)), {"num_draws": 0}, "num_draws=0"),
}


@pytest.mark.parametrize(("images", "settings", "words"), MISTAKES.values(), ids=MISTAKES)
def test_images_of_another_depth_or_layout_are_refused(images, settings, words):
    flow = Cells(probability=jnp.ones(1), limits=(0.0, 4.0))
    with pytest.raises(ValueError, match=words):
        bits_per_dim(flow, images, bits=2, key=KEY, **settings)
