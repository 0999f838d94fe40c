"""Flows and training states as files.

A file is a safetensors file: its tensors are the arrays, readable by any safetensors reader, and
one JSON document in its metadata, under the key "jaxflow", holds the rest, with the SHA-256 of
both, which shows damage. Reading a file runs no code from it. Writes are atomic: after a crash
there is the old file or the new one.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from jaxflow.io import serialisation
from jaxflow.io.arrays import describe, pack
from jaxflow.io.atomic import atomic_write, check_free
from jaxflow.io.card import ModelCard, card_path
from jaxflow.io.finite import check_finite_arrays
from jaxflow.io.templates import fill, named_arrays

Metadata = dict[str, str] | None
Arrays = dict[str, np.ndarray]

FORMAT = 1
_KEY = "jaxflow"
# SHA-256 of the rest of the document and of the arrays; files of jaxflow 0.1 have none.
_SUMS = "sha256"
_READER = {"flow": "load", "leaves": "load_leaves"}
_ENTRY = {"dtype": str, "shape": list, "kind": str}


def save(
    path: str | os.PathLike[str],
    flow: Any,
    *,
    extra: dict[str, Any] | None = None,
    overwrite: bool = False,
    card: ModelCard | None = None,
) -> None:
    """Write a flow, or any tree of modules, settings and arrays, to one file.

    `load` returns modules, dataclasses, tuples, lists, dicts with str keys, None, bool, int,
    float, str, dtypes, arrays and PRNG keys as they were, arrays bit for bit. A module of your own
    or of another library is written as well; read it with `load(path, parts={"field": module})`.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal, load, save
    from jaxflow.dynamics import MLP

    flow = CNF(MLP(2, key=jax.random.key(0)), StandardNormal(2))
    save("moons.safetensors", flow, extra={"seed": 0})
    flow = load("moons.safetensors")
    ```

    Args:
        path: the file; missing folders are created.
        flow: the tree.
        extra: numbers, text, lists and dicts to store with it, for `load_extra`.
        overwrite: replace an existing file, and an existing card.
        card: a `ModelCard`, to write as README.md in the same folder.

    Raises:
        FileExistsError: `path` or the card exists and `overwrite` is False.
        TypeError: `flow` or `extra` holds a value that cannot be written, such as a function;
            names its place.
    """
    for file in (path,) if card is None else (path, card_path(path)):
        check_free(file, overwrite=overwrite)
    text = "" if card is None else card.text(flow, Path(path).name)
    _write(path, flow_to_bytes(flow, extra))
    if card is not None:
        _write(card_path(path), text.encode())


def load(
    path: str | os.PathLike[str], *, like: Any = None, parts: Mapping[str, Any] | None = None
) -> Any:
    """Read a file that `save` wrote.

    Without a template, only modules and dataclasses that jaxflow defines are rebuilt; nothing
    else that a file names is imported or called.

    Args:
        path: the file.
        like: template, a tree of the same structure built by your code; may hold shapes alone, as
            from `equinox.filter_eval_shape`. The file replaces its arrays; everything else,
            settings included, stays the template's.
        parts: templates for the parts that are not jaxflow's, by place, such as
            `{"field": module}`. All else is rebuilt from the file.

    Raises:
        ValueError: the file is damaged, not written by jaxflow, or of a newer format; a class is
            not jaxflow's (pass `parts` or `like`) or has other fields in this version; an array's
            name, shape or dtype differs from the template's; an array has 64 bits and JAX's x64
            mode is off, or a module's holds NaN, or infinity that its class does not allow
            (`infinite_fields`); `like` and `parts` are both given.
    """
    if like is not None and parts is not None:
        raise ValueError("like and parts are both given: like has all parts already")
    return _decode(*_open(path), path, like, parts)


def load_extra(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the `extra` of a file of `save` or `save_leaves`, without its arrays.

    Raises:
        ValueError: the file is damaged, not written by jaxflow, or of a newer format.
    """
    document = _document(path, _open(path, arrays=False)[0])
    with _named_errors(path, document):
        return serialisation.decode(document["extra"], {}, {})


def save_leaves(
    path: str | os.PathLike[str], tree: Any, *, extra: dict[str, Any] | None = None
) -> None:
    """Write the arrays of any pytree, such as a training state; replaces an existing file.

    Arrays are stored under their JAX key paths. Other leaves are not written: keep a number that
    must survive in an array or in `extra`.

    Args:
        path: the file; missing folders are created.
        tree: the pytree.
        extra: numbers, text, lists and dicts to store with it, for `load_extra`.

    Raises:
        TypeError: an array of dtype `object`, or an `extra` that cannot be written.
    """
    leaves = named_arrays(tree, jax.tree_util.keystr)
    table = {name: describe(x, name) for name, x in leaves.items()}
    stored = {name: pack(x, name) for name, x in leaves.items()}
    _write(path, _to_bytes({"kind": "leaves", "arrays": table}, stored, extra))


def load_leaves(path: str | os.PathLike[str], like: Any) -> Any:
    """Read a file that `save_leaves` wrote into the structure of a template.

    Args:
        path: the file.
        like: template, a tree of the same structure. The file replaces its arrays, bit for bit;
            other leaves stay the template's.

    Raises:
        ValueError: the file is damaged, not written by jaxflow, or of a newer format; number,
            names, shapes or dtypes of the arrays differ from the template's; an array has 64 bits
            and JAX's x64 mode is off.
    """
    document, stored = _read(*_open(path), path, "leaves")
    with _named_errors(path, document):
        return fill(like, document["arrays"], stored, jax.tree_util.keystr)


def flow_to_bytes(flow: Any, extra: dict[str, Any] | None = None) -> bytes:
    """The content of the file that `save` writes."""
    tree, table, stored = serialisation.encode(flow)
    return _to_bytes({"kind": "flow", "tree": tree, "arrays": table}, stored, extra)


def flow_from_bytes(data: bytes) -> Any:
    """The flow that `flow_to_bytes` was called with; raises as `load`."""
    with _damage("the data"):
        stored = safetensors.numpy.load(data)
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    return _decode(json.loads(header).get("__metadata__"), stored, "the data")


def jaxflow_version() -> str:
    """The installed version of jaxflow."""
    try:
        return importlib.metadata.version("jaxflow-cnf")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _to_bytes(
    content: dict[str, Any], stored: dict[str, np.ndarray], extra: dict[str, Any] | None
) -> bytes:
    document = {
        "format": FORMAT,
        "version": jaxflow_version(),
        **content,
        "extra": serialisation.encode_plain({} if extra is None else extra, "extra"),
    }
    document[_SUMS] = [_sum_of_document(document), _sum_of_arrays(stored)]
    return safetensors.numpy.save(stored, metadata={_KEY: _to_text(document)})


def _to_text(document: dict[str, Any]) -> str:
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def _sum_of_document(document: dict[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != _SUMS}
    return hashlib.sha256(_to_text(rest).encode()).hexdigest()


def _sum_of_arrays(stored: Arrays) -> str:
    total = hashlib.sha256()
    for name in sorted(stored):
        total.update(name.encode())
        total.update(np.ascontiguousarray(stored[name]).tobytes())
    return total.hexdigest()


def _write(path: str | os.PathLike[str], data: bytes) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        file.write(data)


@contextlib.contextmanager
def _damage(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except safetensors.SafetensorError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged or not a safetensors file: {reason}") from error


def _open(path: str | os.PathLike[str], *, arrays: bool = True) -> tuple[Metadata, Arrays]:
    """Metadata and arrays of a safetensors file."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; give the path of a file")
    with _damage(path), safetensors.safe_open(os.fspath(path), framework="numpy") as file:
        names = file.keys() if arrays else ()
        return file.metadata(), {name: file.get_tensor(name) for name in names}


def _document(path: str | os.PathLike[str], metadata: Metadata) -> dict[str, Any]:
    """The JSON document in a file's metadata, with its main parts checked."""
    text = (metadata or {}).get(_KEY)
    if text is None:
        raise ValueError(f"{path} is a safetensors file that jaxflow did not write")
    try:
        document = json.loads(text)
        number, version = document["format"], document["version"]
        is_newer = number > FORMAT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its description cannot be read") from error
    if _SUMS in document and document[_SUMS][:1] != [_sum_of_document(document)]:
        raise ValueError(f"{path} is damaged: its description is not as it was written")
    if is_newer:
        raise ValueError(
            f"{path} is of format {number}, written by jaxflow {version}; this is jaxflow "
            f"{jaxflow_version()}, which reads formats up to {FORMAT}: install a newer jaxflow"
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


def _read(
    metadata: Metadata, stored: Arrays, path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Any], Arrays]:
    document = _document(path, metadata)
    if document["kind"] != kind:
        reader = _READER[document["kind"]]
        raise ValueError(f"{path} was written for another reader: call {reader}(path)")
    with _named_errors(path, document):
        if _SUMS in document and document[_SUMS][1:] != [_sum_of_arrays(stored)]:
            raise ValueError("the file is damaged: its arrays are not as they were written")
        for name in sorted(stored.keys() ^ document["arrays"].keys()):
            fault = "not in its description" if name in stored else "missing from the file"
            raise ValueError(f"the file is damaged: the array '{name}' is {fault}")
    return document, stored


def _decode(
    metadata: Metadata,
    stored: Arrays,
    path: str | os.PathLike[str],
    like: Any = None,
    parts: Mapping[str, Any] | None = None,
) -> Any:
    document, stored = _read(metadata, stored, path, "flow")
    with _named_errors(path, document):
        if like is None:
            tree = serialisation.decode(document["tree"], document["arrays"], stored, parts)
        else:
            tree = fill(like, document["arrays"], stored, serialisation.dotted)
        check_finite_arrays(tree)
        return tree


@contextlib.contextmanager
def _named_errors(path: str | os.PathLike[str], document: dict[str, Any]) -> Iterator[None]:
    """Put the file's name and both versions before the text of an error."""
    about = f"{path} (written by jaxflow {document['version']}, read by {jaxflow_version()})"
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{about}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{about}: its description is nested too deeply to be read") from error
