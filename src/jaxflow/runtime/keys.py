"""Random keys of jax as seeds of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray


def numpy_rng(key: PRNGKeyArray) -> np.random.Generator:
    """A NumPy generator seeded by a random key of jax."""
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,), np.uint32)))


def seed_words(key: PRNGKeyArray) -> tuple[int, ...]:
    """The words of a key, to seed generators on the host."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return tuple(int(word) for word in np.asarray(jax.random.key_data(key) if typed else key))


def host_seed(key: PRNGKeyArray) -> int:
    """The words of a key as one seed, such as that by which rows are held out."""
    return sum(seed_words(key)) % 2**32
