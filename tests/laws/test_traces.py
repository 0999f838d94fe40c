"""Every way to an exact trace gives the trace of the dense Jacobian, for every field."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import FIELDS

from jaxflow.dynamics import Linear
from jaxflow.trace import (
    exact_trace,
    has_closed_form,
    hutchinson_trace,
    jacobian_trace,
    prepare,
)

T = jnp.asarray(0.37)
DEEP = {
    "present entries",
    *("mlp, depth 3", "concatsquash, depth 3", "function", "function, matrix events"),
    *("gated function", "sum with a function", "residual, condition, matrix events"),
    *("on a torus", "on a product"),
    *("convolutional", "convolutional, condition, circular"),
    *("unet, condition", "dit, condition"),
}


# Fields that take seconds to compile.
SLOW = {"unet, condition", "dit, condition"}
# Fields whose traces are found as those of others are.
ALIKE = {
    # All activations by themselves: `tests/dynamics/test_activations.py`.
    *(f"mlp, {name}" for name in ("softplus", "swish", "gelu", "sigmoid")),
    *("mlp, condition in the first", "concatsquash, depth 2", "potential, depth 2"),
    *("hollow, depth 1", "hollow, depth 3", "sum, matrix events", "optional condition"),
    "location and scale, matrix events",
    "on a sphere, condition",
}


def names(slow):
    """The names of all fields, some of them marked as slow."""
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in slow)) for n in FIELDS]
    )


def as_float32(tree):
    return jax.tree.map(lambda w: w.astype(jnp.float32) if eqx.is_array(w) else w, tree)


def all_ways(case):
    """`f` and the trace by every way, as one compiled function of time."""

    @jax.jit
    def compute(t, x, cond):
        def value(x):
            return case.field(t, x) if cond is None else case.field(t, x, cond)

        size = x.size
        jacobian = jax.jacfwd(value)(x).reshape(size, size)
        prepared = prepare(case.field)
        # Probes that are scaled unit vectors leave nothing to chance: sum_i e_i^T J e_i.
        probes = size**0.5 * jnp.eye(size).reshape(size, *x.shape)
        ways = {
            "exact": exact_trace(case.field, t, x, cond),
            "prepared": exact_trace(prepared, t, x, cond),
            "probes": hutchinson_trace(case.field, t, x, probes, cond),
            "prepared field": (prepared(t, x, cond) if cond is not None else prepared(t, x),),
        }
        for chunk in (2, size):
            ways[f"chunks of {chunk}"] = jacobian_trace(case.field, t, x, cond, chunk=chunk)
        single = exact_trace(*map(as_float32, (case.field, t, x, cond)))
        return value(x), jnp.trace(jacobian), ways, single

    return lambda t: compute(t, case.x(), case.cond)


def check_traces(case):
    """Hold a field to the trace of its dense Jacobian, to its time and to its precision."""
    compute = all_ways(case)
    answers = (jax.tree.map(np.asarray, compute(t)) for t in (T, T + 1.0))
    (f, trace, ways, single), (later, later_trace, *_) = answers
    assert abs(trace) > 1e-3
    if not isinstance(case.field, Linear):
        assert np.max(np.abs(later - f)) > 1e-3
        assert abs(later_trace - trace) > 1e-3
    for value, exact in zip(single, (f, trace), strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, exact, rtol=1e-4, atol=1e-4, err_msg="float32")
    for way, answer in ways.items():
        np.testing.assert_allclose(answer[0], f, rtol=1e-12, atol=1e-13, err_msg=way)
        if len(answer) == 2:
            np.testing.assert_allclose(answer[1], trace, rtol=1e-10, atol=1e-10, err_msg=way)


@names(SLOW | ALIKE)
def test_fields_and_traces_obey_the_law(name):
    check_traces(FIELDS[name])


@names(SLOW)
def test_which_fields_bring_a_closed_form(name):
    field = FIELDS[name].field
    assert has_closed_form(field) == (name not in DEEP)
    if name in DEEP:
        assert getattr(field, "with_trace", None) is None
        assert prepare(field) is field


@pytest.mark.parametrize(
    "name",
    [
        *("mlp, condition", "concatsquash, condition"),
        *("potential, depth 3", "potential, matrix events"),
    ],
)
def test_gradients_of_the_trace_in_weights_and_time(name):
    case = FIELDS[name]

    def closed(field, t):
        return exact_trace(prepare(field), t, case.x(), case.cond)[1]

    def brute(field, t):
        return jacobian_trace(field, t, case.x(), case.cond)[1]

    one, other = (jax.jit(jax.grad(f, argnums=(0, 1)))(case.field, T) for f in (closed, brute))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), one, other)
