"""Couplings on manifolds: the cost of a pair is the squared length of its geodesic."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF
from jaxflow.bases import UniformOn
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.manifolds import SO3, Euclidean, Hyperbolic, Product, Sphere, Torus
from jaxflow.objectives import FlowMatching, OptimalTransport, Sinkhorn, Swaps, independent

KEY = jax.random.key(8)
MIXED = Product(Sphere(2), Torus(1))
CASES = [Sphere(2), Torus(2), SO3(), Hyperbolic(2), MIXED]


@eqx.filter_jit
def points(manifold, rows, seed=0):
    loc = jnp.zeros(manifold.event_shape).at[0].set(1.0)
    keys = jax.random.split(jax.random.key(seed), rows)
    return jax.vmap(lambda key: manifold.normal(key, loc, 0.9))(keys)


@eqx.filter_jit
def lengths(manifold, x0, x1):
    return jax.vmap(jax.vmap(manifold.distance, (None, 0)), (0, None))(x0, x1)


def costs(manifold, x0, x1):
    return np.asarray(lengths(manifold, x0, x1)) ** 2


def total(cost, source):
    return float(cost[np.asarray(source), np.arange(len(cost))].sum())


@eqx.filter_jit
def pair(coupling, manifold, x0, x1, cond=None):
    return coupling.on(manifold, x0, x1, cond, KEY)[0]


@eqx.filter_jit
def pair_each(couplings, manifold, x0, x1, cond=None):
    """What several couplings pair, in one program."""
    return [coupling.on(manifold, x0, x1, cond, KEY)[0] for coupling in couplings]


@eqx.filter_jit
def losses(couplings, flow, x):
    """Loss and metrics of flow matching with several couplings, in one program."""
    return [FlowMatching(coupling=coupling)(flow, x, None, KEY) for coupling in couplings]


@pytest.mark.quick("Sphere(2)", "Product(Sphere(2), Torus(1))")
@pytest.mark.parametrize("manifold", CASES, ids=str)
def test_exact_transport_is_the_best_permutation(manifold):
    x0, x1 = points(manifold, 6), points(manifold, 6, seed=1)
    cost = costs(manifold, x0, x1)
    best = min(total(cost, order) for order in itertools.permutations(range(6)))
    couplings = OptimalTransport(), Swaps(), Sinkhorn(1e-3, num_iters=2000)
    source, swapped, drawn = pair_each(couplings, manifold, x0, x1)
    assert sorted(source.tolist()) == list(range(6))
    assert total(cost, source) == pytest.approx(best, rel=1e-12)
    # Pairs of rows are compared, so three cannot be exchanged in a circle.
    assert sorted(swapped.tolist()) == list(range(6))
    assert best - 1e-12 <= total(cost, swapped) <= total(cost, range(6)) + 1e-12
    np.testing.assert_array_equal(drawn, source)


def test_blocks_are_paired_separately():
    x0, x1 = points(MIXED, 21), points(MIXED, 21, seed=1)
    source = pair(OptimalTransport(block=8), MIXED, x0, x1)
    parts = [
        7 * i + np.asarray(pair(OptimalTransport(), MIXED, x0[rows], x1[rows]))
        for i, rows in enumerate(np.split(np.arange(21), 3))
    ]
    np.testing.assert_array_equal(source, np.concatenate(parts))


def test_pairs_are_near_across_the_seam():
    torus = Torus(1)
    x0, x1 = jnp.asarray([[0.05], [3.0], [6.2]]), jnp.asarray([[6.25], [0.1], [3.1]])
    for source in pair_each((OptimalTransport(), Swaps(), Sinkhorn(1e-3)), torus, x0, x1):
        np.testing.assert_array_equal(source, [2, 0, 1])


def test_conditions_count_as_on_a_line():
    x0, x1 = points(Sphere(2), 8), points(Sphere(2), 8, seed=1)
    cond = jnp.arange(8.0)[:, None]
    couplings = OptimalTransport(), Swaps(), Sinkhorn(), OptimalTransport(cond_weight=0.0)
    *paired, ignored = pair_each(couplings, Sphere(2), x0, x1, cond)
    for source in paired:
        np.testing.assert_array_equal(source, np.arange(8))
    np.testing.assert_array_equal(ignored, pair(OptimalTransport(), Sphere(2), x0, x1))


@pytest.mark.quick("Sphere(2)-float32")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("manifold", [Sphere(2), SO3(), Torus(2)], ids=str)
def test_antipodes_have_a_finite_cost_and_path(manifold, dtype):
    # Opposite points, in their order: every pair is as far apart as points can be.
    x0 = points(manifold, 16).astype(dtype)
    half = jnp.asarray(manifold.period) / 2 if isinstance(manifold, Torus) else None
    x1 = -x0 if half is None else jax.vmap(manifold.retract)(x0 + half.astype(dtype)[None])
    cost = costs(manifold, x0, x1)
    assert np.isfinite(cost).all()
    source = pair(OptimalTransport(), manifold, x0, x1)
    assert sorted(source.tolist()) == list(range(16))
    assert total(cost, source) <= total(cost, range(16))
    network = MLP(manifold.ambient, width=8, depth=1, key=KEY)
    network = jax.tree.map(lambda leaf: leaf.astype(dtype), network)
    flow = CNF(OnManifold(network, manifold), UniformOn(manifold))
    for loss, _ in losses((independent, OptimalTransport(), Swaps(), Sinkhorn()), flow, x1):
        assert np.isfinite(loss)

    @jax.jit
    def geodesics(x0, x1):
        x, v = jax.vmap(manifold.geodesic)(jnp.linspace(0, 1, 16, dtype=dtype), x0, x1)
        return x, v, jnp.sqrt(jax.vmap(manifold.squared_norm)(v))

    x, v, speed = geodesics(x0, x1)
    assert x.dtype == v.dtype == dtype
    assert np.isfinite(x).all()
    far = np.sqrt(np.diag(cost))
    np.testing.assert_allclose(speed, far, rtol=1e-4)


def test_rows_with_nan_keep_their_order():
    x0, x1 = points(MIXED, 6), points(MIXED, 6, seed=1).at[2, 0].set(jnp.nan)
    np.testing.assert_array_equal(pair(OptimalTransport(), MIXED, x0, x1), np.arange(6))


def test_flow_matching_pairs_by_geodesics():
    # Two clusters, of one point of the base each: chords and geodesics agree on the nearest.
    flow = CNF(OnManifold(MLP(3, width=4, depth=1, key=KEY), Sphere(2)), UniformOn(Sphere(2)))
    x = points(Sphere(2), 256)
    found = losses((independent, Swaps(256), OptimalTransport(None)), flow, x)
    speeds = [float(metrics["velocity"]) for _, metrics in found]
    assert speeds[2] < speeds[1] < 0.8 * speeds[0]
    mixed = Product(Sphere(2), Euclidean(1))
    assert float(mixed.distance(jnp.asarray([1.0, 0, 0, 0]), jnp.asarray([-1.0, 0, 0, 4.0]))) == (
        pytest.approx((np.pi**2 + 16) ** 0.5)
    )
