"""What users wait for, in less than five minutes: the first answer, a step, scoring, a race.

- The README's ten lines in a fresh process with no compiled programs kept, from `python` to the
  saved file, and the part of it that `fit` takes.
- One training gradient of `step.py`, and its share of the machine's rate of matrix products.
- 100,000 rows of `engine.py` scored in lanes, beside diffrax vmapped, at an equal error.
- KL(data, model) of two toys of `likelihood.py` after 1,500 steps; with `--peers PYTHON`, an
  interpreter that has zuko, beside its neural spline flow after as many seconds.

Run it alone on the machine. Figures go to results/speed.json and docs/benchmarks.md.

    python benchmarks/speed.py [--peers .venv-peers/bin/python]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

import engine
import likelihood
import step
from harness import interleaved, table, write_page, write_results

README = Path(__file__).parent.parent / "README.md"
ERROR, REPEATS, ROWS = 1e-3, 5, 100_000
TOYS = ("8 gaussians", "checkerboard")


def first_answer() -> dict[str, float]:
    """Seconds of the README's lines in a process of their own."""
    lines = README.read_text().split("```python\n")[1].split("```")[0]
    timed = lines + "\nprint(history['seconds'][-1])"
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-c", timed]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
        return {"whole": time.perf_counter() - start, "fit": float(done.stdout.split()[-1])}


def gradient() -> dict[str, float]:
    """One gradient of the closed form, and its share of the rate of matrix products."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (step.ROWS, step.DIM))
    h = jax.random.normal(key, (step.ROWS, step.WIDTH))
    w = jax.random.orthogonal(key, step.WIDTH)
    flow = step.flow("auto", "direct", key)
    times = interleaved(
        {"gradient": lambda: step.gradient(flow, x, key), "products": lambda: step.products(h, w)},
        REPEATS,
    )
    rate = 100 * step.ROWS * step.WIDTH**2 / times["products"]
    work = step.multiply_adds(closed_form=True, recompute=False)
    return {"seconds": times["gradient"], "share_of_rate": work / times["gradient"] / rate}


def scoring() -> dict[str, float]:
    """Seconds of lanes and of diffrax vmapped, where the worst 1 % of rows err by `ERROR`."""
    solves = {name: engine.SOLVES[name] for name in ("jaxflow, lanes", "diffrax, vmapped")}
    found = engine.speed(
        engine.field(jax.random.key(0)), ROWS, REPEATS, solves, (1e-2, 1e-3, 1e-4)
    )
    return {name: each[f"at {ERROR:g} nats"] for name, each in found.items()}


def race(name: str, peers: str | None) -> dict[str, dict[str, float]]:
    """KL and seconds of jaxflow, and of a peer after as long."""
    settings = argparse.Namespace(data=None, quick=False, peers=peers)
    runs = {"jaxflow": likelihood.run(name, "jaxflow, short", settings, 0.0)[-1]}
    if peers:
        seconds = runs["jaxflow"]["seconds"]
        runs["zuko-nsf"] = likelihood.run(name, "zuko-nsf", settings, seconds)[-1]
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description="What users wait for.")
    parser.add_argument("--peers", help="python of the peers' environment")
    peers = parser.parse_args().peers
    results: dict[str, Any] = {"first answer": first_answer()}
    results |= {"gradient": gradient(), "scoring": scoring()}
    results["race"] = {name: race(name, peers) for name in TOYS}
    first, one, both = (results[name] for name in ("first answer", "gradient", "scoring"))
    lines = [
        [
            "README's ten lines, first time",
            f"{first['whole']:.1f} s, fit {first['fit']:.1f} s",
            "",
        ],
        [
            "training gradient, exact trace, 1000 rows of 43 columns",
            f"{one['seconds']:.3f} s, {100 * one['share_of_rate']:.0f}% of the rate of products",
            "",
        ],
        [
            f"{ROWS} rows of 2 columns scored to {ERROR:g} nats",
            f"{both['jaxflow, lanes']:.2f} s",
            f"diffrax, vmapped {both['diffrax, vmapped']:.2f} s",
        ],
    ]
    for name, runs in results["race"].items():
        cells = {m: f"{r['kl']:.3f} in {r['seconds']:.0f} s" for m, r in runs.items()}
        peer = f"zuko's NSF {cells['zuko-nsf']}" if "zuko-nsf" in cells else ""
        lines.append([f"KL(data, model) on {name}, nats", cells["jaxflow"], peer])
    made = table(["what", "jaxflow", "others"], lines)
    print(made)
    write_page("speed", made)
    print(f"written to {write_results('speed', results)}")


if __name__ == "__main__":
    main()
