"""What training on many devices costs.

Simulated devices share the cores of one machine, so no speed-up can show here. What shows is

- overhead: a stretch of training steps on a mesh of 1, 2, 4 and 8 devices against the plain one,
  in CPU seconds, which are the work of all devices together;
- agreement: losses of 200 steps on 8 devices against those on one;
- traffic: the collective operations in the compiled step, and their bytes, against the paper model
  in which a step sums its gradient once.

    python benchmarks/scaling.py [--quick] [--parts overhead agreement traffic]
"""
# ruff: noqa: E402

import argparse
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

DEVICES = 8
FLAG = f"--xla_force_host_platform_device_count={DEVICES}"
if __name__ == "__main__" and FLAG not in os.environ.get("XLA_FLAGS", "").split():
    # What jax reads when it starts; a look needs no fast programs.
    soon = "--xla_backend_optimization_level=0" if "--quick" in sys.argv else ""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {soon} {FLAG}".strip()
    os.environ |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    os.execv(sys.executable, [sys.executable, *sys.argv])

import jax
import numpy as np

import jaxflow
from harness import read_results, table, write_results
from jaxflow.dynamics import MLP
from jaxflow.objectives import FlowMatching, maximum_likelihood
from jaxflow.objectives.couplings import independent
from jaxflow.training import run as training_run
from jaxflow.training.optimizer import Choice
from jaxflow.training.prepare import prepare
from jaxflow.training.step import train_steps

OBJECTIVES = {
    "likelihood": maximum_likelihood,
    "matching": FlowMatching(),
    "matching, independent": FlowMatching(coupling=independent),
}
# Fixed steps of the training solve.
STEPS = 4

# A training as `fit` makes it.


def run_of(
    kind: str,
    sizes: tuple[int, int, int, int],
    mesh: int | None,
    *,
    shard: bool = False,
    every: int = 1,
    steps: int = 10_000,
) -> training_run.Run:
    """The training that `fit` would start.

    Args:
        kind: the objective.
        sizes: columns, width, depth, rows of a minibatch.
        mesh: devices, None for the plain path.
        shard: whether weights are split.
        every: steps of a compiled stretch, at most.
        steps: over which the learning rate rises and falls.
    """
    dim, width, depth, batch = sizes
    key = jax.random.key(0)
    x = np.random.default_rng(0).normal(size=(4 * batch, dim)) * np.linspace(1, 3, dim)
    flow = jaxflow.CNF(
        MLP(dim, width=width, depth=depth, key=key),
        jaxflow.StandardNormal((dim,)),
        ode=jaxflow.ODE(solver="rk4", num_steps=STEPS, gradient="checkpointed"),
    )
    config = jaxflow.TrainConfig(
        steps=steps, batch_size=batch, eval_every=every, validation_rows=16
    )
    problem = prepare(flow, x, None, key, 0.1, None, config)["as given"]
    on = None if mesh is None else jaxflow.rows_mesh(mesh)
    return training_run.Run(
        "as given", problem, key, config, OBJECTIVES[kind], Choice(), on, shard
    )


def stretch(run: training_run.Run, count: int) -> float:
    """Train for `count` steps, as between two validations; their mean loss."""
    return run._train(run._phase(run.step), count)[0]


def turns(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of this process for each run, all taking turns, after one warm-up each.

    The work of all threads, however busy the machine is otherwise.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return times


def overheads(
    kind: str, sizes: tuple[int, int, int, int], meshes: list[int], count: int, repeats: int
) -> dict[str, Any]:
    """CPU seconds of a step on meshes of several sizes."""
    runs = {
        "plain" if mesh is None else f"mesh={mesh}": run_of(kind, sizes, mesh, every=count)
        for mesh in (None, *meshes)
    }
    # These differ by little, and get more turns.
    close = {name: partial(stretch, runs[name], count) for name in ("plain", "mesh=1")}
    pairs = zip(*turns(close, 4 * repeats).values(), strict=True)
    ratio = statistics.median(one / plain for plain, one in pairs)
    every = turns({name: partial(stretch, run, count) for name, run in runs.items()}, repeats)
    step = {name: statistics.median(times) / count for name, times in every.items()}
    return {"step": step, "mesh=1 against plain": ratio}


def agreement(kind: str, steps: int, precisions: tuple[bool, ...]) -> dict[str, float]:
    """Largest relative difference of a step's loss on 8 devices and on one."""
    found = {}
    for wide in precisions:
        with jax.enable_x64(wide):
            pair = [run_of(kind, (2, 32, 2, 256), m, steps=steps) for m in (None, DEVICES)]
            losses = np.array([[stretch(run, 1) for _ in range(steps)] for run in pair])
        difference = np.abs(losses[1] - losses[0]) / np.abs(losses[0])
        found["float64" if wide else "float32"] = float(difference.max())
    return found


# What the compiled step sends.

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


def hlo_of(run: training_run.Run, count: int) -> str:
    """The program of a stretch after XLA has split and optimised it."""
    with mock.patch.object(training_run, "train_steps", side_effect=InterruptedError) as seen:
        try:
            stretch(run, count)
        except InterruptedError:
            inputs = seen.call_args.args
    with run._on_mesh():
        return train_steps.lower(*inputs).compile().compiled.as_text()


def size_of(shapes: str) -> int:
    """Bytes of an HLO type, an array or a tuple of them."""
    total = 0
    for dtype, dims in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes):
        total += BYTES[dtype] * math.prod(int(d) for d in dims.split(",") if d)
    return total


def collectives(hlo: str) -> list[tuple[str, int, int]]:
    """Collective operations of one training step: kind, bytes of its answer, times a step.

    The loop over steps is the one whose length is not known when compiling.
    """
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in hlo.splitlines():
        start = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if start:
            name = start[2]
            bodies[name] = []
            entry = name if start[1] else entry
        elif name:
            bodies[name].append(line)
    found: list[tuple[str, int, int]] = []

    def visit(name: str, times: int) -> None:
        for line in bodies[name]:
            said = re.search(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(", line)
            if said:
                found.append((said[2], size_of(said[1]), times))
            loop = re.search(r" while\(.*body=%?([\w.\-]+)", line)
            if loop:
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                visit(loop[1], times * (int(trips[1]) if trips else 1))
            else:
                for called in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line):
                    visit(called, times)

    visit(entry, 1)
    return found


def on_the_ring(kind: str, size: int, devices: int) -> float:
    """Bytes that each device sends, in a ring, for an answer of such a size.

    As in github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md.
    """
    share = (devices - 1) / devices
    factor = {"all-reduce": 2 * share, "reduce-scatter": devices - 1, "collective-permute": 1.0}
    return factor.get(kind, share) * size


def traffic(kind: str, sizes: tuple[int, int, int, int], *, shard: bool) -> dict[str, Any]:
    """What a step on 8 devices sends, counted in its program, and by the paper model."""
    run = run_of(kind, sizes, DEVICES, shard=shard)
    params = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    found = collectives(hlo_of(run, 1))
    share = (DEVICES - 1) / DEVICES
    result: dict[str, Any] = {"parameters": params, "operations": {}}
    for name in KINDS:
        every = [(size, times) for each, size, times in found if each == name]
        if every:
            result["operations"][name] = {
                "a step": sum(times for _, times in every),
                "in loops": sum(times for _, times in every if times > 1),
                "bytes": sum(size * times for size, times in every),
            }
    result["ring bytes"] = sum(on_the_ring(k, size, DEVICES) * times for k, size, times in found)
    # One sum of the gradient; or weights gathered forwards and backwards, gradients scattered.
    result["paper ring bytes"] = (3 if shard else 2) * share * 4 * params
    return result


# What is printed.


def measure_overhead(kinds: list[str], *, quick: bool) -> dict[str, Any]:
    """CPU time of a step on simulated devices."""
    sizes, meshes = ((8, 32, 2, 64), [1, 8]) if quick else ((16, 64, 2, 512), [1, 2, 4, 8])
    count, repeats = (4, 1) if quick else (20, 9)
    found = {kind: overheads(kind, sizes, meshes, count, repeats) for kind in kinds}
    lines = [
        [
            kind,
            *(f"{1e3 * t:.2f}" for t in each["step"].values()),
            f"{100 * (each['mesh=1 against plain'] - 1):+.1f} %",
        ]
        for kind, each in found.items()
    ]
    header = ["CPU ms a step", *found["likelihood"]["step"], "mesh=1 against plain"]
    print(table(header, lines), flush=True)
    return found


def measure_agreement(kinds: list[str], *, quick: bool) -> dict[str, Any]:
    """Losses on eight devices beside those on one."""
    found = {
        kind: agreement(kind, *((5, (False,)) if quick else (200, (True, False))))
        for kind in kinds
    }
    lines = [[k, *(f"{e:.1e}" for e in each.values())] for k, each in found.items()]
    header = ["largest relative difference of losses", *found["likelihood"]]
    print(table(header, lines), flush=True)
    return found


def measure_traffic(*, quick: bool) -> dict[str, Any]:
    """What a step sends."""
    sizes = (8, 64, 2, 64) if quick else (43, 256, 2, 512)
    found = {
        f"{kind}{', weights split' if shard else ''}": traffic(kind, sizes, shard=shard)
        for kind in OBJECTIVES
        for shard in ((False,) if quick else (False, True))
    }
    # Whose trace takes a probe, where two layers have a closed form.
    deep = "likelihood, 3 layers"
    found[deep] = traffic("likelihood", (sizes[0], sizes[1], 3, sizes[3]), shard=False)
    lines = [
        [kind]
        + [
            f"{op['a step']} ({op['in loops']}), {op['bytes'] / 1e6:.3f}" if op else "0"
            for op in (each["operations"].get(name) for name in KINDS[:2])
        ]
        + [str(sum(op["a step"] for n, op in each["operations"].items() if n not in KINDS[:2]))]
        + [f"{each[name] / 1e6:.3f}" for name in ("ring bytes", "paper ring bytes")]
        + [f"{each['ring bytes'] / each['paper ring bytes']:.2f}"]
        for kind, each in found.items()
    ]
    print(f"parameters: {found['likelihood']['parameters']:,}; numbers a step,")
    print("in parentheses those in loops within a step; megabytes, of the ring a device")
    header = ["step", "all-reduce, MB", "all-gather, MB", "others"]
    print(table([*header, "ring, MB", "paper's, MB", "ratio"], lines), flush=True)
    return found


PARTS = ("overhead", "agreement", "traffic")


def main() -> None:
    parser = argparse.ArgumentParser(description="What many devices cost.")
    parser.add_argument("--quick", action="store_true", help="small, and nothing is kept")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    quick = arguments.quick
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{DEVICES} simulated devices on {cores} cores, jax {jax.__version__}")
    # Parts that are not run keep what they found before.
    results = {} if quick else read_results("scaling")
    kinds = ["likelihood"] if quick else ["likelihood", "matching"]
    if "overhead" in arguments.parts:
        results["cores_used"] = cores
        results["overhead"] = measure_overhead(kinds, quick=quick)
    if "agreement" in arguments.parts:
        results["agreement"] = measure_agreement(kinds, quick=quick)
    if "traffic" in arguments.parts:
        results["traffic"] = measure_traffic(quick=quick)
    if not quick:
        print(f"written to {write_results('scaling', results)}")


if __name__ == "__main__":
    main()
