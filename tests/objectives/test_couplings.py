"""Couplings: permutations, marginals, known optima, and conditions."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxflow.objectives.couplings import (
    OptimalTransport,
    Sinkhorn,
    Swaps,
    independent,
    log_transport_plan,
    squared_distances,
)


@partial(jax.jit, static_argnums=(1, 2))
def clouds(key, n=20, d=2):
    x0, x1 = jax.random.normal(key, (2, n, d))
    return x0, 2 * x1 + 1


@partial(jax.jit, static_argnums=0)
def couple(coupling, x0, x1, key, cond=None):
    return coupling(x0, x1, cond, key)


@jax.jit
def cost_of(x0, x1, source):
    return jnp.sum((x1 - x0[source]) ** 2)


@partial(jax.jit, static_argnums=1)
def plan_of(cost, settings):
    return jnp.exp(log_transport_plan(cost, settings))


@jax.jit
def prices(x0, x1):
    return squared_distances(x0, x1)


@pytest.mark.parametrize(
    "coupling", [OptimalTransport(), OptimalTransport(block=8), Swaps(), Swaps(5)], ids=str
)
def test_exact_and_swapped_couplings_are_permutations(coupling, key):
    x0, x1 = clouds(key)
    source, weights = couple(coupling, x0, x1, key)
    assert weights is None
    np.testing.assert_array_equal(np.sort(source), np.arange(20))
    assert cost_of(x0, x1, source) < cost_of(x0, x1, jnp.arange(20))


def test_exact_is_the_best_of_all_permutations(key):
    x0, x1 = clouds(key, 6)
    source, _ = couple(OptimalTransport(), x0, x1, key)
    every = jnp.asarray(list(itertools.permutations(range(6))))
    best = jax.vmap(cost_of, (None, None, 0))(x0, x1, every).min()
    np.testing.assert_allclose(cost_of(x0, x1, source), best, rtol=1e-13)


@pytest.mark.parametrize("coupling", [OptimalTransport(), Swaps(rounds=200)], ids=str)
def test_on_a_line_the_optimum_is_sorted(coupling, key):
    x0, x1 = clouds(key, 20, 1)
    source, _ = couple(coupling, x0, x1, key)
    starts, ends = np.asarray(x0).ravel(), np.asarray(x1).ravel()
    np.testing.assert_array_equal(starts[source][np.argsort(ends)], np.sort(starts))


def test_swaps_end_where_no_pair_is_crossed_and_near_the_optimum(key):
    x0, x1 = clouds(key, 60)
    source, _ = couple(Swaps(rounds=6000), x0, x1, key)
    starts, ends = np.asarray(x0)[source], np.asarray(x1)
    inner = np.sum((ends[:, None] - ends) * (starts[:, None] - starts), axis=-1)
    assert inner.min() >= 0
    exact, _ = couple(OptimalTransport(), x0, x1, key)
    drawn, swapped, best = (float(cost_of(x0, x1, s)) for s in (np.arange(60), source, exact))
    assert swapped - best < 0.1 * (drawn - best)


def test_blocks_are_paired_among_themselves(key):
    x0, x1 = clouds(key)
    source, _ = couple(OptimalTransport(block=10), x0, x1, key)
    first, _ = couple(OptimalTransport(), x0[:10], x1[:10], key)
    second, _ = couple(OptimalTransport(), x0[10:], x1[10:], key)
    np.testing.assert_array_equal(source, np.concatenate([first, np.asarray(second) + 10]))


@pytest.mark.parametrize(
    "coupling", [OptimalTransport(), Swaps(40), Sinkhorn()], ids=["exact", "swaps", "Sinkhorn"]
)
def test_vmap_and_loops_give_the_same(coupling, key):
    keys = jax.random.split(key, 3)
    x0, x1 = jax.vmap(clouds)(keys)

    def pair(x0, x1, key):
        return coupling(x0, x1, None, key)[0].astype(jnp.int32)

    @jax.jit
    def both(x0, x1, keys):
        def body(i, out):
            return out.at[i].set(pair(x0[i], x1[i], keys[i]))

        loop = lax.fori_loop(0, 3, body, jnp.zeros((3, 20), jnp.int32))
        return jax.vmap(pair)(x0, x1, keys), loop

    mapped, looped = both(x0, x1, keys)
    for i in range(3):
        expected, _ = couple(coupling, x0[i], x1[i], keys[i])
        np.testing.assert_array_equal(mapped[i], expected)
        np.testing.assert_array_equal(looped[i], expected)


def test_exact_keeps_rows_that_are_not_finite_for_the_loss_to_show(key):
    x0, x1 = clouds(key)
    source, _ = couple(OptimalTransport(), x0, x1.at[2, 0].set(jnp.nan), key)
    np.testing.assert_array_equal(source, np.arange(20))


def test_independent_rows_stay_as_drawn(key):
    source, weights = couple(independent, *clouds(key), key)
    assert weights is None
    np.testing.assert_array_equal(source, np.arange(20))


class TestPlan:
    def test_its_marginals_are_the_batch(self, key):
        plan = plan_of(prices(*clouds(key)), Sinkhorn(epsilon=0.1, num_iters=400))
        np.testing.assert_allclose(plan.sum(axis=0), 1 / 20, atol=1e-15)
        np.testing.assert_allclose(plan.sum(axis=1), 1 / 20, atol=1e-10)

    def test_two_points_in_closed_form(self):
        c, epsilon = 1.7, 0.6
        cost = jnp.asarray([[0.0, c], [c, 0.0]])
        plan = plan_of(cost, Sinkhorn(epsilon, relative=False))
        p = 0.5 / (1 + math.exp(-c / epsilon))
        np.testing.assert_allclose(plan, [[p, 0.5 - p], [0.5 - p, p]], rtol=1e-13)

    def test_unbalanced_mass_in_closed_form(self):
        # One pair: C P + (epsilon + rho_0 + rho_1) (P log P - P + 1) is least at exp(-C / sum).
        settings = Sinkhorn(0.5, base_relaxation=1.0, data_relaxation=2.0, relative=False)
        plan = plan_of(jnp.asarray([[3.0]]), settings)
        np.testing.assert_allclose(plan, math.exp(-3.0 / 3.5), rtol=1e-13)

    def test_weak_and_strong_regularisation(self, key):
        x0, x1 = clouds(key)
        cost = prices(x0, x1)
        loose = plan_of(cost, Sinkhorn(epsilon=1e6))
        np.testing.assert_allclose(loose, 1 / 400, rtol=1e-4)
        tight = plan_of(cost, Sinkhorn(epsilon=1e-3, num_iters=10_000))
        source, _ = couple(OptimalTransport(), x0, x1, key)
        total = 20 * np.sum(np.asarray(tight) * np.asarray(cost))
        np.testing.assert_allclose(total, cost_of(x0, x1, source), rtol=1e-3)

    def test_no_gradient_goes_through_it(self, key):
        x0, x1 = clouds(key)

        @jax.jit
        @jax.grad
        def gradient(x1):
            return jnp.sum(log_transport_plan(squared_distances(x0, x1), Sinkhorn()))

        np.testing.assert_array_equal(gradient(x1), np.zeros((20, 2)))


def test_sinkhorn_draws_pairs_from_its_plan(key):
    x0, x1 = clouds(key, 4)
    settings = Sinkhorn(epsilon=0.5)
    plan = plan_of(prices(x0, x1), settings)

    def draw(key):
        return settings(x0, x1, None, key)[0]

    n = 20_000
    sources = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(key, n)))
    shares = np.stack([np.mean(sources == i, axis=0) for i in range(4)]) / 4
    np.testing.assert_allclose(shares, plan, atol=5 * 0.25 * (0.25 / n) ** 0.5)


def test_an_outlier_counts_less_where_the_datas_mass_is_free(key):
    x0, x1 = clouds(key)
    settings = Sinkhorn(0.1, data_relaxation=1.0, relative=False)
    _, weights = couple(settings, x0, x1.at[7].set(100.0), key)
    assert weights is not None
    np.testing.assert_allclose(weights.sum(), 20, rtol=1e-12)
    assert float(weights[7]) < 1e-12


@pytest.mark.parametrize(
    "coupling",
    [OptimalTransport(cond_weight=1e8), Swaps(cond_weight=1e8), Sinkhorn(1e-8, cond_weight=1e8)],
    ids=["exact", "swaps", "Sinkhorn"],
)
def test_a_high_price_keeps_the_conditions(coupling, key):
    x0, x1 = clouds(key)
    cond = np.repeat(np.arange(2.0), 10)[:, None]
    source, _ = couple(coupling, x0, x1, key, cond)
    np.testing.assert_array_equal(cond[source], cond)
    assert cost_of(x0, x1, source) < cost_of(x0, x1, jnp.arange(20))


def test_a_price_of_zero_ignores_the_conditions(key):
    x0, x1 = clouds(key)
    coupling = OptimalTransport(cond_weight=0.0)
    with_cond, _ = couple(coupling, x0, x1, key, jax.random.normal(key, (20, 1)))
    np.testing.assert_array_equal(with_cond, couple(coupling, x0, x1, key)[0])


def test_a_coupling_with_conditions_leaves_the_base_independent_of_them(key):
    def moments(key):
        keys = jax.random.split(key, 4)
        x0, cond, noise = (jax.random.normal(k, (128, 1)) for k in keys[:3])
        x1 = (cond + 0.3 * noise) / 1.09**0.5
        couplings = Swaps(cond_weight=0.0), Swaps()
        sources = [coupling(x0, x1, cond, keys[3])[0] for coupling in couplings]
        return jnp.stack([jnp.mean(x0[source] * cond) for source in sources])

    found = np.asarray(jax.jit(jax.vmap(moments))(jax.random.split(key, 100)))
    ignoring, keeping = found.mean(axis=0)
    assert ignoring > 0.8
    # The product of two independent normals has variance 1.
    assert abs(keeping) < 5 / 12_800**0.5


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: OptimalTransport(block=0), "block=0 must be an integer >= 1, or None"),
        (lambda: OptimalTransport(cond_weight=-1.0), "cond_weight=-1.0 must be finite"),
        (lambda: Swaps(rounds=0), "rounds=0 must be an integer >= 1"),
        (lambda: Sinkhorn(num_iters=0), "num_iters=0 must be an integer >= 1"),
        (lambda: Sinkhorn(epsilon=0.0), "epsilon=0.0 must be positive"),
        (lambda: Sinkhorn(data_relaxation=-1.0), "data_relaxation=-1.0 must be positive"),
        (lambda: Sinkhorn(cond_weight=math.nan), "cond_weight=nan must be finite"),
    ],
)
def test_settings_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
