"""`jaxflow fit FILE.py:FUNCTION --objective reverse-kl`: a density known up to a constant."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.cli.inputs import record_of
from jaxflow.cli.models import Settings, build_flow
from jaxflow.cli.tables import digest
from jaxflow.cli.training import keep, train

# Draws that judge the fitted flow.
DRAWS = 10_000


def target_record(target: str, settings: Settings, columns: list[str] | None) -> dict[str, Any]:
    """The record that a fit of a target begins with.

    Raises:
        ValueError: no names of columns, or a target that is not written FILE.py:FUNCTION.
        FileNotFoundError: no such file.
    """
    if not columns:
        raise ValueError(
            "--objective reverse-kl has no table that names the columns: add --columns a,b, one "
            "name for each entry of the target's argument"
        )
    path, _ = _place(target)
    word = digest(np.frombuffer(path.read_bytes(), np.uint8))
    return record_of(target, word, columns, 0, settings)


def fit_target(
    target: str, record: dict[str, Any], settings: Settings, folder: Path, **how: Any
) -> dict[str, Any]:
    """Train by reverse KL and fill the run directory; the record with the results."""
    import jax

    import jaxflow
    from jaxflow.objectives import ReverseKL

    dim = len(record["columns"])
    log_p = _checked(target, dim)
    init_key, fit_key, draw_key = jax.random.split(jax.random.key(settings.seed), 3)
    flow, history = train(
        build_flow(settings, dim, init_key),
        None,
        None,
        record,
        settings,
        folder,
        **how,
        key=fit_key,
        objective=ReverseKL(target=log_p, num_samples=settings.batch_size),
        transform=None,
    )
    drawn = jaxflow.importance_sample(flow, log_p, DRAWS, key=draw_key)
    results = {
        "transform": "none",
        "draws": DRAWS,
        "effective": drawn.effective,
        "log_z": drawn.log_z,
        "log_z_se": drawn.log_z_se,
        "pareto_k": drawn.pareto_k,
        "undefined": drawn.undefined,
    }
    return keep(flow, history, record | results, folder)


def target_text(record: dict[str, Any]) -> str:
    """How well a flow matches its target, by weighted draws."""
    share = record["effective"] / record["draws"]
    k = record["pareto_k"]
    trust = "" if k <= 0.7 else ", above 0.7: the tail is not covered, so do not trust these"
    return (
        f"{share:.1%} of {record['draws']} draws effective, log Z {record['log_z']:.4f} +- "
        f"{record['log_z_se']:.4f}, Pareto k {k:.2f}{trust}"
    )


def _place(target: str) -> tuple[Path, str]:
    file, colon, name = target.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ValueError(
            f"{target}: --objective reverse-kl fits a function and no table; write FILE.py:NAME, "
            "where NAME(x) is the log-density of one row x, up to a constant"
        )
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path, name


def _checked(target: str, dim: int) -> Callable[[Any], Any]:
    """The target's function, after one look at what it returns.

    Raises:
        ValueError: no such function, or one that does not return a number.
    """
    import jax
    import jax.numpy as jnp

    path, name = _place(target)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    log_p = getattr(module, name, None)
    if not callable(log_p):
        there = sorted(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
        raise ValueError(f"{path} has no function {name!r}; it has {', '.join(there) or 'none'}")
    shape = jax.eval_shape(log_p, jnp.zeros(dim)).shape
    if shape != ():
        raise ValueError(
            f"{target} returns shape {shape} for a row of {dim} columns; return one number"
        )
    return log_p
