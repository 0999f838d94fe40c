"""Exact against stochastic traces: what each costs, what each leaves unknown, what each trains.

Four questions, each a table; two pictures in docs/images; everything in results/traces.json:
1. time of a trace, of a training gradient and of scoring, for four families of fields;
2. peak memory and time of scoring many rows (a process each);
3. the error of log p that stochastic traces leave on trained flows, against their cost;
4. held-out log-density after training with each trace for an equal time.
With `--peers PYTHON` (an environment of benchmarks/peers/requirements.txt) a training gradient
and a scoring of equal work by zuko and torchdiffeq stand beside jaxflow's.

    python benchmarks/traces.py [--quick] [--peers .venv-peers/bin/python]
"""

import argparse
import json
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax

from harness import interleaved, table, write_results
from step import flow as step_flow
from step import gradient as step_gradient
from trace_costs import EVALS, FIELDS, WIDTH, measure, peak_memory
from trace_errors import TABLES, equal_time, frontier
from trace_pictures import draw_cost, draw_frontier

DIMS = (2, 8, 30, 64, 784)
QUICK_DIMS = (30,)
IMAGES = Path(__file__).parent.parent / "docs" / "images"


def costs(dims: tuple[int, ...], names: list[str], repeats: int) -> dict[str, Any]:
    """Question 1."""
    found: dict[str, Any] = {}
    for name in names:
        found[name] = {}
        for dim in dims:
            rows = 1000 if dim <= 64 else 64
            found[name][str(dim)] = measure(name, dim, rows, repeats)
            tell(f"{name}, {dim} dimensions")
    return found


def cost_table(found: dict[str, Any], what: str) -> str:
    rows = []
    for name, by_dim in found.items():
        for method in ("brute, all at once", "brute, chunked", "closed form"):
            rows.append([name, method, *(cell(by_dim[d], method, what) for d in by_dim)])
        for k in (1, 2, 4, 8):
            method = f"Hutchinson, k={k}"
            rows.append([name, method, *(cell(by_dim[d], method, what) for d in by_dim)])
    dims = list(next(iter(found.values())))
    return table(["field", f"{what}, us a row", *(f"d={d}" for d in dims)], rows)


def cell(results: dict[str, Any], method: str, what: str) -> str:
    value = results.get(method, {}).get(f"{what}_us_per_row")
    return "-" if value is None else f"{value:.3g}"


def memory(*, quick: bool) -> dict[str, Any]:
    """Question 2: each case in its own process."""
    cases = [("closed", 64, 10_000), ("brute", 64, 10_000), ("8", 64, 10_000)]
    if not quick:
        cases += [("closed", 784, 10_000), ("8", 784, 10_000), ("brute", 784, 10_000)]
    names = {"closed": "closed form", "brute": "brute, chunked", "8": "Hutchinson, k=8"}
    found = {}
    for method, dim, rows in cases:
        found[f"{names[method]}, d={dim}"] = peak_memory(method, dim, rows)
        tell(f"memory of {names[method]}, {dim} dimensions")
    return found


def equal_work(python: str, *, quick: bool) -> dict[str, Any]:
    """The case of step.py by peers, in their own environment, and by jaxflow before and after."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (1000, 43))
    models = {
        "jaxflow, closed form, adjoint": step_flow("auto", "adjoint", key),
        "jaxflow, closed form, checkpointed": step_flow("auto", "checkpointed", key),
        "jaxflow, Hutchinson, checkpointed": step_flow("hutchinson", "checkpointed", key),
    }
    runs = {n: partial(step_gradient, model, x, key) for n, model in models.items()}
    before = interleaved(runs, 5)
    script = Path(__file__).parent / "peers" / "torch_traces.py"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peers.json"
        command = [python, str(script), "--out", str(out), *(["--quick"] if quick else [])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        peers = json.loads(out.read_text())
    after = interleaved(runs, 5)
    ours = {name: {"seconds": min(before[name], after[name]), "num_evals": 32} for name in before}
    return {"jaxflow": ours, "peers": peers}


def ms_per_eval(result: dict[str, float]) -> float:
    return 1e3 * result["seconds"] / result["num_evals"]


def tell(what: str) -> None:
    print(f"[{time.perf_counter() - START:5.0f} s] {what}", flush=True)


START = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description="Exact against stochastic traces.")
    parser.add_argument("--quick", action="store_true", help="a look in under 2 minutes")
    parser.add_argument("--peers", metavar="PYTHON", help="an environment with torch and zuko")
    arguments = parser.parse_args()
    quick = arguments.quick
    dims, names = (QUICK_DIMS, ["MLP"]) if quick else (DIMS, list(FIELDS))
    results: dict[str, Any] = {
        "settings": {"width": WIDTH, "evaluations": EVALS, "quick": quick},
        "costs": costs(dims, names, 3 if quick else 5),
    }
    for what in ("trace", "gradient", "score"):
        print("\n" + cost_table(results["costs"], what))
    print("\nStandard deviation of log p on fields at random, nats:")
    for name, by_dim in results["costs"].items():
        spread = {d: by_dim[d]["standard deviation of log p, nats"] for d in by_dim}
        methods = list(dict.fromkeys(m for each in spread.values() for m in each))
        lines = [
            [name, m, *(f"{spread[d][m]:.3g}" if m in spread[d] else "-" for d in spread)]
            for m in methods
        ]
        print(table(["field", "probes", *(f"d={d}" for d in spread)], lines))

    results["memory"] = memory(quick=quick)
    lines = [
        [case, f"{r['peak_mib']:.0f}", f"{r['seconds']:.1f}"]
        for case, r in results["memory"].items()
    ]
    print("\n" + table(["scoring 10,000 rows, one RK4 step", "peak MiB", "s"], lines))

    tables = TABLES[1:2] if quick else TABLES
    results["frontier"] = {}
    seconds, keys, numbers = (3, 1, (1, 8)) if quick else (30, 4, (1, 2, 4, 8, 16, 32))
    for name in tables:
        results["frontier"][name] = frontier(name, seconds, keys, numbers)
        tell(f"errors on {name}")
    for name, found in results["frontier"].items():
        lines = [
            [
                method,
                str(p["products"]),
                f"{p['us_per_row']:.3g}",
                f"{p['sd']:.3g}",
                f"{p['said']:.3g}" if p["said"] else "-",
            ]
            for method, points in found["points"].items()
            for p in points
        ]
        print(f"\n{name}: {found['spectrum']}")
        print(f"exact: closed form {found['exact_us_per_row']:.3g} us a row, brute force ", end="")
        print(f"{found['brute_us_per_row']:.3g}")
        header = ["trace", "products", "us a row", "error of log p, nats", "standard error says"]
        print(table(header, lines))

    results["equal_time"] = {}
    for name in tables:
        results["equal_time"][name] = equal_time(name, 2 if quick else 20)
        tell(f"training on {name}")
    lines = [
        [name, method, f"{r['log_p']:.3f} +- {r['se']:.3f}", f"{r['steps']:.0f}"]
        for name, found in results["equal_time"].items()
        for method, r in found.items()
    ]
    print("\n" + table(["table", "trained with", "held-out log p, nats", "steps"], lines))

    if arguments.peers:
        results["equal_work"] = equal_work(arguments.peers, quick=quick)
        tell("peers")
        both = results["equal_work"]
        everyone = both["jaxflow"] | both["peers"]["gradients"]
        lines = [
            [
                name,
                f"{r['seconds']:.3f}",
                str(r["num_evals"]),
                f"{1000.0 * r['seconds'] / r['num_evals']:.1f}",
            ]
            for name, r in everyone.items()
        ]
        header = ["training gradient, 1000 x 43, 2 x 256", "s", "evaluations", "ms an evaluation"]
        print("\n" + table(header, lines))

    if not quick:
        draw_cost(results["costs"], IMAGES / "trace_cost.png")
        draw_frontier(results["frontier"], IMAGES / "trace_frontier.png")
        print(f"written to {write_results('traces', results)}")
    tell("done")


if __name__ == "__main__":
    main()
