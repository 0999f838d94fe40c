"""Fits of a table with the defaults: never second to a simple density, in a few seconds."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow.bases import GaussianMixture
from jaxflow.estimator import FlowDensity
from jaxflow.flows.data_space import with_transform
from jaxflow.training import Comparison, History, TrainConfig
from jaxflow.training.folds import make_folds
from jaxflow.training.from_simple import Table
from jaxflow.training.optimizer import optimizer_of
from jaxflow.training.phases import phase_at
from jaxflow.training.starts import Fold, Start, choose_start, forward
from jaxflow.training.step import train_steps
from jaxflow.transforms import propose

KEY = jax.random.key(0)
QUICK = {"key": KEY, "width": 16, "steps": 100, "progress": False}


def clusters(rows, seed=0, centre=3.0):
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(rows, 2)) * 0.3
    return jnp.asarray(spread + rng.choice([-centre, centre], size=(rows, 1)))


@pytest.fixture(scope="module")
def gaussian():
    """Two correlated columns, and what was fitted to them."""
    x = np.random.default_rng(1).normal(size=(300, 2)) @ np.asarray([[2.0, 1.0], [0.0, 0.5]])
    return x, jaxflow.fit_density(x, **QUICK)


# --- the start ---


def test_a_flow_starts_as_the_simple_density():
    x = clusters(200)
    start = Start(components=2)
    scaling, base = start.fit(None, x)
    field = jaxflow.dynamics.MLP(2, width=8, key=KEY)
    zero = jax.tree.map(jnp.zeros_like, field)
    flow = jaxflow.CNF(zero, base, transform=scaling)
    u, log_det = forward(scaling, x)
    expected = jax.jit(jax.vmap(base.log_prob))(u) + log_det
    np.testing.assert_allclose(flow.log_prob(x), expected, atol=1e-12)
    samples = np.asarray(flow.sample(KEY, 4000))
    np.testing.assert_allclose(samples.mean(axis=0), x.mean(axis=0), atol=0.3)
    np.testing.assert_allclose(samples.std(axis=0), x.std(axis=0), rtol=0.05)


def test_a_single_gaussian_is_a_whitened_standard_normal():
    x = clusters(100)
    scaling, base = Start(ridge=0.01).fit(None, x)
    assert isinstance(base, jaxflow.StandardNormal)
    u, log_det = forward(scaling, x)
    expected = jax.jit(jax.vmap(GaussianMixture.fit(x, 1, ridge=0.01).log_prob))(x)
    found = jax.jit(jax.vmap(base.log_prob))(u) + log_det
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.slow
def test_the_number_of_components_is_found():
    # Clusters further apart are as narrow as the first ridge, and three fit them better.
    x = clusters(300, centre=1.0)
    folds = [Fold(x[a], x[b], np.zeros(len(b))) for a, b in make_folds(np.arange(300), 5, 0)]
    tried = choose_start(folds)
    best = next(iter(tried))
    assert best.components == 2
    entropy = np.log(2 * np.pi * np.e * 0.3**2) + np.log(2)
    assert tried[best].mean() > -entropy - 0.05
    means = [log_p.mean() for log_p in tried.values()]
    assert means == sorted(means, reverse=True)
    assert {len(log_p) for log_p in tried.values()} == {300}


def test_ridge_and_kind_of_a_mixture():
    x = clusters(60)
    wide = GaussianMixture.fit(x, 2, ridge=1.0)
    narrow = GaussianMixture.fit(x, 2)
    assert (np.diagonal(wide.factors, axis1=1, axis2=2).min() > 2.9).all()
    assert np.diagonal(narrow.factors, axis1=1, axis2=2).max() < 1.0
    diagonal = GaussianMixture.fit(x, 2, covariance="diag")
    assert (np.tril(diagonal.factors, -1) == 0).all()
    with pytest.raises(ValueError, match=r"ridge=-1\.0 must be a positive number"):
        GaussianMixture.fit(x, 2, ridge=-1.0)
    with pytest.raises(ValueError, match="choose one of 'full', 'diag'"):
        GaussianMixture.fit(x, 2, covariance="tied")
    with pytest.raises(ValueError, match="components=61 must be at most 60"):
        GaussianMixture.fit(x, 61)
    with pytest.raises(ValueError, match="at most 30, the number of rows without one of"):
        GaussianMixture.fit(x, 31, averaged=2)
    with pytest.raises(ValueError, match="ridge=1e-200 is too small"):
        GaussianMixture.fit(np.repeat(x[:, :1], 2, axis=1), 2, ridge=1e-200)
    with pytest.raises(ValueError, match=r"give \(rows, dim\)"):
        GaussianMixture.fit(x[:, 0], 2)


def test_an_average_of_mixtures_is_a_mixture():
    x = np.asarray(clusters(100))
    average = GaussianMixture.fit(x, 2, starts=1, averaged=4)
    share = np.random.default_rng(0).permutation(100) % 4
    assert average.means.shape == (8, 2)
    weights = np.reshape(average.weights, (4, 2))
    np.testing.assert_allclose(weights.sum(axis=1), 0.25, rtol=1e-12)
    for k, means in enumerate(np.asarray(average.means).reshape(4, 2, 2)):
        left = GaussianMixture.fit(x[share != k], 2, starts=1)
        np.testing.assert_allclose(np.sort(means, axis=0), np.sort(left.means, axis=0), atol=1e-3)
    with pytest.raises(ValueError, match="averaged=0"):
        GaussianMixture.fit(x, 2, averaged=0)


def test_an_average_is_better_where_rows_are_few():
    x, new = (np.random.default_rng(k).normal(size=(n, 6)) ** 3 for k, n in ((0, 200), (1, 2000)))
    scores = [
        Start(components=4, averaged=averaged).log_density(x, new) for averaged in (False, True)
    ]
    assert scores[1].mean() > scores[0].mean() + 0.2
    assert Start(components=4, averaged=True).name == "average of 5 mixtures of 4 Gaussians"


# --- folds ---


def many_clusters(rows, seed):
    """Sixty tight clusters."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).uniform(-3, 3, size=(60, 2))
    return centres[rng.integers(0, 60, rows)] + 0.02 * rng.normal(size=(rows, 2))


def test_a_kernel_density_is_a_mixture_with_all_rows():
    x, start = many_clusters(300, 1), Start(kernel=True, ridge=0.01)
    expected = start.log_density(x, x[:20])
    log_p = jax.jit(jax.vmap(start.mixture(jnp.asarray(x)).log_prob))(x[:20])
    np.testing.assert_allclose(log_p, expected, rtol=1e-9)
    tried = choose_start([Fold(jnp.asarray(x[:240]), jnp.asarray(x[240:]), np.zeros(60))])
    assert any(start.kernel for start in tried)
    assert not next(iter(tried)).kernel


@pytest.mark.slow
def test_a_kernel_density_wins_where_clusters_are_many():
    x, new = many_clusters(600, 1), many_clusters(2000, 2)
    flow, _, comparison = jaxflow.fit_density(x, key=KEY, steps=25, width=8)
    assert comparison.difference("kernel density")[0] > -1e-9
    assert float(flow.log_prob(new).mean()) > 0.4


def test_folds_share_no_group_and_have_one_size():
    groups = np.repeat(np.arange(53), 2)
    folds = make_folds(groups, 5, 0)
    assert len({(len(train), len(held)) for train, held in folds}) == 1
    for train, held in folds:
        assert not set(groups[train]) & set(groups[held])
    every = np.concatenate([held for _, held in folds])
    assert len(set(every.tolist())) == len(every) >= 95


# --- what is returned ---


def test_a_gaussian_is_left_as_it_is(gaussian):
    x, (flow, history, comparison) = gaussian
    new = np.random.default_rng(2).normal(size=(20_000, 2)) @ np.asarray([[2.0, 1.0], [0.0, 0.5]])
    cov = np.cov(x, rowvar=False, ddof=0)
    gap = new - x.mean(axis=0)
    exact = -0.5 * np.einsum("ni,ij,nj->n", gap, np.linalg.inv(cov), gap)
    exact = exact - 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1]
    assert float(flow.log_prob(new).mean()) == pytest.approx(exact.mean(), abs=0.02)
    assert history["step"][0] == 0
    assert abs(comparison.difference("Gaussian")[0]) < 0.02
    assert "the Gaussian is as good" in str(comparison)
    assert f"{len(comparison.log_p['flow'])} rows, each held out once" in comparison.rows


@pytest.mark.slow
def test_the_same_key_gives_the_same_flow(gaussian):
    x, (flow, _, _) = gaussian
    again, _, _ = jaxflow.fit_density(x, **QUICK)
    np.testing.assert_array_equal(again.log_prob(x), flow.log_prob(x))


@pytest.mark.slow
def test_training_gains_where_a_mixture_is_not_enough():
    from sklearn.datasets import make_moons

    x = make_moons(500, noise=0.1, random_state=0)[0]
    new = make_moons(5000, noise=0.1, random_state=1)[0]
    flow, history, comparison = jaxflow.fit_density(x, key=KEY, progress=False)
    best = int(np.argmin(history["validation"]))
    assert history["step"][best] > 0
    assert history["step"][-1] - history["step"][best] <= 200
    assert float(flow.log_prob(new).mean()) > -1.95
    assert min(comparison.difference(name)[0] for name in comparison.log_p) > -0.02


@pytest.mark.slow
def test_folds_and_all_rows_share_one_program():
    from sklearn.datasets import make_moons

    x = make_moons(100, noise=0.05, random_state=0)[0]
    train_steps._cached.clear_cache()
    _, history, _ = jaxflow.fit_density(x, **QUICK)
    assert history["step"][int(np.argmin(history["validation"]))] > 0
    assert train_steps._cached._cache_size() == 1


def test_settings_that_no_step_sees_give_the_same_optimizer():
    config = TrainConfig(steps=100)
    other = replace(config, validation_rows=10, patience=3, batch_size=7, max_seconds=9.0)
    assert optimizer_of(config) is optimizer_of(other)
    assert optimizer_of(config) is not optimizer_of(replace(config, clip_norm=1.0))


@pytest.mark.slow
def test_a_large_table_holds_a_share_out():
    x = clusters(5200)
    flow, _, comparison = jaxflow.fit_density(x, key=KEY, steps=40, width=16, progress=False)
    assert comparison.rows == "520 held-out rows, which also chose the best weights"
    mixture = next(name for name in comparison.log_p if "mixture" in name)
    assert comparison.difference(mixture)[0] > -0.01
    assert np.isfinite(flow.log_prob(x[:5])).all()


@pytest.mark.slow
def test_weights_are_repetitions():
    x = clusters(40)
    weights = np.tile([2, 1, 0, 1], 10)
    one = jaxflow.fit_density(x, weights=weights, key=KEY, steps=25, progress=False).flow
    other = jaxflow.fit_density(np.repeat(x, weights, axis=0), key=KEY, steps=25, progress=False)
    np.testing.assert_array_equal(one.log_prob(x), other.flow.log_prob(x))


@pytest.mark.parametrize("rows", [3, 5, 9])
def test_too_few_rows_for_folds_give_a_gaussian(rows):
    x = np.random.default_rng(0).normal(size=(rows, 4))
    flow, history, comparison = jaxflow.fit_density(x, key=KEY, progress=False)
    assert np.isfinite(flow.log_prob(x)).all()
    assert str(comparison) == f"no held-out log-density: {rows} rows, too few to hold any out"
    assert history["step"] == []


def test_every_column_varies_in_every_fold():
    x = np.random.default_rng(0).normal(size=(50, 2))
    rare = np.zeros((50, 1))
    rare[:2, 0] = 1.0, 2.5
    twice = jnp.asarray(np.concatenate([x, rare], axis=1))
    proposal = propose(twice, ("a", "b", "c"))
    table = Table(twice, None, proposal, 8, 1, KEY, TrainConfig(), False, None)
    for train, _ in table.folds():
        assert len(set(twice[train][:, 2].tolist())) > 1
    once = twice.at[0, 2].set(0.0)
    with pytest.raises(ValueError, match="column c of x has one value in all but a few rows"):
        table._replace(x=once).folds()


@pytest.mark.slow
def test_a_time_limit_ends_the_folds():
    history = jaxflow.fit_density(
        clusters(60), key=KEY, width=8, max_seconds=1e-3, progress=False
    ).history
    assert history["step"] == [0, 25]


@pytest.mark.slow
def test_an_ensemble_averages_the_flows_of_the_folds():
    x = clusters(60)
    settings = {"key": KEY, "width": 8, "max_seconds": 1e-3, "progress": False}
    flow, history, comparison = jaxflow.fit_density(x, ensemble=True, **settings)
    assert isinstance(flow, jaxflow.Ensemble)
    assert len(flow.flows) == 5
    each = jnp.stack([one.log_prob(x) for one in flow.flows])
    assert float(jnp.ptp(each, axis=0).max()) > 0
    np.testing.assert_allclose(flow.log_prob(x), jnp.log(jnp.exp(each).mean(axis=0)), rtol=1e-6)
    assert history["step"] == [0, 25]
    assert len(comparison.log_p["flow"]) == 60


@pytest.mark.parametrize(
    "x",
    [np.random.default_rng(0).normal(size=(5001, 2)), np.eye(3)[np.arange(12) % 3]],
    ids=["large", "directions"],
)
def test_without_folds_an_ensemble_is_refused(x):
    kinds = {"0,1,2": "direction"} if x.shape[1] == 3 else None
    with pytest.raises(ValueError, match=r"ensemble=True averages .* folds, .*keys"):
        jaxflow.fit_density(x, key=KEY, kinds=kinds, ensemble=True)


def test_named_outcomes_of_bad_tables():
    x = clusters(20)
    with pytest.raises(ValueError, match="constant"):
        jaxflow.fit_density(np.ones((10, 2)), key=KEY)
    with pytest.raises(ValueError, match="x has one row"):
        jaxflow.fit_density(x[:1], key=KEY)
    with pytest.raises(ValueError, match=r"shape \(20,\): give rows \(n, d\)"):
        jaxflow.fit_density(x[:, 0], key=KEY)
    with pytest.raises(ValueError, match="width=0"):
        jaxflow.fit_density(x, key=KEY, width=0)


# --- the comparison ---


def test_huge_numbers_are_short():
    log_p = np.zeros(4)
    text = str(Comparison({"flow": log_p, "Gaussian": log_p - 1e58 * (np.arange(4) == 3)}))
    assert max(map(len, text.splitlines())) < 90


def test_a_comparison_says_what_the_differences_mean():
    rng = np.random.default_rng(0)
    simple = rng.normal(size=400)
    better = Comparison({"flow": simple + 0.1 + 0.01 * rng.normal(size=400), "Gaussian": simple})
    assert better.verdict.startswith("the flow is better than the Gaussian: +0.1")
    worse = Comparison({"flow": simple - 0.1, "Gaussian": simple})
    assert worse.verdict.startswith("the flow is worse than the Gaussian: -0.100")
    same = Comparison({"flow": simple + 0.01, "Gaussian": simple})
    assert same.verdict.startswith("the Gaussian is as good")
    assert same.as_dict()["densities"]["Gaussian"]["flow_gain"] == pytest.approx(0.01)
    assert Comparison({"flow": simple}).verdict == ""
    single = Comparison({"flow": simple[:1] + 1.0, "Gaussian": simple[:1]})
    assert single.verdict == "a single row does not compare densities"
    assert single.as_dict()["densities"]["Gaussian"]["flow_gain_se"] is None


@pytest.mark.slow
def test_the_estimator_keeps_the_comparison(tmp_path):
    x = clusters(60)
    density = FlowDensity(steps=25, random_state=0).fit(x)
    assert "Gaussians" in density.comparison_["text"]
    share = (density.score_samples(clusters(2000, 1)) < density.offset_).mean()
    assert 0.02 < share < 0.3
    density.save(tmp_path / "density")
    again = FlowDensity.load(tmp_path / "density")
    assert again.comparison_ == density.comparison_
    np.testing.assert_array_equal(again.score_samples(x), density.score_samples(x))


@pytest.mark.slow
def test_the_estimator_of_an_ensemble(tmp_path):
    x = np.concatenate([clusters(60), np.arange(60.0)[:, None] % 7], axis=1)
    density = FlowDensity(steps=25, ensemble=True, random_state=0).fit(x)
    assert isinstance(density.flow_, jaxflow.Ensemble)
    assert density.grid_ == [0.0, 0.0, 1.0]
    density.save(tmp_path / "density")
    again = FlowDensity.load(tmp_path / "density")
    np.testing.assert_array_equal(again.score_samples(x), density.score_samples(x))
    drawn = again.sample(100, random_state=0)[:, 2]
    np.testing.assert_array_equal(drawn, np.round(drawn))
    with pytest.raises(ValueError, match="ensemble=True is for the default flow"):
        FlowDensity(ensemble=True, scaling="whiten").fit(x)


# --- stages that end early ---


def test_a_phase_without_solves_is_validated_early():
    objective, config = jaxflow.objectives.Staged(), TrainConfig()
    phase = phase_at(objective, config, 0)
    steps = [0]
    while steps[-1] < phase.end:
        steps.append(phase.next_validation(steps[-1]))
    assert steps[1:5] == [100, 200, 400, 460]
    assert steps[-1] == phase.end == 3680
    assert len(steps) == 12


@pytest.mark.slow
def test_flow_matching_ends_where_it_over_trains():
    x = np.random.default_rng(0).normal(size=(60, 2))
    field = jaxflow.dynamics.MLP(2, width=64, activation="sin", frequency=4.0, key=KEY)
    flow = jaxflow.CNF(field, jaxflow.StandardNormal(2))
    config = TrainConfig(steps=2000, eval_every=50)
    _, history = jaxflow.fit(flow, x, key=KEY, config=config, progress=False)
    assert isinstance(history, History)
    assert history["step"][-1] < 1000
    assert with_transform(flow, None).transform is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_600_rows_of_a_gaussian_lose_little_to_its_own_density(seed):
    rng = np.random.default_rng(seed)
    factor = np.asarray([[2.0, 0.0], [1.2, 0.5]])
    x, new = (rng.normal(size=(n, 2)) @ factor.T for n in (600, 20_000))
    flow, _, _ = jaxflow.fit_density(x, key=jax.random.key(seed), progress=False)
    gaussian = jax.vmap(GaussianMixture.fit(x, 1).log_prob)(jnp.asarray(new))
    assert float(gaussian.mean()) - float(flow.log_prob(new).mean()) < 0.02
