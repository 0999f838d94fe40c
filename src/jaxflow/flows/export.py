"""`export`: a flow as one file of programs that run without jaxflow."""

import contextlib
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array

from jaxflow.flows.data_space import nan_where, to_flow_space, transform_chunk
from jaxflow.flows.ensemble import Ensemble
from jaxflow.flows.flow import Flow, score_in_flow_space
from jaxflow.io.atomic import atomic_write
from jaxflow.io.checkpoint import jaxflow_version
from jaxflow.ode import Stats, Status
from jaxflow.runtime.arguments import promote_dtypes
from jaxflow.runtime.checks import check_event_shape
from jaxflow.runtime.chunking import chunk_size
from jaxflow.runtime.extras import import_extra
from jaxflow.runtime.lanes import lanes_for
from jaxflow.runtime.precision import is_single, sample_dtype
from jaxflow.trace import Auto, Exact

FORMAT = 1


def export(
    flow: Flow,
    path: str | os.PathLike[str],
    *,
    cond_shape: Sequence[SupportsIndex] | SupportsIndex | None = None,
    platforms: Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write `log_prob` and `sample` of a flow as programs that run with jax and without jaxflow.

    The file is a zip of `manifest.json`, one program of `jax.export` each for `log_prob` and
    `sample`, for any number of rows, and the weights as NumPy arrays. It holds no pickle. The
    page "Run a flow without jaxflow" has the loader, a function to copy. With XLA's default
    options and on the platform of the export, it gives the bits of `flow.log_prob` and
    `flow.sample`; a row that failed is NaN and has a status.

    Rows and samples have the flow's own dtype, float32 at least. Rows for the transform of a
    float32 flow are read in float64, as by `flow.log_prob`.

    ```python
    import jax

    import jaxflow

    key = jax.random.key(0)
    flow = jaxflow.CNF(jaxflow.dynamics.MLP(2, key=key), jaxflow.StandardNormal(2))
    jaxflow.export(flow, "flow.zip")
    ```

    Args:
        flow: the flow, without a stochastic trace.
        path: the file; missing folders are created.
        cond_shape: shape of one condition, an integer `c` for vectors; None for a flow without
            conditions.
        platforms: platforms to compile for, such as `("cpu", "cuda")`; this process's by
            default. The number of rows that are solved side by side is this process's, so export
            on a GPU for a GPU.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        ImportError: flatbuffers is not installed, in which jax writes programs.
        TypeError: `flow` is not a flow, or is an `Ensemble`; or `platforms` is not a sequence of
            names.
        ValueError: the trace is stochastic, or a part of the flow is not a program of jax (it
            calls Python or NumPy while it runs); the message says which.
    """
    if isinstance(flow, Ensemble):
        raise TypeError(
            "flow is an Ensemble: export each of flow.flows, and average their log-densities by "
            "scipy.special.logsumexp(log_p, axis=0, b=weights[:, None])"
        )
    if not isinstance(flow, Flow):
        raise TypeError(f"flow={flow!r} is not a flow: give a CNF, a CouplingFlow or a FlowMap")
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    if isinstance(platforms, str):
        raise TypeError(f"platforms={platforms!r} must be a sequence: write ({platforms!r},)")
    trace = getattr(flow, "trace", Exact())
    if not isinstance(trace, Auto | Exact):
        raise ValueError(
            f"trace={trace} gives a random log-density, and an exported log_prob takes no key: "
            'export dataclasses.replace(flow, trace="exact")'
        )
    import_extra("flatbuffers", "export", "export needs flatbuffers, in which jax writes programs")
    shape = None if cond_shape is None else check_event_shape(cond_shape)
    members = _members(flow, shape, platforms or [jax_export.default_export_platform()])
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data, zipfile.ZIP_DEFLATED)


def _members(
    flow: Flow, cond_shape: tuple[int, ...] | None, platforms: Sequence[str]
) -> dict[str, bytes]:
    """The files in the zip."""
    dtype, size = np.dtype(sample_dtype(flow)), math.prod(flow.event_shape)
    # A transform subtracts offsets in float64, before rows are rounded.
    reads = np.dtype(np.float64 if flow.transform is not None and is_single(dtype) else dtype)
    flow, _ = promote_dtypes(flow, jnp.zeros((), dtype))
    # Weights are arguments: XLA computes with constants as it compiles, and rounds otherwise.
    leaves, static = eqx.partition(flow, _is_stored)
    weights, tree = jax.tree.flatten(leaves)
    lanes = lanes_for(size)
    (rows,) = jax_export.symbolic_shape(f"{lanes} * groups")
    conds = [] if cond_shape is None else [jax.ShapeDtypeStruct((rows, *cond_shape), dtype)]

    def restore(weights: list[Array]) -> Flow:
        return eqx.combine(jax.tree.unflatten(tree, weights), static)

    def program(name: str, f: Callable[..., Any], *shapes: Any) -> jax_export.Exported:
        with _named(name):
            return jax_export.export(jax.jit(f), platforms=platforms)(weights, *shapes, *conds)

    def score(
        weights: list[Array], u: Array, log_det: Array, cond: Array | None = None
    ) -> tuple[Array, Array]:
        log_p, stats = score_in_flow_space(restore(weights), u, log_det, cond, None)
        return _with_status(log_p, stats, cond, jnp.isneginf(log_det))

    def draw(weights: list[Array], keys: Array, cond: Array | None = None) -> tuple[Array, Array]:
        keys = jax.random.wrap_key_data(keys, impl="threefry2x32")
        (x, _), stats = restore(weights).draw_rows(keys, cond)
        return _with_status(x, stats, cond)

    def log_prob(weights: list[Array], x: Array, *cond: Array) -> Any:
        transform = restore(weights).transform
        into = to_flow_space if transform is None else partial(transform_chunk, dtype)
        u, log_det = into(transform, x)
        # Not finite, unlike outside of the support.
        log_det = jnp.where(_all_finite(x), log_det, jnp.nan)
        return scored.call(weights, u, log_det, *cond)

    u = jax.ShapeDtypeStruct((rows, *flow.base.event_shape), dtype)
    scored = program("log_prob", score, u, jax.ShapeDtypeStruct((rows,), dtype))
    programs = {"sample": program("sample", draw, jax.ShapeDtypeStruct((rows, 2), np.uint32))}
    with jax.enable_x64(reads == np.float64 or jax.config.read("jax_enable_x64")):
        x = jax.ShapeDtypeStruct((rows, *flow.event_shape), reads)
        programs["log_prob"] = program("log_prob", log_prob, x)
    manifest = {
        "format": FORMAT,
        "jaxflow": jaxflow_version(),
        "jax": jax.__version__,
        "calling_convention": programs["log_prob"].calling_convention_version,
        "platforms": list(programs["log_prob"].platforms),
        "event_shape": list(flow.event_shape),
        "cond_shape": None if cond_shape is None else list(cond_shape),
        "dtype": dtype.name,
        "reads": reads.name,
        "lanes": lanes,
        "chunk": chunk_size(size, lanes),
        "weights": len(weights),
        "statuses": {status.name: int(status) for status in Status},
    }
    members = {"manifest.json": json.dumps(manifest, indent=1).encode()}
    members |= {name: bytes(_serialize(name, each)) for name, each in programs.items()}
    for i, weight in enumerate(weights):
        file = io.BytesIO()
        np.save(file, np.asarray(weight), allow_pickle=False)
        members[f"weight{i}.npy"] = file.getvalue()
    return members


def _is_stored(leaf: Any) -> bool:
    """Whether a leaf is an array of a dtype that NumPy has."""
    if not isinstance(leaf, jax.Array | np.ndarray):
        return False
    return isinstance(leaf.dtype, np.dtype) and leaf.dtype.kind in "biufc"


def _all_finite(x: Array) -> Array:
    return jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))


def _with_status(
    values: Array, stats: Stats | None, cond: Array | None, outside: Array | None = None
) -> tuple[Array, Array]:
    """The values, NaN in rows that failed, and the status of each row."""
    good, rows = jnp.asarray([Status.SUCCESS, Status.OUTSIDE]), values.shape[:1]
    if stats is not None:
        status = jnp.broadcast_to(stats.status, rows)
    else:
        status = jnp.where(jnp.zeros(rows, bool) if outside is None else outside, good[1], good[0])
    axes = tuple(range(1, values.ndim))
    bad = jnp.any(jnp.isnan(values), axis=axes)
    if cond is not None:
        # NaN throughout is the empty condition.
        empty = jnp.all(jnp.isnan(cond), axis=tuple(range(1, cond.ndim)))
        bad |= ~(_all_finite(cond) | empty)
    status = jnp.where(bad & jnp.isin(status, good), int(Status.NON_FINITE), status)
    return nan_where(~jnp.isin(status, good), values), status.astype(jnp.int32)


def _serialize(name: str, program: jax_export.Exported) -> bytearray:
    with _named(name):
        return program.serialize()


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn any error into a ValueError that names what cannot be exported, and what can."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{name} cannot be exported: {reason}. Base, field and transform must be made of "
            "jax's operations, for any number of rows: x.shape[0] instead of len(x), no NumPy of "
            "their arguments, no callbacks (eqx.error_if, jax.debug.print); give cond_shape=(c,) "
            "if they take a condition"
        ) from error
