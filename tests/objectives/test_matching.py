"""Flow matching: its minimiser in closed form, its times, and its errors."""

import itertools
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from scipy import stats

import jaxflow
from jaxflow.density.paths import (
    Linear,
    Path,
    SchroedingerBridge,
    Trigonometric,
    VariancePreserving,
    interpolate,
)
from jaxflow.dynamics import OptionalCondition
from jaxflow.objectives import (
    FlowMatching,
    LogitNormal,
    OptimalTransport,
    Power,
    Sinkhorn,
    Swaps,
    independent,
    uniform,
)
from jaxflow.objectives.matching import TIME_MARGIN, resample, squared_errors, without_some
from jaxflow.objectives.weights import weighted_mean

MEAN, SCALE = 1.3, 0.4


PATHS = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "variance preserving": VariancePreserving(),
    "bridge": SchroedingerBridge(noise=0.5),
    "own": Path(alpha=lambda t: t**2, sigma=lambda t: 1 - t),
}


def moments(path, t):
    """Of `x_t` and `u_t` for `x_0 ~ N(0, 1)` and `x_1 ~ N(MEAN, SCALE^2)`, independent."""
    (alpha, *rest), (dalpha, *drest) = jax.jvp(path, (t,), (jnp.ones_like(t),))
    variance = alpha**2 * SCALE**2 + sum(s**2 for s in rest)
    covariance = alpha * dalpha * SCALE**2 + sum(s * d for s, d in zip(rest, drest, strict=True))
    return (
        alpha,
        dalpha,
        covariance / variance,
        dalpha**2 * SCALE**2 + sum(d**2 for d in drest) - covariance**2 / variance,
    )


def exact_field(path):
    """`E[u_t | x_t = x]`, and with `shift` in its line's two coefficients."""

    def field(t, x, shift=(0.0, 0.0)):
        alpha, dalpha, slope, _ = moments(path, t)
        return dalpha * MEAN + shift[0] + (slope + shift[1]) * (x - alpha * MEAN)

    return field


def every_pair():
    """Nodes of a quadrature that is exact to the seventh power of base, data and noise."""
    nodes, masses = np.polynomial.hermite_e.hermegauss(4)
    x0, x1, noise = jnp.asarray(list(itertools.product(nodes, repeat=3))).T[..., None]
    weights = jnp.asarray([np.prod(three) for three in itertools.product(masses, repeat=3)])
    return x0, MEAN + SCALE * x1, noise, weights


between = jax.vmap(interpolate, (None, 0, 0, 0, 0))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_between_gaussians_the_minimiser_is_known(path):
    def loss(shift, time):
        *rows, weights = every_pair()
        t = jnp.full(len(weights), time)
        x, u = between(path, t, *rows)
        errors = squared_errors(lambda t, x: exact_field(path)(t, x, shift), t, x, u)
        return weighted_mean(errors, weights)

    @jax.jit
    def measured(time):
        zero, away = jnp.zeros(2), jnp.asarray([0.7, -1.1])
        # Least squares from elsewhere: one Newton step solves it.
        step = jnp.linalg.solve(jax.hessian(loss)(away, time), jax.grad(loss)(away, time))
        return loss(zero, time), moments(path, time)[3], jax.grad(loss)(zero, time), away - step

    for time in (0.2, 0.7):
        value, least, gradient, solved = measured(jnp.asarray(time))
        np.testing.assert_allclose(value, least, rtol=1e-12)
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
        np.testing.assert_allclose(solved, 0, atol=1e-11)


@pytest.mark.parametrize(
    ("settings", "density"),
    [
        ({}, np.ones_like),
        ({"time": Power(2.0), "weight": lambda t: t, "path": Trigonometric()}, lambda t: 3 * t**3),
    ],
    ids=["default", "path, law and weight"],
)
def test_the_loss_of_the_exact_field_is_the_least(settings, density, key):
    objective = FlowMatching(coupling=independent, **settings)
    flow = jaxflow.CNF(exact_field(objective.path), jaxflow.StandardNormal((1,)))
    data_key, *keys = jax.random.split(key, 41)
    x = MEAN + SCALE * jax.random.normal(data_key, (40, 500, 1))
    losses = jax.jit(jax.vmap(lambda x, key: objective(flow, x, None, key)[0]))(x, jnp.stack(keys))
    losses = np.asarray(losses)
    nodes, masses = np.polynomial.legendre.leggauss(60)
    t = (1 + nodes) / 2
    least = np.asarray(jax.jit(jax.vmap(lambda t: moments(objective.path, t)[3]))(t)) * density(t)
    error = float(losses.std() / 40**0.5)
    assert error < 0.02 * float(losses.mean())
    # Times are kept from the ends, which moves the mean by about that share.
    margin = 4 * TIME_MARGIN * float(least.max())
    assert abs(float(losses.mean()) - float(least @ masses / 2)) < 5 * error + margin


@pytest.mark.parametrize(
    "coupling",
    [independent, OptimalTransport(), Swaps(), Sinkhorn()],
    ids=["independent", "exact", "swaps", "Sinkhorn"],
)
def test_conditions_stay_with_their_rows(coupling, key):
    # With c = x_1 the velocity of a straight line is (c - x) / (1 - t), for any base point.
    flow = jaxflow.CNF(lambda t, x, c: (c - x) / (1 - t), jaxflow.StandardNormal((3,)))
    x = jax.random.normal(key, (32, 3))
    loss, metrics = jax.jit(lambda x: FlowMatching(coupling=coupling)(flow, x, x, key))(x)
    assert float(loss) < 1e-20
    assert float(metrics["velocity"]) > 0.1


@pytest.mark.parametrize("coupling", [independent, Swaps()], ids=["independent", "swaps"])
def test_weights_are_repetitions(coupling, key):
    flow = jaxflow.CNF(lambda t, x, c: c * jnp.sin(3 * x) + t, jaxflow.StandardNormal((1,)))
    x = jax.random.normal(key, (6, 1))
    rows = jnp.asarray([0, 0, 1, 3, 4, 4])
    objective = FlowMatching(coupling=coupling)
    weights = jnp.asarray([2.0, 1.0, 0.0, 1.0, 2.0, 0.0])

    @jax.jit
    def losses(x):
        repeated = objective(flow, x[rows], x[rows] ** 2, key)
        return objective(flow, x, x**2, key, weights)[0], repeated[0]

    weighted, repeated = losses(x)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-14)


def test_rows_are_resampled_by_their_weights(key):
    keys = jax.random.split(key, 4000)
    weights = jnp.asarray([0.3, 0.0, 2.1, 0.7, 0.0])
    rows = np.asarray(jax.jit(jax.vmap(lambda key: resample(weights, key)))(keys))
    counts = (rows[..., None] == np.arange(5)).sum(axis=1)
    expected = 5 * np.asarray(weights) / float(weights.sum())
    assert np.abs(counts - expected).max() < 1
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=5 * 0.5 / 4000**0.5)
    ones = jnp.ones(1000, jnp.float32)
    np.testing.assert_array_equal(jax.jit(resample)(ones, key), np.arange(1000))


@pytest.mark.parametrize(
    ("law", "cdf"),
    [
        (uniform, lambda t: t),
        (Power(1.5), lambda t: t**2.5),
        (
            LogitNormal(0.3, 0.8),
            lambda t: stats.norm.cdf((np.log(t / (1 - t)) - 0.3) / 0.8),
        ),
    ],
    ids=["uniform", "power", "logit-normal"],
)
def test_times_follow_their_law(law, cdf, key):
    n = 400
    for stratified in (True, False):
        objective = FlowMatching(time=law, stratified=stratified)
        t = np.sort(jax.jit(lambda key, law=objective: law.times(key, n, jnp.float64))(key))
        inside = (t > TIME_MARGIN) & (t < 1 - TIME_MARGIN)
        gap = np.abs(cdf(t) - (np.arange(n) + 0.5) / n)[inside].max()
        # Evenly spread within half a step; drawn at random within the law of Kolmogorov.
        assert float(gap) <= (0.5 / n + 1e-12 if stratified else 2.2 / n**0.5)


def test_a_stratified_row_has_any_time(key):
    keys = jax.random.split(key, 2000)
    t = np.asarray(jax.jit(jax.vmap(lambda key: FlowMatching().times(key, 4, jnp.float64)))(keys))
    for moment in (1, 2, 3):
        np.testing.assert_allclose((t**moment).mean(axis=0), 1 / (moment + 1), atol=0.04)


def test_stratified_times_lower_the_variance_of_the_loss(key):
    flow = jaxflow.CNF(lambda t, x: 4 * t * jnp.ones_like(x), jaxflow.StandardNormal((1,)))
    x = jax.random.normal(key, (64, 1))
    keys = jax.random.split(key, 400)

    def losses(key):
        laws = (FlowMatching(coupling=independent, stratified=s) for s in (True, False))
        return jnp.stack([law(flow, x, None, key)[0] for law in laws])

    spread, drawn = np.asarray(jax.jit(jax.vmap(losses))(keys)).var(axis=0)
    assert spread < 0.6 * drawn


def test_any_base_and_event_shape(key):
    base = jaxflow.DiagonalNormal(jnp.full((2, 3), 1.5), jnp.full((2, 3), 0.1))
    x = jax.random.normal(key, (200, 2, 3))
    flow = jaxflow.CNF(lambda t, x: jnp.zeros_like(x), base)
    loss, metrics = jax.jit(lambda x: FlowMatching(coupling=independent)(flow, x, None, key))(x)
    np.testing.assert_allclose(loss, metrics["velocity"], rtol=1e-14)
    # |x_1 - x_0|^2 summed over six entries of variance 1.01 and mean 1.5.
    np.testing.assert_allclose(loss, 6 * (1.5**2 + 1.01), rtol=0.1)


def test_float32_rows_give_a_float32_loss(key):
    field = jaxflow.dynamics.Linear(matrix=jnp.eye(2, dtype=jnp.float32))
    flow = jaxflow.CNF(field, jaxflow.StandardNormal((2,)))
    x = jax.ShapeDtypeStruct((4, 2), jnp.float32)
    settings = [{"path": path} for path in PATHS.values()]
    settings += [{"coupling": coupling} for coupling in (OptimalTransport(), Swaps(), Sinkhorn())]
    for setting in settings:
        objective = FlowMatching(**setting)
        loss, _ = jax.eval_shape(lambda x, f=objective: f(flow, x, None, key), x)
        assert loss.dtype == jnp.float32


def test_settings_are_compared_by_value():
    one, two = (FlowMatching(path=Linear(1e-3), coupling=Swaps(), time=Power()) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)


class Affine(eqx.Module):
    """`a(t) + b(t) x` with polynomials of degree 7, in Legendre's basis."""

    coefficients: jax.Array

    def __call__(self, t, x):
        powers = [jnp.ones_like(t), u := 2 * t - 1]
        for k in range(1, 7):
            powers.append(((2 * k + 1) * u * powers[-1] - k * powers[-2]) / (k + 1))
        a, b = self.coefficients @ jnp.stack(powers)
        return a + b * x


def test_the_learned_field_is_the_closed_form(key):
    objective, base = FlowMatching(coupling=independent), jaxflow.StandardNormal((1,))
    x = MEAN + SCALE * jax.random.normal(key, (20_000, 1))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 600))

    def loss(field, i):
        rows = lax.dynamic_slice_in_dim(x, 500 * (i % 40), 500)
        return objective(jaxflow.CNF(field, base), rows, None, jax.random.fold_in(key, i))[0]

    def update(carry, i):
        field, state = carry
        gradient = jax.grad(loss)(field, i)
        with jax.numpy_dtype_promotion("standard"):
            changes, state = optimizer.update(gradient, state)
        return (eqx.apply_updates(field, changes), state), None

    @jax.jit
    def train(field):
        return lax.scan(update, (field, optimizer.init(field)), jnp.arange(600))[0][0]

    field = train(Affine(jnp.zeros((2, 8))))

    @jax.vmap
    def compare(t):
        slope, at_mean = moments(Linear(), t)[2], field(t, MEAN * t)
        return at_mean, field(t, MEAN * t + 1) - at_mean, slope

    at_mean, found, exact = jax.jit(compare)(jnp.linspace(0.05, 0.95, 10))
    np.testing.assert_allclose(at_mean, MEAN, atol=0.03)
    np.testing.assert_allclose(found, exact, atol=0.08)


def test_the_share_drop_of_the_rows_is_trained_without_its_condition(key):
    cond = jnp.ones((4000, 2))
    some = np.isnan(jax.jit(lambda cond: without_some(cond, 0.25, key))(cond))
    np.testing.assert_array_equal(some[:, 0], some[:, 1])
    assert some.mean() == pytest.approx(0.25, abs=0.03)
    # A field of size 100 where there is a condition, and 0 elsewhere.
    field = OptionalCondition(lambda t, x, cond: 100 * cond[:2], 2)
    flow = jaxflow.CNF(field, jaxflow.StandardNormal((2,)))
    loss, _ = jax.jit(lambda x: FlowMatching(drop=0.25)(flow, x, cond, key))(jnp.zeros((4000, 2)))
    assert float(loss) == pytest.approx(0.75 * 2e4, rel=0.04)


class TestRefused:
    def test_a_field_that_needs_its_condition(self, key):
        flow = jaxflow.CNF(lambda t, x, cond: x, jaxflow.StandardNormal((2,)))
        with pytest.raises(ValueError, match=r"drop=0.1 leaves conditions out, and the field"):
            FlowMatching(drop=0.1)(flow, jnp.zeros((3, 2)), jnp.zeros((3, 1)), key)

    def test_a_flow_without_a_field(self, key):
        flow = SimpleNamespace(base=jaxflow.StandardNormal((2,)))
        with pytest.raises(TypeError, match=r"SimpleNamespace has none: write jaxflow.CNF"):
            FlowMatching()(flow, jnp.zeros((3, 2)), None, key)

    def test_another_base_than_the_path_demands(self, key):
        base = jaxflow.DiagonalNormal(jnp.zeros(2), jnp.full(2, 3.0))
        flow = jaxflow.CNF(lambda t, x: x, base)
        with pytest.raises(ValueError, match=r"write base=jaxflow.StandardNormal\(\(2,\)\)"):
            FlowMatching(path=VariancePreserving())(flow, jnp.zeros((3, 2)), None, key)

    @pytest.mark.parametrize(
        ("settings", "error", "match"),
        [
            ({"path": lambda t: (1 - t, t)}, ValueError, r"alpha\(0\)=1"),
            ({"path": Linear}, TypeError, "must be a function of time"),
            ({"coupling": Swaps}, TypeError, r"Swaps.* is not a function: write coupling="),
            ({"drop": 1.0}, ValueError, r"drop=1.0 must lie in \[0, 1\)"),
            ({"time": Power}, TypeError, r"Power.* is not a function: write time="),
        ],
    )
    def test_settings(self, settings, error, match):
        with pytest.raises(error, match=match):
            FlowMatching(**settings)

    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: LogitNormal(std=0.0), "std=0.0 must be positive"),
            (lambda: Power(-1.0), "exponent=-1.0 must be above -1"),
        ],
    )
    def test_laws(self, make, match):
        with pytest.raises(ValueError, match=match):
            make()
