"""`fit_table`: one exact joint density of labels, counts, numbers and gaps."""

import re

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats

import jaxflow
import jaxflow.tables.fit_discrete as fit_discrete
from jaxflow.runtime.keys import check_key
from jaxflow.tables import TableCheck, check_table, fit_table
from jaxflow.tables.frames import read_cells
from jaxflow.tables.plan import Plan

N, GAPS = 300, 0.25


def draw(n, seed=0):
    """Rows of a label, a count and two numbers that depend, the last one with gaps.

    Returns:
        The rows, and their log-densities.
    """
    rng = np.random.default_rng(seed)
    is_rome = rng.random(n) < 0.3
    rate, mean, scale = np.where(is_rome[:, None], [4.0, 18.0, 1.0], [1.0, 5.0, 2.0]).T
    visits = rng.poisson(rate)
    degrees = rng.normal(mean, scale)
    wind = rng.normal(0.8 * (degrees - mean), 0.6)
    gap = rng.random(n) < GAPS
    log_p = np.log(np.where(is_rome, 0.3, 0.7)) + np.log(np.where(gap, GAPS, 1 - GAPS))
    log_p += stats.poisson.logpmf(visits, rate) + stats.norm.logpdf(degrees, mean, scale)
    log_p += np.where(gap, 0.0, stats.norm.logpdf(wind, 0.8 * (degrees - mean), 0.6))
    city = np.where(is_rome, "Rome", "Oslo")
    frame = {"city": city, "visits": visits, "degrees": degrees}
    return pd.DataFrame(frame | {"wind": np.where(gap, np.nan, wind)}), log_p


@pytest.fixture(scope="module")
def table():
    return fit_table(draw(N)[0], key=jax.random.key(0), steps=25, width=16, depth=1)


@pytest.mark.slow
def test_the_density_is_near_the_truth(table):
    frame, truth = draw(2000, seed=5)
    assert 0 < (truth - table.log_prob(frame)).mean() < 0.2


@pytest.mark.slow
def test_mass_and_density_of_all_rows_sum_to_one(table):
    degrees, wind = np.meshgrid(np.linspace(-8, 28, 121), np.linspace(-9, 9, 61), indexing="ij")
    total = []
    for visits in (0, 3):
        rows = pd.DataFrame({"degrees": degrees.ravel(), "wind": wind.ravel()})
        rows = rows.assign(city="Oslo", visits=visits)
        p = np.exp(table.log_prob(rows)).reshape(degrees.shape)
        given = table.condition(city="Oslo", visits=visits)
        whole = np.trapezoid(np.trapezoid(p, wind[0]), degrees[:, 0])
        gap = rows.iloc[:: wind.shape[1]].assign(wind=np.nan)
        whole += np.trapezoid(np.exp(table.log_prob(gap)), degrees[:, 0])
        np.testing.assert_allclose(whole, np.exp(given.log_p_given), rtol=1e-3)
        assert given.standard_error == 0
    # What is left are sums: over the labels, and over the counts.
    for city in ("Oslo", "Rome"):
        each = [table.condition(city=city, visits=k).log_p_given for k in range(25)]
        total.append(np.exp(each).sum())
        np.testing.assert_allclose(total[-1], np.exp(table.condition(city=city).log_p_given), 1e-6)
    np.testing.assert_allclose(sum(total), 1.0, rtol=1e-6)


def test_samples_are_possible_rows_of_the_same_sort(table):
    rows = table.sample(jax.random.key(1), 3000)
    assert isinstance(rows, pd.DataFrame)
    assert list(rows.columns) == ["city", "visits", "degrees", "wind"]
    assert set(rows["city"]) == {"Oslo", "Rome"}
    assert rows["visits"].dtype == np.int64
    assert rows["visits"].to_numpy().min() >= 0
    assert np.isfinite(table.log_prob(rows.head(500))).all()
    rome = rows[rows["city"] == "Rome"]
    np.testing.assert_allclose(len(rome) / 3000, 0.3, atol=0.08)
    np.testing.assert_allclose(rome["visits"].mean(), 4.0, atol=0.6)
    np.testing.assert_allclose(rome["degrees"].mean(), 18.0, atol=0.4)
    np.testing.assert_allclose(rows["wind"].isna().mean(), GAPS, atol=0.08)


def test_labels_given_numbers_follow_bayes(table):
    at = {"visits": 2, "degrees": 11.0, "wind": 0.5}
    given = table.condition(**at)
    assert given.standard_error == 0
    cities = ["Oslo", "Rome"]
    joint = table.log_prob(pd.DataFrame({"city": cities} | {n: [v] * 2 for n, v in at.items()}))
    np.testing.assert_allclose(given.log_p_given, np.logaddexp(*joint), rtol=1e-6)
    log_p = given.log_prob({"city": cities})
    np.testing.assert_allclose(log_p, joint - given.log_p_given, rtol=1e-6)
    drawn = given.sample(jax.random.key(0), 400)
    share = np.exp(log_p[1])
    assert abs((drawn["city"] == "Rome").mean() - share) < 5 * np.sqrt(share * (1 - share) / 400)


@pytest.mark.slow
def test_draws_given_a_label_are_exact(table):
    drawn = table.condition(city="Rome").sample(jax.random.key(0), 500)
    assert set(drawn["city"]) == {"Rome"}
    np.testing.assert_allclose(drawn["degrees"].mean(), 18.0, atol=0.4)


@pytest.mark.slow
def test_marginals_integrate_the_joint_density(table):
    wind = np.linspace(-9, 9, 401)
    cells = {"city": "Oslo", "visits": 1, "degrees": 6.0}
    rows = pd.DataFrame({"wind": wind}).assign(**cells)
    gap = np.exp(table.log_prob(rows.head(1).assign(wind=np.nan)))
    exact = np.log(np.trapezoid(np.exp(table.log_prob(rows)), wind) + gap)
    log_p, error = table.marginal(pd.DataFrame([cells]), jax.random.key(0), draws=1000)
    assert 0 < error[0] < 0.05
    np.testing.assert_allclose(log_p, exact, atol=5 * error[0] + 1e-3)


def test_the_marginal_of_a_gap_is_that_of_the_columns_left(table):
    frame, truth = draw(2000, seed=7)
    gap = frame["wind"].isna()
    assert abs((truth[gap] - table.log_prob(frame[gap])).mean()) < 0.2
    # A row without cells has the probability of its gaps.
    nothing = pd.DataFrame({"wind": [np.nan]})
    np.testing.assert_allclose(table.marginal(nothing, jax.random.key(0))[0], 0.0, atol=1e-6)


def test_numbers_of_draws_and_keys_are_checked(table, key):
    rows = {"city": ["Oslo"], "degrees": [7.123456789012345]}
    for call, least in (
        (lambda: table.marginal(rows, key, draws=1), 2),
        (lambda: table.condition(city="Oslo", draws=-1), 2),
        (lambda: table.impute(rows, key, draws=0), 1),
        (lambda: table.condition(city="Oslo").sample(key, 3, draws=0), 1),
    ):
        with pytest.raises(ValueError, match=f"draws=.* must be an integer >= {least}"):
            call()
    for wrong in (0, np.float64(3.0)):
        with pytest.raises(TypeError, match=r"is no random key: write jax\.random\.key"):
            check_key(wrong)
    check_key(key)
    check_key(jax.random.PRNGKey(0))
    # Filling leaves known cells as they are, to the last digit.
    assert table.impute(rows, key)["degrees"][0] == rows["degrees"][0]
    with pytest.raises(ValueError, match="no column is one of city, visits"):
        table.marginal({"town": ["Oslo"]}, key)


def test_numbers_that_the_precision_takes_for_a_limit_are_named(key):
    rng = np.random.default_rng(0)
    # Too few rows to hold any out, so nothing is trained.
    frame = {"share": rng.beta(2.0, 2.0, 9), "x": rng.normal(size=9)}
    with jax.enable_x64(False):
        table = fit_table(frame, key=key, width=4, depth=1)
        for name, cell in (("share", 1e-300), ("x", 1e39)):
            row = {"share": [0.5], "x": [0.1]} | {name: [cell]}
            words = f"column '{name}' has {cell} in row 0: float32 takes it for a limit or"
            with pytest.raises(ValueError, match=re.escape(words)):
                table.log_prob(row)
            with pytest.raises(ValueError, match=re.escape(words)):
                table.marginal({name: [cell]}, key)


@pytest.mark.slow
def test_gaps_are_filled_by_draws_from_what_the_other_cells_say(table):
    frame, _ = draw(300, seed=3)
    frame.loc[:40, "city"] = None
    filled = table.impute(frame, jax.random.key(0))
    assert not filled.isna().to_numpy().any()
    known = frame["wind"].notna().to_numpy()
    np.testing.assert_allclose(filled["wind"][known], frame["wind"][known], rtol=1e-6)
    mean = np.where(filled["city"] == "Rome", 18.0, 5.0)
    left = filled["wind"] - 0.8 * (filled["degrees"] - mean)
    np.testing.assert_allclose(left[~known].std(), 0.6, atol=0.2)
    pd.testing.assert_frame_equal(filled, table.impute(frame, jax.random.key(0)))
    # Cities 13 degrees apart can be told from the temperature.
    right = np.where(frame["degrees"][:41] > 13, "Rome", "Oslo")
    assert (filled["city"][:41] == right).mean() > 0.9


def test_frames_of_any_sort_give_the_same_density(table, tmp_path):
    frame, _ = draw(40, seed=4)
    expected = table.log_prob(frame)
    columns = {name: frame[name].to_numpy() for name in frame}
    for other in (columns, pl.DataFrame(columns), pl.DataFrame(columns)[:, ::-1]):
        np.testing.assert_array_equal(table.log_prob(other), expected)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    np.testing.assert_array_equal(table.log_prob(tmp_path / "rows.csv"), expected)


def test_a_table_is_saved_and_read(table, tmp_path):
    path = tmp_path / "table.safetensors"
    jaxflow.save(path, table)
    back = jaxflow.load(path)
    frame, _ = draw(40, seed=4)
    np.testing.assert_array_equal(back.log_prob(frame), table.log_prob(frame))
    assert str(back) == str(table)
    rows = [each.sample(jax.random.key(1), 3000) for each in (table, back)]
    pd.testing.assert_frame_equal(*rows)


def test_the_plan_and_the_comparison_are_printed(table):
    text = str(table)
    assert "city     category with 2 labels: Oslo, Rome\n" in text
    assert "visits   count: whole numbers from 0 on\n" in text
    assert "cells missing" in text
    assert "product of all columns" in text


def test_columns_on_a_manifold_are_noted():
    rng = np.random.default_rng(0)
    up, turn = rng.uniform(-1, 1, 200), rng.uniform(-180, 180, 200)
    frame = {"lat": np.degrees(np.arcsin(up)), "lon": turn, "month": rng.integers(1, 13, 200)}
    frame |= {"sort": rng.choice(["a", "b"], 200), "heading": rng.permutation(turn) + 180}
    plan = Plan.of(read_cells(frame), None, (), "dict")
    (place,) = plan.notes
    assert place.startswith("lat, lon: fitted as lines here, but complete rows look like this: ")
    assert "jaxflow fit --columns lat,lon,month,heading --drop-nan" in place
    assert "heading  repeats after 360: cut at " in str(plan)
    chosen = dict.fromkeys(frame, "continuous")
    chosen |= {"sort": "category"}
    assert Plan.of(read_cells(frame), chosen, (), "dict").notes == ()


@pytest.mark.slow
def test_angles_beside_text_have_no_seam(key):
    rng = np.random.default_rng(0)
    sort = rng.choice(["a", "b"], 500)
    turn = rng.normal(0.0, 20.0, 500)
    table = fit_table(
        {"sort": sort, "wind": turn % 360}, key=key, steps=25, kinds={"wind": "periodic:360"}
    )
    wind = table.plan.columns[1].kind
    assert "repeats after 360: cut at 1" in wind.describe()
    truth = np.log(0.5) + stats.norm.logpdf(turn, 0.0, 20.0)
    lost = truth - table.log_prob({"sort": sort, "wind": turn % 360})
    assert abs(lost.mean()) < 0.1
    at = table.log_prob({"sort": ["a"] * 2, "wind": [0.0, 360.0]})
    np.testing.assert_allclose(*at, rtol=1e-6)
    drawn = table.sample(jax.random.key(1), 2000)["wind"]
    assert ((drawn >= 0) & (drawn < 360)).all()
    assert abs(np.mean((drawn + 180) % 360 - 180)) < 3
    assert 0.4 < np.mean(drawn > 180) < 0.6
    with pytest.raises(ValueError, match="in row 0: angles are from 0 to 360"):
        table.log_prob({"sort": ["a"], "wind": [-1.0]})


def test_a_log_density_has_the_error_of_its_solve(table):
    frame, _ = draw(40, seed=4)
    answer = table.log_prob_with_error(frame)
    np.testing.assert_allclose(answer.value, table.log_prob(frame), atol=1e-3)
    assert (answer.ode_error >= 0).all()
    assert (answer.ode_error < 1e-2).all()
    assert (answer.trace_se == 0).all()


@pytest.mark.slow
def test_tables_of_discrete_columns_alone(key):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 600)
    b = np.where(rng.random(600) < 0.95, a, 1 - a)
    table = fit_table(pl.DataFrame({"a": a, "b": b, "c": ["same"] * 600}), key=key)
    cells = pl.DataFrame({"a": [0, 0, 1, 1], "b": [0, 1, 0, 1], "c": ["same"] * 4})
    p = np.exp(table.log_prob(cells))
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-6)
    counts = [np.mean((a == i) & (b == j)) for i in (0, 1) for j in (0, 1)]
    np.testing.assert_allclose(p, counts, atol=0.02)
    rows = table.sample(key, 10)
    assert rows.columns == ["a", "b", "c"]
    assert rows["a"].dtype == pl.Int64


@pytest.mark.slow
def test_the_product_of_columns_is_fair_to_counts_that_hardly_repeat(key):
    rng = np.random.default_rng(0)
    frame = {name: np.floor(np.exp(rng.normal(9.0, 1.0, 150))) for name in ("a", "b")}
    kinds = {"a": "count", "b": "count"}
    table = fit_table(frame, key=key, kinds=kinds)
    gain, _ = table.comparison.difference("product of all columns")
    # The columns are independent: nothing can be gained.
    assert abs(gain) < 0.5


def test_the_time_limit_ends_the_training_of_labels(key, monkeypatch):
    updates, train = [], fit_discrete._train
    monkeypatch.setattr(fit_discrete, "_train", lambda *args: updates.append(1) or train(*args))
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 200)
    fit_table({"a": a, "b": a ^ (rng.random(200) < 0.1)}, key=key, max_seconds=1e-3)
    assert len(updates) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"city": "Paris"}, "'city' has Paris in row 0.*the labels are Oslo, Rome"),
        ({"visits": -1}, "'visits' has -1 in row 0.*beyond the limits"),
        ({"visits": 1.5}, "'visits' has 1.5 in row 0"),
        ({"degrees": np.nan}, r"'degrees' has 3 missing cells.*table.marginal\(frame, key\)"),
        ({"degrees": "warm"}, "'degrees' has warm in row 0.*not a finite number"),
    ],
)
def test_cells_that_do_not_fit_are_named(table, change, words):
    frame = {"city": ["Oslo"] * 3, "visits": [1] * 3, "degrees": [5.0] * 3, "wind": [0.0] * 3}
    frame |= {name: [cell] * 3 for name, cell in change.items()}
    with pytest.raises(ValueError, match=words):
        table.log_prob(frame)


def test_all_faults_are_said_together(table, key):
    with pytest.raises(ValueError, match=r"Paris.*-3.*'degrees' is absent"):
        table.log_prob({"city": ["Paris"], "visits": [-3]})
    with pytest.raises(ValueError, match=r"'z', which is no column.*has -1.0 in row 1"):
        fit_table({"x": [0.5, -1.0, 2.0]}, key=key, kinds={"x": "positive", "z": "count"})
    with pytest.raises(ValueError, match=r"given names \['town'\]"):
        table.condition(town="Oslo")
    with pytest.raises(ValueError, match=r"cells of \['city'\] are missing"):
        table.condition({"city": None})
    with pytest.raises(TypeError, match="give a pandas or polars frame"):
        fit_table(3, key=key)
    with pytest.raises(ValueError, match="no column is left to fit"):
        fit_table({"x": [None, None]}, key=key)


@pytest.mark.slow
def test_a_check_finds_rows_of_another_density(table):
    frame, _ = draw(200, seed=11)
    found = check_table(table, frame, jax.random.key(0))
    assert found.problems == []
    assert str(found).startswith("verdict: no difference between rows and samples")
    warmer = frame.assign(degrees=frame["degrees"] + 2)
    found = check_table(table, warmer, jax.random.key(0))
    assert any(problem.startswith("degrees: samples differ") for problem in found.problems)
    assert found.gap < 0


@pytest.mark.parametrize(
    ("gap", "fitted", "count"), [(1.5, False, 1), (1.5, True, 0), (-1.5, True, 1)]
)
def test_rows_that_were_fitted_may_be_more_likely_than_samples(gap, fitted, count):
    found = TableCheck(50, -5.0, 0.1, gap, 0.1, {"a": 0.1}, {"a": 0.5}, fitted)
    assert len(found.problems) == count
    assert ("of rows that were fitted" in str(found)) is fitted


@pytest.mark.slow
def test_large_tables_hold_a_share_out(key):
    frame, _ = draw(6000, seed=0)
    table = fit_table(frame, key=key, steps=100)
    assert "600 held-out rows" in str(table)
    new, truth = draw(4000, seed=1)
    assert 0 < (truth - table.log_prob(new)).mean() < 0.05


@pytest.mark.slow
def test_independent_columns_have_their_entropy(key):
    rng = np.random.default_rng(0)
    frame = {"c": rng.choice(["a", "b"], 2000, p=[0.7, 0.3]), "x": rng.normal(size=2000)}
    table = fit_table(frame, key=key)
    new = {"c": rng.choice(["a", "b"], 4000, p=[0.7, 0.3]), "x": rng.normal(size=4000)}
    truth = np.log(np.where(new["c"] == "a", 0.7, 0.3)) + stats.norm.logpdf(new["x"])
    assert abs((table.log_prob(new) - truth).mean()) < 0.005
    # The mean of both parts: -0.6109 - 1.4189.
    np.testing.assert_allclose(table.log_prob(new).mean(), -0.6109 - 1.4189, atol=0.04)


@pytest.mark.slow
def test_a_row_without_cells_has_the_probability_of_its_gaps(key):
    rng = np.random.default_rng(3)
    x, visits = rng.normal(size=N), rng.poisson(2.0, N).astype(float)
    nothing = rng.random(N) < 0.25
    x[nothing], visits[nothing] = np.nan, np.nan
    table = fit_table({"x": x, "visits": visits}, key=key, steps=25)
    empty = {"x": [np.nan], "visits": [np.nan]}
    np.testing.assert_allclose(table.log_prob(empty), np.log(nothing.mean()), atol=0.1)
    rows = table.sample(key, 1000)
    gone = np.array([cell is None for cell in rows["visits"]])
    np.testing.assert_array_equal(gone, np.isnan(rows["x"]))
    np.testing.assert_allclose(gone.mean(), nothing.mean(), atol=0.08)


@pytest.mark.slow
def test_values_that_many_rows_share_have_probabilities(key):
    rng = np.random.default_rng(0)
    x = np.where(rng.random(400) < 0.3, 0.0, rng.normal(3.0, 1.0, 400))
    table = fit_table({"x": np.abs(x)}, key=key, steps=25)
    np.testing.assert_allclose(np.exp(table.log_prob({"x": [0.0]})), 0.3, atol=0.05)
    rows = table.sample(key, 500)["x"]
    np.testing.assert_allclose((rows == 0).mean(), 0.3, atol=0.08)
    assert (rows[rows != 0] > 0).all()


@pytest.mark.slow
def test_few_rows_have_a_density(key):
    table = fit_table({"a": ["x", "y", "x", "x"], "b": [1.5, 2.25, 3.125, 9.0]}, key=key)
    assert np.isfinite(table.log_prob({"a": ["y"], "b": [2.0]})).all()
    assert "too few to hold any out" in str(table)
