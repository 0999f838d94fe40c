"""What a gradient costs by each method, beside diffrax, at equal tolerance and equal error.

The loss is the mean negative log-density of a batch of 1000 rows of 43 columns by a flow of
2 x 256, float32, its trace in closed form, adaptive Tsit5 in one joint solve: the same dynamics
for both libraries. A method's error is that of its gradient in all weights, relative to a solve
in float64 with tolerances of 1e-9. Equal tolerances are not equal errors: jaxflow's worst row
decides, diffrax averages over rows. So each method runs at several tolerances and the time at
an equal error is interpolated.

    python benchmarks/gradients.py [--quick]
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from engine import solved_by_diffrax
from harness import at_error, dynamics, flat, interleaved, table, wide, write_results

DIM, WIDTH, ROWS = 43, 256, 1000
BASE = jaxflow.StandardNormal((DIM,))
TOLERANCES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
ERRORS = (1e-3, 1e-4)

Loss = Callable[[Any, jax.Array], jax.Array]


def field(key: Any) -> Any:
    """A field whose trajectories bend: weights as after some training."""
    made = jaxflow.dynamics.MLP(DIM, width=WIDTH, depth=2, key=key)
    weights = [scale * layer.weight for scale, layer in zip((2, 2, 8), made.layers, strict=True)]
    return eqx.tree_at(lambda f: [layer.weight for layer in f.layers], made, weights)


def ours(method: Any, tolerance: float) -> Loss:
    ode = jaxflow.ODE(rtol=tolerance, atol=tolerance, gradient=method)

    def loss(field: Any, x: jax.Array) -> jax.Array:
        start = x, jnp.zeros(len(x), x.dtype)
        (z, change), _ = jaxflow.odeint(dynamics, start, 1.0, 0.0, field.prepare(), ode=ode)
        return jnp.mean(change - jax.vmap(BASE.log_prob)(z))

    return loss


def theirs(adjoint: Any, tolerance: float) -> Loss:
    def loss(field: Any, x: jax.Array) -> jax.Array:
        start = x, jnp.zeros(len(x), x.dtype)
        z, change = solved_by_diffrax(dynamics, start, field.prepare(), tolerance, adjoint)
        return jnp.mean(change - jax.vmap(BASE.log_prob)(z))

    return loss


METHODS: dict[str, Callable[[float], Loss]] = {
    "jaxflow, adjoint": partial(ours, "adjoint"),
    "diffrax, BacksolveAdjoint": partial(theirs, diffrax.BacksolveAdjoint()),
    "jaxflow, checkpointed": partial(ours, "checkpointed"),
    "diffrax, RecursiveCheckpointAdjoint": partial(theirs, diffrax.RecursiveCheckpointAdjoint()),
}
PAIRS = (
    ("jaxflow, adjoint", "diffrax, BacksolveAdjoint"),
    ("jaxflow, checkpointed", "diffrax, RecursiveCheckpointAdjoint"),
)


def truth(net: Any, x: jax.Array, rows: int) -> np.ndarray:
    with jax.enable_x64(True):
        net, x = wide((net, x))
        gradient = jax.jit(jax.grad(ours("checkpointed", 1e-9)))
        # In pieces of rows, which are independent.
        parts = [flat(gradient(net, x[i : i + 250])) for i in range(0, rows, 250)]
    return np.mean(parts, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Gradients by each method, beside diffrax.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--name", default="gradients", help="name of the result file")
    arguments = parser.parse_args()
    rows, repeats = (250, 2) if arguments.quick else (ROWS, 5)
    net = field(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (rows, DIM))
    exact = truth(net, x, rows)
    errors: dict[str, list[float]] = {name: [] for name in METHODS}
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    memory: dict[str, list[int]] = {name: [] for name in METHODS}
    for tolerance in TOLERANCES:
        runs: dict[str, Any] = {}
        for name, make in METHODS.items():
            gradient = jax.jit(jax.grad(make(tolerance))).lower(net, x).compile()
            found = flat(gradient(net, x))
            errors[name].append(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
            allotted = gradient.memory_analysis()
            memory[name].append(0 if allotted is None else allotted.temp_size_in_bytes)
            runs[name] = partial(gradient, net, x)
        for name, seconds in interleaved(runs, repeats).items():
            times[name].append(seconds)
    lines = [
        [
            f"{tolerance:g}",
            name,
            f"{1e3 * times[name][i]:.1f}",
            f"{errors[name][i]:.1e}",
            f"{memory[name][i] / 2**20:.0f}",
        ]
        for i, tolerance in enumerate(TOLERANCES)
        for name in METHODS
    ]
    print(table(["tolerance", "method", "ms", "error", "MiB"], lines))
    ratios: dict[str, dict[str, float]] = {}
    for us, them in PAIRS:
        tolerance = {
            f"tolerance {t:g}": b / a
            for t, a, b in zip(TOLERANCES, times[us], times[them], strict=True)
        }
        error = {
            f"error {e:g}": at_error(errors[them], times[them], e)
            / at_error(errors[us], times[us], e)
            for e in ERRORS
        }
        ratios[f"{them} / {us}"] = tolerance | error
    header = ["time ratio", *next(iter(ratios.values()))]
    print(table(header, [[k, *(f"{v:.2f}" for v in r.values())] for k, r in ratios.items()]))
    results = {"errors": errors, "seconds": times, "bytes": memory, "ratios": ratios}
    if not arguments.quick:
        print(f"written to {write_results(arguments.name, results)}")


if __name__ == "__main__":
    main()
