"""Distributions of other libraries as bases: distrax and TFP, and scipy for evaluation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxflow
from jaxflow import CNF, ODE, TrainConfig, fit
from jaxflow.bases import ScipyBase, SeededBase, as_base, log_prob_rows, sample_rows
from jaxflow.dynamics import Linear
from jaxflow.objectives import FlowMatching, maximum_likelihood

stats: Any = scipy.stats
MEAN, COV = np.array([1.0, -2.0]), np.array([[1.0, 0.5], [0.5, 2.0]])


@jax.tree_util.register_pytree_node_class
class Strict:
    """The calls of a distribution of distrax or TFP, and their pytrees.

    Leaves must be arrays of the right shape (TFP), and one is computed from another (distrax).
    """

    event_shape, batch_shape = (2,), ()

    def __init__(self, mean, scale):
        self.mean, self.scale, self.inverse = jnp.asarray(mean), jnp.asarray(scale), 1 / scale
        self._check()

    def _check(self):
        if self.mean.shape != (2,) or self.scale.shape != (2,):
            raise ValueError("mean and scale must have 2 entries")

    def tree_flatten(self):
        return (self.mean, self.scale, self.inverse), {"not": "hashable"}

    @classmethod
    def tree_unflatten(cls, aux, leaves):
        made = object.__new__(cls)
        made.mean, made.scale, made.inverse = leaves
        made._check()
        return made

    def log_prob(self, value):
        z = (value - self.mean) * self.inverse
        return jnp.sum(jnp.log(self.inverse) - 0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi))

    def sample(self, *, seed, sample_shape=()):
        return self.mean + self.scale * jax.random.normal(seed, (2,), self.mean.dtype)


def test_a_distribution_that_takes_nothing_but_arrays_works_in_every_tree(key, tmp_path):
    def make(key):
        base = Strict(MEAN, np.array([0.5, 3.0]))
        return CNF(Linear(matrix=jax.random.normal(key, (2, 2))), base, ode_eval=ODE(num_steps=2))

    flow = make(key)
    assert type(flow.base) is SeededBase
    x = flow.sample(key, 3)
    log_p = flow.log_prob(x)
    assert not any(jax.tree.leaves(jaxflow.trainable(flow).base))
    jaxflow.save(tmp_path / "flow.safetensors", flow)
    with pytest.raises(ValueError, match=r"'base.structure' is .*, which a file cannot hold"):
        jaxflow.load(tmp_path / "flow.safetensors")
    again = jaxflow.load(tmp_path / "flow.safetensors", like=make(jax.random.key(1)))
    np.testing.assert_array_equal(again.log_prob(x), log_p)


def test_arrays_that_depend_on_one_another_are_not_trained(key):
    flow = CNF(Linear(matrix=jnp.eye(2)), Strict(MEAN, np.ones(2)))
    with pytest.raises(ValueError, match=r"(?s)train names .* base=SeededBase.*leave it"):
        fit(flow, np.zeros((9, 2)), key=key, train=("field", "base"))


def test_events_that_are_no_single_array_are_refused():
    class Joint(Strict):
        event_shape = [(), ()]  # noqa: RUF012

    with pytest.raises(TypeError, match=r"event_shape=\[\(\), \(\)\].* events are one array"):
        as_base(Joint(MEAN, np.ones(2)))


def test_discrete_distributions_are_refused():
    class Counts(Strict):
        def sample(self, *, seed, sample_shape=()):
            return jax.random.poisson(seed, 3.0, (2,))

    numpyro = pytest.importorskip("numpyro.distributions")
    for base in (numpyro.Poisson(3.0).expand([1]).to_event(1), Counts(MEAN, np.ones(2))):
        with pytest.raises(ValueError, match=r"is discrete.*StandardNormal.*Dequantise"):
            CNF(lambda t, x: 0 * x, base)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_real_distributions_of_distrax_and_tfp_are_bases(key):
    distrax = pytest.importorskip("distrax")
    tfd = pytest.importorskip("tensorflow_probability.substrates.jax").distributions
    scale = jnp.asarray(np.linalg.cholesky(COV))
    mean = jnp.asarray(MEAN)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for base in (
            distrax.MultivariateNormalTri(mean, scale),
            tfd.MultivariateNormalTriL(mean, scale),
        ):
            flow = CNF(Linear(matrix=0.5 * jnp.eye(2)), base, ode_eval=ODE(rtol=1e-9, atol=1e-9))
            x = flow.sample(key, 4)
            expected = stats.multivariate_normal(np.exp(0.5) * MEAN, np.e * COV).logpdf(x)
            answer = flow.log_prob_with_error(x)
            np.testing.assert_allclose(answer.value, expected, atol=1e-6)
        many = tfd.Normal(jnp.zeros(2), jnp.ones(2))
        with pytest.raises(ValueError, match=r"Independent\(base, reinterpreted_batch_ndims=1\)"):
            as_base(many)
        as_base(tfd.Independent(many, reinterpreted_batch_ndims=1))


@pytest.mark.parametrize(
    ("distribution", "event"),
    [
        (stats.norm(), ()),
        (stats.t(4.0, loc=MEAN, scale=[0.5, 3.0]), (2,)),
        (stats.multivariate_normal([0.5], [[2.0]]), (1,)),
        (stats.multivariate_normal(MEAN, COV), (2,)),
        (stats.multivariate_t(MEAN, COV, df=5), (2,)),
    ],
)
def test_a_frozen_distribution_of_scipy_is_evaluated_and_sampled(distribution, event, key):
    base = as_base(distribution)
    assert type(base) is ScipyBase
    assert base.event_shape == event
    keys = jax.random.split(key, 300)
    x = sample_rows(base, keys)
    assert x.shape == (300, *event)
    np.testing.assert_array_equal(sample_rows(base, keys[7:8])[0], x[7])
    np.testing.assert_array_equal(base.sample(keys[7]), x[7])
    expected = np.asarray(distribution.logpdf(np.asarray(x))).reshape(300, -1).sum(axis=1)
    np.testing.assert_allclose(log_prob_rows(base, x), expected, rtol=1e-14)
    np.testing.assert_allclose(base.log_prob(x[0]), expected[0], rtol=1e-14)
    if event == (2,):
        np.testing.assert_allclose(np.median(x, axis=0), MEAN, atol=0.6)
    with pytest.raises(TypeError, match="is computed by scipy and has no gradient"):
        jax.grad(base.log_prob)(x[0])


@pytest.mark.slow
def test_a_flow_on_a_base_of_scipy(key):
    flow = CNF(
        Linear(matrix=0.5 * jnp.eye(2)),
        stats.multivariate_normal(MEAN, COV),
        ode_eval=ODE(rtol=1e-9, atol=1e-9),
    )
    x = flow.sample(key, 20)
    expected = stats.multivariate_normal(np.exp(0.5) * MEAN, np.e * COV).logpdf(x)
    np.testing.assert_allclose(flow.log_prob(x), expected, atol=1e-7)
    words = "multivariate_normal_frozen is computed by scipy and has no gradient.*DiagonalNormal"
    for call in (flow.log_prob_with_error, jax.grad(lambda x: flow.log_prob(x).sum())):
        with pytest.raises(TypeError, match=words):
            call(x)
    config = TrainConfig(steps=2, batch_size=8, eval_every=2)
    fit(flow, x, key=key, config=config, objective=FlowMatching())
    with pytest.raises(TypeError, match=words):
        fit(flow, x, key=key, config=config, objective=maximum_likelihood)


def test_other_distributions_of_scipy_are_refused():
    for distribution, words in (
        (stats.poisson(3.0), "poisson|rv_discrete_frozen"),
        (stats.dirichlet([1.0, 2.0]), "dirichlet_frozen of scipy is not a density of numbers"),
        (stats.multivariate_normal, "multivariate_normal_gen of scipy .* each frozen"),
    ):
        with pytest.raises(TypeError, match=words):
            as_base(distribution)


@pytest.mark.parametrize("kind", ["multivariate_normal", "multivariate_t"])
def test_a_singular_covariance_of_scipy_is_refused(kind):
    singular = getattr(stats, kind)(MEAN, np.ones((2, 2)), allow_singular=True)
    with pytest.raises(ValueError, match="rank 1 in 2 dimensions, so no density"):
        CNF(Linear(2, key=jax.random.key(0)), singular)


@pytest.mark.slow
def test_a_base_of_scipy_as_users_run_it():
    with jax.enable_x64(False):
        flow = CNF(lambda t, x: -x, stats.multivariate_normal(MEAN, COV))
        x = flow.sample(jax.random.key(0), 4)
        assert x.dtype == flow.log_prob(x).dtype == jnp.float32
        assert repr(flow.summary()["base"]).count("multivariate_normal_frozen")
