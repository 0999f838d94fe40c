"""What a field of sines is worth: the cost of the sine, and what flow matching learns with it.

Times of elementwise functions of 2 million float32 numbers; then KL(data, model) on rings and two
spirals after 3000 steps of flow matching alone, three layers of 128.

    python benchmarks/sines.py [--quick]
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp

import jaxflow
from harness import fit_toy, interleaved, table, write_results
from jaxflow.data import Rings, TwoSpirals
from jaxflow.dynamics.sine import sine
from jaxflow.objectives import FlowMatching

TOYS = {"rings": Rings, "two spirals": TwoSpirals}
FIELDS = {"tanh": 1.0, "sin": 1.0, "sin, frequency 4": 4.0}


def learn(toy: Rings | TwoSpirals, label: str, steps: int) -> dict[str, float]:
    activation = label.split(",", maxsplit=1)[0]
    key = jax.random.key(0)
    field = jaxflow.dynamics.MLP(
        2, depth=3, activation=activation, frequency=FIELDS[label], key=key
    )
    config = jaxflow.TrainConfig(
        steps=steps, learning_rate=5e-3, ema=0.999, eval_every=max(1, steps // 2)
    )
    flow = jaxflow.CNF(field, jaxflow.StandardNormal((2,)))
    return fit_toy(toy, flow, FlowMatching(), config, key)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost and the worth of sines.")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    x = 5 * jax.random.normal(jax.random.key(0), (4096, 512))
    functions = {"tanh": jnp.tanh, "XLA's sine": jnp.sin, "jaxflow's sine": sine}
    seconds = interleaved({n: partial(jax.jit(f), x) for n, f in functions.items()}, 20)
    print(table(["function", "ms"], [[n, f"{1e3 * s:.1f}"] for n, s in seconds.items()]))
    steps = 60 if arguments.quick else 3000
    found = {n: {f: learn(toy(), f, steps) for f in FIELDS} for n, toy in TOYS.items()}
    lines = [[f, *(f"{found[n][f]['kl']:.3f}" for n in TOYS)] for f in FIELDS]
    print(table(["KL, nats", *TOYS], lines))
    if not arguments.quick:
        print(f"written to {write_results('sines', {'seconds': seconds, 'found': found})}")


if __name__ == "__main__":
    main()
