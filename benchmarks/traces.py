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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from harness import interleaved, read_results, table, write_results
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
            found[name][str(dim)] = measure(name, dim, rows, repeats if dim <= 64 else 3)
            jax.clear_caches()
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
    runs: dict[str, Any] = {
        n: partial(step_gradient, model, x, key) for n, model in models.items()
    }
    score = eqx.filter_jit(lambda model: model.log_prob_rows(x, None, key, training=True)[0])
    runs |= {f"scoring, {n}": partial(score, model) for n, model in models.items()}
    before = interleaved(runs, 5)
    script = Path(__file__).parent / "peers" / "torch_traces.py"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peers.json"
        size = ["--quick"] if quick else ["--repeats", "3", "--dims", "30"]
        command = [python, str(script), "--out", str(out), *size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        peers = json.loads(out.read_text())
    after = interleaved(runs, 5)
    ours: dict[str, Any] = {"gradients": {}, "scoring": {}}
    for name in runs:
        what = "scoring" if name.startswith("scoring, ") else "gradients"
        seconds = min(before[name], after[name])
        ours[what][name.removeprefix("scoring, ")] = {"seconds": seconds, "num_evals": 32}
    return {"jaxflow": ours, "peers": peers}


def ms_per_eval(result: dict[str, float]) -> float:
    return 1e3 * result["seconds"] / result["num_evals"]


def by_table(names: tuple[str, ...], answer: Callable[[str], Any]) -> dict[str, Any]:
    found = {}
    for name in names:
        found[name] = answer(name)
        # Every compiled function holds memory maps, of which a process has so many.
        jax.clear_caches()
        tell(name)
    return found


def tell(what: str) -> None:
    print(f"[{time.perf_counter() - START:5.0f} s] {what}", flush=True)


START = time.perf_counter()


def show_costs(found: dict[str, Any]) -> None:
    for what in ("trace", "gradient", "score"):
        print("\n" + cost_table(found, what))
    lines = []
    for name, by_dim in found.items():
        spread = {d: by_dim[d]["standard deviation of log p, nats"] for d in by_dim}
        for m in dict.fromkeys(m for each in spread.values() for m in each):
            cells = (f"{spread[d][m]:.3g}" if m in spread[d] else "-" for d in spread)
            lines.append([name, m, *cells])
    dims = [f"d={d}" for d in next(iter(found.values()))]
    print("\n" + table(["field at random", "error of log p, nats", *dims], lines))


def show_memory(found: dict[str, Any]) -> None:
    lines = [[case, f"{r['peak_mib']:.0f}", f"{r['seconds']:.1f}"] for case, r in found.items()]
    print("\n" + table(["scoring 10,000 rows, one RK4 step", "peak MiB", "s"], lines))


def show_frontier(found: dict[str, Any]) -> None:
    for name, results in found.items():
        lines = [
            [method, str(p["products"]), f"{p['us_per_row']:.3g}", f"{p['sd']:.3g}", said(p)]
            for method, points in results["points"].items()
            for p in points
        ]
        print(f"\n{name}: {results['spectrum']}")
        closed, brute = results["exact_us_per_row"], results["brute_us_per_row"]
        print(f"exact: closed form {closed:.3g} us a row, d products {brute:.3g}")
        header = ["trace", "products", "us a row", "error of log p, nats", "standard error says"]
        print(table(header, lines))


def said(point: dict[str, float]) -> str:
    """The standard error; one probe says nothing of its own."""
    return f"{point['said']:.3g}" if point["products"] > 1 else "-"


def show_equal_time(found: dict[str, Any]) -> None:
    lines = [
        [name, method, f"{r['log_p']:.3f} +- {r['se']:.3f}", f"{r['steps']:.0f}"]
        for name, results in found.items()
        for method, r in results.items()
    ]
    print("\n" + table(["table", "trained with", "held-out log p, nats", "steps"], lines))


def show_equal_work(found: dict[str, Any]) -> None:
    for what in ("gradients", "scoring"):
        lines = [
            [name, f"{r['seconds']:.3f}", str(r["num_evals"]), f"{ms_per_eval(r):.1f}"]
            for name, r in (found["jaxflow"].get(what, {}) | found["peers"][what]).items()
        ]
        header = [f"{what}, 1000 x 43, 2 x 256", "s", "evaluations", "ms an evaluation"]
        print("\n" + table(header, lines))


def main() -> None:
    questions = ("costs", "memory", "frontier", "equal_time", "equal_work")
    parser = argparse.ArgumentParser(description="Exact against stochastic traces.")
    parser.add_argument("--quick", action="store_true", help="a look in under 2 minutes")
    parser.add_argument("--only", nargs="+", choices=questions, default=questions)
    parser.add_argument("--peers", metavar="PYTHON", help="an environment with torch and zuko")
    arguments = parser.parse_args()
    quick = arguments.quick
    dims, names = (QUICK_DIMS, ["MLP"]) if quick else (DIMS, list(FIELDS))
    tables = TABLES[1:2] if quick else TABLES
    seconds, keys, numbers = (3, 1, (1, 8)) if quick else (30, 4, (1, 2, 4, 8, 16, 32))
    todo: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
        "costs": (lambda: costs(dims, names, 3 if quick else 5), show_costs),
        "memory": (lambda: memory(quick=quick), show_memory),
        "frontier": (
            lambda: by_table(tables, lambda name: frontier(name, seconds, keys, numbers)),
            show_frontier,
        ),
        "equal_time": (
            lambda: by_table(tables, lambda name: equal_time(name, 2 if quick else 15)),
            show_equal_time,
        ),
        "equal_work": (lambda: equal_work(arguments.peers, quick=quick), show_equal_work),
    }
    # A question asked alone replaces its own answer in the file.
    results = {} if quick else read_results("traces")
    results["settings"] = {"width": WIDTH, "evaluations": EVALS}
    for question in arguments.only:
        if question == "equal_work" and not arguments.peers:
            continue
        answer, show = todo[question]
        results[question] = answer()
        show(results[question])
        if not quick:
            write_results("traces", results)
    if not quick:
        draw_cost(results["costs"], IMAGES / "trace_cost.png")
        draw_frontier(results["frontier"], IMAGES / "trace_frontier.png")
    tell("done")


if __name__ == "__main__":
    main()
