"""`jaxflow fit FILE.py:NAME --objective reverse-kl`: fit a density known up to a constant."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import importance_sample
from jaxflow.cli.errors import UserCodeError
from jaxflow.cli.models import build_flow
from jaxflow.cli.record import new_record
from jaxflow.cli.settings import FitData, FitSettings
from jaxflow.cli.tables import hash_rows
from jaxflow.cli.terminal import finite
from jaxflow.cli.training import NewRun, finish, train
from jaxflow.flows.importance import RELIABLE
from jaxflow.objectives import ReverseKL

# Samples that judge the fitted flow.
NUM_DRAWS = 10_000


def target_record(data: FitData, settings: FitSettings) -> dict[str, Any]:
    """The record of a fit to a target that begins."""
    if data.class_column is not None:
        raise ValueError(
            f"--class-column {data.class_column}: --objective reverse-kl has no table; leave it "
            "out"
        )
    if not data.columns:
        raise ValueError(
            "--objective reverse-kl needs names for the columns, one for each entry of the "
            "function's argument: add --columns a,b"
        )
    target = str(data.table)
    path, _ = _parse(target)
    digest = hash_rows(np.frombuffer(path.read_bytes(), np.uint8))
    return new_record(target, digest, data.columns, 0, settings)


def fit_target(target: str, run: NewRun) -> dict[str, Any]:
    """Train by reverse KL and fill the run directory; returns the record with the results."""
    dim, settings = len(run.record["columns"]), run.settings
    log_p = _load_function(target, dim)
    init_key, fit_key, draw_key = jax.random.split(jax.random.key(settings.seed), 3)
    flow, history = train(
        run,
        build_flow(settings, dim, init_key),
        None,
        key=fit_key,
        objective=ReverseKL(target=log_p, num_samples=settings.size("batch_size")),
        transform=None,
    )
    weighted = importance_sample(flow, log_p, NUM_DRAWS, key=draw_key)
    results = {
        "draws": NUM_DRAWS,
        "effective": weighted.effective,
        "log_z": weighted.log_z,
        "log_z_se": finite(weighted.log_z_se),
        "pareto_k": finite(weighted.pareto_k),
        "undefined": weighted.undefined,
    }
    return finish(run, flow, history, results)


def target_text(record: dict[str, Any]) -> str:
    """Describe how well the flow matches its target, by importance sampling."""
    k, se = record["pareto_k"], record["log_z_se"]
    tail = "no Pareto k" if k is None else f"Pareto k {k:.2f}"
    if k is not None and k > RELIABLE:
        tail += f" above {RELIABLE}: unreliable, tails are missing"
    elif se is None:
        tail += ": unreliable, too few samples have mass"
    return (
        f"{record['effective'] / record['draws']:.1%} of {record['draws']} samples effective, "
        f"log Z {record['log_z']:.4f}{'' if se is None else f' +- {se:.4f}'}, {tail}"
    )


def _parse(target: str) -> tuple[Path, str]:
    """Split FILE.py:NAME."""
    file, colon, name = target.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ValueError(
            f"{target}: --objective reverse-kl fits a Python function; write FILE.py:NAME, where "
            "NAME(x) returns the log-density of one row x, up to a constant"
        )
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path, name


def _load_function(target: str, dim: int) -> Callable[[Any], Any]:
    """Import the target's function and check the shape of its result."""
    path, name = _parse(target)
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with _errors_of(path):
        spec.loader.exec_module(module)
    log_p = getattr(module, name, None)
    if not callable(log_p):
        names = sorted(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
        raise ValueError(f"{path} has no function {name!r}; it has {', '.join(names) or 'none'}")
    with _errors_of(path):
        shape = jnp.shape(jax.eval_shape(log_p, jnp.zeros(dim)))
    if shape != ():
        raise ValueError(
            f"{target} returns shape {shape} for a row of {dim} columns; return one number"
        )
    return log_p


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Let errors of the user's file name their line in it."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines, text = [f"{f.lineno}: {f.line}" for f in frames if Path(f.filename) == path], error
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines, text = [f"{error.lineno}: {(error.text or '').strip()}"], error.msg
        if not lines:
            raise
        raise UserCodeError(f"{path}:{lines[-1]}: {type(error).__name__}: {text}") from error
