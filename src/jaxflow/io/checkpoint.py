"""Flows and training states as files: safetensors, JSON, and nothing that could run.

A file is a safetensors file. Its tensors are the arrays, so any safetensors reader can look at
them; all else is one JSON document in its metadata under the key "jaxflow". A file is written
beside its final place, flushed to the disk and moved there in one step, so that a crash leaves
the old file or the new one, never half of one.
"""

import contextlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from jaxflow.io import serialisation
from jaxflow.io.atomic import atomic_write

FORMAT = 1
_KEY = "jaxflow"
_READER = {"flow": "load", "leaves": "load_leaves"}
_ENTRY = {"dtype": str, "shape": list, "kind": str}


def save(
    path: str | os.PathLike[str],
    flow: Any,
    *,
    extra: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a flow, or any tree of modules, settings and arrays, to one file.

    Modules, dataclasses, tuples, lists, dicts with str keys, None, bool, int, float, str, dtypes,
    arrays and PRNG keys come back from `load` as they were, arrays bit for bit. A module class of
    your own is written too and comes back with `load(path, like=template)`.

    Args:
        path: the file; missing folders are made.
        flow: what to write.
        extra: numbers, texts, lists and dicts to keep beside it, for `load_extra`.
        overwrite: whether an existing file may be replaced.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        TypeError: `flow` or `extra` holds something that cannot be written, such as a function;
            the text names the place.

    Example:
        ```python
        save("moons.safetensors", flow, extra={"seed": 0})
        flow = load("moons.safetensors")
        load_extra("moons.safetensors")["seed"]
        ```
    """
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    tree, table, stored = serialisation.encode(flow)
    _write(path, {"kind": "flow", "tree": tree, "arrays": table}, stored, extra)


def load(path: str | os.PathLike[str], *, like: Any = None) -> Any:
    """Read what `save` wrote.

    Without a template, only modules and dataclasses that jaxflow defines are rebuilt; nothing
    else that a file names is imported or called.

    Args:
        path: the file.
        like: a tree of the same structure, built by your code; it may come from
            `equinox.filter_eval_shape` and hold shapes alone. Its arrays are replaced by the
            file's; every other part, settings and numbers included, is the template's.

    Raises:
        ValueError: the file is damaged, no jaxflow file or of a newer format; a class is not
            jaxflow's (pass `like`) or has other fields in this version; an array's name, shape or
            dtype is not the template's; an array has 64 bits while JAX's x64 mode is off.
    """
    document, stored = _read(path, "flow")
    with _named(path, document):
        if like is not None:
            return serialisation.fill(like, document["arrays"], stored, serialisation.dotted)
        return serialisation.decode(document["tree"], document["arrays"], stored)


def load_extra(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the `extra` of a file, of `save` or `save_leaves`; no array is read.

    Raises:
        ValueError: the file is damaged, no jaxflow file or of a newer format.
    """
    with _open(path) as file:
        document = _document(path, file)
    with _named(path, document):
        return serialisation.decode(document["extra"], {}, {})


def save_leaves(
    path: str | os.PathLike[str], tree: Any, *, extra: dict[str, Any] | None = None
) -> None:
    """Write the arrays of any pytree, such as a training state, replacing an earlier file.

    Arrays are stored under their JAX key paths. Leaves that are no arrays are not written: keep a
    number that must survive in an array or in `extra`.

    Args:
        path: the file; missing folders are made, an existing file is replaced in one step.
        tree: the pytree.
        extra: numbers, texts, lists and dicts to keep beside it, for `load_extra`.

    Raises:
        TypeError: an array of dtype `object`, or an `extra` that cannot be written.
    """
    leaves = serialisation.named_arrays(tree, jax.tree_util.keystr)
    table = {name: serialisation.describe(x, name) for name, x in leaves.items()}
    stored = {name: serialisation.pack(x, name) for name, x in leaves.items()}
    _write(path, {"kind": "leaves", "arrays": table}, stored, extra)


def load_leaves(path: str | os.PathLike[str], like: Any) -> Any:
    """Read what `save_leaves` wrote into the structure of a template.

    Args:
        path: the file.
        like: a tree of the same structure. Its arrays are replaced by the file's, bit for bit;
            leaves that are no arrays stay the template's.

    Raises:
        ValueError: the file is damaged, no jaxflow file or of a newer format; number, names,
            shapes or dtypes of the arrays are not the template's; an array has 64 bits while
            JAX's x64 mode is off.
    """
    document, stored = _read(path, "leaves")
    with _named(path, document):
        return serialisation.fill(like, document["arrays"], stored, jax.tree_util.keystr)


def _version() -> str:
    try:
        return importlib.metadata.version("jaxflow-cnf")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _write(
    path: str | os.PathLike[str],
    content: dict[str, Any],
    stored: dict[str, np.ndarray],
    extra: dict[str, Any] | None,
) -> None:
    document = {
        "format": FORMAT,
        "version": _version(),
        **content,
        "extra": serialisation.encode_plain({} if extra is None else extra, "extra"),
    }
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    data = safetensors.numpy.save(stored, metadata={_KEY: text})
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        file.write(data)


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[Any]:
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; give the path of a file")
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            yield file
    except safetensors.SafetensorError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged or no safetensors file: {reason}") from error


def _document(path: str | os.PathLike[str], file: Any) -> dict[str, Any]:
    text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise ValueError(f"{path} is a safetensors file that jaxflow did not write")
    try:
        document = json.loads(text)
        number, version = document["format"], document["version"]
        newer = number > FORMAT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its description cannot be read") from error
    if newer:
        raise ValueError(
            f"{path} is of format {number}, written by jaxflow {version}; this is jaxflow "
            f"{_version()}, which reads formats up to {FORMAT}: install a newer jaxflow"
        )
    try:
        if not isinstance(document["extra"]["dict"], dict) or document["kind"] not in _READER:
            raise KeyError
        if document["kind"] == "flow":
            document["tree"]
        for entry in document["arrays"].values():
            if not all(isinstance(entry.get(part), kind) for part, kind in _ENTRY.items()):
                raise KeyError
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: its description is not jaxflow's") from error
    return document


def _read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with _open(path) as file:
        document = _document(path, file)
        if (found := document["kind"]) != kind:
            raise ValueError(f"{path} was written for another reader: call {_READER[found]}(path)")
        with _named(path, document):
            names = set(document["arrays"])
            for name in sorted(names.symmetric_difference(file.keys())):
                where = "missing from the file" if name in names else "not in its description"
                raise ValueError(f"the file is damaged: the array '{name}' is {where}")
            return document, {name: file.get_tensor(name) for name in names}


@contextlib.contextmanager
def _named(path: str | os.PathLike[str], document: dict[str, Any]) -> Iterator[None]:
    """Put the file's name and both versions before the text of an error."""
    about = f"{path} (written by jaxflow {document['version']}, read by {_version()})"
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{about}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{about}: its description is nested too deeply to be read") from error
