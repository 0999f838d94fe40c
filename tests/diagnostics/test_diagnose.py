"""`diagnose` passes a right flow, and names what is wrong with a wrong one."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.linalg import expm

from jaxflow import CNF, ODE, CouplingFlow, DiagonalNormal, StandardNormal
from jaxflow.bases import GaussianMixture, StudentT
from jaxflow.diagnostics import diagnose, draw
from jaxflow.diagnostics.findings import Quantiles
from jaxflow.diagnostics.normality import measure_normality, normal_scores
from jaxflow.diagnostics.truth import Truth
from jaxflow.dynamics import Linear

# Far from normal, so that its largest stretch is not its largest eigenvalue.
MATRIX = jnp.asarray([[0.3, 0.9], [-0.2, 0.1]])
KEY = jax.random.key(0)


class Sheet(eqx.Module):
    """`f(x) = A x`, NaN where `x_0 > limit`, and a trace that is wrong by `off`."""

    matrix: jax.Array
    off: jax.Array
    limit: jax.Array

    def __call__(self, t, x, cond=None):
        return jnp.where(x[0] > self.limit, jnp.nan, 1.0) * (self.matrix @ x)

    def with_trace(self, t, x, cond=None):
        return self(t, x), jnp.trace(self.matrix) + self.off


def sheet(matrix=MATRIX, off=0.0, limit=jnp.inf):
    # Leaves alone differ, so that all share their compiled code; fixed steps compile quickly.
    field = Sheet(matrix, jnp.asarray(off), jnp.asarray(limit))
    return CNF(field, StandardNormal(2), ode_eval=ODE(solver="rk4", num_steps=20))


def gaussian(n, matrix=MATRIX, seed=0):
    """Rows of `N(0, E E^T)`, E = expm(A): the right data of `sheet(A)`."""
    return np.random.default_rng(seed).normal(size=(n, 2)) @ expm(np.asarray(matrix)).T


def examine(flow, x, **settings) -> Any:
    return diagnose(flow, x, key=KEY, num_rows=250, num_samples=250, **settings)


@pytest.fixture(scope="module")
def right():
    return examine(sheet(), gaussian(300))


def test_a_right_flow_passes(right):
    assert right.problems == ()
    assert right.skipped == {}
    assert (right.num_rows, len(right.rows), right.failed_samples) == (300, 250, 0)
    assert right.solves.failed == {}
    assert right.solves.missed == ()
    for test in (right.normality, right.mmd, right.c2st, right.ranks):
        assert [finding.grade for finding in test.findings()] == ["good"]


def test_its_numbers_are_those_of_the_closed_form(right):
    x = gaussian(300)[right.rows]
    inverse = expm(-np.asarray(MATRIX))
    z = x @ inverse.T
    log_p = -0.5 * np.sum(z**2, axis=1) - math.log(2 * math.pi) - np.trace(MATRIX)
    np.testing.assert_allclose(right.encoded, z, atol=1e-6)
    np.testing.assert_allclose(right.solves.log_prob, log_p, atol=1e-6)
    # The flow's own error is the distance from the closed form.
    true = np.abs(right.solves.log_prob - log_p)
    assert right.truth.num_rows == 64
    assert right.truth.error.largest <= true.max() + 1e-9
    assert right.truth.error.largest > np.quantile(true, 0.9)
    # The grid in x holds all but some 1e-4 of the mass, and its error says so.
    assert abs(right.mass.value - 1) <= right.mass.error < 1e-3
    assert right.mass.how == "grid of 129 x 129 points"
    norm = np.linalg.norm(MATRIX, 2)
    assert right.slope.lipschitz == pytest.approx(norm, rel=1e-12)
    assert right.slope.trace_error < 1e-12
    assert right.round_trip.error.largest < 1e-3
    assert right.solves.num_evals.median == 80


def test_str_is_a_table_and_a_verdict(right):
    text = str(right)
    assert "rows                 250 of 300, 2 columns, float64; 250 samples" in text
    assert "\nverdict: no problem found, 1 not measured\n?? these solves estimate no error" in text
    assert "7 p-values, corrected for their number (Holm); threshold 0.01\n" in text
    assert len(right.verdict) == 9
    for sentence in right.verdict[1:]:
        assert f"\n   {sentence}" in text


def test_its_picture_shows_rows_and_errors(right):
    plt = pytest.importorskip("matplotlib.pyplot")
    stated = np.random.default_rng(0).uniform(1e-6, 1e-3, 250)
    figure = draw(dataclasses.replace(right, solves=right.solves._replace(ode_errors=stated)))
    quantiles, radius, errors = figure.axes
    dim = right.encoded.shape[1]
    colours = {line.get_color() for line in quantiles.lines}
    assert len(colours) == len(quantiles.lines) == dim
    texts = [text.get_text() for text in quantiles.get_legend().get_texts()]
    assert texts[1:] == [f"coordinate {i}" for i in range(dim)]
    names = ["age", "mass", "size"][:dim]
    named = draw(right, names)
    texts = [text.get_text() for text in named.axes[0].get_legend().get_texts()]
    assert texts[1:] == names
    plt.close(named)
    np.testing.assert_allclose(quantiles.lines[1].get_ydata(), np.sort(right.encoded[:, 1]))
    assert sum(bar.get_height() * bar.get_width() for bar in radius.patches) == pytest.approx(1)
    x, above = errors.lines[0].get_data()
    np.testing.assert_allclose(x, np.sort(stated))
    assert (above[0], above[-1]) == (100, pytest.approx(100 / 250))
    plt.close(figure)
    # What was not measured is said in its place.
    unknown = dataclasses.replace(right, normality=None, skipped={"base": "a Laplace"})
    figure = draw(unknown)
    assert [ax.texts[0].get_text() for ax in figure.axes] == [
        *["base: a Laplace"] * 2,
        "these solves estimate no error",
    ]
    plt.close(figure)


def test_a_wrong_trace_shows_in_the_mass_and_at_the_field():
    found = examine(sheet(off=0.2), gaussian(300))
    # log p is 0.2 too low everywhere.
    assert found.mass.value == pytest.approx(math.exp(-0.2), abs=1e-3)
    assert found.slope.trace_error == pytest.approx(0.2, rel=1e-6)
    said = "\n".join(found.problems)
    assert len(found.problems) == 2
    assert "the density integrates to 0.8187" in said
    assert "is right: log-densities are wrong" in said
    assert "with_trace differs from the trace of its Jacobian by 0.2" in said
    assert "!! the density integrates" in str(found)
    assert "verdict: 2 problems" in str(found)


def test_wrong_data_show_in_the_encoded_rows_and_in_samples():
    found = examine(sheet(), 1.5 * gaussian(300))
    assert found.mass.value == pytest.approx(1, abs=1e-3)
    assert found.normality.radius_p < 1e-6
    assert found.mmd.p < 1e-2
    assert found.c2st.p < 1e-2
    said = "\n".join(found.problems)
    for words in (
        "encoded data are not N(0, I)",
        "MMD distinguishes",
        "a classifier distinguishes",
    ):
        assert words in said


def test_failed_rows_are_counted_and_named():
    x = gaussian(250)
    x[[7, 100, 204], 0] = 60.0
    found = examine(sheet(limit=50.0), x)
    assert found.solves.failed == {"NON_FINITE": (7, 100, 204)}
    assert np.flatnonzero(np.isnan(found.solves.log_prob)).tolist() == [7, 100, 204]
    assert np.isnan(found.encoded[7]).all()
    assert found.problems[0].startswith("3 rows of 250 failed (rows 7, 100, 204): the state or f")
    assert "247 of 250" in str(found)
    assert "base: 3 of 250 encoded rows failed" in found.verdict
    assert found.normality is None
    named = examine(sheet(limit=50.0), x, row_numbers=1000 + np.arange(250))
    assert named.solves.failed == {"NON_FINITE": (1007, 1100, 1204)}


@pytest.mark.slow
def test_coarse_fixed_steps_fail_truth_mass_and_round_trip():
    flow = dataclasses.replace(sheet(), ode_eval=ODE(solver="euler", num_steps=3))
    x = gaussian(300)
    found = examine(flow, x)
    assert found.solves.ode_error is None
    # Euler backwards: z = (I - A / 3)^3 x and log p = log p_0(z) - tr A.
    step = np.eye(2) - np.asarray(MATRIX) / 3
    z = found.encoded
    np.testing.assert_allclose(z, x[found.rows] @ np.linalg.matrix_power(step, 3).T, rtol=1e-10)
    mass = math.exp(-np.trace(MATRIX)) / abs(np.linalg.det(step)) ** 3
    assert found.mass.value == pytest.approx(mass, abs=1e-3)
    exact = x[found.rows] @ expm(-np.asarray(MATRIX)).T
    true = np.abs(np.sum(z**2, axis=1) - np.sum(exact**2, axis=1)) / 2
    some = np.unique(np.linspace(0, 249, 64).astype(int))
    assert found.truth.error.largest == pytest.approx(true[some].max(), rel=1e-6)
    assert found.truth.covered is None
    problems = "\n".join(found.problems)
    for words in (
        "solved again in float64 differ by up to",
        "log-densities are wrong",
        "is not inverted",
    ):
        assert words in problems


@pytest.mark.slow
def test_a_flow_in_closed_form_is_examined_without_solves():
    found = examine(
        CouplingFlow(2, width=4, num_layers=2, base=StudentT(30.0, (2,)), key=KEY),
        np.random.default_rng(0).standard_t(30.0, size=(250, 2)),
    )
    assert found.problems == ()
    assert (found.truth, found.slope, found.solves.num_evals) == (None, None, None)
    assert "log-densities need no solve: exact up to rounding" in found.verdict
    assert found.normality.distance_p > 0.01
    assert found.mass.value == pytest.approx(1, abs=1e-3)


MEAN, SCALE = jnp.asarray([1.0, -3.0]), jnp.asarray([2.0, 0.1])
BASES = {
    "standard": (StandardNormal(2), stats.norm(np.zeros(2))),
    "diagonal": (DiagonalNormal(MEAN, SCALE), stats.norm(MEAN, SCALE)),
    "student": (StudentT(jnp.asarray([3.0, 1.0])), stats.t([3.0, 1.0])),
}


@pytest.mark.parametrize("name", BASES)
def test_a_base_with_a_cdf_is_tested_by_normal_scores(name):
    base, law = BASES[name]
    normal = np.random.default_rng(0).normal(size=(500, 2))
    for factor, grade in ((1.0, "good"), (1.5, "bad")):
        z = factor * normal
        scores: Any = normal_scores(base, jnp.asarray(law.ppf(stats.norm.cdf(z))))
        np.testing.assert_allclose(scores, z, atol=1e-6)
        found: Any = measure_normality(scores, 0.01)
        assert [each.grade for each in found.findings()] == [grade]
    far: Any = normal_scores(base, jnp.full((1, 2), 1e30))
    assert np.isfinite(far).all()
    no_cdf = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
    assert normal_scores(no_cdf, jnp.zeros((3, 2))) is None


def test_bad_arguments_are_refused_before_any_solve():
    x = gaussian(5)
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"data has NaN or infinity in 1 of 5 rows: rows 3"):
        examine(sheet(), x)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"num_rows": 0}, r"num_rows=0 must be an integer >= 1"),
        ({"num_samples": 0}, r"num_samples=0 must be an integer"),
        ({"atol_nats": 0.0}, r"atol_nats=0.0 must be positive"),
        ({"level": 1.5}, r"level=1.5 must lie between 0 and 1"),
        ({"row_numbers": [1, 2]}, r"row_numbers has shape \(2,\).*give 5 integers"),
    )
    for settings, said in wrong:
        with pytest.raises(ValueError, match=said):
            diagnose(sheet(), gaussian(5), key=KEY, **settings)
    with pytest.raises(ValueError, match=r"data has shape \(0, 2\); give at least one row"):
        examine(sheet(), np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"expected 2 columns, got 3"):
        examine(sheet(), np.zeros((4, 3)))
    with pytest.raises(TypeError, match=r"give a jaxflow\.CNF or CouplingFlow"):
        diagnose(lambda x: x, gaussian(5), key=KEY)


def test_an_estimated_error_that_does_not_hold_is_a_problem():
    quantiles = Quantiles(1e-6, 1e-5, 1e-4, 1e-3)
    for covered, grade in ((64, "good"), (61, "good"), (60, "bad"), (49, "bad")):
        size, held = Truth(64, quantiles, covered, 1e-2).findings()
        assert (size.grade, held.grade) == ("good", grade)
        assert f"held for {covered} of 64 rows (95% are needed)" in held.text
    noisy, *_ = Truth(64, quantiles, 64, 1e-4, noisy=True).findings()
    assert "the stochastic trace is noisy" in noisy.text


@pytest.mark.slow
def test_few_rows_and_coarse_integrals_are_not_called_good():
    found = examine(sheet(), gaussian(30))
    assert found.problems == ()
    assert "only 30 rows: the tests against data are weak; give 200 or more" in found.verdict
    assert "not measured" in str(found)
    (coarse,) = found.mass._replace(value=0.93, error=0.07).findings()
    assert coarse.grade == "unknown"
    assert "too coarse to judge" in coarse.text


@pytest.mark.slow
def test_a_right_flow_with_adaptive_steps_passes_in_every_respect():
    found = examine(dataclasses.replace(sheet(), ode_eval=ODE()), gaussian(300))
    assert {finding.grade for finding in found.findings} == {"good"}
    assert found.truth.covered == 64
    assert found.solves.ode_error.p99 < 1e-4
    assert f"log-densities are good to {found.solves.ode_error.p99:.2g} nats on 99 %" in str(found)


@pytest.mark.slow
def test_conditions_stay_with_their_rows():
    field = Linear(matrix=MATRIX, cond_dim=1, key=KEY)
    steps = ODE(solver="rk4", num_steps=20)
    flow = CNF(eqx.tree_at(lambda f: f.cond, field, 3 * jnp.ones((1, 2))), StandardNormal(2))
    flow = dataclasses.replace(flow, ode_eval=steps)
    cond = np.random.default_rng(1).normal(size=(300, 1))
    x = np.asarray(flow.sample(jax.random.key(5), 300, cond))
    found = examine(flow, x, cond=cond)
    assert found.problems == ()
    assert found.mass.value == pytest.approx(1, abs=1e-3)
    # Each by itself, rows and conditions are the same as before: only together are they wrong.
    wrong = examine(flow, x, cond=cond[::-1])
    said = "\n".join(wrong.problems)
    for words in ("are not N(0, I)", "MMD distinguishes", "a classifier distinguishes"):
        assert words in said
    with pytest.raises(ValueError, match=r"cond has shape \(7, 1\) for a batch of shape \(300,\)"):
        examine(flow, x, cond=cond[:7])
