"""Peak memory of a gradient against the number of steps: the adjoint's stays flat.

Each measurement is a process of its own: 256 rows of 16 columns, MLP 2 x 128, RK4. Prints a
table of the growth over the same process with 10 steps.

    python benchmarks/adjoint_memory.py [--steps 10 100 1000]
"""

import argparse
import resource
import subprocess
import sys
from typing import Any

import jax

import jaxflow
from harness import table, write_results
from jaxflow.training.trainable import combine_trainable, partition_trainable

DIM, WIDTH, ROWS = 16, 128, 256
METHODS = ("adjoint", "checkpointed", "direct")


def measure(method: Any, steps: int) -> float:
    """Peak resident memory of this process in MiB, after one gradient."""
    key = jax.random.key(0)
    field = jaxflow.dynamics.MLP(DIM, width=WIDTH, depth=2, key=key)
    flow = jaxflow.CNF(
        field,
        jaxflow.StandardNormal((DIM,)),
        ode=jaxflow.ODE(solver="rk4", num_steps=steps, gradient=method),
    )
    x = jax.random.normal(key, (ROWS, DIM))
    trained, frozen = partition_trainable(flow)

    def loss(trained: Any) -> jax.Array:
        flow = combine_trainable(trained, frozen)
        return jaxflow.objectives.maximum_likelihood(flow, x, None, key)[0]

    jax.block_until_ready(jax.jit(jax.grad(loss))(trained))
    # Kibibytes on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of a gradient against its steps.")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(arguments.measure[0], int(arguments.measure[1])))
        return
    peaks: dict[str, dict[int, float]] = {method: {} for method in METHODS}
    for method in METHODS:
        for steps in arguments.steps:
            command = [sys.executable, __file__, "--measure", method, str(steps)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks[method][steps] = float(out)
    rows = []
    for method, values in peaks.items():
        first = values[arguments.steps[0]]
        rows.append([method, *(f"{peak:.0f} ({peak - first:+.0f})" for peak in values.values())])
    print(table(["peak MiB at steps", *map(str, arguments.steps)], rows))
    print(f"written to {write_results('adjoint_memory', {'peak_mib': peaks})}")


if __name__ == "__main__":
    main()
