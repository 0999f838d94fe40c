"""Fitted estimators as bytes and files of the format of `jaxflow.save`."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow.io.checkpoint import load, load_extra, save


def flow_to_bytes(flow: Any) -> bytes:
    """What `jaxflow.save` writes of a flow."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flow.safetensors"
        save(path, flow)
        return path.read_bytes()


def flow_from_bytes(data: bytes) -> Any:
    """The flow that `flow_to_bytes` was given, to the bit.

    Raises:
        ValueError: damaged bytes, or of a newer format.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flow.safetensors"
        path.write_bytes(data)
        return load_flow(path)


def load_flow(path: Any) -> Any:
    """The flow of a file, whatever JAX's x64 mode is: it keeps its own precision."""
    with jax.enable_x64(True):
        return load(path)


def save_estimator(path: Any, estimator: Any, fitted: tuple[str, ...], *, overwrite: bool) -> None:
    """Write a fitted estimator's flow, with its parameters and attributes beside it.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        TypeError: a parameter that is no number, text or None, such as a `RandomState`.
    """
    params = {name: _plain(value) for name, value in estimator.get_params(deep=False).items()}
    found = {name: _plain(getattr(estimator, name)) for name in fitted if hasattr(estimator, name)}
    extra = {"estimator": type(estimator).__name__, "params": params, "fitted": found}
    save(path, estimator.flow_, extra=extra, overwrite=overwrite)


def load_estimator(path: Any, kind: type, fitted: tuple[str, ...]) -> Any:
    """The estimator that `save_estimator` wrote.

    Raises:
        ValueError: a file of another estimator or of none, damaged, or of a newer format.
    """
    extra = load_extra(path)
    if extra.get("estimator") != kind.__name__:
        found = extra.get("estimator", "a flow alone: read it with jaxflow.load")
        raise ValueError(f"{path} holds no {kind.__name__} but {found}")
    estimator = kind(**extra["params"])
    for name in fitted:
        if name in extra["fitted"]:
            setattr(estimator, name, extra["fitted"][name])
    if hasattr(estimator, "feature_names_in_"):
        estimator.feature_names_in_ = np.asarray(estimator.feature_names_in_, object)
    estimator.flow_ = load_flow(path)
    return estimator


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
