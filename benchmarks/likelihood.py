"""Held-out likelihood against time: jaxflow beside zuko, FFJORD's way and OT-CFM.

Eight toys whose entropy is known, two tables that ship with scikit-learn, and larger ones with
`--data DIR`. Every method gets the same rows: columns standardised by the training rows, whole
numbers dequantised once with the same noise, 80 % to train, 10 % to validate, 10 % to test. One
core each. jaxflow's clock counts all of `fit`, compiling too; the peers' clock counts training and
validation (`peers/torch_likelihood.py`). Continuous flows are judged in float64 by solves at 1e-7
with an exact trace.

Finished runs are kept in results/likelihood.json and are not run again without `--again`. The last
call draws the picture and prints the table.

    python benchmarks/likelihood.py [--quick] [--peers .venv-peers/bin/python] [--data DIR]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from harness import read_results, table, wide, write_results
from jaxflow import data as toys
from jaxflow.flows.flow import score_rows

HERE = Path(__file__).parent
IMAGE = HERE.parent / "docs" / "images" / "likelihood.png"
TOYS = {
    "8 gaussians": toys.EightGaussians,
    "2 spirals": toys.TwoSpirals,
    "checkerboard": toys.Checkerboard,
    "rings": toys.Rings,
    "moons": toys.Moons,
    "pinwheel": toys.Pinwheel,
    "swissroll": toys.Swissroll,
    "long gaussian": toys.LongGaussian,
}
SHIPPED = ("breast_cancer", "digits")
FILES = {
    "magic_gamma": "tables/magic_gamma.npz",
    "satellite": "tables/satellite.npz",
    "shuttle": "tables/shuttle.npz",
    "miniboone_head": "tables/miniboone_head.npz",
    "slcp": "posteriors/sbibm_slcp_1.npz",
    "two_moons": "posteriors/sbibm_two_moons_1.npz",
    "lotka_volterra": "posteriors/sbibm_lotka_volterra_1.npz",
    "bernoulli_glm": "posteriors/sbibm_bernoulli_glm_1.npz",
}
INTEGERS = ("satellite", "shuttle", "digits")
PEERS = ("zuko-nsf", "zuko-maf", "zuko-cnf", "ffjord", "ot-cfm")
# Columns up to which a field begins with high frequencies.
FEW = 3
# Rows of a toy, and of its test.
TOY_ROWS, TOY_TEST = 40_000, 4000
TIGHT = jaxflow.ODE(solver="dopri8", rtol=1e-7, atol=1e-7, max_steps=20_000)


@dataclass(frozen=True)
class Ours:
    """Settings of one of jaxflow's runs."""

    steps: int
    width: int = 128
    depth: int = 3

    def field(self, dim: int, key: Any) -> Any:
        """Sines throughout, and higher frequencies where columns are few."""
        frequency = 4.0 if dim <= FEW else 1.0
        return jaxflow.dynamics.MLP(
            dim,
            width=self.width,
            depth=self.depth,
            activation="sin",
            frequency=frequency,
            key=key,
        )


OURS = {"jaxflow, short": Ours(1500), "jaxflow": Ours(4000)}
Parts = dict[str, np.ndarray]


def load(name: str, folder: Path | None) -> Parts:
    """Standardised rows of a problem, and for a toy the log-density of its test rows."""
    if name in TOYS:
        toy = TOYS[name]()
        rows = [toy.sample(n, seed) for seed, n in enumerate((TOY_ROWS, TOY_TEST, TOY_TEST))]
        truth = {"truth": toy.log_prob(rows[2])}
    else:
        x, truth = _table(name, folder), {}
        order = np.random.default_rng(0).permutation(len(x))
        rows = np.split(x[order], [int(0.8 * len(x)), int(0.9 * len(x))])
    mean, std = rows[0].mean(axis=0), rows[0].std(axis=0)
    if truth:
        truth["truth"] = truth["truth"] + np.log(std).sum()
    parts = [((part - mean) / std).astype(np.float32) for part in rows]
    return dict(zip(("train", "validation", "test"), parts, strict=True)) | truth


def _table(name: str, folder: Path | None) -> np.ndarray:
    if name == "breast_cancer":
        return toys.breast_cancer().values
    if name == "digits":
        # Dequantised there already.
        x = toys.digits(seed=0).values
        return x[:, x.max(axis=0) > 1]
    assert folder is not None
    with np.load(folder / FILES[name], allow_pickle=False) as file:
        x = file["x"].astype(np.float64)
    return x + np.random.default_rng(1).uniform(size=x.shape) if name in INTEGERS else x


def ours(parts: Parts, settings: Ours) -> list[dict[str, float]]:
    """One training, and the exact score of its test rows."""
    start = time.perf_counter()
    dim = parts["train"].shape[1]
    field_key, fit_key = jax.random.split(jax.random.key(0))
    flow, history = jaxflow.fit(
        jaxflow.CNF(settings.field(dim, field_key), jaxflow.StandardNormal((dim,))),
        parts["train"],
        validation=parts["validation"],
        key=fit_key,
        config=jaxflow.TrainConfig(steps=settings.steps, validation_rows=2000),
        progress=False,
    )
    seconds = time.perf_counter() - start
    with jax.enable_x64(True):
        exact = replace(wide(flow), trace="exact", ode_eval=TIGHT)
        log_p, _ = score_rows(exact, jnp.asarray(parts["test"], float))
        test = -float(np.mean(np.asarray(log_p)))
    best = min(history["validation"])
    return [{"seconds": seconds, "step": history["step"][-1], "validation": best, "test": test}]


def theirs(parts: Parts, peer: str, python: str, seconds: float) -> list[dict[str, float]]:
    """A peer's training in its own environment."""
    script = HERE / "peers" / "torch_likelihood.py"
    with tempfile.TemporaryDirectory() as folder:
        rows, out = Path(folder) / "rows.npz", Path(folder) / "out.json"
        train, validation, test = (parts[name] for name in ("train", "validation", "test"))
        np.savez(rows, train=train, validation=validation, test=test)
        command = [python, str(script), peer, str(rows), "--out", str(out)]
        subprocess.run(
            [*command, "--seconds", str(seconds)], check=True, stdout=subprocess.DEVNULL
        )
        return json.loads(out.read_text())


def run(
    problem: str, method: str, arguments: argparse.Namespace, peer_seconds: float
) -> list[dict[str, float]]:
    """One method on one problem."""
    parts = load(problem, arguments.data)
    if method in OURS:
        settings = replace(OURS[method], steps=200) if arguments.quick else OURS[method]
        found = ours(parts, settings)
    else:
        found = theirs(parts, method, arguments.peers, peer_seconds)
    if "truth" in parts:
        entropy = -float(np.mean(parts["truth"]))
        found = [each | {"kl": each["test"] - entropy} for each in found]
    print(f"{problem}, {method}: {found[-1]}", flush=True)
    # Every compiled function holds memory maps, of which a process has so many.
    jax.clear_caches()
    return found


def tables(found: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """The last value of every run, with the seconds that it took."""
    methods = [*OURS, *PEERS]
    header = ["nats", *methods]
    lines = []
    for problem, runs in found.items():
        cells = []
        for method in methods:
            last = runs.get(method, [None])[-1]
            value = None if last is None else last.get("kl", last["test"])
            cells.append("" if last is None else f"{value:.3f} ({last['seconds']:.0f} s)")
        lines.append([f"{problem}{', KL' if problem in TOYS else ''}", *cells])
    return table(header, lines)


def draw(found: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    """Test likelihood against time, a panel for each problem.

    A table's axis ends at the worst first value, so that a run that diverges leaves it.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    columns = 6
    count = -(-len(found) // columns)
    figure, axes = plt.subplots(count, columns, figsize=(15, 2.6 * count), squeeze=False)
    for ax in axes.ravel()[len(found) :]:
        ax.set_axis_off()
    colours = [f"C{i}" for i in range(10)]
    for ax, (problem, runs) in zip(axes.ravel(), found.items(), strict=False):
        for i, method in enumerate(PEERS):
            points = runs.get(method, [])
            values = [each.get("kl", each["test"]) for each in points]
            ax.plot([p["seconds"] for p in points], values, "o-", ms=3, color=colours[i + 1])
        mine = [runs[method][-1] for method in OURS if method in runs]
        values = [each.get("kl", each["test"]) for each in mine]
        ax.plot([p["seconds"] for p in mine], values, "*-", ms=9, color=colours[0])
        ax.set(xscale="log", title=problem.replace("_", " "), xlim=(5, 1500))
        ax.set_xticks([10, 100, 1000], ["10", "100", "1000"])
        ax.set_xticks([], minor=True)
        if problem in TOYS:
            ax.set_yscale("log")
            ax.set_ylim(0.007, 1)
            ax.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
            ax.set_yticks([], minor=True)
            continue
        worst, best = max(run[0]["test"] for run in runs.values()), ax.dataLim.ymin
        room = 0.08 * (worst - best) or 0.1
        ax.set_ylim(best - room, worst + room)
        for i, method in enumerate(PEERS):
            if method in runs and runs[method][-1]["test"] > worst:
                words = f"{method} diverges:\n{runs[method][-1]['test']:,.0f} nats"
                side = {"transform": ax.transAxes, "ha": "right", "va": "top", "fontsize": 9}
                ax.text(0.97, 0.95, words, color=colours[i + 1], **side)
    there = [i for i, peer in enumerate(PEERS) if any(peer in runs for runs in found.values())]
    handles = [Line2D([], [], color=colours[i + 1], marker="o") for i in there]
    handles = [Line2D([], [], color=colours[0], marker="*"), *handles]
    names = ["jaxflow", *(PEERS[i] for i in there)]
    figure.legend(handles, names, loc="lower center", ncols=len(names), frameon=False)
    figure.supxlabel("seconds on one core", y=0.05)
    figure.supylabel("toys: KL to the truth; tables: test nats")
    figure.tight_layout(rect=(0.01, 0.05, 1, 1))
    figure.savefig(IMAGE, dpi=100)
    print(f"drawn to {IMAGE}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Held-out likelihood against time.")
    parser.add_argument("--quick", action="store_true", help="a look, nothing is kept")
    parser.add_argument("--peers", help="python of the peers' environment")
    parser.add_argument("--data", type=Path, help="folder of larger tables")
    parser.add_argument("--seconds", type=float, default=120.0, help="of a peer's training")
    parser.add_argument("--only", nargs="+", help="problems, by name")
    parser.add_argument("--methods", nargs="+", choices=[*OURS, *PEERS])
    parser.add_argument("--again", action="store_true", help="run finished ones too")
    arguments = parser.parse_args()
    names = [*TOYS, *SHIPPED, *(FILES if arguments.data else ())]
    names = ["8 gaussians"] if arguments.quick else arguments.only or names
    methods = arguments.methods or [*OURS, *(PEERS if arguments.peers else ())]
    found = {} if arguments.quick else read_results("likelihood")
    for method in methods:
        for name in names:
            if method in found.get(name, {}) and not arguments.again:
                continue
            seconds = 10.0 if arguments.quick else arguments.seconds
            found.setdefault(name, {})[method] = run(name, method, arguments, seconds)
            if not arguments.quick:
                write_results("likelihood", found)
    if arguments.quick:
        return
    found = {name: found[name] for name in (*TOYS, *SHIPPED, *FILES) if name in found}
    print(tables(found))
    draw(found)


if __name__ == "__main__":
    # One core for everybody; threads are counted when jax starts.
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
