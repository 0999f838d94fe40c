"""One table of checks and times for whatever device there is: CPU, GPU or TPU.

- precision: log-densities in float32, at each of jax's precisions of matrix products and for
  fields in bfloat16, against float64 on the CPU. Float32 products may be rounded to fewer bits by
  default (TF32 on recent GPUs, bfloat16 passes on TPUs), which a log-density shows.
- speed: compiling, a training step, rows scored in a second, and the most memory in use.
- training: fits of moons, twice, on a mesh of one device, and with a field in bfloat16.
- lanes: `odeint_many` beside diffrax, and bits that differ over random batches (`--lanes`).

    python benchmarks/accelerator.py [--quick] [--lanes] [--rounded] [--name NAME]

Without an accelerator it says so and runs small, as a smoke test.
"""

import argparse
import dataclasses
import statistics
import time
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import engine
import gradients
import jaxflow
from harness import density, interleaved, table, wide, write_results
from jaxflow.data import Moons
from jaxflow.dynamics import MLP, Rounded, unrounded
from jaxflow.ode.many import odeint_many

LANES = (256, 4096, 16384, 65536)
PRECISIONS = ("default", "high", "highest")


@eqx.filter_jit
def plain(flow: Any, x: jax.Array) -> jax.Array:
    return flow.log_prob_rows(x, training=True)[0]


def flow_of(net: Any, dim: int, **settings: Any) -> jaxflow.CNF:
    ode = jaxflow.ODE(**settings) if settings else jaxflow.ODE(rtol=1e-5, atol=1e-5)
    return jaxflow.CNF(net, jaxflow.StandardNormal((dim,)), ode=ode)


def precisions(rows: int) -> dict[str, dict[str, float]]:
    """Errors of float32 log-densities against float64 on the CPU, 99 % of rows, in nats."""
    found = {}
    for name, net, dim in (
        ("d 2, 2x64", engine.field(jax.random.key(0)), 2),
        ("d 43, 2x256", gradients.field(jax.random.key(0)), 43),
    ):
        flow = flow_of(net, dim)
        x = jax.random.normal(jax.random.key(1), (rows, dim))
        cpu = jax.devices("cpu")[0]
        with jax.enable_x64(True), jax.default_device(cpu):
            tight = jaxflow.ODE(solver="dopri5", rtol=1e-9, atol=1e-9)
            exact = jax.device_put(wide(dataclasses.replace(flow, ode_eval=tight)), cpu)
            truth = np.asarray(exact.log_prob(np.asarray(x, np.float64)))

        def error(log_p: jax.Array, truth: np.ndarray = truth) -> float:
            return float(np.quantile(np.abs(np.asarray(log_p, np.float64) - truth), 0.99))

        errors = {}
        for precision in PRECISIONS:
            with jax.default_matmul_precision(precision):
                errors[precision] = error(plain(flow, x))
        # Steps that choose themselves would take the rounding for error.
        fixed = {"solver": "rk4", "num_steps": 32}
        errors["bfloat16 field"] = error(plain(flow_of(Rounded(net), dim, **fixed), x))
        errors["flow.log_prob"] = error(flow.log_prob(x))
        found[name] = errors
    return found


def loss_of(kind: str, flow: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    matching = jaxflow.objectives.FlowMatching()
    objective = matching if kind == "matching" else jaxflow.objectives.maximum_likelihood
    return objective(flow, x, None, key)[0]


def step_times(kind: str, flow: Any, x: jax.Array, repeats: int) -> dict[str, float]:
    """Seconds to compile a step of Adam, and of a step."""
    params, static = eqx.partition(flow, eqx.is_inexact_array)
    optimizer = optax.adam(1e-3)

    def step(params: Any, state: Any, key: jax.Array) -> Any:
        loss = lambda params: loss_of(kind, eqx.combine(params, static), x, key)  # noqa: E731
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    inputs = params, optimizer.init(params), jax.random.key(0)
    start = time.perf_counter()
    # The same arguments again and again: nothing may be donated.
    program = jax.jit(step).lower(*inputs).compile()
    compiling = time.perf_counter() - start
    return {
        "compile": compiling,
        "step": interleaved({"": partial(program, *inputs)}, repeats)[""],
    }


def speed(quick: bool) -> dict[str, dict[str, float]]:
    """Training steps of several sizes."""
    found = {}
    sizes = [(2, 64, 2, 4096), (43, 256, 2, 4096)]
    if not quick:
        sizes += [(43, 1024, 3, 16384), (256, 2048, 3, 16384)]
    for dim, width, depth, rows in sizes:
        x = jax.random.normal(jax.random.key(1), (rows, dim))
        net = MLP(dim, width=width, depth=depth, key=jax.random.key(0))
        fixed = {"solver": "rk4", "num_steps": 4, "gradient": "checkpointed"}
        for name, field in (("", net), (", bfloat16", Rounded(net))):
            flow = flow_of(field, dim, **fixed)
            for kind in ("matching", "likelihood"):
                times = step_times(kind, flow, x, 3 if quick else 7)
                found[f"d {dim}, {depth}x{width}, {rows} rows, {kind}{name}"] = times
    return found


def scoring(quick: bool) -> dict[str, float]:
    """Rows scored in a second, by what a person calls."""
    found = {}
    cases = [("d 2, 2x64", engine.field(jax.random.key(0)), 2, 20_000 if quick else 1_000_000)]
    if not quick:
        cases.append(("d 43, 2x256", gradients.field(jax.random.key(0)), 43, 100_000))
    for name, net, dim, rows in cases:
        flow = flow_of(net, dim)
        x = jax.random.normal(jax.random.key(1), (rows, dim))
        for what, score in (
            ("log_prob", flow.log_prob),
            ("log_prob_with_error", lambda x, flow=flow: flow.log_prob_with_error(x).value),
        ):
            jax.block_until_ready(score(x))
            times = []
            for _ in range(1 if quick else 3):
                start = time.perf_counter()
                jax.block_until_ready(score(x))
                times.append(time.perf_counter() - start)
            found[f"{name}, {what}"] = rows / statistics.median(times)
    return found


def training() -> dict[str, Any]:
    """Fits of moons: seconds, KL of the field in full precision, and which have the same bits."""
    toy = Moons()
    x, test = toy.sample(20_000, seed=0).astype(np.float32), toy.sample(4000, seed=1)
    entropy = -float(np.mean(toy.log_prob(test)))
    key = jax.random.key(0)
    net = MLP(2, width=256, depth=3, activation="sin", frequency=4.0, key=key)
    config = jaxflow.TrainConfig(steps=1000, batch_size=4096, eval_every=250)
    found: dict[str, Any] = {}
    fields = {}
    for name, field, mesh in (
        ("plain", net, None),
        ("again", net, None),
        ("mesh=1", net, 1),
        ("bfloat16", Rounded(net), None),
    ):
        flow = jaxflow.CNF(field, jaxflow.StandardNormal((2,)))
        start = time.perf_counter()
        flow, _ = jaxflow.fit(
            flow, x, key=key, config=config, progress=False,
            transform=jaxflow.transforms.Standardise.fit(x), mesh=mesh,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        flow = unrounded(flow)
        kl = -float(np.mean(np.asarray(flow.log_prob(test)))) - entropy
        fields[name] = flow.field
        same = bool(eqx.tree_equal(flow.field, fields["plain"]))
        found[name] = {"seconds": seconds, "kl": kl, "the bits of plain": same}
    return found


def peak() -> float | None:
    """The most memory that was in use on the device, in MiB; None where it does not tell."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else None


@eqx.filter_jit
def many(net: Any, x: jax.Array, lanes: int) -> Any:
    ode = jaxflow.ODE(rtol=1e-5, atol=1e-5, throw=False)
    start = x, jnp.zeros(len(x), x.dtype)
    return odeint_many(density, start, 1.0, 0.0, net.prepare(), ode=ode, lanes=lanes)[0]


def lanes_table(quick: bool) -> dict[str, Any]:
    net = engine.field(jax.random.key(0))
    results: dict[str, Any] = {"lanes": {}}
    for rows in (10_000,) if quick else (10_000, 100_000, 1_000_000):
        x = 1.5 * jax.random.normal(jax.random.key(1), (rows, 2))
        runs: dict[str, Any] = {
            f"{lanes} lanes": partial(many, net, x, lanes)
            for lanes in LANES
            if lanes <= max(rows, LANES[0]) and rows / lanes <= 1000
        }
        runs["one joint solve"] = partial(engine.joint, net, x, 1e-5)
        runs["diffrax, joint"] = partial(engine.diffrax_joint, net, x, 1e-5)
        runs["diffrax, vmapped"] = partial(engine.diffrax_vmapped, net, x, 1e-5)
        times = interleaved(runs, 3)
        results["lanes"][rows] = times
        lines = [[str(rows), name, f"{1e3 * t:.1f}"] for name, t in times.items()]
        print(table(["rows", "solve", "ms"], lines), flush=True)
    results["differing_bits"] = engine.batches(net, 20 if quick else 100)
    print(f"{results['differing_bits']} bits differ over random batches and orders")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="What an accelerator changes.")
    parser.add_argument("--quick", action="store_true", help="small, and nothing is kept")
    parser.add_argument("--lanes", action="store_true", help="lanes beside diffrax as well")
    parser.add_argument(
        "--rounded", action="store_true", help="round products as the device does by default"
    )
    parser.add_argument("--name", default="accelerator", help="name of the result file")
    arguments = parser.parse_args()
    if arguments.rounded:
        # What is set by the user holds everywhere, in jaxflow's evaluation too.
        jax.config.update("jax_default_matmul_precision", "default")
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}")
    quick = arguments.quick
    if device.platform == "cpu":
        print("no accelerator: skipped, but for a smoke test on the CPU")
        quick = True
    results: dict[str, Any] = {"precision": precisions(64 if quick else 1024)}
    errors = results["precision"]
    columns = list(next(iter(errors.values())))
    lines = [[name, *(f"{row[c]:.1e}" for c in columns)] for name, row in errors.items()]
    print(table(["99 % error, nats", *columns], lines), flush=True)
    results["speed"] = speed(quick)
    lines = [
        [name, f"{row['compile']:.2f}", f"{1e3 * row['step']:.2f}"]
        for name, row in results["speed"].items()
    ]
    print(table(["training step", "compile, s", "step, ms"], lines), flush=True)
    results["scoring"] = scoring(quick)
    lines = [[name, f"{rate:,.0f}"] for name, rate in results["scoring"].items()]
    print(table(["scoring", "rows a second"], lines), flush=True)
    if not quick:
        results["training"] = training()
        lines = [[name, *map(str, row.values())] for name, row in results["training"].items()]
        print(table(["fit of moons", "seconds", "KL", "the bits of plain"], lines), flush=True)
    results["peak_mib"] = peak()
    most = results["peak_mib"]
    print("memory: the device does not tell" if most is None else f"most memory: {most:.0f} MiB")
    if arguments.lanes:
        results |= lanes_table(quick)
    if not quick:
        print(f"written to {write_results(arguments.name, results)}")


if __name__ == "__main__":
    main()
