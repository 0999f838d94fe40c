"""Arguments: states of any structure and precision, contents of args, and errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.ode import ODE, odeint, odeint_many

SMALL = ODE(solver="bosh3", rtol=1e-6, atol=1e-6)
FIXED = ODE(solver="midpoint", num_steps=50)


def decay(t, y, _):
    return jax.tree.map(lambda y: -y, y)


def test_a_state_of_any_structure():
    y0 = {"a": (jnp.ones(2), jnp.asarray(2.0)), "b": [jnp.ones((0, 3)), jnp.ones((2, 1, 2))]}
    y1, _ = odeint(decay, y0, 0.5, 1.5, ode=SMALL)
    assert jax.tree.structure(y1) == jax.tree.structure(y0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, np.exp(-1) * np.asarray(b), rtol=1e-5), y1, y0
    )


@pytest.mark.parametrize("ode", [SMALL, FIXED], ids=["adaptive", "fixed"])
def test_leaves_of_different_precision_keep_it(ode):
    y0 = {"single": jnp.ones(2, jnp.float32), "double": jnp.ones(3)}

    def first(y0):
        y1, _ = odeint(decay, y0, 0.5, 1.5, ode=ode)
        return y1["double"][0] + y1["single"][0].astype(float), y1

    (_, y1), slopes = jax.jit(jax.value_and_grad(first, has_aux=True))(y0)
    for tree in (y1, slopes):
        assert {name: leaf.dtype.name for name, leaf in tree.items()} == {
            "single": "float32",
            "double": "float64",
        }
    np.testing.assert_allclose(y1["double"], np.exp(-np.ones(3)), rtol=1e-2)
    np.testing.assert_allclose(slopes["double"], [np.exp(-1), 0, 0], rtol=1e-2)


@pytest.mark.parametrize("ode", [SMALL, FIXED], ids=["adaptive", "fixed"])
def test_float32_stays_float32(ode):
    ys, stats = odeint(decay, jnp.ones(2, jnp.float32), 0.5, 1.5, ode=ode, save_at=[1.0, 1.5])
    assert ys.dtype == stats.t.dtype == jnp.float32
    np.testing.assert_allclose(ys[:, 0], np.exp([-0.5, -1.0]), rtol=1e-3)


@pytest.mark.parametrize("ode", [SMALL, FIXED], ids=["adaptive", "fixed"])
def test_a_state_without_rows(ode):
    y0 = jnp.zeros((0, 3))

    def total(y0):
        y1, _ = odeint(decay, y0, 0.0, 2.0, ode=ode)
        return jnp.sum(y1), y1

    slope, y1 = jax.jit(jax.grad(total, has_aux=True))(y0)
    assert y1.shape == slope.shape == (0, 3)


def test_solving_back_inverts():
    def f(t, y, _):
        return jnp.stack([jnp.sin(y[1] + t), -y[0] * t])

    ode = ODE(rtol=1e-10, atol=1e-10)
    y0 = jnp.asarray([0.3, -1.1])
    y1, _ = odeint(f, y0, -0.6, 1.7, ode=ode)
    back, _ = odeint(f, y1, 1.7, -0.6, ode=ode)
    assert float(jnp.max(jnp.abs(y1 - y0))) > 0.1
    np.testing.assert_allclose(back, y0, atol=1e-8)


@pytest.mark.quick("adaptive-checkpointed", "fixed-adjoint")
@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
@pytest.mark.parametrize("steps", [SMALL, FIXED], ids=["adaptive", "fixed"])
def test_args_may_hold_integers_keys_functions_and_words(gradient, steps):
    ode = ODE(
        solver=steps.solver, num_steps=steps.num_steps, rtol=1e-6, atol=1e-6, gradient=gradient
    )
    args = {
        "rate": jnp.asarray(0.3),
        "power": jnp.asarray(2),
        "key": jax.random.key(0),
        "shape": jnp.tanh,
        "word": "tanh",
        "none": None,
        "on": True,
    }

    def f(t, y, args):
        noise = 0.0 * jax.random.normal(args["key"], y.shape)
        assert args["word"] == "tanh"
        return args["rate"] * args["power"].astype(float) * y + 0.0 * args["shape"](y) + noise

    @eqx.filter_jit
    @eqx.filter_grad
    def slopes(args):
        return odeint(f, 1.0, 0.5, 1.5, args, ode=ode)[0]

    slope = slopes(args)
    # y1 = exp(2 rate)
    assert float(slope["rate"]) == pytest.approx(2 * np.exp(0.6), rel=1e-3)


def test_constants_may_be_closed_over():
    rate = jnp.asarray(0.4)

    @jax.jit
    @jax.value_and_grad
    def solve(y0):
        return odeint(lambda t, y, _: rate * y, y0, 0.5, 1.5, ode=SMALL)[0]

    y1, slope = solve(2.0)
    assert float(y1) == pytest.approx(2 * np.exp(0.4), rel=1e-5)
    assert float(slope) == pytest.approx(np.exp(0.4), rel=1e-5)


REFUSED_FIELDS = {
    "structure": (lambda t, y, _: (y, y), "f returned the structure"),
    "shape": (lambda t, y, _: y[:1], r"f returned float64\[1\] for y0 of float64\[2\]"),
    "rank": (lambda t, y, _: jnp.sum(y), r"f returned float64\[\] for y0 of float64\[2\]"),
    "dtype": (lambda t, y, _: y.astype("float32"), r"f returned float32\[2\].*must agree: cast"),
}


@pytest.mark.parametrize(("f", "words"), REFUSED_FIELDS.values(), ids=REFUSED_FIELDS)
def test_a_field_that_does_not_match_the_state_is_refused(f, words):
    with pytest.raises(TypeError, match=words):
        odeint(f, jnp.ones(2), 0.0, 1.0)


def test_the_leaf_that_does_not_match_is_named():
    def f(t, y, _):
        return {"a": y["a"], "b": y["b"][None]}

    with pytest.raises(TypeError, match=r"for y0\['b'\] of float64\[3\]"):
        odeint(f, {"a": jnp.ones(2), "b": jnp.ones(3)}, 0.0, 1.0)


@pytest.mark.parametrize("y0", [1, jnp.arange(3), jnp.asarray([True]), 1j])
def test_a_state_that_is_not_floating_point_is_refused(y0):
    with pytest.raises(TypeError, match=r"y0 has dtype .*write jnp.asarray\(y0, float\)"):
        odeint(decay, y0, 0.0, 1.0)


def test_a_state_without_arrays_is_refused():
    with pytest.raises(ValueError, match="y0 holds no array"):
        odeint(decay, {}, 0.0, 1.0)


@pytest.mark.parametrize("name", ["t0", "t1"])
def test_a_time_that_is_not_finite_is_refused(name):
    t0, t1 = (jnp.nan, 1.0) if name == "t0" else (0.0, jnp.nan)
    with pytest.raises(ValueError, match=f"{name}=nan must be finite"):
        odeint(decay, 1.0, t0, t1)  # pyright: ignore[reportArgumentType]


SETTINGS = {
    "solver": ({"solver": "rk5"}, r"solver='rk5' is unknown; choose one of 'euler', .*'tsit5'"),
    "negative steps": ({"num_steps": -1}, "num_steps=-1 must be"),
    "no steps": ({"num_steps": 0}, "num_steps=0 must be"),
    "broken steps": ({"num_steps": 2.5}, r"2\.5"),
    "dt": ({"dt": 0.0}, "dt=0.0 must be positive.*t1 < t0"),
    "negative dt": ({"dt": -0.1}, "dt=-0.1 must be positive"),
    "dt is nan": ({"dt": float("nan")}, "dt=nan must be positive"),
    "both": ({"dt": 0.1, "num_steps": 3}, "num_steps=3 and dt=0.1 both set the steps"),
    "max_steps": ({"max_steps": 0}, "max_steps=0 must be"),
    "max_step": ({"max_step": 0.0}, "max_step=0.0 must be a positive share"),
    "max_step is nan": ({"max_step": float("nan")}, "max_step=nan must be a positive share"),
    "fixed": ({"max_step": 0.1, "num_steps": 3}, "max_step=0.1 limits adaptive.*num_steps=3"),
    "short": ({"max_step": 0.1, "max_steps": 9}, "max_steps=9 steps of at most max_step=0.1"),
    "rtol": ({"rtol": -1e-3}, "rtol=-0.001 and atol=1e-05 must not be negative"),
    "no tolerance": ({"rtol": 0.0, "atol": 0.0}, "nor both 0"),
    "rtol is nan": ({"rtol": float("nan")}, "rtol=nan"),
    "gradient": ({"gradient": "backprop"}, r"(?s)gradient.*'backprop'"),
    "no error": ({"solver": "rk4"}, r"solver='rk4' estimates no error.*num_steps=.*'dopri5'"),
}


@pytest.mark.parametrize(("settings", "words"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_are_refused(settings, words):
    with pytest.raises((ValueError, TypeError), match=words):
        ODE(**settings)


def test_a_fraction_of_a_step_is_refused_without_type_checks_too():
    ode = ODE(num_steps=2)
    # Bypasses the type checks of the tests, which users do not have.
    object.__setattr__(ode, "num_steps", 2.5)
    with pytest.raises((ValueError, TypeError), match=r"num_steps=2.5"):
        ode.__post_init__()


def test_settings_are_frozen_and_hashable():
    assert hash(ODE(rtol=1e-3)) == hash(ODE(rtol=1e-3))
    assert ODE(rtol=1e-3) != ODE(rtol=1e-4)
    with pytest.raises(AttributeError):
        ODE().rtol = 1e-3  # pyright: ignore[reportAttributeAccessIssue]


def test_tolerances_below_rounding_are_refused():
    ode = ODE(rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"below the rounding of float32.*solve in float64"):
        odeint(decay, jnp.ones(2, jnp.float32), 0.0, 1.0, ode=ode)


def test_reverse_mode_through_adaptive_steps_directly_is_refused():
    ode = ODE(gradient="direct")
    with pytest.raises(
        RuntimeError, match=r"reverse-mode derivatives .* leave out gradient=Direct"
    ):
        jax.grad(lambda y0: odeint(decay, y0, 0.0, 1.0, ode=ode)[0])(1.0)


@pytest.mark.parametrize(("t0", "t1"), [(1e8, 1e8 + 1), (2e7, 2e7 + 3.5), (1.7e9 + 5, 1.7e9)])
def test_times_that_the_precision_of_the_state_does_not_tell_apart_are_refused(t0, t1):
    y0 = jnp.ones(2, jnp.float32)
    with pytest.raises(
        ValueError, match=r"float32 rounds the interval of length .* with f\(t \+ t0"
    ):
        odeint(lambda t, y, args: -y, y0, t0, t1)
    with pytest.raises(ValueError, match="float32 rounds the interval"):
        odeint_many(lambda t, y, args: -y, y0, np.asarray([t0, 0.0]), np.asarray([t1, 1.0]))
    with pytest.raises(ValueError, match="save_at: float32 rounds the interval"):
        odeint(lambda t, y, args: -y, y0, 0.0, 2 * t0, save_at=[t0, t1] if t1 > t0 else [t1, t0])
    y1, _ = odeint(lambda t, y, args: -y, jnp.ones(2), t0, t1)
    np.testing.assert_allclose(y1, np.exp(t0 - t1), rtol=1e-4)
