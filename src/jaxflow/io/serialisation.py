"""Trees of modules as JSON and named arrays, and back, without running code from a file.

Plain values stand for themselves. Anything else is a JSON object whose keys name its kind:
`{"class": "MLP", "module": "jaxflow.dynamics.mlp", "fields": {...}}`, `{"tuple": [...]}`,
`{"array": "field.layers.0.weight"}`. A table beside the tree describes each array
(`jaxflow.io.arrays`).
"""

import dataclasses
import importlib
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeGuard

import equinox as eqx
import jax
import numpy as np
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

from jaxflow.io.arrays import STORED, Arrays, Entries, as_dtype, describe, is_array, pack, unpack
from jaxflow.io.templates import fill
from jaxflow.runtime.moved import new_module

_MODULE = re.compile(r"jaxflow(\.[A-Za-z]\w*)*")
_ADVICE = (
    'give its name where the class takes names (activation="tanh"), or a module or dataclass of '
    "numbers instead of a function; or write the arrays alone with save_leaves(path, tree) and "
    "read them with load_leaves(path, like=tree)"
)
_LIKE = "give a template that was built by your code: load(path, like=template)"


def dotted(path: tuple) -> str:
    """Name of a place in a tree, from its JAX key path: `field.layers.0.weight`."""
    parts = []
    for key in path:
        names = [str(getattr(key, name)) for name in ("name", "idx", "key") if hasattr(key, name)]
        part = names[0] if names else str(key)
        # Quoted where a bare key could be read as two: no two places share a name.
        parts.append(part if re.fullmatch(r"[\w-]+", part) else json.dumps(part))
    return ".".join(parts) or "root"


def encode_plain(x: Any, name: str) -> Any:
    """JSON of a value without arrays and objects."""

    def refuse(part: Any, path: tuple) -> Any:
        raise TypeError(
            f"{name} holds {_spell(part)} at '{dotted(path)}'; allowed are None, bool, int, "
            "float, str, list, tuple and dict: convert with float(x) or x.tolist(), or put "
            "arrays in the tree"
        )

    return _encode_containers(x, (), refuse)


def encode(tree: Any) -> tuple[Any, dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """A tree as `(json, table, stored)`: its JSON, the entry and the values of each array.

    Inside objects of classes from outside jaxflow, a value that cannot be written becomes
    `{"opaque": ...}`, as does the structure of such an object: only a template can read the file.
    """
    table: dict[str, dict[str, Any]] = {}
    stored: dict[str, np.ndarray] = {}

    def encode_other(x: Any, path: tuple, *, static: bool = False, foreign: bool = False) -> Any:
        name = dotted(path)
        if isinstance(x, np.dtype) and x.name in STORED:
            return {"dtype": x.name}
        if is_array(x):
            if name in table:
                raise TypeError(f"two arrays share the name '{name}'; {_ADVICE}")
            table[name] = describe(x, name) | ({"static": True} if static else {})
            stored[name] = pack(x, name)
            return {"array": name}
        # Fields that are not among the parts are static.
        parts = direct_parts(x)
        is_leaf = bool(parts) and parts[0][0] == ()
        node = {"class": type(x).__qualname__, "module": type(x).__module__}
        if stands_in_fields(x):
            foreign = foreign or not _is_ours(type(x))
            dynamic = set() if is_leaf else {key[0].name for key, _ in parts}
            fields = {}
            for field in dataclasses.fields(x):
                part, at = getattr(x, field.name), (*path, GetAttrKey(field.name))
                is_static = static or field.name not in dynamic
                inside = partial(encode_other, static=is_static, foreign=foreign)
                fields[field.name] = _encode_containers(part, at, inside)
            return node | {"fields": fields}
        if not is_leaf:
            inside = partial(encode_other, static=static, foreign=True)
            children = [_encode_containers(part, (*path, *key), inside) for key, part in parts]
            return node | {"children": children}
        if foreign or isinstance(x, jax.tree_util.PyTreeDef):
            return {"opaque": _spell(x)}
        raise TypeError(f"'{name}' is {_spell(x)}, which cannot be written; {_ADVICE}")

    return _encode_containers(tree, (), encode_other), table, stored


def stands_in_fields(x: Any) -> TypeGuard[Any]:
    """Whether `x` is a dataclass that has all its arrays in fields, unlike a `flax.nnx.List`."""
    if not dataclasses.is_dataclass(x) or isinstance(x, type):
        return False
    names = {getattr(key[0], "name", None) for key, _ in direct_parts(x) if key}
    return names <= {field.name for field in dataclasses.fields(x)}


def direct_parts(x: Any) -> list[tuple[tuple, Any]]:
    """One level of a tree: the parts of `x` that JAX sees, with their keys; a leaf is its own."""
    return jax.tree_util.tree_flatten_with_path(x, is_leaf=lambda part: part is not x)[0]


def decode(
    node: Any, table: Entries, stored: Arrays, templates: Mapping[str, Any] | None = None
) -> Any:
    """The tree that `encode` encoded, with parts by place that only a template can give.

    Only modules and dataclasses that jaxflow defines are made, without a call of `__init__`. The
    checks that follow it are called: `__post_init__` of a dataclass, `__check_init__` of a module,
    and its `check_loaded`, if it has one. A class whose fields have changed since converts older
    ones in its class method `upgrade_fields`.
    """
    templates = {} if templates is None else templates
    used = set()

    def value(node: Any, path: tuple) -> Any:
        place = dotted(path)
        if place in templates:
            used.add(place)
            below = {k: v for k, v in table.items() if f"{k}.".startswith(f"{place}.") or not path}
            return fill(templates[place], below, stored, lambda at: dotted((*path, *at)))
        match node:
            case None | bool() | int() | float() | str():
                return node
            case list():
                return [value(v, (*path, SequenceKey(i))) for i, v in enumerate(node)]
            case {"tuple": list(parts)}:
                return tuple(value(parts, path))
            case {"dict": dict(parts)}:
                return {k: value(v, (*path, DictKey(k))) for k, v in parts.items()}
            case {"float": "nan" | "inf" | "-inf" as text}:
                return float(text)
            case {"dtype": str(name)} if name in STORED:
                return as_dtype(name)
            case {"array": str(name)}:
                if name not in table or name not in stored:
                    raise ValueError(f"the array '{name}' is missing from the file")
                return unpack(stored[name], table[name], name, table[name])
            case {"class": str(name), "module": str(module), "fields": dict(parts)}:
                cls = _find_class(module, name, place)
                fields = {k: value(v, (*path, GetAttrKey(k))) for k, v in parts.items()}
                return _build(cls, fields, place)
            case {"opaque": str(text)} | {"class": str(text), "children": list()}:
                raise ValueError(
                    f"'{place}' is {text}, which a file cannot hold; {_build_it(place)}"
                )
        raise ValueError(f"'{place}' is stored in a way that jaxflow does not write")

    tree = value(node, ())
    for place in templates.keys() - used:
        raise ValueError(f"parts has a template for '{place}', which is no place in this file")
    return tree


def _build_it(place: str) -> str:
    return f"build it by your code and write load(path, parts={{{place!r}: it}})"


def _encode_containers(x: Any, path: tuple, other: Callable[[Any, tuple], Any]) -> Any:
    """JSON of None, numbers, text and containers; `other` encodes all other values."""
    kind = type(x)
    if x is None or kind in (bool, int, str):
        return x
    if kind is float:
        return x if math.isfinite(x) else {"float": repr(x)}
    if kind in (list, tuple):
        parts = [_encode_containers(v, (*path, SequenceKey(i)), other) for i, v in enumerate(x)]
        return parts if kind is list else {"tuple": parts}
    if kind is dict or (issubclass(kind, dict) and _is_ours(kind)):
        for key in x:
            if type(key) is not str:
                raise TypeError(
                    f"'{dotted(path)}' is a dict with the key {key!r}; only str keys are allowed"
                )
        return {
            "dict": {k: _encode_containers(v, (*path, DictKey(k)), other) for k, v in x.items()}
        }
    return other(x, path)


def _spell(x: Any) -> str:
    """Name of `x` that is the same in every run, unlike the repr of a function."""
    if hasattr(x, "__qualname__"):
        return f"{getattr(x, '__module__', None)}.{x.__qualname__}"
    return f"a {type(x).__module__}.{type(x).__qualname__}"


def _is_ours(cls: type) -> bool:
    named = vars(sys.modules.get(cls.__module__, object)).get(cls.__qualname__)
    return named is cls and _MODULE.fullmatch(cls.__module__) is not None


def _find_class(module: str, name: str, place: str) -> type:
    """The class of jaxflow that a file names."""
    if not (module == "jaxflow" or module.startswith("jaxflow.")):
        raise ValueError(
            f"'{place}' is a {module}.{name}, a class outside jaxflow, and a file may not choose "
            f"imports; {_build_it(place)}"
        )
    refused = ValueError(
        f"'{place}' names the class {module}.{name}; allowed are the modules and dataclasses "
        f"that this version of jaxflow defines under that name; else {_LIKE}"
    )
    module = new_module(module)
    # No part may begin with an underscore: importing a __main__ would run it.
    if not _MODULE.fullmatch(module):
        raise refused
    try:
        cls = vars(importlib.import_module(module)).get(name)
    except ImportError as error:
        raise refused from error
    if (
        not isinstance(cls, type)
        or not (issubclass(cls, eqx.Module) or dataclasses.is_dataclass(cls))
        or cls.__module__ != module
    ):
        raise refused
    return cls


def _build(cls: type, fields: dict[str, Any], place: str) -> Any:
    """An object with these fields, made and checked without a call of `__init__`."""
    fields = getattr(cls, "upgrade_fields", dict)(fields)
    names = {field.name for field in dataclasses.fields(cls)}
    if names != fields.keys():
        missing, unknown = sorted(names - fields.keys()), sorted(fields.keys() - names)
        raise ValueError(
            f"'{place}' is a {cls.__qualname__} with other fields than this version's: "
            f"missing {missing}, unknown {unknown}; {_LIKE}"
        )
    try:
        made = object.__new__(cls)
    except TypeError as error:  # an abstract class
        raise ValueError(f"'{place}' names the class {cls.__qualname__}: {error}") from error
    for name, field in fields.items():
        object.__setattr__(made, name, field)
    try:
        _check(made)
    except Exception as error:
        raise ValueError(f"'{place}' is a {cls.__qualname__} that is refused: {error}") from error
    return made


def _check(made: Any) -> None:
    """Run the checks of a class, which may raise any error."""
    if not isinstance(made, eqx.Module):
        getattr(made, "__post_init__", lambda: None)()
        return
    getattr(made, "check_loaded", lambda: None)()
    # Bases and transforms are made of their parameters, which the constructor checks. NaN is
    # refused by name later.
    names = inspect.signature(type(made)).parameters
    of_parameters = type(made).__module__.startswith(("jaxflow.bases.", "jaxflow.transforms."))
    has_nan = any(
        np.isnan(leaf).any() for leaf in jax.tree.leaves(made) if eqx.is_inexact_array_like(leaf)
    )
    if of_parameters and not has_nan and all(hasattr(made, name) for name in names):
        type(made)(**{name: getattr(made, name) for name in names})
    for cls in type(made).__mro__:
        if "__check_init__" in vars(cls):
            vars(cls)["__check_init__"](made)
