"""Every field of the library, in small, with its event shape and condition."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.dynamics import (
    ACTIVATIONS,
    MLP,
    ConcatSquash,
    Convolutional,
    DiT,
    EncodedCondition,
    Gated,
    GuidedField,
    Hollow,
    Linear,
    LocationScale,
    OnManifold,
    OptionalCondition,
    Potential,
    Residual,
    Sum,
    UNet,
)
from jaxflow.manifolds import Euclidean, Product, Projective, Sphere, Torus
from jaxflow.tables.continuous import Present


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
    """The field with random weights and biases of ordinary size in every layer.

    A field may be given by the shapes of its weights alone, which takes no time to make.
    """
    rng = np.random.default_rng(17)

    def grow(w):
        if not eqx.is_inexact_array(w) and not isinstance(w, jax.ShapeDtypeStruct):
            return w
        start = 0.0 if isinstance(w, jax.ShapeDtypeStruct) else np.asarray(w)
        return jnp.asarray(start + 0.5 * rng.normal(size=w.shape), w.dtype)

    return jax.tree.map(grow, field)


KEY = jax.random.key(3)
OTHER = jax.random.key(4)


def swirl(t, x, cond=None):
    """A function with no closed form for its trace; events of any shape."""
    return jnp.sin(3 * x[..., ::-1] + t) * x + jnp.sum(x**3)


def table():
    return {
        **{
            f"mlp, {name}": Case(MLP(5, width=7, activation=name, key=KEY)) for name in ACTIVATIONS
        },
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
        # J_i is dense here; with matrix events, its left factor and a Gram matrix.
        **{
            f"potential, depth {n}": Case(Potential(5, width=7, depth=n, key=KEY))
            for n in (1, 2, 3)
        },
        "potential, condition": Case(
            Potential(5, width=7, depth=2, cond_dim=3, rank=2, key=KEY), cond_dim=3
        ),
        "potential, matrix events": Case(Potential(12, width=3, depth=3, key=KEY), (3, 4)),
        "potential, scalar events": Case(Potential(1, width=7, depth=2, key=KEY), ()),
        **{f"hollow, depth {n}": Case(Hollow(5, width=7, depth=n, key=KEY)) for n in (1, 2, 3)},
        "hollow, condition": Case(
            Hollow(5, width=4, cond_dim=3, activation="softplus", key=KEY), cond_dim=3
        ),
        "hollow, matrix events": Case(Hollow(12, width=15, features=2, key=KEY), (3, 4)),
        "hollow, scalar events": Case(Hollow(1, width=3, key=KEY), ()),
        "gated": Case(Gated(MLP(5, width=7, key=KEY), key=OTHER)),
        "gated, condition": Case(
            Gated(Hollow(5, width=4, cond_dim=3, key=KEY), key=OTHER), cond_dim=3
        ),
        "sum": Case(
            Sum(
                (
                    Gated(MLP(5, width=7, depth=1, key=KEY), key=OTHER),
                    Gated(Potential(5, width=7, key=KEY), key=KEY),
                    Linear(5, key=OTHER),
                )
            )
        ),
        "sum, condition": Case(
            Sum((ConcatSquash(5, width=7, cond_dim=3, key=KEY), Linear(5, cond_dim=3, key=OTHER))),
            cond_dim=3,
        ),
        "sum, matrix events": Case(
            Sum([Linear(12, key=KEY), MLP(12, width=7, key=OTHER)]), (3, 4)
        ),
        "residual, condition, matrix events": Case(
            Residual(12, width=7, depth=2, cond_dim=3, key=KEY), (3, 4), cond_dim=3
        ),
        "convolutional": Case(Convolutional((4, 3, 2), width=3, depth=2, key=KEY), (4, 3, 2)),
        "convolutional, condition, circular": Case(
            Convolutional((3, 3, 1), width=2, depth=1, cond_dim=3, padding="circular", key=KEY),
            (3, 3, 1),
            cond_dim=3,
        ),
        "unet, condition": Case(
            UNet((4, 4, 1), width=2, cond_dim=3, key=KEY), (4, 4, 1), cond_dim=3
        ),
        "dit, condition": Case(
            DiT((4, 2, 1), patch=2, width=4, depth=1, heads=2, cond_dim=3, key=KEY),
            (4, 2, 1),
            cond_dim=3,
        ),
        "guided": Case(
            GuidedField(OptionalCondition(MLP(5, width=7, cond_dim=4, key=KEY), 3), 2.0),
            cond_dim=3,
        ),
        "optional condition": Case(
            OptionalCondition(MLP(5, width=7, cond_dim=4, key=KEY), 3), cond_dim=3
        ),
        "location and scale": Case(
            LocationScale(MLP(5, width=7, cond_dim=10, key=KEY)), cond_dim=10
        ),
        "location and scale, matrix events": Case(
            LocationScale(MLP(12, width=7, cond_dim=25, key=KEY)), (3, 4), cond_dim=25
        ),
        "encoded condition": Case(
            EncodedCondition(MLP(5, width=7, cond_dim=3, key=KEY), jnp.sin), cond_dim=3
        ),
        "on a sphere": Case(OnManifold(MLP(6, width=7, key=KEY), Sphere(5)), (6,)),
        "on a sphere, condition": Case(
            OnManifold(MLP(3, width=7, cond_dim=3, key=KEY), Sphere(2)), (3,), cond_dim=3
        ),
        "on a torus": Case(OnManifold(MLP(10, width=7, key=KEY), Torus(5))),
        "on a product": Case(
            OnManifold(MLP(12, width=7, key=KEY), Product(Projective(2), Torus(1), Euclidean(1)))
        ),
        "on a place, an angle and numbers": Case(
            OnManifold(MLP(7, width=7, key=KEY), Product(Sphere(2), Torus(1), Euclidean(2))), (6,)
        ),
        "present entries": Case(Present(MLP(5, width=7, cond_dim=7, key=KEY)), cond_dim=7),
        "linear": Case(Linear(5, key=KEY)),
        "linear, condition": Case(Linear(5, cond_dim=3, key=KEY), cond_dim=3),
        "linear, matrix events": Case(Linear(12, key=KEY), (3, 4)),
        "function": Case(swirl),
        "function, matrix events": Case(swirl, (3, 4)),
        "gated function": Case(Gated(swirl, key=KEY)),
        "sum with a function": Case(Sum((MLP(5, width=7, key=KEY), swirl))),
    }


FIELDS = {
    name: case._replace(field=grown(case.field))
    for name, case in eqx.filter_eval_shape(table).items()
}
