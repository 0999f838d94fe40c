"""What an accelerator changes: rounding of matrix products, how many lanes pay, bits.

Float32 products may be rounded to fewer bits by default (TF32 on recent GPUs, bfloat16 passes on
TPUs), which a log-density shows. The script compares log-densities with float64 on the same
device at each of jax's precisions, times the lanes of `odeint_many` beside diffrax, and counts
differing bits over random batches.

    python benchmarks/accelerator.py [--quick] [--rounded] [--name NAME]
"""

import argparse
import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import engine
import gradients
import jaxflow
from harness import interleaved, table, wide, write_results
from jaxflow.continuity import augmented_dynamics
from jaxflow.ode.many import odeint_many

LANES = (256, 4096, 16384, 65536)
PRECISIONS = ("default", "high", "highest")


def density(t: Any, state: Any, field: Any) -> Any:
    return augmented_dynamics(t, state, (field, None, None))


@eqx.filter_jit
def plain(flow: Any, x: jax.Array) -> jax.Array:
    return flow.log_prob_rows(x)[0]


def precisions() -> dict[str, dict[str, float]]:
    """Errors of float32 log-densities against float64, in nats, before any setting of ours."""
    found = {}
    for name, net, dim in (
        ("d 2, 2x64", engine.field(jax.random.key(0)), 2),
        ("d 43, 2x256", gradients.field(jax.random.key(0)), 43),
    ):
        flow = jaxflow.CNF(net, jaxflow.StandardNormal((dim,)))
        x = jax.random.normal(jax.random.key(1), (1024, dim))
        with jax.enable_x64(True):
            tight = jaxflow.ODE(solver="dopri5", rtol=1e-9, atol=1e-9)
            truth = plain(wide(dataclasses.replace(flow, ode_eval=tight)), x.astype(jnp.float64))
            truth = np.asarray(truth)
        errors = {}
        for precision in PRECISIONS:
            with jax.default_matmul_precision(precision):
                error = np.abs(np.asarray(plain(flow, x), np.float64) - truth)
                errors[precision] = float(np.quantile(error, 0.99))
        error = np.abs(np.asarray(flow.log_prob(x), np.float64) - truth)
        found[name] = errors | {"flow.log_prob": float(np.quantile(error, 0.99))}
    return found


@eqx.filter_jit
def many(net: Any, x: jax.Array, lanes: int) -> Any:
    ode = jaxflow.ODE(rtol=1e-5, atol=1e-5, throw=False)
    start = x, jnp.zeros(len(x), x.dtype)
    return odeint_many(density, start, 1.0, 0.0, net.prepare(), ode=ode, lanes=lanes)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="What an accelerator changes.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--rounded", action="store_true", help="round products as the device does by default"
    )
    parser.add_argument("--name", default="accelerator", help="name of the result file")
    arguments = parser.parse_args()
    if arguments.rounded:
        # What is set by the user holds everywhere, in jaxflow's evaluation too.
        jax.config.update("jax_default_matmul_precision", "default")
    print(jax.devices(), jax.__version__)
    results: dict[str, Any] = {"precision": precisions()}
    lines = [
        [name, *(f"{e:.1e}" for e in errors.values())]
        for name, errors in results["precision"].items()
    ]
    print(table(["99 % error, nats", *PRECISIONS, "flow.log_prob"], lines))
    net = engine.field(jax.random.key(0))
    results["lanes"] = {}
    lines = []
    for rows in (10_000,) if arguments.quick else (10_000, 100_000, 1_000_000):
        x = 1.5 * jax.random.normal(jax.random.key(1), (rows, 2))
        runs: dict[str, Any] = {
            f"{lanes} lanes": partial(many, net, x, lanes)
            for lanes in LANES
            if lanes <= max(rows, LANES[0]) and rows / lanes <= 1000
        }
        runs["one joint solve"] = partial(engine.ours, net, x, 1e-5, False)
        runs["diffrax, joint"] = partial(engine.theirs, net, x, 1e-5, False)
        runs["diffrax, vmapped"] = partial(engine.theirs, net, x, 1e-5, True)
        times = interleaved(runs, 3)
        results["lanes"][rows] = times
        lines += [[str(rows), name, f"{1e3 * t:.1f}"] for name, t in times.items()]
        print(table(["rows", "solve", "ms"], lines[-len(times) :]), flush=True)
    results["differing_bits"] = engine.batches(net, 20 if arguments.quick else 100)
    print(f"{results['differing_bits']} bits differ over random batches and orders")
    print(f"written to {write_results(arguments.name, results)}")


if __name__ == "__main__":
    main()
