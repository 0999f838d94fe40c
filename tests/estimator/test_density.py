"""Densities with scikit-learn's interface: weights, pipelines, pickles, errors."""

import io
import pickle
import pickletools
import subprocess
import sys
import warnings

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import poisson
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import jaxflow
from jaxflow.estimator import ConditionalFlowDensity, FlowDensity
from jaxflow.estimator.rows import SortedRows, hold_out, sort_rows

TINY = {"width": 8, "depth": 1, "steps": 4, "objective": "matching", "scaling": "standardise"}
X = np.random.default_rng(0).normal((1.0, -20.0), (0.5, 30.0), size=(60, 2))


pytestmark = pytest.mark.usefixtures("two_steps", "no_updates")


def seed_of(random_state):
    return int(np.random.RandomState(random_state).randint(2**31 - 1))


def tiny(**settings):
    return FlowDensity(**{**TINY, "random_state": 0, **settings})


@pytest.mark.parametrize("rows", [3, 9])
def test_few_rows_have_a_threshold_of_their_own(rows):
    density = FlowDensity(steps=10, random_state=0, contamination=0.5).fit(X[:rows])
    assert (density.decision_function(X[:rows]) < 0).sum() == rows // 2


@pytest.fixture(scope="module")
def fitted(two_steps, no_updates):
    return tiny().fit(X)


# --- scores and samples ---


def test_scores_are_the_flows_log_densities_in_float32(fitted):
    assert fitted.flow_.field.layers[0].weight.dtype == np.float32
    with jax.enable_x64(False):
        expected = fitted.flow_.log_prob(X)
    scores = fitted.score_samples(X)
    np.testing.assert_array_equal(scores, expected)
    assert scores.dtype == np.float64
    weights = np.arange(60.0)
    assert fitted.score(X) == pytest.approx(scores.mean())
    assert fitted.score(X, None, weights) == pytest.approx(np.average(scores, weights=weights))
    with jax.enable_x64(False):
        np.testing.assert_array_equal(tiny().fit(X).score_samples(X), scores)


def test_samples_repeat_by_their_seed(fitted):
    drawn = fitted.sample(5, random_state=1)
    assert drawn.shape == (5, 2)
    np.testing.assert_array_equal(drawn, fitted.sample(5, random_state=1))
    assert (drawn != fitted.sample(5, random_state=2)).all()
    assert fitted.sample(np.int64(0)).shape == (0, 2)
    with pytest.raises(ValueError, match="n_samples=-1"):
        fitted.sample(-1)


def test_the_threshold_is_a_quantile_of_held_out_rows(fitted):
    _, held = hold_out(sort_rows(X.astype(np.float32), None, None), 0.1, seed_of(0))
    scores = fitted.score_samples(held.x)
    assert fitted.offset_ == pytest.approx(np.quantile(scores, 0.1))
    np.testing.assert_array_equal(fitted.predict(X) == 1, fitted.decision_function(X) >= 0)
    assert fitted.predict([[100.0, 1e4]]) == [-1]
    without = tiny(contamination=None).fit(X)
    with pytest.raises(AttributeError, match="contamination=None"):
        without.predict(X)


def test_in_float64_a_scaler_before_the_flow_is_a_scaling_inside():
    plain = tiny(float64=True)
    with jax.enable_x64(False):
        inside = tiny(float64=True).fit(X).score_samples(X)
        scaler = StandardScaler()
        outside = make_pipeline(scaler, plain).fit(X).score_samples(X)
    # They differ by the scaler's log-scale, far more accurately than in float32.
    log_scale = np.log(np.asarray(scaler.scale_)).sum()
    np.testing.assert_allclose(outside - log_scale, inside, atol=1e-9)
    np.testing.assert_allclose(outside, plain.flow_.log_prob(scaler.transform(X)), atol=1e-12)


def test_a_search_over_parameters():
    search = GridSearchCV(tiny(contamination=None), {"random_state": [1, 2]}, cv=2).fit(X)
    assert search.best_estimator_.random_state in (1, 2)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# --- weights ---


def test_weights_are_repetitions_to_the_bit(fitted):
    weights = np.tile([2, 1, 0], 20)
    one = tiny().fit(X, sample_weight=weights)
    order = np.random.default_rng(1).permutation(60)
    other = tiny().fit(X.repeat(weights, axis=0)[order])
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))
    assert one.offset_ == other.offset_
    assert (one.score_samples(X) != fitted.score_samples(X)).any()


def test_fractional_weights_count_in_the_threshold():
    weights = np.linspace(0.1, 2.0, 60)
    density = tiny(contamination=0.3, validation=0.5).fit(X, sample_weight=weights)
    rows = sort_rows(X.astype(np.float32), None, weights)
    _, held = hold_out(rows, 0.5, seed_of(0))
    assert held.weights is not None
    below = density.score_samples(held.x) < density.offset_
    assert held.weights[below].sum() / held.weights.sum() == pytest.approx(0.3, abs=0.1)


def test_copies_stay_on_one_side_of_the_split():
    x = np.repeat(X, 3, axis=0)
    train, held = hold_out(sort_rows(x, None, None), 0.2, 0)
    assert (len(train.x), len(held.x)) == (144, 36)
    # In an order of chance, since training looks at the first of them where they are many.
    assert abs(np.corrcoef(held.x[:, 0], np.arange(36))[0, 1]) < 0.5
    assert not {tuple(row) for row in train.x} & {tuple(row) for row in held.x}
    # Equal rows of a grid are draws like any others.
    grid = np.random.default_rng(0).integers(0, 4, (200, 1)).astype(float)
    train, held = hold_out(sort_rows(grid, None, None), 0.2, 0)
    assert len(held.x) == 40
    assert set(held.x.ravel()) == set(train.x.ravel()) == {0.0, 1.0, 2.0, 3.0}


def test_large_weights_stay_weights():
    weights = np.asarray([2e9, 0.0, 1.0])
    rows = sort_rows(X[:3], None, weights)
    assert isinstance(rows, SortedRows)
    assert rows.weights is not None
    np.testing.assert_array_equal(np.sort(rows.weights), [1.0, 2e9])


# --- columns on a grid ---


def test_scores_are_densities_whatever_the_grid():
    rng = np.random.default_rng(0)
    x = np.stack([0.5 * rng.integers(0, 8, 60), rng.normal(size=60)], axis=1)
    settings = {"objective": "matching", "scaling": "auto"}
    density = tiny(**settings).fit(x)
    assert density.grid_ == [0.5, 0.0]
    per_unit = density.score_samples(x)
    mass = density.set_params(discrete="mass").score_samples(x)
    np.testing.assert_allclose(mass - per_unit, np.log(0.5), atol=1e-6)
    for columns, scores in (([0], mass), ([1], per_unit), ([], per_unit)):
        listed = density.set_params(discrete=columns).score_samples(x)
        np.testing.assert_array_equal(listed, scores)
    with pytest.raises(ValueError, match="names the column 2; the columns are 0 to 1"):
        density.set_params(discrete=[2]).score_samples(x)
    with pytest.raises(TypeError, match="discrete=None must be"):
        tiny(discrete=None).fit(x)
    with pytest.raises(ValueError, match="discrete='cells' is unknown"):
        tiny(discrete="cells").fit(x)


def test_scores_of_counts_do_not_beat_the_entropy():
    # The middle of a cell would gain 0.14 nats.
    x = np.random.default_rng(0).poisson(1.0, (2000, 1)).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density = FlowDensity(width=8, depth=1, steps=50, random_state=0).fit(x)
    truth = poisson.logpmf(x[:, 0], 1.0)
    assert density.score(x) < truth.mean() + 0.01
    assert density.comparison_["densities"]["flow"]["mean"] < truth.mean()
    # The threshold is that of scores without noise.
    assert np.mean(density.predict(x) < 0) == pytest.approx(np.mean(x[:, 0] > 2), abs=0.02)


def test_text_is_refused_by_column():
    frame = pd.DataFrame({"size": [1.0, 2.0, 3.0], "city": ["Bern", "Basel", "Bern"]})
    match = r"column 'city' holds text, and FlowDensity takes numbers: .* by jaxflow.fit_table"
    with pytest.raises(ValueError, match=match):
        tiny().fit(frame)
    with pytest.raises(ValueError, match=r"column 1 holds text"):
        tiny().fit(frame.to_numpy())


def test_masked_rows_are_refused():
    with pytest.raises(ValueError, match="X is a masked array"):
        tiny().fit(np.ma.masked_array(X, X > 1))


# --- data frames, pickles, files ---


def test_columns_of_data_frames_are_compared_by_name():
    # Pandas before 3 writes into the array that it was made of.
    frame = pd.DataFrame(X.copy(), columns=["a", "b"])
    density = tiny(contamination=None).fit(frame)
    assert list(density.feature_names_in_) == ["a", "b"]
    scores = density.score_samples(frame)
    np.testing.assert_array_equal(
        scores, density.score_samples(pl.DataFrame(frame.to_dict("list")))
    )
    with pytest.raises(ValueError, match="feature names should match"):
        density.score_samples(frame[["b", "a"]])
    frame.loc[[3, 7], "b"] = np.nan
    with pytest.raises(ValueError, match=r"X has NaN .* 2 of 60 rows: rows 3, 7 .* columns 'b'"):
        density.fit(frame)
    other = tiny(contamination=None).fit(pl.DataFrame(X, ["a", "b"]))
    assert list(other.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names should match"):
        other.score_samples(pl.DataFrame(X, ["b", "a"]))


@pytest.mark.parametrize("float64", [False, True])
def test_a_pickle_names_no_class_but_the_estimator(float64):
    density = tiny(float64=float64).fit(X)
    data = pickle.dumps(density)
    found = {arg for _, arg, _ in pickletools.genops(data) if isinstance(arg, str)}
    modules = {name for name in found if name.split(".")[0] in ("jax", "jaxlib", "equinox")}
    assert not modules
    assert {name for name in found if name.startswith("jaxflow")} == {"jaxflow.estimator.density"}
    with jax.enable_x64(not float64):
        again = pickle.load(io.BytesIO(data))
        np.testing.assert_array_equal(again.score_samples(X), density.score_samples(X))
    assert again.history_ == density.history_
    np.testing.assert_array_equal(again.predict(X), density.predict(X))


def test_files_keep_what_was_fitted(fitted, tmp_path):
    path = tmp_path / "density.safetensors"
    density = tiny(learning_rate=np.float64(2e-3)).fit(pd.DataFrame(X, columns=["a", "b"]))
    density.save(path)
    again = FlowDensity.load(path)
    assert again.get_params() == density.get_params()
    np.testing.assert_array_equal(again.score_samples(X_frame()), fitted.score_samples(X))
    assert again.offset_ == density.offset_
    with pytest.raises(ValueError, match="feature names should match"):
        again.score_samples(X_frame()[["b", "a"]])
    with pytest.raises(FileExistsError):
        density.save(path)
    with pytest.raises(ValueError, match="no ConditionalFlowDensity but FlowDensity"):
        ConditionalFlowDensity.load(path)
    jaxflow.save(path, fitted.flow_, overwrite=True)
    with pytest.raises(ValueError, match=r"flow alone: read it with jaxflow\.load"):
        FlowDensity.load(path)
    with pytest.raises(NotFittedError):
        tiny().save(path)


def X_frame():
    return pd.DataFrame(X, columns=["a", "b"])


# --- refusals ---


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (X[:0], r"0 sample\(s\)"),
        (X[:1], r"1 sample\(s\) .* minimum of 3 is required by FlowDensity"),
        (X[:2], "minimum of 3"),
        (np.ones((10, 2)), r"constant .* 2 columns: 0 = 1.0, 1 = 1.0"),
        (np.column_stack([X, np.ones(60)]), "constant .* 1 column: 2 = 1.0"),
        (X[:, 0], "1D array"),
        (np.where(X[4, 1] == X, np.inf, X), "X has NaN or infinity in 1 of 60 rows: rows 4"),
        (np.where(X[4, 1] == X, np.nan, X), "rows 4 .* jaxflow.fit_table, where NaN is a missing"),
        (np.where(X[4, 1] == X, 1e39, X), r"1e\+39 in row 4, column 1: infinity in float32"),
    ],
)
def test_rows_that_have_no_density_are_refused(x, match):
    with pytest.raises(ValueError, match=match):
        tiny().fit(x)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (np.where(np.arange(60) == 5, -1.0, 1.0), "positive numbers; row 5 has -1"),
        (np.zeros(60), "must not be zero in every row"),
        (np.ones(59), r"shape \(60,\), one a row: got \(59,\)"),
        (np.arange(60) < 2, "leaves 2 rows of X with a positive weight; at least 3"),
        (np.full(60, np.nan), "sample_weight must be 0 or positive numbers; row 0 has nan"),
    ],
)
def test_bad_weights_are_refused(weights, match):
    with pytest.raises(ValueError, match=match):
        tiny().fit(X, sample_weight=weights)


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"contamination": 0.6}, ValueError),
        ({"validation": 1.0}, ValueError),
        ({"objective": "flow"}, ValueError),
        ({"scaling": "log"}, ValueError),
        ({"steps": 0}, ValueError),
        ({"width": 1.5}, TypeError),
    ],
)
def test_parameters_are_judged_by_fit(setting, error):
    name, value = next(iter(setting.items()))
    with pytest.raises(error, match=f"{name}={value!r}"):
        tiny(**setting).fit(X)


def test_float32_says_where_it_is_coarse():
    with pytest.warns(UserWarning, match=r"coarse for columns \[0\] of X"):
        tiny().fit(X + np.asarray([1e5, 0.0]))


SCRIPT = """
import sys
import jaxflow
assert "sklearn" not in sys.modules
sys.modules["sklearn"] = None
try:
    import jaxflow.estimator
except ImportError as error:
    print(error)
"""


def test_sklearn_is_imported_when_asked_for():
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert "needs scikit-learn: pip install '.[sklearn]' in a checkout" in run.stdout
