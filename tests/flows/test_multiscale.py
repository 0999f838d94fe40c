"""Laws of a flow in several scales, on images of 16 entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow import ODE, Hutchinson, StandardNormal, TrainConfig
from jaxflow.dynamics import Convolutional
from jaxflow.flows import Multiscale
from jaxflow.transforms import Standardise

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
FIXED = ODE(solver="rk4", num_steps=16, gradient="direct")


def fields(cond_dim=0):
    keys = jax.random.split(KEY, 2)
    return [
        jax.tree.map(
            lambda w: 2 * w,
            Convolutional(shape, width=2, depth=1, activation="tanh", cond_dim=cond_dim, key=key),
        )
        for shape, key in zip([SHAPE, (2, 2, 2)], keys, strict=True)
    ]


@pytest.fixture(scope="module")
def flow():
    scaling = Standardise(jnp.full(SHAPE, 0.5), jnp.linspace(0.5, 2.0, 16).reshape(SHAPE))
    return Multiscale(fields(), StandardNormal(SHAPE), transform=scaling, ode_eval=FIXED)


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(KEY, (3, *SHAPE))


def test_the_log_density_is_that_of_the_dense_jacobian(flow, x):
    def encode(flat):
        z = flow.encode(flat.reshape(SHAPE)).reshape(16)
        return z, z

    jacobian, z = jax.jit(jax.jacfwd(encode, has_aux=True))(x[0].reshape(16))
    assert np.abs(jacobian - np.diag(np.diag(jacobian))).max() > 0.1
    expected = flow.base.log_prob(z.reshape(SHAPE)) + np.linalg.slogdet(jacobian)[1]
    assert float(flow.log_prob(x)[0]) == pytest.approx(float(expected), abs=1e-6)


def test_encode_and_decode_undo_each_other(flow, x):
    z = flow.encode(x)
    assert np.max(np.abs(np.asarray(z) - x)) > 1e-2
    np.testing.assert_allclose(flow.decode(z), x, atol=1e-7)


@pytest.mark.slow
def test_samples_come_with_their_log_prob_and_the_file_keeps_both(flow, tmp_path):
    y, log_p = flow.sample_and_log_prob(KEY, 3)
    jaxflow.save(tmp_path / "flow.jaxflow", flow)
    same = jaxflow.load(tmp_path / "flow.jaxflow")
    np.testing.assert_allclose(same.log_prob(y), log_p, atol=1e-6)


@pytest.mark.slow
def test_probes_tell_their_error(x):
    exact = Multiscale(fields(), StandardNormal(SHAPE), ode_eval=ODE(num_steps=8, solver="rk4"))
    probes = Hutchinson(8)
    flow = Multiscale(fields(), exact.base, trace=probes, ode_eval=exact.ode_eval)
    answer = flow.log_prob_with_error(x, key=KEY)
    np.testing.assert_array_equal(answer.value, flow.log_prob(x, key=KEY))
    assert answer.trace_se is not None
    assert answer.ode_error is None
    assert np.all(np.abs(answer.value - exact.log_prob(x)) < 4 * answer.trace_se)
    assert np.all(answer.trace_se > 0)


@pytest.mark.slow
def test_fit_trains_every_scale():
    single = [jax.tree.map(lambda w: w.astype(jnp.float32), each) for each in fields(2)]
    flow = Multiscale(single, StandardNormal(SHAPE), ode=ODE(solver="euler", num_steps=1))
    x = jax.random.normal(KEY, (64, *SHAPE), jnp.float32)
    cond = jnp.eye(2, dtype=jnp.float32)[jnp.arange(64) % 2]
    config = TrainConfig(steps=2, eval_every=2, batch_size=32, solver_error=float("inf"))
    trained, _ = jaxflow.fit(flow, x, cond, key=KEY, config=config, progress=False)
    assert isinstance(trained, Multiscale)
    for old, new in zip(single, trained.fields, strict=True):
        assert not np.array_equal(old.layers[0].weight, new.layers[0].weight)


MISTAKES = {
    "no scale": ([], SHAPE, "auto", "fields=\\(\\) is empty"),
    "odd sides": (fields(), (5, 4, 1), "auto", "sides are multiples of 2"),
    "vectors": (fields(), (16,), "auto", "need images"),
    "another shape": (fields()[::-1], SHAPE, "auto", "Convolutional takes 8 entries"),
    "target": (fields(), SHAPE, Hutchinson(target_se=0.1), r"write Hutchinson\(num_probes\)"),
}


@pytest.mark.parametrize(("parts", "shape", "trace", "words"), MISTAKES.values(), ids=MISTAKES)
def test_scales_that_do_not_fit_are_refused(parts, shape, trace, words):
    with pytest.raises(ValueError, match=words):
        Multiscale(parts, StandardNormal(shape), trace=trace)
