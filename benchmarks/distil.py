"""Distilled flow maps: how far off are their log-densities at few evaluations, and how fast?

Flows of toys and of breast cancer by `fit` with its defaults, distilled by `jaxflow.distil`.
Errors are of held-out rows against the flow's own solve at 1e-5; times are medians of scoring
the same rows, in turns.

    python benchmarks/distil.py [--quick] [--evals 1 4 8]
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from harness import interleaved, table, write_results
from jaxflow import data

TOYS = {
    "8 gaussians": data.EightGaussians,
    "checkerboard": data.Checkerboard,
    "2 spirals": data.TwoSpirals,
    "moons": data.Moons,
}
ROWS = 2000


def problem(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows."""
    if name in TOYS:
        toy = TOYS[name]()
        return toy.sample(20_000, 0).astype(np.float32), toy.sample(ROWS, 1).astype(np.float32)
    x = data.breast_cancer().values.astype(np.float32)
    train, test = data.split(len(x), 0.2, 0)
    return x[train], x[test]


def measure(name: str, steps: int, evals: list[int]) -> dict[str, Any]:
    """Errors and times of one flow's maps."""
    train, test = problem(name)
    dim = train.shape[1]
    field = jaxflow.dynamics.MLP(
        dim,
        width=128,
        activation="sin",
        frequency=4.0 if dim <= 3 else 1.0,
        key=jax.random.key(0),
    )
    flow, _ = jaxflow.fit(
        jaxflow.CNF(field, jaxflow.StandardNormal((dim,))),
        train,
        key=jax.random.key(1),
        config=jaxflow.TrainConfig(steps=steps, validation_rows=1000),
        progress=False,
    )
    found = {}
    for num in evals:
        start = time.perf_counter()
        fast = jaxflow.distil(flow, test, key=jax.random.key(2), num_steps=num, progress=False)
        seconds = time.perf_counter() - start
        assert fast.error is not None
        rows = jnp.asarray(np.resize(test, (ROWS, dim)))
        times = interleaved(
            {
                "solve": lambda rows=rows: flow.log_prob(rows),
                "map": lambda fast=fast, rows=rows: fast.log_prob(rows),
            },
            5,
        )
        found[str(num)] = {
            "median": fast.error.median,
            "q90": fast.error.q90,
            "q99": fast.error.q99,
            "mean": fast.error.bias,
            "speed": times["solve"] / times["map"],
            "seconds": seconds,
        }
    jax.clear_caches()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Distilled flow maps.")
    parser.add_argument("--quick", action="store_true", help="a look, nothing is kept")
    parser.add_argument("--evals", type=int, nargs="+", default=[4], help="of one log-density")
    arguments = parser.parse_args()
    quick = arguments.quick
    names = ["8 gaussians"] if quick else [*TOYS, "breast cancer"]
    steps, evals = (200, [4]) if quick else (4000, arguments.evals)
    found = {name: measure(name, steps, evals) for name in names}
    lines = [
        [
            name,
            num,
            *(f"{row[key]:.3f}" for key in ("median", "q90", "q99", "mean")),
            f"{row['speed']:.1f}",
            f"{row['seconds']:.0f}",
        ]
        for name, rows in found.items()
        for num, row in rows.items()
    ]
    header = [
        "flow",
        "evaluations",
        "median error, nats",
        "90 %",
        "99 %",
        "mean",
        "times faster than the solve",
        "s of distilling",
    ]
    print(table(header, lines))
    if not quick:
        print(f"written to {write_results('distil', found)}")


if __name__ == "__main__":
    main()
