"""A flow whose density has a closed form: a normal distribution whose mean follows a condition."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxflow import CNF, ODE, StandardNormal
from jaxflow.dynamics import Linear

# Fixed steps compile fast; their error is below 1e-9 for the scales used with them.
STEPS = ODE(solver="rk4", num_steps=64, gradient="direct")


def conditional_normal(scale=0.5, slope=2.0, ode_eval=STEPS, **parts):
    """`x | c ~ N(slope c, scale^2)` in flow space: `dx/dt = a x + b c` with `e^a = scale`."""
    a = math.log(scale)
    field = Linear(matrix=jnp.asarray([[a]]), cond_dim=1, key=jax.random.key(0))
    weight = jnp.full((1, 1), slope * a / (scale - 1))
    field = eqx.tree_at(lambda field: field.cond, field, weight)
    return CNF(field, parts.pop("base", StandardNormal(1)), ode_eval=ode_eval, **parts)
