"""The laws of a transform, over a table of all transforms."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.bases.test_laws import check_slopes

from jaxflow import CNF, StandardNormal, load, save
from jaxflow.dynamics import Linear
from jaxflow.runtime.threads import may_wait
from jaxflow.transforms import (
    Blocks,
    Bounded,
    Chain,
    Dequantise,
    Gaussianise,
    LevelScores,
    Standardise,
    Transform,
    Whiten,
    inside,
)

forward = eqx.filter_jit(lambda transform, x: jax.vmap(transform.forward)(x))
inverse = eqx.filter_jit(lambda transform, u: jax.vmap(transform.inverse)(u))


def as_dtype(transform, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, dtype)), transform)


INF = np.inf
RNG = np.random.default_rng(7)
N = 2000
# Five kinds of column: bell, skewed, heavy-tailed, tied integers, two far modes.
X = np.stack(
    [
        RNG.normal(3.0, 2.0, N),
        np.exp(1.5 * RNG.normal(size=N)),
        RNG.standard_t(1.5, N),
        RNG.poisson(2.0, N).astype(float),
        np.where(RNG.random(N) < 0.3, -50.0, 50.0) + RNG.normal(size=N),
    ],
    axis=1,
)
# Columns within limits: both, below, above, none.
LIMITS = Bounded([0.0, -2.0, -INF, -INF], [1.0, INF, 5.0, INF])
INSIDE = np.stack(
    [
        RNG.uniform(0, 1, 300),
        np.exp(2 * RNG.normal(size=300)) - 2,
        5 - RNG.gamma(2.0, size=300),
        RNG.normal(size=300),
    ],
    axis=1,
)
U = np.asarray(forward(LIMITS, jnp.asarray(INSIDE))[0])
MIXED = RNG.normal(size=(300, 4)) @ RNG.normal(size=(4, 4)) + 3
BLOCKS = np.concatenate([INSIDE, MIXED], axis=1)
LEVELS = RNG.integers(0, 6, (300, 3))
NOISY = LEVELS + RNG.uniform(-0.5, 0.5, (300, 3))
GRID = np.stack([RNG.integers(-9, 9, 50), RNG.normal(size=50), RNG.integers(0, 9, 50) / 4], axis=1)


def spread(x):
    return np.subtract(*np.quantile(x, [0.9, 0.1], axis=0))


def hard_places(transform):
    """Both far tails, the extreme values, knots and the points between and beside them."""
    far = [np.median(X, axis=0) + s * spread(X) for s in (-1e3, -30.0, 30.0, 1e3)]
    knots = np.asarray(transform.knots).T
    middles = (knots[1:] + knots[:-1]) / 2
    edges = [knots, middles, knots[:1] - 1e-9, knots[-1:] + 1e-9]
    return np.concatenate([far, X.min(axis=0)[None], X.max(axis=0)[None], *edges])


class Case(NamedTuple):
    """A transform, rows that it takes, and rows that its `check` refuses.

    `more` are other rows for the laws. Rows of flow space within `reach` have an inverse that is
    as exact as `exact` says. A transform that is not `smooth` is not a bijection.
    """

    transform: Any
    x: np.ndarray
    refused: dict[str, np.ndarray] = {}  # noqa: RUF012
    more: Any = None
    reach: float = 40.0
    exact: float = 1e-9
    smooth: bool = True

    @property
    def places(self):
        rows = self.x[:20] if self.more is None else np.concatenate([self.x[:20], self.more])
        return jnp.asarray(rows)

    def scale(self, x):
        return np.maximum(np.abs(x), spread(self.x).astype(x.dtype))


def with_entry(x, value):
    """The rows with another value in column 0 of row 5."""
    x = x.copy()
    x[5, 0] = value
    return x


GAUSSIANISE = Gaussianise.fit(X)
HARD = hard_places(GAUSSIANISE)
BEYOND = {r"column 0 has 1 values at or beyond lower=0, .* row 5": with_entry(INSIDE, -0.5)}
TRANSFORMS = {
    "standardise": Case(Standardise.fit(X), X, more=HARD, exact=1e-11),
    "gaussianise": Case(GAUSSIANISE, X, more=HARD, exact=1e-11),
    "whiten": Case(Whiten.fit(MIXED), MIXED),
    "levels": Case(
        LevelScores.fit(LEVELS.astype(float), 6),
        NOISY,
        {
            r"entry 0 of row 5 is 7; levels=6 allows whole numbers from 0 to 5": with_entry(
                NOISY, 7.2
            )
        },
        reach=4.0,
    ),
    "bounded": Case(LIMITS, INSIDE, BEYOND, reach=8.0),
    "chain": Case(
        Chain((LIMITS, Standardise.fit(U), Whiten.fit(2 * U))), INSIDE, BEYOND, reach=1.5
    ),
    "blocks": Case(
        Blocks((LIMITS, Standardise.fit(MIXED))),
        BLOCKS,
        {r"of columns 0 to 3: column 0 has 1 values at or": with_entry(BLOCKS, -0.5)},
        reach=1.2,
    ),
    "dequantise": Case(
        Dequantise([1.0, 0.0, 0.25]),
        GRID,
        {r"column 0 has 1 values off the grid of step 1, first in row 5": with_entry(GRID, 0.4)},
        smooth=False,
    ),
}


def is_a_transform(case):
    assert isinstance(case.transform, Transform)
    assert case.transform.event_shape == case.x.shape[1:]
    for direction in (case.transform.forward, case.transform.inverse):
        with pytest.raises(ValueError, match=r"has shape \(3, .* one event of shape"):
            direction(jnp.zeros((3, *case.transform.event_shape)))


def log_det_is_that_of_the_jacobian(case):
    u = forward(case.transform, case.places)[0]
    for maps, values in ((case.transform.forward, case.places), (case.transform.inverse, u)):
        jacobian, log_det = jax.jit(jax.vmap(jax.jacfwd(maps, has_aux=True)))(values)
        sign, expected = np.linalg.slogdet(jacobian)
        assert (sign == 1).all()
        np.testing.assert_allclose(log_det, expected, rtol=case.exact, atol=case.exact)


def inverse_undoes_forward(case):
    x = np.asarray(case.places)
    u, log_det = map(np.asarray, forward(case.transform, case.places))
    back, back_log_det = map(np.asarray, inverse(case.transform, u))
    scale = case.scale(x)
    np.testing.assert_allclose(back / scale, x / scale, rtol=0, atol=case.exact / 10)
    np.testing.assert_allclose(back_log_det, -log_det, rtol=1e-9, atol=1e-9)


def forward_undoes_inverse(case):
    shape = case.transform.event_shape
    u = np.linspace(-case.reach, case.reach, 801)[:, None] * np.ones((1, *shape))
    x, log_det = inverse(case.transform, u)
    again, again_log_det = forward(case.transform, x)
    np.testing.assert_allclose(again, u, rtol=10 * case.exact, atol=10 * case.exact)
    np.testing.assert_allclose(again_log_det, -np.asarray(log_det), rtol=1e-8, atol=1e-8)


def jit_and_vmap_change_nothing(case):
    rows = np.asarray(case.places)[:6]
    batch = [np.asarray(part) for part in forward(case.transform, rows)]
    for i, row in enumerate(map(jnp.asarray, rows)):
        u, log_det = case.transform.forward(row)
        assert log_det.shape == ()
        np.testing.assert_allclose(batch[0][i], u, rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(batch[1][i], log_det, rtol=1e-14, atol=1e-14)


def no_gradient_is_cut(case):
    def total(transform, x):
        u, log_det = transform.forward(x)
        back, back_log_det = transform.inverse(u + 0.1)
        return jnp.sum(u**2) + log_det + jnp.sum(back) + 2 * back_log_det

    # What is fixed is fixed by `jaxflow.trainable`, not inside the transform.
    # Beside the knots of splines, where second derivatives jump.
    row = jnp.asarray(0.99 * np.asarray(case.places)[0] + 0.003)
    check_slopes(partial(total, x=row), case.transform)
    slope = np.asarray(jax.jit(jax.grad(total, argnums=1))(case.transform, row))
    assert np.isfinite(slope).all()
    assert (slope != 0).all()


def float32_stays_float32(case):
    transform = as_dtype(case.transform, np.float32)
    x = np.asarray(case.places, np.float32)
    u, log_det = map(np.asarray, forward(transform, x))
    back, back_log_det = map(np.asarray, inverse(transform, u))
    assert {a.dtype for a in (u, log_det, back, back_log_det)} == {jnp.dtype(jnp.float32)}
    assert all(np.isfinite(a).all() for a in (u, log_det, back, back_log_det))
    scale = case.scale(x)
    np.testing.assert_allclose(back / scale, x / scale, rtol=0, atol=1e-4)
    np.testing.assert_allclose(back_log_det, -log_det, rtol=1e-3, atol=1e-3)


def parameters_can_be_replaced_and_shaped_without_values(case):
    doubled = jax.tree.map(lambda leaf: leaf * 2, case.transform)
    assert doubled.event_shape == case.transform.event_shape
    if not isinstance(case.transform, Chain | Blocks):
        leaves = jax.tree.leaves(case.transform)
        skeleton = eqx.filter_eval_shape(type(case.transform), *leaves)
        assert jax.tree.structure(skeleton) == jax.tree.structure(case.transform)


def check_refuses_bad_rows(case):
    case.transform.check(case.x)
    case.transform.check(case.x[:1])
    with pytest.raises(ValueError, match="x has NaN or infinity in 1 of"):
        case.transform.check(with_entry(case.x, np.nan))
    with pytest.raises(ValueError, match="this transform takes rows of shape"):
        case.transform.check(case.x[:, 1:])
    for words, rows in case.refused.items():
        with pytest.raises(ValueError, match=words):
            case.transform.check(rows)


def samples_lie_inside(case):
    shape = case.transform.event_shape
    for dtype in (jnp.float32, jnp.float64):
        transform = as_dtype(case.transform, dtype)
        u = np.linspace(-40, 40, 401, dtype=dtype).reshape(-1, *(1 for _ in shape))
        x, log_det = inverse(transform, np.broadcast_to(u, (401, *shape)))
        assert np.all(eqx.filter_jit(jax.vmap(inside, (None, 0)))(transform, x))
        again, back = forward(transform, x)
        assert all(np.isfinite(part).all() for part in (x, log_det, again, back))


SMOOTH = (log_det_is_that_of_the_jacobian, inverse_undoes_forward, forward_undoes_inverse)


def no_thread_waits(case):
    for direction in (case.transform.forward, case.transform.inverse):
        assert not may_wait(jax.vmap(direction), case.places)


LAWS = (
    no_thread_waits,
    is_a_transform,
    jit_and_vmap_change_nothing,
    no_gradient_is_cut,
    float32_stays_float32,
    parameters_can_be_replaced_and_shaped_without_values,
    check_refuses_bad_rows,
    samples_lie_inside,
)


def laws_of(case):
    return (*LAWS, *(SMOOTH if case.smooth else ()))


@pytest.mark.parametrize(
    ("name", "law"),
    [(name, law) for name, case in TRANSFORMS.items() for law in laws_of(case)],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_law(name, law):
    law(TRANSFORMS[name])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_saved_and_loaded(name, tmp_path):
    case = TRANSFORMS[name]
    dim = case.x.shape[1]
    flow = CNF(Linear(dim, key=jax.random.key(0)), StandardNormal(dim), transform=case.transform)
    save(tmp_path / "flow.safetensors", flow)
    again = load(tmp_path / "flow.safetensors").transform
    assert type(again) is type(case.transform)
    one, other = (forward(each, case.places) for each in (case.transform, again))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", ["standardise", "gaussianise", "bounded"])
def test_each_column_increases_strictly(name):
    case = TRANSFORMS[name]
    x = np.sort(case.places, axis=0)
    u = forward(case.transform, x)[0]
    apart = np.diff(x, axis=0) > 1e-12 * np.abs(x[1:])
    assert (np.diff(u, axis=0)[apart] > 0).all()


FITTED = pytest.mark.parametrize("kind", [Standardise, Gaussianise, Whiten])


@FITTED
def test_units_only_shift_the_log_det(kind):
    units = np.array([1000.0, 0.01])
    original, scaled = kind.fit(X[:, :2]), kind.fit(X[:, :2] * units)
    rows = X[:50, :2]
    u, log_det = forward(original, rows)
    u_scaled, log_det_scaled = forward(scaled, rows * units)
    np.testing.assert_allclose(u_scaled, u, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(
        log_det_scaled, np.asarray(log_det) - np.log(10.0), rtol=0, atol=1e-11
    )


@FITTED
def test_a_fit_is_stored_in_the_dtype_of_the_data(kind):
    for dtype in (np.float32, np.float64):
        leaves = jax.tree.leaves(kind.fit(X.astype(dtype)))
        assert {leaf.dtype for leaf in leaves} == {np.dtype(dtype)}


@FITTED
def test_bad_data_are_refused_by_name(kind):
    x = X[:100].copy()
    x[:, 1], x[:, 3] = 0.1, 1e8 + 1e-9 * x[:, 0]
    with pytest.raises(ValueError, match=r"x is constant .* columns \[1, 3\]"):
        kind.fit(x)
    x[2:4, 0] = np.nan
    with pytest.raises(ValueError, match="x has NaN or infinity in 2 of 100 rows: rows 2, 3"):
        kind.fit(x)
    with pytest.raises(ValueError, match="at least two samples"):
        kind.fit(X[:1])
    with pytest.raises(TypeError, match="x has dtype complex128"):
        kind.fit(X + 0j)


@pytest.mark.parametrize("kind", [Standardise, Whiten, Gaussianise])
def test_a_spread_that_float32_takes_for_0_is_refused(kind):
    x = np.random.default_rng(0).normal(size=(200, 2))
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"float32 cannot hold .* columns \[0, 1\]"):
            kind.fit((1e-39 * x).astype(np.float32))
        small = (1e-34 * x).astype(np.float32)
        flow = CNF(lambda t, x: 0 * x, StandardNormal(2), transform=kind.fit(small))
        assert np.isfinite(flow.log_prob(small)).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Standardise, Whiten, Gaussianise])
def test_masked_cells_are_refused(kind):
    x = np.ma.masked_equal(np.arange(12.0).reshape(6, 2) ** 2, 100)
    with pytest.raises(ValueError, match=r"x is a masked array with 1 masked cells: drop"):
        kind.fit(x)


def test_matrix_products_keep_their_float64_within_float32():
    # The rule of vmap of dot_general reads the precision of its time, not that of the program.
    x = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    with jax.enable_x64(False):
        for parts in ((Gaussianise, Whiten), (Whiten, Gaussianise)):
            chain = Chain(tuple(part.fit(x) for part in parts))
            flow = CNF(lambda t, x: 0 * x, StandardNormal(3), transform=chain)
            truth = flow.log_prob(x.astype(np.float64))
            np.testing.assert_array_equal(flow.log_prob(x), truth)
            np.testing.assert_array_equal(jax.vmap(flow.log_prob)(jnp.asarray(x)), truth)
