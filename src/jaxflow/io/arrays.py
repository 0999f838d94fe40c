"""Arrays as safetensors stores them, bit for bit, and the JSON entry that describes each.

An entry has `dtype`, `shape` and `kind` (jax, numpy or scalar), `impl` for PRNG keys, and `weak`
for JAX arrays of weak type.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Each dtype, and the dtype that stores it: one that every safetensors reader knows. A complex
# number is stored as two reals, a bfloat16 as the integer with the same bits.
STORED = {
    **{name: name for name in ("bool", "int8", "int16", "int32", "int64")},
    **{name: name for name in ("uint8", "uint16", "uint32", "uint64")},
    **{name: name for name in ("float16", "float32", "float64")},
    **{"bfloat16": "uint16", "complex64": "float32", "complex128": "float64"},
}
_64_BITS = ("int64", "uint64", "float64", "complex128")
# Dtypes of Python scalars, the source of weak types.
_WEAK = ("int32", "int64", "float32", "float64", "complex64", "complex128")

# The JSON entry of an array; the entries and the stored arrays of a file, by name.
Entry = Mapping[str, Any]
Entries = Mapping[str, Entry]
Arrays = Mapping[str, np.ndarray]


def is_array(x: Any) -> bool:
    """Whether `x` is an array, or a `jax.ShapeDtypeStruct` that stands for one."""
    return isinstance(x, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def as_dtype(name: str) -> np.dtype:
    """The dtype of a name in `STORED`."""
    return np.dtype(getattr(jnp, "bool_" if name == "bool" else name))


def describe(x: Any, name: str) -> dict[str, Any]:
    """The JSON entry of the array `x`."""
    kind = "numpy" if isinstance(x, np.ndarray) else "jax"
    kind = "scalar" if isinstance(x, np.generic) else kind
    is_key = _is_key(x)
    dtype = str(x.dtype) if is_key else x.dtype.name
    entry = {"dtype": dtype, "shape": list(x.shape), "kind": kind}
    if is_key:
        return entry | ({"impl": str(jax.random.key_impl(x))} if isinstance(x, jax.Array) else {})
    if dtype not in STORED:
        raise TypeError(
            f"'{name}' is an array of dtype {dtype}, which cannot be written; "
            f"allowed are PRNG keys, {', '.join(STORED)}"
        )
    is_weak = getattr(x, "weak_type", False) and dtype in _WEAK
    return entry | ({"weak": True} if is_weak else {})


def pack(x: Any, name: str) -> np.ndarray:
    """The array that stores `x`."""
    if isinstance(x, jax.ShapeDtypeStruct):
        raise TypeError(f"'{name}' is a jax.ShapeDtypeStruct, a shape without values to write")
    array = np.asarray(jax.random.key_data(x) if _is_key(x) else x)
    # Not np.ascontiguousarray, which makes a 0-d array 1-d.
    array = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    stored = np.dtype(STORED[array.dtype.name])
    if stored == array.dtype:
        return array
    return array.reshape(-1).view(stored).reshape(_stored_shape(array.shape, array.dtype.name))


def unpack(stored: np.ndarray, entry: Entry, name: str, like: Entry) -> Any:
    """The array that `pack` stored, of JAX or NumPy and weak or not as the entry `like` says."""
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    mismatch = ValueError(
        f"'{name}' is stored as {stored.dtype} of shape {stored.shape}, but its description says "
        f"{dtype} of shape {shape}"
    )
    if "impl" in entry:
        if stored.dtype != np.uint32 or stored.shape[: len(shape)] != shape:
            raise mismatch
        try:
            keys = jax.random.wrap_key_data(jnp.array(stored), impl=entry["impl"])
        except (TypeError, ValueError) as error:
            raise mismatch from error
        if keys.shape != shape or str(keys.dtype) != dtype:
            raise mismatch
        return keys
    if stored.dtype.name != STORED.get(dtype) or stored.shape != _stored_shape(shape, dtype):
        raise mismatch
    array = stored.reshape(-1).view(as_dtype(dtype)).reshape(shape)
    if like["kind"] == "numpy":
        return array.copy()
    if like["kind"] == "scalar":
        return array[()]
    if dtype in _64_BITS and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"'{name}' is {dtype} and JAX would round it to 32 bits; call "
            'jax.config.update("jax_enable_x64", True) before loading'
        )
    if not like.get("weak", False):
        return jnp.array(array)
    # Only Python scalars make weak types, of the width that the x64 mode sets.
    with jax.enable_x64(dtype in _64_BITS):
        return jnp.full(shape, array.dtype.type(0).item()).at[...].set(array)


def _is_key(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def _stored_shape(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    return (*shape, 2) if dtype.startswith("complex") else shape
