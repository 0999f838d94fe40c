"""The identity of a training, for its checkpoint: fingerprints of data, and objects as texts."""

import dataclasses
import dis
import functools
import hashlib
import re
import sysconfig
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.data.shards import Shards

# Where packages lie whose globals do not change.
INSTALLED = (
    *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
)
# Functions of these packages are known by name, others by their code too.
LIBRARIES = ("jaxflow", "jax", "numpy")


def fingerprint(*arrays: Any) -> str:
    """Hash arrays, keys and shards; float32 and float64 of the same value agree."""
    digest = hashlib.sha256()
    for i, array in enumerate(arrays):
        digest.update(f"{i} ".encode())
        if isinstance(array, Shards):
            digest.update(array.fingerprint().encode())
        elif _is_key(array):
            digest.update(np.asarray(jax.random.key_data(array)).data)
        elif array is not None:
            values = np.asarray(array)
            wide = np.int64 if values.dtype.kind in "biu" else np.float64
            values = np.ascontiguousarray(values, wide)
            digest.update(f"{values.shape} {values.dtype}".encode())
            digest.update(values.data)
    return digest.hexdigest()[:16]


def describe(value: Any, name: str) -> dict[str, str]:
    """Describe an objective or a flow by a text for each of its parts, by place.

    The texts are the same in every process. Arrays and code are hashed, with the globals that a
    user's function reads. Lists, dicts and objects that it reads or closes over are left out: a
    training may change them. `name` is the place of `value`.
    """
    texts: dict[str, str] = {}
    _visit(value, name, texts, closed=False, inside=())
    return texts


def check_same(kind: str, ours: dict[str, str], theirs: dict[str, str], name: str) -> None:
    """Raise if the objective, the optimizer or the flow of a checkpoint was another one."""
    changed = [part for part in {**theirs, **ours} if ours.get(part) != theirs.get(part)]
    if changed:
        part = changed[0]
        raise ValueError(
            f"checkpoint={name!r} was made with another {kind}: {part} was "
            f"{theirs.get(part, 'absent')} and is {ours.get(part, 'absent')}"
            f"{f', and {len(changed) - 1} more' if changed[1:] else ''}; resume with the same "
            f"{kind}, or start in another file"
        )


def _visit(
    value: Any, place: str, texts: dict[str, str], *, closed: bool, inside: tuple[int, ...]
) -> None:
    parts: dict[str, Any] = {}
    if id(value) in inside:
        return
    if isinstance(value, bool | int | float | complex | str | np.dtype | None):
        texts[place] = repr(value)
    elif _is_key(value) or eqx.is_array_like(value):
        texts[place] = _array_text(jax.random.key_data(value) if _is_key(value) else value)
    elif isinstance(value, type):
        texts[place] = _name_of(value)
    elif isinstance(value, MethodType):
        parts = {"": value.__func__, ".self": value.__self__}
    elif isinstance(value, FunctionType):
        texts[place], parts = _function_text(value), _closed_over(value)
        closed = True
        for where, part in _globals_of(value).items():
            if where not in texts:
                _visit(part, where, texts, closed=True, inside=(*inside, id(value)))
    elif isinstance(value, functools.partial):
        texts[place] = _name_of(type(value))
        parts = {".func": value.func, ".args": value.args, ".keywords": value.keywords}
    elif dataclasses.is_dataclass(value):
        texts[place] = _name_of(type(value))
        fields = dataclasses.fields(value)
        parts = {f".{f.name}": getattr(value, f.name, None) for f in fields}
    elif isinstance(value, tuple) or (isinstance(value, list) and not closed):
        texts[place] = f"{_name_of(type(value))} of {len(value)}"
        parts = {f"[{i}]": part for i, part in enumerate(value)}
    elif isinstance(value, dict) and not closed:
        texts[place] = f"dict of {len(value)}"
        parts = {f"[{key!r}]": part for key, part in value.items()}
    elif (wrapped := getattr(value, "__wrapped__", None)) is not None:  # jax.jit(f)
        parts = {"": wrapped}
    elif callable(value) and hasattr(value, "__qualname__"):
        texts[place] = _name_of(value)
    elif not closed:
        texts[place] = _name_of(type(value))
        parts = {f".{key}": part for key, part in getattr(value, "__dict__", {}).items()}
        closed = True
    for key, part in parts.items():
        _visit(part, place + key, texts, closed=closed, inside=(*inside, id(value)))


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _name_of(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{value.__qualname__}".lstrip(".")


def _array_text(value: Any) -> str:
    array = np.asarray(value)
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:8]
    return f"{array.dtype}{list(array.shape)} {digest}"


def _function_text(function: FunctionType) -> str:
    name = _name_of(function)
    if name.partition(".")[0] in LIBRARIES:
        return name
    return f"{name} {hashlib.sha256(_code_text(function.__code__).encode()).hexdigest()[:8]}"


def _code_text(code: Any) -> str:
    """Instructions, names and constants of a function, without places in files and memory."""
    constants = [_code_text(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    text = f"{code.co_code!r} {code.co_names} {constants}"
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _globals_of(function: FunctionType) -> dict[str, Any]:
    """Globals that a function reads, by module and name; none of an installed package's."""
    if function.__code__.co_filename.startswith(INSTALLED):
        return {}
    codes, read, written = [function.__code__], set[str](), set[str]()
    for code in codes:  # grows by the functions inside
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
        for step in dis.get_instructions(code):
            names = {"LOAD_GLOBAL": read, "STORE_GLOBAL": written}.get(step.opname, set())
            names.add(step.argval)
    known = function.__globals__
    return {f"{function.__module__}.{n}": known[n] for n in sorted(read - written) if n in known}


def _closed_over(function: FunctionType) -> dict[str, Any]:
    """Values that a function closes over, and its defaults, by place."""
    parts: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            parts[f".{name}"] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    parts |= {f".defaults[{i}]": part for i, part in enumerate(function.__defaults__ or ())}
    return parts | {f".{key}": part for key, part in (function.__kwdefaults__ or {}).items()}
