"""An average of flows is the mixture of their densities, in every face of a density."""

import re
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from scipy.linalg import expm
from tests.laws.fields import grown

import jaxflow
from jaxflow import (
    CNF,
    ODE,
    CouplingFlow,
    DiagonalNormal,
    Ensemble,
    FlowBase,
    FlowMap,
    Hutchinson,
    SolveError,
    StandardNormal,
    Status,
    importance_sample,
)
from jaxflow.bases import log_prob_rows
from jaxflow.diagnostics import diagnose
from jaxflow.diagnostics.solves import without_raising
from jaxflow.diagnostics.two_sample import c2st
from jaxflow.dynamics import MLP, Linear
from jaxflow.flows import Flow
from jaxflow.flows.ensemble import members
from jaxflow.objectives import FlowMatching, MaximumLikelihood, ReverseKL
from jaxflow.transforms import Bounded, Dequantise, Standardise

logsumexp: Any = special.logsumexp
norm: Any = stats.norm
KEY = jax.random.key(0)
STEPS = ODE(solver="rk4", num_steps=4)


class Plain(Flow):
    """A flow without a map: its base, in the units of its transform."""

    base: Any
    transform: Any = None

    def density_rows(self, u, cond, key, *, training):
        return log_prob_rows(self.base, u, grouped=not training), None

    def sample_rows(self, z, log_p, cond, key, *, training=False):
        return z, log_p, None


def gaussian(mean, scale, transform=None):
    """A flow whose density is a Gaussian with independent entries."""
    return Plain(DiagonalNormal(jnp.asarray(mean), jnp.asarray(scale)), transform)


def still(t, x, cond=None):
    return jnp.zeros_like(x)


MEANS, SCALES = ([-4.0, 1.0], [5.0, 0.0]), ([1.0, 2.0], [0.5, 1.0])
WEIGHTS = np.asarray([0.3, 0.7])
PAIR: Any = Ensemble([gaussian(*each) for each in zip(MEANS, SCALES, strict=True)], [3, 7])
X = jax.random.normal(KEY, (6, 2)) * 3
FIELD = grown(MLP(2, width=4, depth=1, key=KEY))
SCALE = Standardise(jnp.asarray([0.3, -0.2]), jnp.asarray([2.0, 0.5]))
# Fixed steps are quick to compile.
CURVED = CNF(FIELD, StandardNormal(2), transform=SCALE, ode=STEPS, ode_eval=STEPS)
COUPLING = CouplingFlow(2, width=4, num_layers=2, key=KEY)
# A positive number, or a share.
HALVES: Any = Ensemble(
    [
        CNF(still, StandardNormal(1), transform=Bounded([0.0], [jnp.inf]), ode_eval=STEPS),
        Plain(StandardNormal(1), Bounded([0.0], [1.0])),
    ]
)


def mixture(x, weights=WEIGHTS):
    """The log-density of `PAIR`."""
    each = [
        norm(mean, scale).logpdf(np.asarray(x)).sum(-1)
        for mean, scale in zip(MEANS, SCALES, strict=True)
    ]
    return logsumexp(each, axis=0, b=weights[:, None])


def assert_equal(one, other):
    """The same structure, dtypes and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# --- one flow ---


def single(flow):
    """The flow in float32."""
    return jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, flow)


@pytest.mark.parametrize("flow", [CURVED, COUPLING], ids=["cnf", "coupling"])
def test_one_flow_is_that_flow_to_the_bit(flow):
    ensemble: Any = Ensemble([flow])
    assert_equal(ensemble.log_prob(X), flow.log_prob(X))
    assert_equal(ensemble.sample(KEY, (2, 3)), flow.sample(KEY, (2, 3)))
    assert_equal(ensemble.sample_and_log_prob(KEY, 6), flow.sample_and_log_prob(KEY, 6))
    # NumPy's float64 rows keep their digits up to the transform of a float32 flow.
    narrow, x = single(flow), np.asarray(X) + 1e-9
    assert_equal(Ensemble([narrow]).log_prob(x), narrow.log_prob(x))


@pytest.mark.slow
def test_one_flow_is_that_flow_in_every_face():
    assert_equal(Ensemble([CURVED]).train_log_prob(X), CURVED.train_log_prob(X))
    random = replace(CURVED, trace=Hutchinson(8))
    assert_equal(Ensemble([random]).log_prob(X, key=KEY), random.log_prob(X, key=KEY))
    tolerance: Any = {"atol_nats": 1e-5}
    assert_equal(Ensemble([OTHER]).log_prob(X, **tolerance), OTHER.log_prob(X, **tolerance))


# --- the density ---


def test_log_prob_is_that_of_the_mixture():
    np.testing.assert_allclose(PAIR.log_prob(X), mixture(X), rtol=1e-12)
    np.testing.assert_allclose(PAIR.train_log_prob(X), mixture(X), rtol=1e-12)
    np.testing.assert_allclose(PAIR.log_prob_rows(X)[0], mixture(X), rtol=1e-12)
    np.testing.assert_allclose(PAIR.density_rows(X, None, None, training=False)[0], mixture(X))
    equal: Any = Ensemble(PAIR.flows)
    np.testing.assert_allclose(equal.log_prob(X), mixture(X, np.asarray([0.5, 0.5])), rtol=1e-12)
    assert PAIR.event_shape == (2,)
    for shape in ((), (2, 3), (0,)):
        n = int(np.prod(shape))
        log_p = PAIR.log_prob(X[:n].reshape(*shape, 2))
        assert log_p.shape == shape
        np.testing.assert_allclose(log_p.reshape(-1), mixture(X[:n]), rtol=1e-12)


def test_linear_fields_make_a_mixture_of_gaussians():
    matrices = [jnp.asarray([[0.3, -0.8], [0.4, 0.2]]), jnp.asarray([[-0.5, 0.1], [0.0, 0.4]])]
    steps, each = ODE(solver="rk4", num_steps=200), []
    flows = [CNF(Linear(matrix=a), StandardNormal(2), ode_eval=steps) for a in matrices]
    for a in map(np.asarray, matrices):
        z = np.linalg.solve(expm(a), np.asarray(X).T).T
        each.append(norm.logpdf(z).sum(-1) - np.trace(a))
    expected = logsumexp(each, axis=0, b=WEIGHTS[:, None])
    ensemble: Any = Ensemble(flows, WEIGHTS)
    np.testing.assert_allclose(ensemble.log_prob(X), expected, rtol=0, atol=1e-10)
    assert int(ensemble.log_prob_rows(X)[1].num_evals[0]) == 2 * 200 * 4


def test_jit_and_vmap_take_log_prob():
    ensemble: Any = Ensemble([COUPLING, *PAIR.flows])
    expected = ensemble.log_prob(X)
    np.testing.assert_allclose(jax.vmap(ensemble.log_prob)(X), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(ensemble.log_prob)(X), expected, rtol=1e-12)
    np.testing.assert_allclose(eqx.filter_jit(ensemble.train_log_prob)(X), expected, rtol=1e-12)
    draw = jax.jit(ensemble.sample, static_argnums=1)
    np.testing.assert_allclose(draw(KEY, 3), ensemble.sample(KEY, 3), rtol=1e-12)


def test_a_row_has_the_same_bits_in_any_batch():
    ensemble: Any = Ensemble([CURVED, COUPLING])
    for call in (ensemble.log_prob, ensemble.log_prob_with_error):
        together = call(X)
        for n in (1, 5):
            assert_equal(call(X[:n]), jax.tree.map(lambda leaf, n=n: leaf[:n], together))


def test_nested_ensembles_are_the_mixture_of_all():
    nested: Any = Ensemble([Ensemble([*PAIR.flows, COUPLING]), CURVED], [3, 1])
    flat: Any = Ensemble([*PAIR.flows, COUPLING, CURVED])
    np.testing.assert_allclose(nested.log_prob(X), flat.log_prob(X), rtol=1e-12)
    assert members(nested) == (*PAIR.flows, COUPLING, CURVED)
    assert members(CURVED) == (CURVED,)


def test_float32_flows_give_float32_and_mixed_ones_the_widest():
    narrow: Any = Ensemble([single(flow) for flow in PAIR.flows], WEIGHTS)
    x = X.astype(jnp.float32)
    assert narrow.weights.dtype == narrow.log_prob(x).dtype == jnp.float32
    assert narrow.sample(KEY, 3).dtype == narrow.train_log_prob(x).dtype == jnp.float32
    np.testing.assert_allclose(narrow.log_prob(x), mixture(x), rtol=1e-5)
    mixed: Any = Ensemble([single(PAIR.flows[0]), PAIR.flows[1]], WEIGHTS)
    for array in (mixed.log_prob(x), *mixed.sample_and_log_prob(KEY, 3), mixed.train_log_prob(x)):
        assert array.dtype == jnp.float64
    np.testing.assert_allclose(mixed.log_prob(x), mixture(x), rtol=1e-12)


def test_conditions_reach_every_flow():
    flows = [
        CouplingFlow(2, width=4, num_layers=2, cond_dim=3, key=key)
        for key in jax.random.split(KEY)
    ]
    flows = [grown(flow) for flow in flows]
    ensemble, cond = Ensemble(flows, WEIGHTS), jax.random.normal(KEY, (6, 3))
    each = [flow.log_prob(X, cond) for flow in flows]
    expected = logsumexp(each, axis=0, b=WEIGHTS[:, None])
    np.testing.assert_allclose(ensemble.log_prob(X, cond), expected, rtol=1e-12)
    drawn, log_p = ensemble.sample_and_log_prob(KEY, 6, cond)
    np.testing.assert_allclose(ensemble.log_prob(drawn, cond), log_p, rtol=1e-12)
    with pytest.raises(ValueError, match="cond"):
        Ensemble([*flows, COUPLING]).log_prob(X, cond)


# --- the support ---


@pytest.mark.slow
def test_a_flow_without_density_counts_as_0_and_outside_of_all_it_is_0():
    x = jnp.asarray([[0.4], [2.0], [-1.0], [0.0]])
    normal = norm.logpdf(np.log([0.4, 2.0])) - np.log([0.4, 2.0])
    logit = norm.logpdf(np.log(0.4 / 0.6)) - np.log(0.4 * 0.6)
    inside = np.logaddexp(normal[0], logit) - np.log(2)
    expected = [inside, normal[1] - np.log(2), -np.inf, -np.inf]
    answer = HALVES.log_prob_with_error(x)
    for log_p in (HALVES.train_log_prob(x), answer.value):
        np.testing.assert_allclose(log_p, expected, rtol=1e-12)
    ended = [Status.SUCCESS, Status.SUCCESS, Status.OUTSIDE, Status.OUTSIDE]
    np.testing.assert_array_equal(answer.status, ended)
    log_p, stats = eqx.filter_jit(lambda x: HALVES.log_prob_rows(x))(x)
    np.testing.assert_allclose(log_p, expected, rtol=1e-12)
    np.testing.assert_array_equal(stats.status, ended)

    def total(both):
        log_p = both[0].train_log_prob(both[1])
        return jnp.where(jnp.isfinite(log_p), log_p, 2 * log_p).sum()

    weights, slope = eqx.filter_jit(eqx.filter_grad(total))((HALVES, x))
    np.testing.assert_array_equal(slope[2:], np.zeros((2, 1)))
    assert np.all(slope[:2] != 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights))


# --- errors ---


ADAPTIVE = replace(CURVED, ode_eval=ODE(rtol=1e-3, atol=1e-3))
# Another flow of the same structure, compiled once with the first.
OTHER = jax.tree.map(lambda a: 1.3 * a if eqx.is_inexact_array(a) else a, ADAPTIVE)
SOLVED: Any = Ensemble([ADAPTIVE, OTHER, COUPLING], [1, 2, 1])
EXACT: Any = SOLVED.with_flows(
    [replace(flow, ode_eval=ODE(solver="rk4", num_steps=100)) for flow in SOLVED.flows[:2]]
    + [COUPLING]
)


@pytest.mark.slow
def test_stated_error_covers_the_true_one():
    x = jax.random.normal(KEY, (200, 2)) * 2
    answer, truth = SOLVED.log_prob_with_error(x), EXACT.log_prob(x)
    error = np.abs(answer.value - truth)
    assert np.quantile(error, 0.9) > 1e-7
    assert np.all(error <= answer.ode_error)
    assert np.median(np.abs(answer.refined - truth)) < np.median(error)
    each = [flow.log_prob_with_error(x) for flow in SOLVED.flows[:2]]
    assert np.all(answer.ode_error <= np.maximum(*(one.ode_error for one in each)) + 1e-12)
    np.testing.assert_array_equal(answer.num_evals, each[0].num_evals + each[1].num_evals)
    np.testing.assert_array_equal(answer.trace_se, np.zeros(200))
    np.testing.assert_array_equal(answer.status, np.zeros(200))
    assert_equal(Ensemble([OTHER]).log_prob_with_error(x), each[1])


@pytest.mark.slow
def test_log_densities_reach_a_tolerance():
    truth = EXACT.log_prob(X)
    close = SOLVED.log_prob_with_error(X, atol_nats=1e-5)
    assert np.all(close.ode_error <= 1e-5)
    np.testing.assert_array_equal(close.status, np.zeros(6))
    for verify in (False, True):
        log_p = SOLVED.log_prob(X, atol_nats=1e-5, verify=verify)
        np.testing.assert_allclose(log_p, truth, rtol=0, atol=1e-5)


def test_flows_with_fixed_steps_state_no_error():
    ensemble: Any = Ensemble([COUPLING, CURVED])
    answer = ensemble.log_prob_with_error(X)
    assert answer.ode_error is answer.refined is None
    with pytest.raises(ValueError, match="fixes them"):
        ensemble.log_prob(X, atol_nats=1e-3)
    with pytest.raises(ValueError, match="verify=True needs a target"):
        ensemble.log_prob(X, verify=True)


@pytest.mark.slow
def test_standard_errors_of_stochastic_traces_are_those_of_independent_probes():
    flow = replace(CURVED, trace=Hutchinson(8, "gaussian"))
    ensemble: Any = Ensemble([flow, flow])
    answer = ensemble.log_prob_with_error(X, key=KEY)
    each: Any = [flow.log_prob_with_error(X, key=own) for own in jax.random.split(KEY)]
    assert float(jnp.abs(each[0].value - each[1].value).max()) > 0
    share = jax.nn.softmax(jnp.stack([one.value for one in each]), axis=0)
    se = jnp.stack([one.trace_se for one in each])
    np.testing.assert_allclose(answer.trace_se, jnp.linalg.norm(share * se, axis=0), rtol=1e-10)
    np.testing.assert_allclose(answer.value, ensemble.log_prob(X, key=KEY), rtol=1e-12)
    with pytest.raises(ValueError, match="key"):
        ensemble.log_prob(X)
    target = ensemble.with_flows([replace(flow, trace=Hutchinson(target_se=0.5))] * 2)
    chosen = target.choose_probes(X, key=KEY)
    assert all(getattr(each.trace, "target_se", None) is None for each in chosen.flows)
    np.testing.assert_array_equal(chosen.weights, ensemble.weights)
    assert COUPLING.choose_probes(X) is COUPLING


class Broken(eqx.Module):
    """A field that is finite for negative first entries alone."""

    def __call__(self, t, x, cond=None):
        return jnp.where(x[0] > 0, jnp.nan, 0.0) * x


@pytest.mark.slow
def test_a_failed_solve_names_its_flow_or_is_nan():
    failing: Any = Ensemble([COUPLING, CNF(Broken(), StandardNormal(2), ode_eval=STEPS)])
    x = jnp.asarray([[-1.0, 0.0], [1.0, 0.0]])
    for call in (failing.log_prob, lambda x: failing.sample(KEY, 30)):
        with pytest.raises(SolveError, match=r"flows\[1\]: .*became NaN or infinite"):
            call(x)
    quiet: Any = without_raising(failing)
    answer = quiet.log_prob_with_error(x)
    np.testing.assert_array_equal(np.isnan(answer.value), [False, True])
    np.testing.assert_array_equal(answer.status, [Status.SUCCESS, Status.NON_FINITE])
    # A sample of the flow that does not fail is one.
    drawn, log_p = quiet.sample_and_log_prob(KEY, 30)
    failed = np.isnan(drawn).any(axis=1)
    assert 0 < failed.sum() < 15
    np.testing.assert_array_equal(np.isnan(log_p), failed | (np.asarray(drawn)[:, 0] > 0))
    draw = eqx.filter_jit(lambda keys: quiet.draw_rows(keys)[1].status)
    status = draw(jax.random.split(jax.random.split(KEY)[0], 30))
    np.testing.assert_array_equal(status == Status.NON_FINITE, failed)


# --- samples ---


def test_samples_have_the_moments_of_the_mixture():
    n = 40_000
    x = np.asarray(PAIR.sample(KEY, n))
    mean = WEIGHTS @ np.asarray(MEANS)
    square = WEIGHTS @ (np.asarray(SCALES) ** 2 + np.asarray(MEANS) ** 2)
    spread = np.sqrt(square - mean**2)
    assert np.all(np.abs(x.mean(0) - mean) < 4 * spread / np.sqrt(n))
    np.testing.assert_allclose(x.std(0), spread, rtol=0.02)
    # The two are 9 apart in the first column.
    share = np.mean(x[:, 0] > 0.5)
    assert abs(share - 0.7) < 4 * np.sqrt(0.21 / n)


def test_a_sample_is_that_of_one_of_the_flows_at_the_same_key():
    n = 50
    x = PAIR.sample(KEY, n)
    x = np.asarray(x)
    same = np.stack([(x == flow.sample(KEY, n)).all(-1) for flow in PAIR.flows])
    np.testing.assert_array_equal(same.sum(0), np.ones(n))
    assert 5 < same[0].sum() < 25
    np.testing.assert_array_equal(x[:3], PAIR.sample(KEY, 3))
    np.testing.assert_array_equal(x.reshape(5, 10, 2), PAIR.sample(KEY, (5, 10)))
    assert PAIR.sample(KEY).shape == (2,)
    assert PAIR.sample(KEY, 0).shape == (0, 2)
    keys = jax.random.split(jax.random.split(KEY)[0], n)
    rows = eqx.filter_jit(lambda keys: PAIR.draw_rows(keys, with_log_prob=True))(keys)[0]
    np.testing.assert_allclose(rows[0], x, rtol=1e-13)
    np.testing.assert_allclose(rows[1], mixture(x), rtol=1e-12)


def test_samples_come_with_the_log_density_of_the_mixture():
    x, log_p = PAIR.sample_and_log_prob(KEY, (4, 5))
    np.testing.assert_allclose(log_p, mixture(x.reshape(-1, 2)).reshape(4, 5), rtol=1e-12)


@pytest.mark.parametrize("through", ["flows", pytest.param("base", marks=pytest.mark.slow)])
def test_ensembles_within_an_ensemble_choose_independently(through):
    """Two in one share of the outer ensemble: each has half of that share."""
    inner = Ensemble([gaussian([mean], [0.01]) for mean in (-10.0, 0.0)])
    if through == "base":
        inner = Plain(FlowBase(inner))
    x = Ensemble([inner, gaussian([10.0], [0.01])]).sample(KEY, 2000)[:, 0]
    shares = [np.mean(np.abs(x - mean) < 1) for mean in (-10.0, 0.0, 10.0)]
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.5], atol=0.04)


# --- gradients, training, files ---


def test_gradients_are_those_of_the_mixture():
    def formula(mean, x):
        each = [
            jax.scipy.stats.norm.logpdf(x, m[None], jnp.asarray(s)[None]).sum(-1)
            for m, s in zip(mean, SCALES, strict=True)
        ]
        return jax.nn.logsumexp(jnp.stack(each) + jnp.log(WEIGHTS)[:, None], axis=0).sum()

    mean = tuple(map(jnp.asarray, MEANS))
    slopes = jax.jit(jax.grad(formula, argnums=(0, 1)))(mean, X)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda each, x: each.train_log_prob(x).sum()))
    for found, expected in zip(gradient(PAIR, X).flows, slopes[0], strict=True):
        np.testing.assert_allclose(found.base.mean, expected, rtol=1e-10)
    of_rows = jax.jit(jax.grad(lambda x: PAIR.train_log_prob(x).sum()))
    np.testing.assert_allclose(of_rows(X), slopes[1], rtol=1e-10)
    evaluated = jax.grad(lambda x: PAIR.log_prob(x).sum())
    np.testing.assert_allclose(evaluated(X), slopes[1], rtol=1e-10)


def test_objectives_of_a_density_train_the_flows_and_not_the_weights():
    ensemble: Any = Ensemble([CURVED, COUPLING], WEIGHTS)
    params, static = eqx.partition(ensemble, jaxflow.trainable(ensemble))
    assert params.weights is None
    assert params.flows[0].transform.mean is None

    @eqx.filter_jit
    def slopes_of(objective, params):
        def loss(params):
            return objective(eqx.combine(params, static), X, None, KEY)

        return eqx.filter_value_and_grad(loss, has_aux=True)(params)

    (value, metrics), slopes = slopes_of(MaximumLikelihood(), params)
    np.testing.assert_allclose(value, -ensemble.train_log_prob(X).mean(), rtol=1e-12)
    assert int(metrics["num_evals"]) == 16
    for part in (slopes.flows[0].field, slopes.flows[1].layers):
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(part)) > 0


@pytest.mark.slow
def test_samples_move_with_the_flows():
    def loss(ensemble):
        return ReverseKL(target=lambda x: -jnp.sum(x**2) / 2)(ensemble, None, None, KEY)[0]

    slopes = eqx.filter_jit(eqx.filter_grad(loss))(PAIR)
    # Towards the target's mean of 0.
    assert np.all(np.sign(slopes.flows[0].base.mean) == [-1, 1])
    assert float(slopes.flows[1].base.mean[0]) > 0


def test_files_keep_every_bit(tmp_path):
    path = tmp_path / "ensemble.safetensors"
    with pytest.raises(TypeError, match=r"'flows\.1\.field' is"):
        jaxflow.save(path, Ensemble([CURVED, CNF(lambda t, x: -x, StandardNormal(2))]))
    ensemble: Any = Ensemble([CURVED, COUPLING], [1, 2])
    jaxflow.save(path, ensemble)
    loaded = jaxflow.load(path)
    assert isinstance(loaded, Ensemble)
    assert_equal(loaded, ensemble)
    assert_equal(loaded.log_prob(X), ensemble.log_prob(X))
    assert_equal(jaxflow.load(path, like=ensemble), ensemble)
    narrow: Any = CNF(Linear(matrix=jnp.eye(1)), StandardNormal(1))
    for bad in (
        eqx.tree_at(lambda each: each.weights, ensemble, jnp.asarray([1.5, -0.5])),
        ensemble.with_flows([CURVED]),
        ensemble.with_flows([CURVED, narrow]),
    ):
        jaxflow.save(path, bad, overwrite=True)
        with pytest.raises(ValueError, match=r"Ensemble that is refused: (weights|flows)"):
            jaxflow.load(path)


# --- words ---


def test_print_names_flows_and_weights():
    text = str(PAIR)
    assert text.splitlines()[0] == "Ensemble on events of shape (2,)"
    assert re.search(r"flows\[1\] +weight 0\.7, Plain, 4 parameters, float64", text)
    assert "weight 0.3" in PAIR._repr_html_()
    shapes = eqx.filter_eval_shape(lambda: PAIR)
    assert "flows[1]  Plain" in str(shapes)


def test_weights_are_divided_by_their_sum():
    np.testing.assert_allclose(PAIR.weights, WEIGHTS, rtol=1e-15)
    for weights in ([30, 70], np.asarray([0.3, 0.7], np.float32), jnp.asarray([3.0, 7.0])):
        np.testing.assert_allclose(Ensemble(PAIR.flows, weights).weights, WEIGHTS, rtol=1e-7)
    np.testing.assert_array_equal(Ensemble([CURVED]).weights, [1.0])
    traced = jax.jit(lambda w: Ensemble(PAIR.flows, w).log_prob(X))(jnp.asarray([3.0, 7.0]))
    np.testing.assert_allclose(traced, mixture(X), rtol=1e-12)


# --- refusals ---


@pytest.mark.parametrize(
    ("flows", "weights", "error", "words"),
    [
        (CURVED, None, TypeError, r"flows is a CNF; write Ensemble\(\[flow\]\)"),
        (3, None, TypeError, "flows is a int; give a sequence of flows"),
        ([], None, ValueError, "flows is empty"),
        ([CURVED, FIELD], None, TypeError, r"flows\[1\] is a MLP; give a CNF"),
        (
            [CURVED, gaussian([0.0], [1.0])],
            None,
            ValueError,
            r"flows\[1\] has events of shape \(1,\)",
        ),
        ([CURVED], [1, 2], ValueError, "one positive number for each of 1 flows"),
        ([CURVED, COUPLING], 0.5, ValueError, "one positive number for each of 2 flows"),
        ([CURVED, COUPLING], ["a", "b"], ValueError, "one positive number for each of 2 flows"),
        ([CURVED, COUPLING], [True, True], ValueError, "one positive number"),
        (
            [CURVED, COUPLING],
            [1.0, 0.0],
            ValueError,
            r"weights\[1\]=0.0 must be finite and positive",
        ),
        (
            [CURVED, COUPLING],
            [-1.0, 2.0],
            ValueError,
            r"weights\[0\]=-1.0 must be finite and positive",
        ),
        (
            [CURVED, COUPLING],
            [1.0, np.nan],
            ValueError,
            r"weights\[1\]=nan must be finite and positive",
        ),
        (
            [CURVED, COUPLING],
            [np.inf, 1.0],
            ValueError,
            r"weights\[0\]=inf must be finite and positive",
        ),
    ],
)
def test_other_flows_and_weights_are_refused(flows, weights, error, words):
    with pytest.raises(error, match=words):
        Ensemble(flows, weights)


def test_what_needs_one_map_is_refused_by_name():
    for name in ("encode", "decode", "sample_rows"):
        with pytest.raises(
            TypeError, match=rf"Ensemble has no {name}.*ensemble.flows\[0\].{name}"
        ):
            getattr(PAIR, name)(X)
    for name in ("base", "transform", "field", "transport", "log_prob_at", "integrated_jacobian"):
        with pytest.raises(AttributeError, match=rf"no {name}: .*ensemble.flows\[0\].{name}"):
            getattr(SOLVED, name)
        assert not hasattr(SOLVED, name)
    with pytest.raises(AttributeError, match="object has no attribute 'nothing'"):
        _ = PAIR.nothing
    with pytest.raises(ValueError, match="x has shape"):
        PAIR.log_prob(jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match="NaN"):
        PAIR.log_prob(X.at[0, 0].set(jnp.nan))


def test_an_approximation_without_an_error_states_none():
    fast = FlowMap(grown(MLP(3, width=4, depth=1, cond_dim=1, key=KEY)), CURVED, 2)
    ensemble: Any = Ensemble([COUPLING, fast])
    assert np.isfinite(ensemble.log_prob(X)).all()
    for call in (
        lambda: ensemble.log_prob_with_error(X),
        lambda: ensemble.log_prob(X, atol_nats=1e-2),
    ):
        with pytest.raises(TypeError, match=r"flows\[1\] is a FlowMap.*put flows\[1\].exact"):
            call()


def test_fits_exports_and_diagnoses_of_single_flows_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"Ensemble\(\[jaxflow.fit\(each, x"):
        jaxflow.fit(PAIR, X, key=KEY)
    with pytest.raises(TypeError, match=r"export each of flow\.flows"):
        jaxflow.export(PAIR, tmp_path / "flow.zip")
    with pytest.raises(TypeError, match=r"diagnose each of flow.flows.*two_sample.c2st"):
        diagnose(PAIR, X, key=KEY)
    with pytest.raises(TypeError, match="flow matching trains the field of a CNF"):
        FlowMatching()(PAIR, X, None, KEY)
    with pytest.raises(TypeError, match="for flows that solve an ODE"):
        MaximumLikelihood(kinetic=0.1)(PAIR, X, None, KEY)
    grid = Ensemble([gaussian([0.0], [1.0], Dequantise([1.0]))])
    with pytest.raises(ValueError, match="values on a grid"):
        MaximumLikelihood()(grid, jnp.zeros((3, 1)), None, KEY)
    with pytest.raises(AttributeError, match="no transform"):
        jaxflow.log_mass(grid, jnp.zeros((3, 1)), KEY)


@pytest.mark.slow
def test_the_test_that_diagnose_names_runs():
    data = np.asarray(PAIR.sample(jax.random.key(5), 200))
    drawn = np.asarray(PAIR.sample(KEY, len(data)))
    result: Any = c2st(data, drawn, np.random.default_rng(0), 0.01)
    assert result.p > 0.01


# --- as a part ---


def test_an_ensemble_is_a_base():
    flow = CNF(Linear(matrix=0.3 * jnp.eye(2)), FlowBase(PAIR), ode=STEPS, ode_eval=STEPS)
    expected = mixture(np.asarray(X) * np.exp(-0.3)) - 0.6
    np.testing.assert_allclose(flow.log_prob(X), expected, rtol=1e-6)
    np.testing.assert_allclose(flow.train_log_prob(X), expected, rtol=1e-4)
    x, log_p = flow.sample_and_log_prob(KEY, 5)
    np.testing.assert_allclose(flow.log_prob(x), log_p, rtol=1e-6)
    random = Ensemble([COUPLING, Ensemble([replace(CURVED, trace=Hutchinson(8))])])
    with pytest.raises(ValueError, match="random log-density"):
        FlowBase(random)


def test_an_ensemble_is_a_proposal():
    def target(x):
        return -jnp.sum((x - 1) ** 2) / 2

    wide: Any = Ensemble([gaussian([0.0, 0.0], [1.0, 1.0]), gaussian([1.0, 1.0], [2.0, 2.0])])
    result = importance_sample(wide, target, 4000, key=KEY)
    assert result.reliable
    assert abs(result.log_z - np.log(2 * np.pi)) < 4 * result.log_z_se
    np.testing.assert_allclose(np.exp(result.log_weights) @ np.asarray(result.x), [1, 1], atol=0.1)
