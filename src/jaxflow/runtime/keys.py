"""Random keys of jax as seeds of NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray


def check_key(key: Any) -> None:
    """Raise TypeError unless it is a random key of jax, typed or as words."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (dtype == np.uint32 or jnp.issubdtype(dtype, jax.dtypes.prng_key)):
        raise TypeError(f"key={key!r:.80} is no random key: write jax.random.key(0)")


def numpy_rng(key: PRNGKeyArray) -> np.random.Generator:
    """A NumPy generator seeded by a random key of jax."""
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,), np.uint32)))


def seed_words(key: PRNGKeyArray) -> tuple[int, ...]:
    """The words of a key, to seed generators on the host."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return tuple(int(word) for word in np.asarray(jax.random.key_data(key) if typed else key))


def host_seed(key: PRNGKeyArray) -> int:
    """One seed from the words of a key, for splits and other draws on the host."""
    return sum(seed_words(key)) % 2**32
