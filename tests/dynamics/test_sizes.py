"""Sizes may be integers of any kind, and a field made with them is the same field."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.dynamics import (
    MLP,
    ConcatSquash,
    Hollow,
    Linear,
    OptionalCondition,
    Potential,
    Residual,
)
from jaxflow.io.serialisation import encode
from jaxflow.transforms import CellNoise

KEY = jax.random.key(3)
SIZES = {
    "mlp": lambda n: MLP(n(4), width=n(3), depth=n(2), cond_dim=n(2), key=KEY),
    "concatsquash": lambda n: ConcatSquash(n(4), width=n(3), depth=n(2), cond_dim=n(2), key=KEY),
    "hollow": lambda n: Hollow(
        n(4), width=n(3), depth=n(2), features=n(2), transformer_width=n(3), key=KEY
    ),
    "potential": lambda n: Potential(n(4), width=n(3), depth=n(2), rank=n(2), key=KEY),
    "residual": lambda n: Residual(n(4), width=n(3), depth=n(2), outputs=n(2), key=KEY),
    "linear": lambda n: Linear(n(4), cond_dim=n(2), key=KEY),
    "optional": lambda n: OptionalCondition(lambda t, x, cond: x, n(2)),
    "noise": lambda n: CellNoise(jnp.arange(8.0).reshape(4, 2), width=n(3), depth=n(2), key=KEY),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_may_be_integers_of_numpy(name):
    field, expected = SIZES[name](np.int64), SIZES[name](int)
    if name != "optional":
        assert jax.tree.structure(field) == jax.tree.structure(expected)
        assert eqx.tree_equal(field, expected)
        assert json.dumps(encode(field)[0]) == json.dumps(encode(expected)[0])
    else:
        assert type(field.cond_dim) is int


def test_the_product_of_an_event_shape_is_a_size():
    assert type(MLP(np.prod((2, 2)), key=KEY).dim) is int
    for value in (True, 0, np.ones(1, int)):
        with pytest.raises(ValueError, match=r"dim=.* must be an integer >= 1"):
            MLP(value, key=KEY)
