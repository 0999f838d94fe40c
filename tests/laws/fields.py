"""Every field of the library, small, with what it is to be evaluated at."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow.dynamics import ACTIVATIONS, MLP, ConcatSquash, Linear


class Case(NamedTuple):
    """A field, the shape of its events and the size of its condition."""

    field: Any
    event_shape: tuple[int, ...] = (5,)
    cond_dim: int = 0

    @property
    def cond(self):
        return jnp.linspace(-1.0, 2.0, self.cond_dim) if self.cond_dim else None

    def x(self, seed=0):
        return jax.random.normal(jax.random.key(seed), self.event_shape)


def grown(field):
    """The field with weights of ordinary size in every layer, biases among them."""
    leaves, structure = jax.tree.flatten(field)
    keys = jax.random.split(jax.random.key(17), len(leaves))
    pairs = zip(leaves, keys, strict=True)
    return structure.unflatten([w + 0.5 * jax.random.normal(k, w.shape) for w, k in pairs])


KEY = jax.random.key(3)


def swirl(t, x, cond=None):
    """A function with no closed form for its trace; events of any shape."""
    return jnp.sin(3 * x[..., ::-1] + t) * x + jnp.sum(x**3)


FIELDS = {
    **{f"mlp, {name}": Case(MLP(5, width=7, activation=name, key=KEY)) for name in ACTIVATIONS},
    "mlp, depth 1": Case(MLP(5, width=7, depth=1, key=KEY)),
    "mlp, depth 3": Case(MLP(5, width=7, depth=3, key=KEY)),
    "mlp, own activation": Case(MLP(5, width=7, activation=jnp.arctan, key=KEY)),
    "mlp, time in the first": Case(MLP(5, width=7, time="first", key=KEY)),
    "mlp, condition": Case(MLP(5, width=7, cond_dim=3, key=KEY), cond_dim=3),
    "mlp, condition in the first": Case(
        MLP(5, width=7, depth=1, cond_dim=3, time="first", key=KEY), cond_dim=3
    ),
    "mlp, matrix events": Case(MLP(12, width=7, key=KEY), (3, 4)),
    "mlp, scalar events": Case(MLP(1, width=7, key=KEY), ()),
    **{
        f"concatsquash, depth {n}": Case(ConcatSquash(5, width=7, depth=n, key=KEY))
        for n in (1, 2, 3)
    },
    "concatsquash, condition": Case(ConcatSquash(5, width=7, cond_dim=3, key=KEY), cond_dim=3),
    "concatsquash, matrix events": Case(
        ConcatSquash(12, width=7, depth=1, activation="swish", key=KEY), (3, 4)
    ),
    "linear": Case(Linear(5, key=KEY)),
    "linear, condition": Case(Linear(5, cond_dim=3, key=KEY), cond_dim=3),
    "linear, matrix events": Case(Linear(12, key=KEY), (3, 4)),
}
FIELDS = {name: case._replace(field=grown(case.field)) for name, case in FIELDS.items()}
FIELDS["function"] = Case(swirl)
FIELDS["function, matrix events"] = Case(swirl, (3, 4))
