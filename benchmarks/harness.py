"""What benchmarks share: interleaved timing, trainings on toys, tables, a result file."""

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import sem

import jaxflow
from jaxflow.density.continuity import augmented_dynamics
from jaxflow.transforms import Standardise

RESULTS = Path(__file__).parent / "results"
PAGES = Path(__file__).parent.parent / "docs"


def each_on_a_core(
    function: Callable[..., Any], arguments: list[Any], jobs: int | None = None
) -> Iterator[tuple[Any, Any]]:
    """Run `function` on each argument, `jobs` at once; yield (argument, result) as they end.

    Each process keeps to one core, since threads of two processes would wait for each other.
    """
    jobs = jobs or os.cpu_count() or 1
    spawn = multiprocessing.get_context("spawn")
    cores = spawn.Queue()
    for core in range(jobs):
        cores.put(core)
    with ProcessPoolExecutor(jobs, spawn, _keep_to_a_core, (cores,)) as pool:
        runs = {pool.submit(function, argument): argument for argument in arguments}
        for run in as_completed(runs):
            yield runs[run], run.result()


def _keep_to_a_core(cores: Any) -> None:
    if hasattr(os, "sched_setaffinity"):
        known = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {known[cores.get() % len(known)]})


def wide(tree: Any) -> Any:
    """The tree in float64, which must be enabled."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def noisier(field: Any, scale: float, rng: int | np.random.Generator = 17) -> Any:
    """The field with larger and noisier weights, as after much training."""
    rng = np.random.default_rng(rng)

    def grow(w: Any) -> Any:
        if not eqx.is_inexact_array(w):
            return w
        return w + jnp.asarray(scale * rng.normal(size=w.shape), w.dtype)

    return jax.tree.map(grow, field)


def flat(tree: Any) -> np.ndarray:
    """All entries of a tree as one float64 vector."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def density(t: Any, state: Any, field: Any) -> Any:
    """The derivative of `(x, log p)` of one row, with the exact trace."""
    return augmented_dynamics(jnp.asarray(t), state, (field, None, None))


def dynamics(t: Any, state: Any, field: Any) -> Any:
    """The same of many rows."""
    return jax.vmap(density, in_axes=(None, 0, None))(t, state, field)


def fit_toy(
    toy: Any, flow: Any, objective: Any, config: Any, key: Any
) -> tuple[Any, dict[str, float]]:
    """The flow fitted to 40,000 rows of a toy, and KL(data, model) in nats of 4,000 new rows."""
    start = time.perf_counter()
    train, held, test = (toy.sample(n, seed) for seed, n in enumerate((40_000, 2000, 4000)))
    flow, history = jaxflow.fit(
        flow,
        train,
        validation=held,
        key=key,
        config=config,
        objective=objective,
        transform=Standardise.fit(train) if flow.transform is None else None,
        progress=False,
    )
    gap = toy.log_prob(test) - np.asarray(flow.log_prob(test), float)
    return flow, {
        "kl": float(gap.mean()),
        "kl_se": float(sem(gap)),
        "num_evals": history["num_evals"][-1],
        "seconds": time.perf_counter() - start,
    }


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, all taking turns, after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        jax.block_until_ready(run())
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def at_error(errors: list[float], work: list[float], error: float) -> float:
    """Work for an error, interpolated on logarithms; NaN where it is not reached.

    From loose to tight; errors do not fall evenly, so it is the last crossing that counts.
    """
    above = [i for i, each in enumerate(errors) if not each <= error]
    if not above or above[-1] + 1 == len(errors):
        return float("nan")
    i = above[-1]
    x = np.log(errors[i : i + 2])
    share = (x[0] - np.log(error)) / (x[0] - x[1])
    return float(work[i] * (work[i + 1] / work[i]) ** share)


def read_results(name: str) -> dict[str, Any]:
    """What `write_results` wrote last under this name; empty for nothing."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["results"] if path.exists() else {}


def write_results(name: str, results: dict[str, Any]) -> Path:
    """Write results as JSON, with the machine and the versions that gave them."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "benchmark": name,
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "device": jax.devices()[0].device_kind,
            "python": platform.python_version(),
        },
        "versions": {p: version(p) for p in ("jax", "equinox", "optax", "jaxflow-cnf")},
        "results": results,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def write_page(name: str, text: str, page: str = "benchmarks") -> None:
    """Put a text between the marks `<!-- name -->` of a page of docs/."""
    path, begin, end = PAGES / f"{page}.md", f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = path.read_text().split(begin)
    path.write_text(f"{before}{begin}{text}\n\n{end}{rest.split(end)[1]}")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
