"""The traces of a flow: which is chosen, and the standard error beside a log-density."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student
from tests.laws.fields import grown

from jaxflow import CNF, ODE, Hutchinson, HutchPlusPlus, StandardNormal, XTrace
from jaxflow.dynamics import MLP, Linear
from jaxflow.trace import Exact, as_trace, resolve
from jaxflow.trace.hutchinson import widening

STEP = ODE(solver="rk4", num_steps=2)
KEY = jax.random.key(0)


def swirl(t, x):
    """No closed form; events of any shape, a full Jacobian."""
    return 0.3 * jnp.sin(3 * x[..., ::-1] + t) * x + 0.2 * jnp.sum(jnp.cos(x))


def linear_flow(size, trace: Any, key=KEY) -> Any:
    return CNF(Linear(size, key=key), StandardNormal(size), trace=trace, ode_eval=STEP)


def swirling(shape, trace: Any = "auto") -> Any:
    return CNF(swirl, StandardNormal(shape), trace=trace, ode_eval=STEP)


def estimators(shape) -> dict[str, Any]:
    """Every stochastic trace, for events of this shape."""
    size = math.prod(shape)
    q = jnp.linalg.qr(jax.random.normal(KEY, (size, 2)))[0].T.reshape(2, *shape)
    return {
        "rademacher": Hutchinson(8),
        "gaussian": Hutchinson(3, "gaussian"),
        "orthogonal": Hutchinson(3, "orthogonal"),
        "hutch++": HutchPlusPlus(q, jnp.ones((*shape, *shape)), 2, "gaussian"),
        "xtrace": XTrace(3),
    }


NAMES = list(estimators((6,)))


# --- estimates ---


def check_unbiased(trace):
    """Hold a stochastic trace, for events of shape (2, 3), to the exact one and to its error."""
    shape = (2, 3)
    exact = float(swirling(shape).log_prob(jnp.full(shape, 0.4)))
    flow = swirling(shape, trace)
    x = jnp.full((3000, *shape), 0.4)
    value, error, *_ = flow.log_prob_with_error(x, key=KEY)
    assert error is not None
    value, error = np.asarray(value), np.asarray(error)
    spread = value.std()
    assert spread > 0.02
    if isinstance(trace, Hutchinson | HutchPlusPlus | XTrace):
        error = error / widening(trace.num_probes, getattr(trace, "law", "gaussian"))
    assert value.mean() == pytest.approx(exact, abs=5 * spread / 3000**0.5)
    assert np.sqrt(np.mean(error**2)) == pytest.approx(spread, rel=0.2)
    np.testing.assert_array_equal(value, flow.log_prob(x, key=KEY))
    other = np.asarray(flow.log_prob(x, key=jax.random.key(1)))
    assert (other - value).std() == pytest.approx(2**0.5 * spread, rel=0.1)


@pytest.mark.quick("orthogonal", "xtrace")
@pytest.mark.parametrize("name", NAMES)
def test_estimates_of_a_log_density_are_unbiased_with_the_error_they_say(name):
    check_unbiased(estimators((2, 3))[name])


@pytest.mark.quick("rademacher")
@pytest.mark.parametrize("name", NAMES)
def test_samples_come_with_the_estimate_of_their_log_density(name):
    flow = swirling((6,), estimators((6,))[name])
    x, log_p = flow.sample_and_log_prob(KEY, 2000)
    exact = swirling((6,)).log_prob(x)
    gap = np.asarray(log_p) - exact
    assert 0.02 < gap.std() < 3
    assert abs(gap.mean()) < 5 * gap.std() / 2000**0.5 + 1e-3


@pytest.mark.parametrize(
    "trace", [Hutchinson(6, "orthogonal"), HutchPlusPlus(jnp.eye(6)), XTrace(6)]
)
def test_probes_that_span_the_space_are_exact(trace):
    x = jax.random.normal(KEY, (5, 6))
    exact = swirling((6,)).log_prob(x)
    value, error, *_ = swirling((6,), trace).log_prob_with_error(x, key=KEY)
    np.testing.assert_allclose(value, exact, rtol=1e-9)
    np.testing.assert_allclose(error, 0, atol=1e-8)


@pytest.mark.quick("rademacher", "hutch++", "xtrace")
@pytest.mark.parametrize("name", NAMES)
def test_a_skew_jacobian_leaves_no_error(name):
    a = jax.random.normal(KEY, (6, 6))
    trace = estimators((6,))[name]
    if name == "hutch++":
        trace = dataclasses.replace(trace, reference=None)
    flow: Any = CNF(Linear(matrix=a - a.T), StandardNormal(6), trace=trace, ode_eval=STEP)
    x = jax.random.normal(KEY, (4, 6))
    value, error, *_ = flow.log_prob_with_error(x, key=KEY)
    np.testing.assert_allclose(value, dataclasses.replace(flow, trace="exact").log_prob(x))
    np.testing.assert_allclose(np.asarray(error), 0, atol=1e-12)


@pytest.mark.parametrize("k", [1, pytest.param(2, marks=pytest.mark.slow), 8])
def test_rademacher_is_exact_for_a_diagonal_jacobian(k):
    matrix = jnp.asarray(np.diag([1.0, 5.0]))
    flow = CNF(Linear(matrix=matrix), StandardNormal(2), trace=Hutchinson(k), ode_eval=STEP)
    value, error, *_ = flow.log_prob_with_error(jnp.zeros(2), key=KEY)
    assert float(value) == pytest.approx(norm.logpdf(0.0) * 2 - 6, rel=1e-12)
    # Equal outcomes may agree by chance.
    if k < 8:
        assert error is None
    else:
        np.testing.assert_array_equal(error, np.inf)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["rademacher", "gaussian", "orthogonal"])
@pytest.mark.parametrize("k", [8, 16])
def test_intervals_cover_the_exact_log_density(law, k):
    flow = linear_flow(24, Hutchinson(k, law))
    x = jnp.full(24, 0.1)
    exact = float(dataclasses.replace(flow, trace="exact").log_prob(x))
    value, error, *_ = flow.log_prob_with_error(jnp.tile(x, (10_000, 1)), key=KEY)
    width = student.ppf(0.975, k - 1)
    covered = np.mean(np.abs(np.asarray(value) - exact) <= width * np.asarray(error))
    assert covered > 0.93


def test_the_variance_over_rows_follows_the_formula():
    flow = CNF(Linear(matrix=jnp.asarray([[1.0, 4.0], [0.0, 5.0]])), StandardNormal(2))
    stochastic = dataclasses.replace(flow, trace=Hutchinson(2), ode_eval=STEP)
    x = jnp.tile(jnp.asarray([[0.3, -0.2]]), (4000, 1))
    values = stochastic.log_prob(x, key=KEY)
    # One probe has variance (4 + 0)^2, two of them half of it.
    assert np.var(values) == pytest.approx(8, rel=0.1)


# --- errors ---


def test_an_exact_trace_has_error_zero_and_one_probe_none():
    x = jax.random.normal(KEY, (4, 6))
    value, error, *_ = swirling((6,)).log_prob_with_error(x)
    np.testing.assert_array_equal(error, np.zeros(4))
    np.testing.assert_array_equal(value, swirling((6,)).log_prob(x))
    assert swirling((6,), "hutchinson").log_prob_with_error(x, key=KEY).trace_se is None
    value, error, *_ = swirling((2, 3), Hutchinson(2, "gaussian")).log_prob_with_error(
        jnp.ones((4, 5, 2, 3)), key=KEY
    )
    assert value.shape == error.shape == (4, 5)


def test_a_wanted_standard_error_leaves_the_error_of_the_steps_stated():
    flow = linear_flow(3, Hutchinson(target_se=2.0))
    assert flow.needs_key()
    assert dataclasses.replace(flow, ode_eval=ODE()).states_error()


@pytest.mark.slow
def test_a_wanted_standard_error_chooses_the_number_of_probes():
    x = jax.random.normal(KEY, (50, 40))
    for law in ("rademacher", "orthogonal"):
        flow = linear_flow(40, Hutchinson(law=law, target_se=2.0))
        settled = flow.choose_probes(x, key=KEY)
        assert settled.trace == Hutchinson(settled.trace.num_probes, law)
        assert settled.trace.num_probes in (4, 8, 16)
        value, error, *_ = flow.log_prob_with_error(x, key=KEY)
        assert error is not None
        # The target is for the standard error; the stated one is wider.
        error /= widening(settled.trace.num_probes, law)
        assert 0.5 < float(jnp.sqrt(jnp.mean(error**2))) < 2.4
        np.testing.assert_array_equal(value, settled.log_prob(x, key=KEY))
        np.testing.assert_array_equal(value, flow.log_prob(x, key=KEY))
    # More probes than entries would be needed: then exact.
    strict = linear_flow(40, Hutchinson(target_se=1e-3))
    assert strict.choose_probes(x, key=KEY).trace == Exact()
    np.testing.assert_array_equal(strict.log_prob_with_error(x, key=KEY).trace_se, 0)
    # A skew field has nothing to average.
    a = jax.random.normal(KEY, (40, 40))
    skew: Any = CNF(Linear(matrix=a - a.T), StandardNormal(40), trace=Hutchinson(target_se=0.1))
    skew = dataclasses.replace(skew, ode_eval=STEP)
    assert skew.choose_probes(x, key=KEY).trace == Hutchinson(1)


def test_a_wanted_standard_error_needs_values():
    flow = linear_flow(40, Hutchinson(target_se=2.0))
    x = jnp.ones((3, 40))
    with pytest.raises(ValueError, match=r"target_se=2\.0 .*unknown under jit.*choose_probes"):
        jax.jit(lambda x: flow.log_prob(x, key=KEY))(x)
    with pytest.raises(ValueError, match=r"target_se=2\.0 .*choose_probes\(x, key=key\) before"):
        flow.sample_and_log_prob(KEY, 3)
    with pytest.raises(ValueError, match="needs random probes: pass key"):
        flow.log_prob(x)


# --- choice ---


def test_what_auto_stands_for():
    closed, deep = MLP(9, width=3, key=KEY), MLP(9, width=3, depth=3, key=KEY)
    auto = linear_flow(9, "auto").trace
    assert resolve(auto, closed, 9, training=True) == Exact()
    assert resolve(auto, deep, 9, training=True) == Hutchinson(1)
    assert resolve(auto, deep, 4, training=True) == Exact()
    assert resolve(auto, deep, 9, training=False) == Exact()
    assert resolve(XTrace(2), closed, 9, training=True) == XTrace(2)


def test_closed_insists():
    assert linear_flow(3, "closed").trace == Exact()
    words = r"(?s)trace='closed'.*MLP has no closed form.*Potential.*check_trace"
    with pytest.raises(ValueError, match=words):
        CNF(MLP(3, width=4, depth=3, key=KEY), StandardNormal(3), trace="closed")


class Half:
    """Draws, and leaves the rule out."""

    def draw(self, key, shape, dtype):
        return jnp.ones((1, *shape), dtype)


class Single(Half):
    """A vector without an axis for the number of vectors."""

    def draw(self, key, shape, dtype):
        return jnp.ones(shape, dtype)

    def estimate(self, divergences, probes, span):
        return jnp.mean(divergences), None


@dataclasses.dataclass
class Loose(Single):
    """Compared by value and changeable, so not hashable."""

    def __repr__(self):
        return "Loose()"


def test_what_is_refused():
    with pytest.raises((ValueError, TypeError), match=r"(?s)trace.*'nope'"):
        CNF(swirl, StandardNormal(3), trace="nope")  # pyright: ignore[reportArgumentType]
    for trace, words in {
        Hutchinson: r"trace=Hutchinson is a class: write trace=Hutchinson\(\.\.\.\)",
        jnp.mean: r"not a stochastic trace: it lacks draw\(.*\) -> .* and estimate\(",
        Half(): r"not a stochastic trace: it lacks estimate\(divergences, probes, span\)",
    }.items():
        with pytest.raises(TypeError, match=words):
            as_trace(trace, swirl)
    with pytest.raises(TypeError, match=r"Loose\(\) cannot be hashed: make Loose an equinox"):
        CNF(swirl, StandardNormal(3), trace=Loose())
    x = jnp.ones((2, 6))
    with pytest.raises(ValueError, match=r"vectors of shape \(6,\).*must return \('k', 6\)"):
        swirling((6,), Single()).log_prob(x, key=KEY)
    for name in NAMES:
        with pytest.raises(ValueError, match=r"needs random probes: pass key=.*trace='exact'"):
            swirling((6,), estimators((6,))[name]).log_prob(x)
    with pytest.raises(ValueError, match="needs random probes"):
        swirling((6,), "hutchinson").log_prob_at(0.5, x)
    with pytest.raises(ValueError, match=r"num_probes=7 orthogonal"):
        swirling((6,), Hutchinson(7, "orthogonal")).log_prob(x, key=KEY)


# --- jacobians, precision, trees ---


def test_the_integrated_jacobian_is_that_of_a_linear_flow():
    a = jax.random.normal(KEY, (70, 70)) / 10
    flow = CNF(Linear(matrix=a), StandardNormal((7, 10)), ode_eval=STEP)
    jacobian = flow.integrated_jacobian(jnp.ones((2, 7, 10)))
    assert jacobian.shape == (2, 7, 10, 7, 10)
    np.testing.assert_allclose(np.reshape(jacobian, (2, 70, 70))[1], a, atol=1e-14)


@pytest.mark.slow
def test_a_sketch_from_the_flow_itself_lowers_the_error():
    field = grown(MLP(6, width=8, depth=2, key=KEY))
    flow = CNF(field, StandardNormal(6), ode_eval=ODE(solver="rk4", num_steps=16))
    x = flow.sample(KEY, 200)
    trace = HutchPlusPlus.from_jacobians(flow.integrated_jacobian(x[:50]), num_products=4)
    errors = {}
    for each in (Hutchinson(4), trace):
        value = dataclasses.replace(flow, trace=each).log_prob(x[50:], key=KEY)
        errors[type(each).__name__] = float(jnp.std(value - flow.log_prob(x[50:])))
    assert errors["HutchPlusPlus"] < 0.7 * errors["Hutchinson"]


@pytest.mark.quick("rademacher", "orthogonal", "hutch++", "xtrace")
@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32_and_close(name):
    narrow = lambda tree: jax.tree.map(lambda w: w.astype(jnp.float32), tree)  # noqa: E731
    flow = swirling((6,), narrow(estimators((6,))[name]))
    x = jnp.linspace(-1, 1, 12).reshape(2, 6)
    value, error, *_ = flow.log_prob_with_error(x.astype(jnp.float32), key=KEY)
    assert value.dtype == jnp.float32
    assert error is not None
    assert error.dtype == jnp.float32
    assert np.isfinite(value).all()
    assert (np.asarray(error) > 0).all()


@pytest.mark.slow
def test_a_bfloat16_field_keeps_its_log_density_in_float32():
    narrow = lambda tree: jax.tree.map(lambda w: w.astype(jnp.bfloat16), tree)  # noqa: E731
    field = MLP(64, width=32, key=KEY)
    x = jax.random.normal(KEY, (3, 64))
    for trace in ("exact", Hutchinson(2)):
        flow = CNF(field, StandardNormal(64), trace=trace, ode_eval=STEP)
        low = dataclasses.replace(flow, field=narrow(field)).log_prob(narrow(x), key=KEY)
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, flow.log_prob(x, key=KEY), rtol=0.01)


def test_a_flow_is_a_tree_of_arrays_alone():
    for trace in ("auto", *estimators((6,)).values()):
        flow = linear_flow(6, trace)
        assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(flow))
        assert hash(jax.tree.structure(flow)) == hash(jax.tree.structure(flow))
