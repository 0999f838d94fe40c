"""A tree of modules as one JSON value and named arrays, and back, running no code of the file's.

The JSON value mirrors the tree: plain values stand for themselves, anything else is an object
whose keys say what it is, for example `{"class": "MLP", "module": "jaxflow.dynamics.mlp",
"fields": {...}}`, `{"tuple": [...]}` or `{"array": "field.layers.0.weight"}`. What is known of an
array (dtype, shape, whose it is) stands beside the tree, in a table with one entry a name.
"""

import dataclasses
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.runtime.moved import new_module

_OURS = re.compile(r"jaxflow(\.[A-Za-z]\w*)*")

# What an array is stored as. Every safetensors reader knows the dtypes on the right; other
# arrays are viewed as one of them, bit for bit (a complex number as two reals).
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_SMALL = (
    *("int2", "int4", "uint2", "uint4", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
_STORED = {
    **{name: name for name in ["bool", *_INTEGERS, "float16", "float32", "float64"]},
    **{"bfloat16": "uint16", "complex64": "float32", "complex128": "float64"},
    **dict.fromkeys(_SMALL, "uint8"),
}
_WIDE = ("int64", "uint64", "float64", "complex128")
_WEAK = ("int32", "int64", "float32", "float64", "complex64", "complex128")

_ADVICE = (
    'give its name where the class takes names (activation="tanh"), a module or dataclass of '
    "numbers in the place of a function, or write the arrays alone with save_leaves(path, tree) "
    "and read them with load_leaves(path, like=tree)"
)
_LIKE = "give a template that was built by your code: load(path, like=template)"


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(jnp, "bool_" if name == "bool" else name))


def dotted(path: tuple) -> str:
    """The name of a place in a tree, from its JAX key path: `field.layers.0.weight`."""
    parts = []
    for key in path:
        part = next(
            (str(getattr(key, name)) for name in ("name", "idx", "key") if hasattr(key, name)),
            str(key),
        )
        # Quoted where a bare key could be read as two, so that no two places share a name.
        parts.append(part if re.fullmatch(r"[\w-]+", part) else json.dumps(part))
    return ".".join(parts) or "root"


def is_array(x: Any) -> bool:
    """Whether `x` holds, or as a `jax.ShapeDtypeStruct` describes, values of an array."""
    return isinstance(x, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def _is_key(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def describe(x: Any, name: str) -> dict[str, Any]:
    """The table entry of the array `x`: its dtype, shape and kind.

    Raises:
        TypeError: a dtype that cannot be written, such as `object`.
    """
    kind = {np.ndarray: "numpy", np.generic: "scalar"}
    entry = {
        "dtype": str(x.dtype) if _is_key(x) else x.dtype.name,
        "shape": list(x.shape),
        "kind": next((kind[cls] for cls in kind if isinstance(x, cls)), "jax"),
    }
    if _is_key(x):
        if isinstance(x, jax.Array):
            entry["impl"] = str(jax.random.key_impl(x))
    elif entry["dtype"] not in _STORED:
        raise TypeError(
            f"'{name}' is an array of dtype {entry['dtype']}, which cannot be written; "
            f"allowed are PRNG keys, {', '.join(_STORED)}"
        )
    elif getattr(x, "weak_type", False) and entry["dtype"] in _WEAK:
        entry["weak"] = True
    return entry


def pack(x: Any, name: str) -> np.ndarray:
    """The array as it is stored: contiguous, in a dtype that every safetensors reader knows.

    Raises:
        TypeError: `x` is a `jax.ShapeDtypeStruct`, which has no values.
    """
    if isinstance(x, jax.ShapeDtypeStruct):
        raise TypeError(f"'{name}' is a jax.ShapeDtypeStruct, a shape without values to write")
    array = np.asarray(jax.random.key_data(x) if _is_key(x) else x)
    # Not np.ascontiguousarray, which makes a 0-d array 1-d.
    array = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    stored = np.dtype(_STORED[array.dtype.name])
    if stored == array.dtype:
        return array
    return array.reshape(-1).view(stored).reshape(_stored_shape(array.shape, array.dtype.name))


def _stored_shape(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    return (*shape, 2) if dtype.startswith("complex") else shape


def unpack(stored: np.ndarray, entry: Mapping[str, Any], name: str, kind: str, weak: bool) -> Any:
    """The array back from what `pack` made of it, as its table entry describes it.

    Raises:
        ValueError: stored values and entry disagree, or JAX would round 64 bits to 32.
    """
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    disagree = ValueError(
        f"'{name}' is stored as {stored.dtype} of shape {stored.shape}, which is not what the "
        f"file says of it: {dtype} of shape {shape}"
    )
    if "impl" in entry:
        if stored.dtype != np.uint32 or stored.shape[: len(shape)] != shape:
            raise disagree
        try:
            keys = jax.random.wrap_key_data(jnp.array(stored), impl=entry["impl"])
        except (TypeError, ValueError) as error:
            raise disagree from error
        if keys.shape != shape or str(keys.dtype) != dtype:
            raise disagree
        return keys
    if (
        dtype not in _STORED
        or stored.dtype != np.dtype(_STORED[dtype])
        or stored.shape != _stored_shape(shape, dtype)
    ):
        raise disagree
    array = stored.reshape(-1).view(_dtype(dtype)).reshape(shape)
    if kind == "numpy":
        return array.copy()
    if kind == "scalar":
        return array[()]
    if dtype in _WIDE and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"'{name}' is {dtype} and JAX would round it to 32 bits; call "
            'jax.config.update("jax_enable_x64", True) before loading'
        )
    if not weak:
        return jnp.array(array)
    # Only Python scalars make weak types, and only of the widths that the x64 flag says.
    with jax.enable_x64(dtype in _WIDE):
        return jnp.full(shape, array.dtype.type(0).item()).at[...].set(array)


def _plain(x: Any, path: tuple, other: Callable[[Any, tuple], Any]) -> Any:
    """JSON of None, numbers, text and containers; `other` encodes what is none of these."""
    kind = type(x)
    if x is None or kind in (bool, int, str):
        return x
    if kind is float:
        return x if math.isfinite(x) else {"float": repr(x)}
    if kind in (list, tuple):
        parts = [_plain(v, (*path, jax.tree_util.SequenceKey(i)), other) for i, v in enumerate(x)]
        return parts if kind is list else {"tuple": parts}
    if kind is dict:
        for key in x:
            if type(key) is not str:
                raise TypeError(
                    f"'{dotted(path)}' is a dict with the key {key!r}; only str keys are allowed"
                )
        keys = jax.tree_util.DictKey
        return {"dict": {k: _plain(v, (*path, keys(k)), other) for k, v in x.items()}}
    return other(x, path)


def encode_plain(x: Any, name: str) -> Any:
    """JSON of a value that holds no arrays and no objects.

    Raises:
        TypeError: names the first part that is no None, bool, int, float, str, list, tuple, dict.
    """

    def refuse(part: Any, path: tuple) -> Any:
        raise TypeError(
            f"{name} holds {_spell(part)} at '{dotted(path)}'; allowed are None, bool, int, "
            "float, str, list, tuple and dict: convert with float(x) or x.tolist(), or put "
            "arrays in the tree"
        )

    return _plain(x, (), refuse)


def encode(tree: Any) -> tuple[Any, dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """The tree as `(json, table, stored)`: its JSON, a table entry a name, an array a name.

    Inside objects of classes from outside jaxflow, values that cannot be written are noted as
    `{"opaque": ...}`; such a file is read with a template.

    Raises:
        TypeError: names the first value that cannot be written, and what to do.
    """
    table: dict[str, dict[str, Any]] = {}
    stored: dict[str, np.ndarray] = {}

    def value(x: Any, path: tuple, static: bool, foreign: bool) -> Any:
        return _plain(x, path, lambda v, at: other(v, at, static, foreign))

    def other(x: Any, path: tuple, static: bool, foreign: bool) -> Any:
        name = dotted(path)
        if isinstance(x, np.dtype) and x.name in _STORED:
            return {"dtype": x.name}
        if is_array(x):
            if name in table:
                raise TypeError(f"two arrays share the name '{name}'; {_ADVICE}")
            table[name] = describe(x, name) | ({"static": True} if static else {})
            stored[name] = pack(x, name)
            return {"array": name}
        # One level of the tree: the parts of `x` that JAX sees. Fields not among them are static.
        parts = jax.tree_util.tree_flatten_with_path(x, is_leaf=lambda part: part is not x)[0]
        parts = None if parts and parts[0][0] == () else parts
        said = {"class": type(x).__qualname__, "module": type(x).__module__}
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            foreign = foreign or not _is_ours(type(x))
            seen = {getattr(key[0], "name", None) for key, _ in parts or ()}
            fields = {}
            for field in dataclasses.fields(x):
                at = (*path, jax.tree_util.GetAttrKey(field.name))
                hidden = static or field.name not in seen
                fields[field.name] = value(getattr(x, field.name), at, hidden, foreign)
            return said | {"fields": fields}
        if parts is not None:
            children = [value(part, (*path, *key), static, True) for key, part in parts]
            return said | {"children": children}
        if foreign:
            return {"opaque": _spell(x)}
        raise TypeError(f"'{name}' is {_spell(x)}, which cannot be written; {_ADVICE}")

    return value(tree, (), False, False), table, stored


def _spell(x: Any) -> str:
    """A name for `x` that is the same in every run, unlike the repr of a function."""
    if hasattr(x, "__qualname__"):
        return f"{getattr(x, '__module__', None)}.{x.__qualname__}"
    return f"a {type(x).__module__}.{type(x).__qualname__}"


def _is_ours(cls: type) -> bool:
    found = vars(sys.modules.get(cls.__module__, object)).get(cls.__qualname__)
    return found is cls and _OURS.fullmatch(cls.__module__) is not None


def _find_class(module: str, name: str, where: str) -> type:
    if not (module == "jaxflow" or module.startswith("jaxflow.")):
        raise ValueError(
            f"'{where}' is a {module}.{name}, a class outside jaxflow, and a file may not say "
            f"what is imported; {_LIKE}"
        )
    refused = ValueError(
        f"'{where}' names the class {module}.{name}; allowed are the modules and dataclasses "
        f"that this version of jaxflow defines under that name; else {_LIKE}"
    )
    module = new_module(module)
    # A leading underscore is out, so that no __main__ runs.
    if not _OURS.fullmatch(module):
        raise refused
    try:
        found = vars(importlib.import_module(module)).get(name)
    except ImportError as error:
        raise refused from error
    if (
        not isinstance(found, type)
        or not (issubclass(found, eqx.Module) or dataclasses.is_dataclass(found))
        or found.__module__ != module
    ):
        raise refused
    return found


def decode(
    node: Any, table: Mapping[str, Mapping[str, Any]], stored: Mapping[str, np.ndarray]
) -> Any:
    """The tree back from what `encode` made of it.

    Objects are made without their `__init__`, and only of modules and dataclasses that jaxflow
    itself defines.

    Raises:
        ValueError: names the first place that cannot be rebuilt, and why.
    """

    def value(node: Any, path: tuple) -> Any:
        where = dotted(path)
        if node is None or isinstance(node, bool | int | float | str):
            return node
        match node:
            case list():
                return [
                    value(v, (*path, jax.tree_util.SequenceKey(i))) for i, v in enumerate(node)
                ]
            case {"tuple": list(parts)}:
                return tuple(value(parts, path))
            case {"dict": dict(parts)}:
                return {k: value(v, (*path, jax.tree_util.DictKey(k))) for k, v in parts.items()}
            case {"float": "nan" | "inf" | "-inf" as text}:
                return float(text)
            case {"dtype": str(name)} if name in _STORED:
                return _dtype(name)
            case {"array": str(name)}:
                if name not in table or name not in stored:
                    raise ValueError(f"the array '{name}' is missing from the file")
                entry = table[name]
                return unpack(stored[name], entry, name, entry["kind"], entry.get("weak", False))
            case {"class": str(name), "module": str(module), "fields": dict(parts)}:
                return build(_find_class(module, name, where), parts, path)
            case {"opaque": str(text)} | {"class": str(text), "children": list()}:
                raise ValueError(f"'{where}' is {text}, which a file cannot hold; {_LIKE}")
        raise ValueError(f"'{where}' is stored in a way that jaxflow does not write")

    def build(cls: type, parts: dict[str, Any], path: tuple) -> Any:
        names = {field.name for field in dataclasses.fields(cls)}
        if names != parts.keys():
            missing, unknown = sorted(names - parts.keys()), sorted(parts.keys() - names)
            raise ValueError(
                f"'{dotted(path)}' is a {cls.__qualname__} with other fields than this version's: "
                f"missing {missing}, unknown {unknown}; {_LIKE}"
            )
        try:
            made = object.__new__(cls)
        except TypeError as error:
            raise ValueError(
                f"'{dotted(path)}' names the class {cls.__qualname__}: {error}"
            ) from error
        for name, part in parts.items():
            at = (*path, jax.tree_util.GetAttrKey(name))
            object.__setattr__(made, name, value(part, at))
        return made

    return value(node, ())


def named_arrays(tree: Any, name: Callable[[tuple], str]) -> dict[str, Any]:
    """The array leaves of a tree by name, in the tree's order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    arrays = [(name(path), leaf) for path, leaf in leaves if is_array(leaf)]
    if len(found := dict(arrays)) < len(arrays):
        raise ValueError(f"arrays of the tree share a name; their names are {[*found]}")
    return found


def fill(
    like: Any,
    table: Mapping[str, Mapping[str, Any]],
    stored: Mapping[str, np.ndarray],
    name: Callable[[tuple], str],
) -> Any:
    """A copy of the template with the arrays of a file in the place of its own.

    Leaves that are no arrays, and all static parts, stay the template's.

    Raises:
        ValueError: names the first array whose name, shape or dtype is not the template's.
    """
    wanted = named_arrays(like, name)
    for key, entry in table.items():
        if key not in wanted and not entry.get("static", False):
            raise ValueError(
                f"the file has an array '{key}' and like has none there "
                f"({len(table)} arrays in the file, {len(wanted)} in like)"
            )
    found = {}
    for key, leaf in wanted.items():
        if key not in table or key not in stored:
            raise ValueError(
                f"like has an array '{key}' and the file has none there "
                f"({len(wanted)} arrays in like, {len(table)} in the file)"
            )
        entry, want = table[key], describe(leaf, key)
        for what in ("shape", "dtype"):
            if entry[what] != want[what]:
                raise ValueError(
                    f"'{key}' has {what} {_show(entry[what])} in the file and "
                    f"{_show(want[what])} in like"
                )
        found[key] = unpack(stored[key], entry, key, want["kind"], want.get("weak", False))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: found[name(path)] if is_array(leaf) else leaf, like
    )


def _show(part: Any) -> str:
    return str(tuple(part)) if isinstance(part, list) else str(part)
