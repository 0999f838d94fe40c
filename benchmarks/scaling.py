"""What training on many devices costs, and when it pays.

Simulated devices share the cores of one machine, so no speed-up can show here. What shows is

- overhead: a stretch of training steps on a mesh of 1, 2, 4 and 8 devices against the plain one,
  in CPU seconds, which are the work of all devices together;
- agreement: losses of 200 steps on 8 devices against those on one;
- traffic: the collective operations in the compiled step, and their bytes, against the paper model
  in which a step sums its gradient once;
- a model of the time of a step on real devices, from the step times of one H200
  (`results/accelerator_gpu.json`), that traffic and the nominal figures of the links. It predicts,
  and nothing here was run on more than one GPU.

    python benchmarks/scaling.py [--quick] [--parts overhead agreement traffic] [--latency-us 5 10]

It draws docs/images/scaling.png.
"""
# ruff: noqa: E402

import argparse
import itertools
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
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
import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt

import jaxflow
from harness import RESULTS, table, write_results
from jaxflow.dynamics import MLP
from jaxflow.objectives import FlowMatching, maximum_likelihood
from jaxflow.objectives.couplings import Swaps, independent
from jaxflow.training import run as training_run
from jaxflow.training.prepare import prepare
from jaxflow.training.step import train_steps

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "scaling.png"
OBJECTIVES = {
    "likelihood": maximum_likelihood,
    "matching": FlowMatching(),
    "matching, independent": FlowMatching(coupling=independent),
}
# Fixed steps of the training solve and evaluations of a step, here and in accelerator.py.
STEPS, STAGES = 4, 4

# Nominal figures of the vendors, bytes a second in one direction. H200: 18 links of the fourth
# NVLink, 900 GB/s both ways (github.com/mlcommons/inference_results_v4.1, closed/NVIDIA/systems/
# H200-SXM-141GBx8_TRT_MaxQ.json). Between hosts: InfiniBand NDR, 400 Gb/s, an adapter a device
# (as in inference_results_v6.0, closed/Nebius/systems/nebius_b200_n1.json).
NVLINK, INFINIBAND = 450e9, 50e9
# Devices of a host; more of them go by InfiniBand. 50 GB/s is a ring by one adapter a host; eight
# rings by eight adapters at once carry eight times as much.
HOST = 8
LINKS = {
    "8, NVLink": (8, NVLINK),
    "64, one adapter a host": (64, INFINIBAND),
    "64, eight": (64, HOST * INFINIBAND),
}
COUNTS = (1, 2, 4, 8, 16, 32, 64)
GOOD = 0.9


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
    return training_run.Run("as given", problem, key, config, OBJECTIVES[kind], on, shard)


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


# A model of the time of a step.


def products(kind: str, dim: int, width: int, depth: int) -> float:
    """Floating-point operations in matrix products of a step's loss and gradient, of one row.

    As counted in step.py: reverse mode costs twice the forward pass, a checkpointed solve runs
    its stages once more; the exact trace of two layers adds one product of hidden layers, a probe
    repeats all of them.
    """
    field = 2 * dim * width + (depth - 1) * width**2
    if kind != "likelihood":
        return 2 * 3 * field
    trace = width**2 if depth <= 2 else field
    return 2 * 4 * STEPS * STAGES * (field + trace)


def pairing(kind: str, rows: float, dim: int) -> float:
    """Seconds in which swaps pair the rows of a whole batch, which every device does alone.

    A round reads four arrays of the batch and writes one; at the nominal 4.8 TB/s of an H200.
    """
    return Swaps().rounds * 5 * 4 * rows * dim / 4.8e12 if kind == "matching" else 0.0


class Model:
    """Seconds of a step.

    Args:
        measured: times of steps on one device, of accelerator_gpu.json.
        sent: what each kind's step sends, by `traffic`.
        sizes: of which `sent` is.
        latency: seconds of an operation, within a host and between hosts, for each doubling.
    """

    def __init__(
        self,
        measured: dict[str, Any],
        sent: dict[str, Any],
        sizes: tuple[int, int, int, int],
        latency: tuple[float, float],
    ) -> None:
        self.latency = latency
        self.floor, self.rate, self.fit = {}, {}, {}
        self.count, self.gathered = {}, {}
        self.sums = {
            name: each["operations"]["all-reduce"]["bytes"] / (4 * each["parameters"])
            for name, each in sent.items()
        }
        for kind in OBJECTIVES:
            like = kind.split(",")[0]
            times = {}
            for name, each in measured.items():
                said = re.fullmatch(rf"d (\d+), (\d)x(\d+), (\d+) rows, {like}", name)
                if said:
                    dim, depth, width, rows = map(int, said.groups())
                    times[dim, width, depth, rows] = each["step"]
            self.floor[kind] = min(times.values())
            largest = max(times, key=lambda s: s[3] * products(kind, *s[:3]))
            dim, width, depth, rows = largest
            over = times[largest] - self.floor[kind] - pairing(like, rows, dim)
            self.rate[kind] = rows * products(kind, dim, width, depth) / over
            if kind == like:
                self.fit[kind] = {
                    f"d {s[0]}, {s[2]}x{s[1]}, {s[3]} rows": [t, self.alone(kind, s[:3], s[3])]
                    for s, t in times.items()
                }
            operations = sent[kind]["operations"]
            self.count[kind] = sum(each["a step"] for each in operations.values())
            gathered = operations.get("all-gather", {"bytes": 0})["bytes"]
            self.gathered[kind] = gathered / (4 * sizes[0] * sizes[3])

    def alone(
        self, kind: str, net: tuple[int, int, int], rows: float, whole: float | None = None
    ) -> float:
        """Seconds of the computation, of a batch of which this device has so many rows."""
        batch = rows if whole is None else whole
        work = rows * products(kind, *net) / self.rate[kind]
        return self.floor[kind] + pairing(kind, batch, net[0]) + work

    def step(
        self,
        kind: str,
        net: tuple[int, int, int],
        rows: float,
        devices: int,
        link: float | None = None,
    ) -> float:
        """Seconds of a step with so many rows a device.

        Args:
            kind: the objective.
            net: columns, width, depth.
            rows: of each device.
            devices: how many.
            link: bytes a second; None for NVLink within a host, one adapter a host beyond.
        """
        dim, width, depth = net
        weights = 2 * dim * width + (depth - 1) * width**2
        inside = devices <= HOST
        share = (devices - 1) / devices
        sums = self.sums[f"{kind}, 3 layers" if kind == "likelihood" and depth > 2 else kind]
        gathered = self.gathered[kind] * rows * devices * dim
        sent = 2 * share * 4 * sums * weights + share * 4 * gathered
        wait = self.latency[0 if inside else 1] * self.count[kind] * math.log2(devices)
        link = link or (NVLINK if inside else INFINIBAND)
        return self.alone(kind, net, rows, rows * devices) + wait + sent / link

    def efficiency(
        self, kind: str, net: tuple[int, int, int], rows: float, devices: int, **how: Any
    ) -> float:
        """Rows a second over those of as many devices that work alone, so many rows on each."""
        return self.alone(kind, net, rows) / self.step(kind, net, rows, devices, **how)

    def shared_out(
        self, kind: str, net: tuple[int, int, int], batch: float, devices: int, **how: Any
    ) -> float:
        """The same with one batch, of which each device has its part."""
        step = self.step(kind, net, batch / devices, devices, **how)
        return self.alone(kind, net, batch) / (devices * step)


NETS = {
    "43 columns, 2x256": (43, 256, 2),
    "43 columns, 3x1024": (43, 1024, 3),
    "256 columns, 3x2048": (256, 2048, 3),
    "256 columns, 3x8192": (256, 8192, 3),
}
ROWS = [2**i for i in range(4, 19)]
WIDTHS = [2**i for i in range(6, 18)]


def span(values: list[int], good: list[bool]) -> list[int] | None:
    """The smallest and the largest good value; None for none."""
    found = [value for value, is_good in zip(values, good, strict=True) if is_good]
    return [found[0], found[-1]] if found else None


def thresholds(model: Model) -> dict[str, Any]:
    """Where efficiency is 90 % or more: rows a device, widths, and one batch shared out."""
    found: dict[str, Any] = {}
    for kind, (name, (devices, link)) in itertools.product(OBJECTIVES, LINKS.items()):
        how = {"devices": devices, "link": link}
        good = partial(model.efficiency, kind, **how)
        shared = partial(model.shared_out, kind, **how)
        found[f"{kind}; {name}"] = {
            "rows a device": {
                each: span(ROWS, [good(net, r) >= GOOD for r in ROWS])
                for each, net in NETS.items()
            },
            "widths of 3 layers, 256 columns": {
                str(r): span(WIDTHS, [good((256, w, 3), r) >= GOOD for w in WIDTHS])
                for r in (512, 4096, 16384)
            },
            "one batch shared out": {
                each: {str(b): shared(net, b) for b in (16384, 262144)}
                for each, net in NETS.items()
            },
        }
    return found


def draw(model: Model, path: Path) -> None:
    """Efficiency against the number of devices."""
    colours = ["#0072B2", "#E69F00", "#009E73", "#D55E00"]
    figure, axes = plt.subplots(
        1, len(OBJECTIVES), figsize=(11, 3.8), sharex=True, sharey=True, layout="constrained"
    )
    for ax, kind in zip(axes, OBJECTIVES, strict=True):
        for (name, net), colour, marker in zip(NETS.items(), colours, "osD^", strict=True):
            for rows, line in ((512, "--"), (16384, "-")):
                y = [100 * model.efficiency(kind, net, rows, n) for n in COUNTS]
                label = f"{name}; {rows:,} rows"
                ax.plot(COUNTS, y, line, c=colour, marker=marker, ms=4, lw=1.4, label=label)
        ax.axhline(100 * GOOD, c="0.4", lw=1, ls=":")
        ax.axvspan(HOST, COUNTS[-1], color="0.93", zorder=0)
        ax.set_xscale("log", base=2)
        ax.set(xticks=COUNTS, xticklabels=COUNTS, ylim=(0, 104), xlim=(1, COUNTS[-1]))
        ax.grid(alpha=0.3)
        title = {"matching": "matching, pairs by swaps"}.get(kind, kind)
        ax.set_title(f"{title} (model)", fontsize=10)
        ax.set_xlabel("devices; shaded: more than one host")
    axes[0].set_ylabel("efficiency, %")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(
        *handles,
        title="columns, layers x width; rows of each device",
        fontsize=8,
        title_fontsize=8,
        frameon=False,
        loc="outside lower center",
        ncols=4,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


# What is printed.


def in_words(found: list[int] | None, values: list[int]) -> str:
    """A range of good values, open where it goes on to the end of what was tried."""
    if found is None:
        return "none"
    low = "" if found[0] == values[0] else f"from {found[0]:,}"
    high = "" if found[1] == values[-1] else f"to {found[1]:,}"
    return f"{low} {high}".strip() or "all"


def say_thresholds(found: dict[str, Any]) -> None:
    for what, values in (("rows a device", ROWS), ("widths of 3 layers, 256 columns", WIDTHS)):
        columns = list(next(iter(found.values()))[what])
        lines = [
            [*case.split("; "), *(in_words(each[what][c], values) for c in columns)]
            for case, each in found.items()
        ]
        if what != "rows a device":
            columns = [f"{int(c):,} rows" for c in columns]
        print(f"\nat least 90 % efficiency, {what} (model):")
        print(table(["step", "devices", *columns], lines), flush=True)
    lines = [
        [*case.split("; "), *(" ".join(f"{100 * e:.0f}" for e in by.values()) for by in shared)]
        for case, each in found.items()
        for shared in [each["one batch shared out"].values()]
    ]
    print("\nefficiency in %, one batch of 16,384 and of 262,144 rows shared out (model):")
    print(table(["step", "devices", *NETS], lines), flush=True)


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


def measure_traffic(latency_us: tuple[float, float], *, quick: bool) -> dict[str, Any]:
    """What a step sends, and what follows by the model."""
    results: dict[str, Any] = {}
    sizes = (8, 64, 2, 64) if quick else (43, 256, 2, 512)
    results["traffic"] = {
        f"{kind}{', weights split' if shard else ''}": traffic(kind, sizes, shard=shard)
        for kind in OBJECTIVES
        for shard in ((False,) if quick else (False, True))
    }
    # Whose trace takes a probe, where two layers have a closed form.
    deep = "likelihood, 3 layers"
    results["traffic"][deep] = traffic(
        "likelihood", (sizes[0], sizes[1], 3, sizes[3]), shard=False
    )
    lines = [
        [kind]
        + [
            f"{op['a step']} ({op['in loops']}), {op['bytes'] / 1e6:.3f}" if op else "0"
            for op in (each["operations"].get(name) for name in KINDS[:2])
        ]
        + [str(sum(op["a step"] for n, op in each["operations"].items() if n not in KINDS[:2]))]
        + [f"{each[name] / 1e6:.3f}" for name in ("ring bytes", "paper ring bytes")]
        + [f"{each['ring bytes'] / each['paper ring bytes']:.2f}"]
        for kind, each in results["traffic"].items()
    ]
    print(f"parameters: {results['traffic']['likelihood']['parameters']:,}; numbers a step,")
    print("in parentheses those in loops within a step; megabytes, of the ring a device")
    header = ["step", "all-reduce, MB", "all-gather, MB", "others"]
    print(table([*header, "ring, MB", "paper's, MB", "ratio"], lines), flush=True)

    measured = json.loads((RESULTS / "accelerator_gpu.json").read_text())["results"]["speed"]
    latency = (1e-6 * latency_us[0], 1e-6 * latency_us[1])
    model = Model(measured, results["traffic"], sizes, latency)
    lines = [
        [kind, name, f"{1e3 * t:.2f}", f"{1e3 * m:.2f}"]
        for kind, each in model.fit.items()
        for name, (t, m) in each.items()
    ]
    print(table(["step on an H200", "size", "measured, ms", "model, ms"], lines))
    rates = ", ".join(f"{kind} {rate / 1e12:.0f}" for kind, rate in model.rate.items())
    print(f"above the floor, TFLOP/s: {rates}")
    results["model"] = {
        "links": LINKS,
        "assumed_latency": latency,
        "one_device": model.fit,
        "flop_rate": model.rate,
        "floor": model.floor,
        "sums_of_gradient": model.sums,
        "gathered_batches": model.gathered,
        "operations": model.count,
        "90_percent": thresholds(model),
    }
    say_thresholds(results["model"]["90_percent"])
    if not quick:
        draw(model, PICTURE)
    return results


PARTS = ("overhead", "agreement", "traffic")


def main() -> None:
    parser = argparse.ArgumentParser(description="What many devices cost, and when they pay.")
    parser.add_argument("--quick", action="store_true", help="small, and nothing is kept")
    parser.add_argument(
        "--latency-us",
        type=float,
        nargs=2,
        default=(5.0, 10.0),
        help="assumed for each doubling of devices, within a host and between hosts",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    quick = arguments.quick
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{DEVICES} simulated devices on {cores} cores, jax {jax.__version__}")
    path = RESULTS / "scaling.json"
    # Parts that are not run keep what they found before.
    results = json.loads(path.read_text())["results"] if path.exists() and not quick else {}
    kinds = ["likelihood"] if quick else ["likelihood", "matching"]
    if "overhead" in arguments.parts:
        results["cores_used"] = cores
        results["overhead"] = measure_overhead(kinds, quick=quick)
    if "agreement" in arguments.parts:
        results["agreement"] = measure_agreement(kinds, quick=quick)
    if "traffic" in arguments.parts:
        results |= measure_traffic(arguments.latency_us, quick=quick)
    if not quick:
        print(f"written to {write_results('scaling', results)}")


if __name__ == "__main__":
    main()
