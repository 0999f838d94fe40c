"""The laws of a manifold, over a table of all manifolds."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import grown

from jaxflow import exact_trace
from jaxflow.bases import UniformOn, WrappedNormal
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.manifolds import SO3, Euclidean, Hyperbolic, Product, Projective, Sphere, Torus
from jaxflow.trace import jacobian_trace
from jaxflow.transforms import Angles, Transform

KEY = jax.random.key(5)

draw = eqx.filter_jit(lambda base, keys: jax.vmap(base.sample)(keys))
scores = eqx.filter_jit(lambda base, x: jax.vmap(base.log_prob)(x))


class Case(NamedTuple):
    """A manifold, one of its points, and the logarithm of its volume by another formula."""

    manifold: Any
    loc: Any
    log_volume: float = math.inf
    scale: float = 0.7

    def points(self, n=20, seed=0):
        base = WrappedNormal(self.manifold, self.loc, self.scale)
        # Most laws take the first of 60, which are drawn by one program.
        x = draw(base, jax.random.split(jax.random.key(seed), max(n, 60)))
        return jnp.asarray(np.asarray(x)[:n])

    def pairs(self, n=20):
        return self.points(n), self.points(n, seed=1)

    def field(self):
        field = MLP(self.manifold.ambient, width=5, depth=1, key=KEY)
        return OnManifold(grown(field), self.manifold)


MANIFOLDS = {
    "space": Case(Euclidean(3), [0.5, -1.0, 2.0]),
    "circle": Case(Torus(1), [6.0], math.log(2 * math.pi)),
    "torus": Case(
        Torus(3, period=[1.0, 2 * math.pi, 24.0], start=[0.0, -math.pi, 0.0]),
        [0.1, 3.0, 23.0],
        math.log(48 * math.pi),
    ),
    "sphere of one": Case(Sphere(1), [0.0, 1.0], math.log(2 * math.pi)),
    "sphere": Case(Sphere(2), [0.6, 0.0, -0.8], math.log(4 * math.pi)),
    "sphere of five": Case(Sphere(5), [-1.0, 0.0, 0.0, 0.0, 0.0, 0.0], math.log(math.pi**3)),
    "axes": Case(Projective(2), [0.6, 0.0, -0.8], math.log(2 * math.pi)),
    "rotations": Case(SO3(), [0.5, -0.5, 0.5, 0.5], math.log(math.pi**2)),
    "hyperbolic": Case(Hyperbolic(2), [1.25, 0.75, 0.0]),
    "hyperbolic space": Case(Hyperbolic(3), [1.0, 0.0, 0.0, 0.0]),
    "product": Case(
        Product(Projective(2), Torus(1, period=3.0), Euclidean(1)), [0.0, 0.0, 1.0, 0.1, 5.0]
    ),
    "compact product": Case(
        Product(Sphere(2), Torus(1)), [0.0, 0.0, 1.0, 0.1], math.log(8 * math.pi**2)
    ),
    "place, hour and numbers": Case(
        Product(Sphere(2), Torus(1, period=24.0), Euclidean(3)),
        [0.6, 0.0, -0.8, 23.0, 0.5, -1.0, 2.0],
    ),
}


def exp_undoes_log(case):
    m, (x, y) = case.manifold, case.pairs()

    @jax.jit
    @jax.vmap
    def there_and_back(x, y):
        v = m.log(x, y)
        distances = m.distance(x, y), m.distance(y, x), m.distance(x, x)
        return m.embed(m.exp(x, v)), m.embed(y), jnp.sqrt(m.squared_norm(v)), distances

    back, there, length, (one_way, other_way, none) = there_and_back(x, y)
    np.testing.assert_allclose(back, there, atol=1e-12)
    np.testing.assert_allclose(one_way, length, rtol=1e-12)
    np.testing.assert_allclose(other_way, length, rtol=1e-9)
    np.testing.assert_array_equal(none, 0.0)


def the_frame_is_orthonormal_and_tangent(case):
    m = case.manifold

    @jax.jit
    def products(x):
        frame = m.frame(x)
        norms = jax.vmap(jax.vmap(m.squared_norm))
        # To first order a tangent vector does not leave the manifold.
        moved = jax.vmap(lambda e: m.deviation(x + 1e-6 * e))(frame)
        sums, differences = (norms(frame[:, None] + s * frame[None]) for s in (1, -1))
        return (sums - differences) / 4, moved

    for x in np.asarray(case.points(5)):
        inner, moved = products(x)
        np.testing.assert_allclose(inner, np.eye(m.dim), atol=1e-12)
        assert float(moved.max()) < 1e-11


def geodesics_have_constant_speed(case):
    m, (x, y) = case.manifold, case.pairs(5)

    @jax.jit
    def along(t):
        point, velocity = jax.vmap(m.geodesic, (None, 0, 0))(t, x, y)
        distance = jax.vmap(m.distance)
        distances = distance(x, y), distance(x, point), distance(point, y)
        return jnp.sqrt(jax.vmap(m.squared_norm)(velocity)), *distances

    for t in (0.0, 0.3, 1.0):
        speed, far, before, after = map(np.asarray, along(jnp.asarray(t)))
        np.testing.assert_allclose(speed, far, rtol=1e-9)
        np.testing.assert_allclose(before, t * far, atol=1e-9)
        np.testing.assert_allclose(after, (1 - t) * far, atol=1e-9)


def the_divergence_is_that_on_the_manifold(case):
    # In normal coordinates the metric is flat to first order, so the divergence is the trace.
    m, field, t = case.manifold, case.field(), jnp.asarray(0.3)

    def inner(u, v):
        return (m.squared_norm(u + v) - m.squared_norm(u - v)) / 4

    def normal(x):
        frame = m.frame(x)

        def components(a):
            def chart(a):
                return m.exp(x, a @ frame)

            slopes = jax.jacfwd(chart)(a).T
            metric = jax.vmap(lambda u: jax.vmap(lambda v: inner(u, v))(slopes))(slopes)
            value = field(t, chart(a))
            return jnp.linalg.solve(metric, jax.vmap(lambda u: inner(u, value))(slopes))

        zero = jnp.zeros(m.dim)
        return components(zero) @ frame, jnp.trace(jax.jacfwd(components)(zero))

    @jax.jit
    @jax.vmap
    def both(x):
        return normal(x), exact_trace(field, t, x), jacobian_trace(field, t, x)

    expected, found, generic = both(case.points(5))
    for value, trace in (found, generic):
        np.testing.assert_allclose(value, expected[0], atol=1e-12)
        np.testing.assert_allclose(trace, expected[1], rtol=1e-9)


def its_normals_give_the_divergence(case):
    m = case.manifold
    if m.num_normals is None:
        return
    inner = grown(MLP(m.ambient, width=5, depth=2, key=KEY))
    field, t = OnManifold(inner, m), jnp.asarray(0.3)

    @jax.jit
    @jax.vmap
    def both(x):
        p = m.embed(x)
        jacobian, normals = jax.jacfwd(lambda p: inner(t, p))(p), m.normals(p)
        across = jnp.trace(normals @ jacobian @ normals.T)
        closed = jnp.trace(jacobian) - across - m.curvature(p) @ inner(t, p)
        return closed, exact_trace(field, t, x)[1], jacobian_trace(field, t, x)[1], normals

    # Off the manifold too, where solves end up.
    x = np.asarray(case.points(5)) * [[1.0], [1.0], [1.0], [1.01], [0.97]]
    closed, exact, generic, normals = map(np.asarray, both(x))
    np.testing.assert_allclose(closed, generic, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(exact, generic, rtol=1e-11, atol=1e-11)
    assert normals.shape[1:] == (m.num_normals, m.ambient)
    for each in normals:
        np.testing.assert_allclose(each @ each.T, np.eye(m.num_normals), atol=1e-12)


def its_separations_have_a_positive_definite_kernel(case):
    m, x = case.manifold, case.points(60)

    @jax.jit
    def of_pairs(x):
        both = (m.separations, m.distance)
        return [jax.vmap(jax.vmap(f, (None, 0)), (0, None))(x, x) for f in both]

    each, distance = map(np.asarray, of_pairs(x))
    assert each.min() >= 0
    np.testing.assert_allclose(each, np.swapaxes(each, 0, 1), atol=1e-12)
    for width in (0.1, 1.0, 10.0):
        assert np.linalg.eigvalsh(np.exp(-each.sum(axis=-1) / width)).min() > -1e-10
    # They tell different points apart, however seen.
    np.testing.assert_array_equal(each.sum(axis=-1) > 1e-6, distance > 1e-6)


def the_normal_density_is_that_of_its_samples(case):
    # Importance weights have mean 1 if the density integrates to 1 and samples follow it.
    m, n = case.manifold, 4000
    wide, narrow = (WrappedNormal(m, case.loc, scale) for scale in (case.scale, case.scale / 1.3))
    x = case.points(n)
    weights = np.exp(_scores(narrow, x) - _scores(wide, x))
    assert abs(weights.mean() - 1) < 4.5 * weights.std() / n**0.5
    if math.isfinite(case.log_volume):
        x = draw(UniformOn(m), jax.random.split(KEY, n))
        weights = np.exp(_scores(wide, x) + case.log_volume)
        assert abs(weights.mean() - 1) < 4.5 * weights.std() / n**0.5


def the_normal_density_is_continuous_at_its_centre(case):
    m = case.manifold
    loc = jnp.asarray(case.loc)
    x = along_a_geodesic(m, loc, jnp.asarray([0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-4]))
    for scale in (0.1, 0.5, min(1.0, getattr(m, "most_scale", 1.0))):
        base = WrappedNormal(m, loc, scale)
        log_p = _scores(base, x)
        np.testing.assert_allclose(log_p, log_p[-1], atol=1e-6)
        assert log_p[0] == pytest.approx(-m.dim * math.log(scale * math.sqrt(2 * math.pi)), abs=2)


def _scores(base, x):
    return np.asarray(scores(base, x))


@eqx.filter_jit
def along_a_geodesic(m, x, r):
    """The points at the distances `r` from a point, in the first direction of its frame."""
    return jax.vmap(m.exp, (None, 0))(x, jnp.outer(r, m.frame(x)[0]))


def the_volume_is_known(case):
    m = case.manifold
    assert m.log_volume == pytest.approx(case.log_volume)
    if math.isfinite(case.log_volume):
        base = UniformOn(m)
        x = jax.jit(lambda: base.sample(KEY))()
        log_p, deviation = jax.jit(lambda x: (base.log_prob(x), m.deviation(x)))(x)
        assert float(log_p) == pytest.approx(-case.log_volume)
        assert float(deviation) < 1e-12
    else:
        with pytest.raises(ValueError, match="no uniform density, since its volume is infinite"):
            UniformOn(m)


def a_uniform_point_prefers_no_direction(case):
    if not math.isfinite(case.log_volume):
        return
    m, n = case.manifold, 4000
    x = draw(UniformOn(m), jax.random.split(KEY, n))
    # The mean of a divergence over a manifold without an edge is 0.
    field, t = case.field(), jnp.asarray(0.3)
    traces = np.asarray(jax.jit(jax.vmap(lambda x: exact_trace(field, t, x)[1]))(x))
    assert traces.std() > 0.1
    assert abs(traces.mean()) < 4.5 * traces.std() / n**0.5


def it_is_a_transform(case):
    m: Any = case.manifold
    assert isinstance(case.manifold, Transform)

    @jax.jit
    @jax.vmap
    def there(x):
        u, log_det = m.forward(x)
        return m.inside(x), u, log_det

    @jax.jit
    @jax.vmap
    def again(u):
        return m.deviation(u), m.retract(u)

    x = np.asarray(case.points(5))
    near = x * 1.0001 if "Torus" not in str(m) else x
    for rows in (x, near):
        inside, u, log_det = there(rows)
        deviation, retracted = again(u)
        assert np.all(inside)
        np.testing.assert_array_equal(log_det, 0.0)
        assert np.max(deviation) < 1e-12
        np.testing.assert_allclose(retracted, u, rtol=1e-14)
    m.check(x)


def points_off_it_are_named(case):
    m, x = case.manifold, np.array(case.points(5))
    with pytest.raises(ValueError, match="x has shape"):
        m.check(x[:, None])
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 5 rows"):
        m.check(np.where(np.arange(5)[:, None] == 3, np.nan, x))
    if isinstance(m, Euclidean):
        return
    x[2:] = 1.01 * x[2:] + 25
    with pytest.raises(ValueError, match=r"in 3 of 5 rows, first row 2: .*manifold.retract"):
        m.check(x)
    inside = jax.jit(jax.vmap(m.inside))(x)
    np.testing.assert_array_equal(inside, [True, True, False, False, False])


def float32_stays_finite_with_its_gradients(case):
    m = case.manifold

    @jax.jit
    @jax.value_and_grad
    def total(x, y):
        v = m.log(x, y)
        parts = m.exp(x, 0.5 * v), m.embed(x), m.project(x, m.embed(x)), m.retract(y)
        return sum(map(jnp.sum, parts)) + m.distance(x, y)

    x = jnp.asarray(np.asarray(case.points(1))[0], jnp.float32)
    # The same point, the antipode where there is one, and another point.
    for y in (x, jax.jit(lambda x: m.retract(-x))(x), jnp.asarray(case.loc, jnp.float32)):
        value, slope = total(x, y)
        assert value.dtype == slope.dtype == jnp.float32
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


# The others have the code of these.
QUICK = ("sphere", "hyperbolic", "product")
LAWS = (
    exp_undoes_log,
    the_frame_is_orthonormal_and_tangent,
    geodesics_have_constant_speed,
    the_divergence_is_that_on_the_manifold,
    its_normals_give_the_divergence,
    its_separations_have_a_positive_definite_kernel,
    the_normal_density_is_that_of_its_samples,
    the_normal_density_is_continuous_at_its_centre,
    the_volume_is_known,
    a_uniform_point_prefers_no_direction,
    it_is_a_transform,
    points_off_it_are_named,
    float32_stays_finite_with_its_gradients,
)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow, id=name)
        for name in MANIFOLDS
    ],
)
def test_law(name, law):
    law(MANIFOLDS[name])


@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("m", [Sphere(1), Sphere(2), Sphere(5), Projective(2), SO3()], ids=str)
def test_the_normal_density_has_mass_1_on_spheres(m, scale):
    # All points at one distance have one density, so one integral along a geodesic is enough.
    base = WrappedNormal(m, np.eye(m.dim + 1)[0], scale)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    r, weights = m.reach * (nodes + 1) / 2, m.reach / 2 * weights
    x = along_a_geodesic(m, base.loc, jnp.asarray(r))
    area = 2 * math.pi ** (m.dim / 2) / math.gamma(m.dim / 2) * np.sin(r) ** (m.dim - 1)
    mass = np.sum(weights * area * np.exp(_scores(base, x)))
    assert mass == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("m", [Sphere(1), Sphere(2), Sphere(5)], ids=str)
def test_geodesics_to_points_near_the_antipode_have_the_right_length(m, dtype):
    near_antipode = jax.jit(jax.vmap(lambda x, gap: m.exp(-x, gap * m.frame(-x)[0]), (0, None)))

    @jax.jit
    @jax.vmap
    def geodesic(x, y):
        v = m.log(x, y)
        return jnp.linalg.norm(v), jnp.sum(v * x), m.exp(x, v), m.distance(x, y)

    x = np.asarray(draw(UniformOn(m), jax.random.split(KEY, 40)), dtype)
    eps = float(jnp.finfo(dtype).eps)
    for gap in (0.0, eps, 3 * eps, 20 * eps, 1e3 * eps, eps**0.5, 0.01):
        y = near_antipode(x, jnp.asarray(gap, dtype))
        length, across, there, far = geodesic(x, y)
        np.testing.assert_allclose(length, far, rtol=8 * eps)
        np.testing.assert_allclose(across, 0, atol=8 * eps)
        np.testing.assert_allclose(there, y, atol=30 * eps)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_nan_is_never_a_point(name):
    m, loc = MANIFOLDS[name].manifold, MANIFOLDS[name].loc

    @jax.jit
    def answers(x, bad):
        points = m.retract(bad), m.embed(bad)
        numbers = m.distance(x, bad), m.distance(bad, x), m.log_normal(x, bad, 0.5)
        return *points, *numbers, m.separations(x, bad)

    x = jnp.asarray(loc)
    for bad in (np.full(len(loc), np.nan), np.array([np.nan, *loc[1:]])):
        assert all(np.isnan(answer).any() for answer in answers(x, bad))


@pytest.mark.parametrize("bad", [math.nan, math.inf, [0.0, -math.inf]])
def test_a_torus_begins_and_ends_somewhere(bad):
    with pytest.raises(ValueError, match=r"start=.* must be finite"):
        Torus(2, start=bad)
    with pytest.raises(ValueError, match=r"period=.* must be positive"):
        Torus(2, period=bad)
    with pytest.raises(ValueError, match=r"start=.* must be finite"):
        Angles(2, start=bad)


def test_manifolds_hold_no_arrays_and_can_be_compared():
    for case in MANIFOLDS.values():
        assert not jax.tree.leaves(eqx.filter(case.manifold, eqx.is_array))
    assert Sphere(2) == Sphere(2)
    assert Torus(2) != Torus(2, period=360.0)
