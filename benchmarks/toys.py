"""How close maximum likelihood comes to densities that are known, and how soon.

Trains a CNF (MLP 2 x 64, closed-form trace) on samples of each toy and prints KL(data, model)
in nats on fresh samples, with its standard error. The time counts everything: choosing the
transform, compiling, training, validating.

    python benchmarks/toys.py [--toys eight_gaussians rings checkerboard] [--seeds 3]
"""

import argparse
import time

import jax
import numpy as np

import jaxflow
from harness import table, write_results
from jaxflow.data import Checkerboard, EightGaussians, Rings

TOYS = {"eight_gaussians": EightGaussians, "rings": Rings, "checkerboard": Checkerboard}
CONFIG = jaxflow.TrainConfig(
    steps=3000, batch_size=256, learning_rate=1e-2, eval_every=250, max_seconds=60
)


def run(name: str, seed: int) -> dict[str, float]:
    toy = TOYS[name]()
    train, held = toy.sample(50_000, seed), toy.sample(4_000, seed + 1000)
    test = toy.sample(20_000, seed + 2000)
    field_key, fit_key = jax.random.split(jax.random.key(seed))
    start = time.perf_counter()
    field = jaxflow.dynamics.MLP(2, width=64, depth=2, key=field_key)
    flow = jaxflow.CNF(field, jaxflow.StandardNormal((2,)))
    flow, history = jaxflow.fit(
        flow,
        train,
        validation=held,
        key=fit_key,
        config=CONFIG,
        objective=jaxflow.objectives.maximum_likelihood,
    )
    seconds = time.perf_counter() - start
    difference = toy.log_prob(test) - np.asarray(flow.log_prob(test), float)
    return {
        "kl": float(difference.mean()),
        "kl_se": float(difference.std(ddof=1) / len(difference) ** 0.5),
        "seconds": seconds,
        "steps": history["step"][-1],
        "entropy": toy.entropy(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="KL to known densities, and the time it takes.")
    parser.add_argument("--toys", nargs="+", default=["eight_gaussians"], choices=list(TOYS))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    results = {n: [run(n, seed) for seed in range(arguments.seeds)] for n in arguments.toys}
    rows = [
        [name, str(seed), f"{r['kl']:.4f} +- {r['kl_se']:.4f}", f"{r['seconds']:.0f}"]
        for name, runs in results.items()
        for seed, r in enumerate(runs)
    ]
    print(table(["toy", "seed", "KL, nats", "seconds"], rows))
    print(f"written to {write_results('toys', results)}")


if __name__ == "__main__":
    main()
