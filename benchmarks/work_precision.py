"""Work against precision: how many evaluations, and seconds, an error at the end costs.

The problems of detest.py at many tolerances (rtol = atol, float64). A tolerance means something
else in every library, so what is compared is the work at an equal error: the largest of any entry
at the end, for the flow that of log p in nats.
With `--peers PYTHON` (an environment of benchmarks/peers/requirements.txt) torchdiffeq takes part;
it runs operation by operation, so its seconds are mostly those of Python.

    python benchmarks/work_precision.py [--quick] [--peers .venv-peers/bin/python]
"""

import argparse
import json
import math
import subprocess
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from detest import PROBLEMS, TOY, Problem
from harness import at_error, interleaved, table, write_results
from jaxflow.ode import ODE, odeint

matplotlib.use("agg")
import matplotlib.pyplot as plt

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "work_precision.png"
TOLERANCES = [10.0**-k for k in range(2, 14)]
LEVELS = (1e-4, 1e-6, 1e-8, 1e-10)
MAX_STEPS = 100_000
# A third-order method takes 10 times as many steps for three digits more.
COARSEST = {"bosh3": 1e-9}
OURS = ("bosh3", "dopri5", "tsit5", "dopri8")
# What diffrax calls its methods, and the evaluations of an attempted step.
DIFFRAX = {
    "dopri5": (diffrax.Dopri5, 6),
    "tsit5": (diffrax.Tsit5, 6),
    "dopri8": (diffrax.Dopri8, 13),
}
TORCH = ("dopri5", "dopri8")


def by_jaxflow(problem: Problem, solver: str, tolerance: float) -> Callable[[Any], Any]:
    """A compiled solve: (end, evaluations)."""
    ode = ODE(solver=solver, rtol=tolerance, atol=tolerance, max_steps=MAX_STEPS, throw=False)

    @jax.jit
    def solve(y0):
        y1, stats = odeint(lambda t, y, _: problem.f(t, y), y0, problem.t0, problem.t1, ode=ode)
        return y1, stats.num_evals

    return solve


def by_diffrax(problem: Problem, solver: str) -> Callable[[float, Any], Any]:
    """The same by diffrax with its own defaults, compiled once for all tolerances."""
    method, stages = DIFFRAX[solver]

    @jax.jit
    def solve(tolerance, y0):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, _: problem.f(t, y)),
            method(),
            problem.t0,
            problem.t1,
            None,
            y0,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=MAX_STEPS,
            throw=False,
        )
        # One more chooses the first step; the other that it takes is the first stage.
        evals = 1 + stages * solution.stats["num_steps"]
        return jax.tree.map(lambda y: y[-1], solution.ys), evals

    return solve


def measure(problem: Problem, tolerances: list[float], repeats: int) -> dict[str, list[Any]]:
    """Points of work and error, for every solver of jax."""
    y0 = jax.tree.map(jnp.asarray, problem.y0)
    theirs = {solver: by_diffrax(problem, solver) for solver in DIFFRAX}
    points: dict[str, list[Any]] = {f"jaxflow {solver}": [] for solver in OURS}
    points |= {f"diffrax {solver}": [] for solver in DIFFRAX}
    for tolerance in tolerances:
        runs = {
            f"jaxflow {solver}": partial(by_jaxflow(problem, solver, tolerance), y0)
            for solver in OURS
            if tolerance >= COARSEST.get(solver, 0.0)
        }
        runs |= {
            f"diffrax {name}": partial(solve, tolerance, y0) for name, solve in theirs.items()
        }
        seconds = interleaved(runs, repeats)
        for name, run in runs.items():
            y1, evals = run()
            point = {"tolerance": tolerance, "error": problem.error(y1), "seconds": seconds[name]}
            points[name].append(point | {"evals": int(evals)})
    # Every compiled function holds memory maps, of which a process has so many.
    jax.clear_caches()
    return points


def by_torchdiffeq(
    python: str, problems: dict[str, Problem], tolerances: list[float], repeats: int
) -> dict[str, Any]:
    """The same points by torchdiffeq, in its own environment; and versions."""
    cases = {
        "methods": TORCH,
        "tolerances": tolerances,
        "repeats": repeats,
        "centres": TOY.centres.tolist(),
        "std": TOY.std,
        "problems": {
            name: {
                "y0": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(problem.y0)],
                "times": [problem.t0, problem.t1],
            }
            for name, problem in problems.items()
        },
    }
    script = Path(__file__).parent / "peers" / "torch_work_precision.py"
    done = subprocess.run(
        [python, str(script)],
        input=json.dumps(cases),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    answer = json.loads(done.stdout)
    for name, by_method in answer["points"].items():
        for points in by_method.values():
            for point in points:
                *end, last = point.pop("y1")
                point["error"] = problems[name].error((*end, last) if end else last)
    return answer


def needed(points: list[dict[str, float]], error: float, what: str) -> float:
    """Work for an error; NaN where it is not reached."""
    return at_error([point["error"] for point in points], [p[what] for p in points], error)


def show(found: dict[str, Any]) -> None:
    """The work for each error, and how ours compares with theirs."""
    levels = [f"{level:.0e}" for level in LEVELS]
    lines = []
    for problem, by_solver in found.items():
        for solver, points in by_solver.items():
            evals = [needed(points, level, "evals") for level in LEVELS]
            ms = needed(points, 1e-8, "seconds")
            cells = ["-" if math.isnan(n) else f"{n:.0f}" for n in evals]
            lines.append([problem, solver, *cells, "-" if math.isnan(ms) else f"{1e3 * ms:.2f}"])
    print("\n" + table(["problem", "evaluations", *levels, "ms at 1e-08"], lines))
    lines = []
    for library, solvers in (("diffrax", DIFFRAX), ("torchdiffeq", TORCH)):
        for solver in solvers:
            cells = [ratios(found, library, solver, level, "evals") for level in LEVELS]
            seconds = ratios(found, library, solver, 1e-8, "seconds")
            lines.append([solver, library, *cells, seconds])
    header = ["jaxflow's work over that of", "library", *levels, "time at 1e-08"]
    print("\n" + table(header, lines))


def ratios(found: dict[str, Any], library: str, solver: str, level: float, what: str) -> str:
    """Geometric mean over problems, and the range."""
    logs = []
    for by_solver in found.values():
        ours, theirs = (
            needed(by_solver.get(f"{lib} {solver}", []), level, what)
            for lib in ("jaxflow", library)
        )
        if not math.isnan(ours / theirs):
            logs.append(np.log(ours / theirs))
    if not logs:
        return "-"
    low, mean, high = np.exp([np.min(logs), np.mean(logs), np.max(logs)])
    return f"{mean:.2g} ({low:.2g} to {high:.2g})"


# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = {"bosh3": "#CC79A7", "dopri5": "#E69F00", "tsit5": "#0072B2", "dopri8": "#009E73"}
STYLES = {"jaxflow": ("-", "o"), "diffrax": ("--", "s"), "torchdiffeq": (":", "^")}


def draw(found: dict[str, Any], path: Path) -> None:
    """Error against evaluations, and below against seconds; a panel for each problem."""
    figure, axes = plt.subplots(
        4, 3, figsize=(10.5, 12.5), layout="constrained", gridspec_kw={"hspace": 0.03}
    )
    panels = [(what, name) for what in ("evals", "seconds") for name in found]
    for ax, (what, name) in zip(axes.flat, panels, strict=True):
        for label, points in found[name].items():
            library, solver = label.split()
            line, marker = STYLES[library]
            scale = 1e3 if what == "seconds" else 1
            ax.plot(
                [scale * p[what] for p in points],
                [p["error"] for p in points],
                line,
                marker=marker,
                ms=3.5,
                lw=1.2,
                c=COLOURS[solver],
                mfc="none" if library != "jaxflow" else None,
                label=label,
            )
        unit = "evaluations of the field" if what == "evals" else "milliseconds"
        ax.set(xscale="log", yscale="log", title=name, xlabel=unit, ylim=(1e-13, 3))
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=8)
    for ax in axes[:, 0]:
        ax.set_ylabel("error at the end")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=5
    )
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Work against precision.")
    parser.add_argument("--quick", action="store_true", help="a look in a minute; writes nothing")
    parser.add_argument("--peers", metavar="PYTHON", help="an environment with torchdiffeq")
    arguments = parser.parse_args()
    # Most solves take less than a millisecond, which one glance at the clock does not measure.
    problems, tolerances, repeats = PROBLEMS, TOLERANCES, 31
    if arguments.quick:
        problems = {name: PROBLEMS[name] for name in ("A3, growth", "flow (x, log p)")}
        tolerances, repeats = TOLERANCES[1::3], 1
    found: dict[str, Any] = {}
    for name, problem in problems.items():
        found[name] = measure(problem, tolerances, repeats)
        print(f"{name}: measured", flush=True)
    versions = {"diffrax": version("diffrax")}
    if arguments.peers:
        answer = by_torchdiffeq(arguments.peers, problems, tolerances, repeats)
        versions |= answer["versions"]
        for name, points in answer["points"].items():
            found[name] |= points
    show(found)
    if not arguments.quick:
        write_results("work_precision", {"peers": versions, "problems": found})
        draw(found, IMAGE)


if __name__ == "__main__":
    main()
