"""`check_trace` accepts a right closed form and names the worst row of a wrong one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from jaxflow.diagnostics import check_trace
from jaxflow.dynamics import MLP


class Cubic(eqx.Module):
    """`f = a x^3`, whose trace is `3 a sum(x^2)`; wrong by `off` where x_0 > 1."""

    a: float = 2.0
    off: float = 0.0

    def __call__(self, t, x, cond=None):
        return self.a * x**3 + t

    def with_trace(self, t, x, cond=None):
        trace = 3 * self.a * jnp.sum(x**2)
        return self(t, x), trace + jnp.where(x.ravel()[0] > 1, self.off, 0.0)


X = jnp.asarray([[0.1, 0.2], [2.0, 0.3], [0.5, -1.0]])


def test_a_right_trace_passes_with_its_error():
    assert check_trace(Cubic(), X) < 1e-14
    assert check_trace(Cubic(), jnp.ones((4, 2, 3))) < 1e-14
    assert check_trace(Cubic(), X.astype(jnp.float32)) < 1e-6


def test_conditions_reach_the_field(key):
    field = MLP(2, width=4, cond_dim=3, key=key)
    assert check_trace(field, X, jax.random.normal(key, (3, 3))) < 1e-12


def test_a_wrong_trace_names_the_worst_row():
    with pytest.raises(ValueError, match=r"(?s)trace of with_trace of Cubic.*row 1 at t=0"):
        check_trace(Cubic(off=1e-6), X)


def test_a_wrong_value_or_preparation_is_found():
    class Value(Cubic):
        def with_trace(self, t, x, cond=None):
            f, trace = super().with_trace(t, x)
            return f + 1e-6 * x.ravel()[0], trace

    class Prepared(Cubic):
        def prepare(self):
            return Cubic(self.a, off=1e-6)

    class Broken(Cubic):
        def with_trace(self, t, x, cond=None):
            return self(t, x), jnp.nan * x.ravel()[0]

    with pytest.raises(ValueError, match=r"value of with_trace of Value"):
        check_trace(Value(), X)
    with pytest.raises(ValueError, match=r"trace of prepare\(\)\.with_trace of Prepared"):
        check_trace(Prepared(), X)
    with pytest.raises(ValueError, match=r"by nan"):
        check_trace(Broken(), X)


def test_fields_without_trace_and_bad_rows_are_refused():
    with pytest.raises(ValueError, match=r"field=function has no with_trace to check"):
        check_trace(lambda t, x: x, X)
    with pytest.raises(ValueError, match=r"x has shape \(0, 2\).*floating-point rows"):
        check_trace(Cubic(), jnp.ones((0, 2)))
