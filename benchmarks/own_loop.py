"""A user's optax loop against `fit`'s own step, and vmapped log-densities against batched ones.

Case: maximum likelihood of 1000 rows of 43 columns, tanh MLP with two hidden layers of 256, 8
RK4 steps, float32. Prints ratios; each pair took turns in one run. Targets: a step within 3 % of
`fit`'s and its compilation within 10 %; `vmap(flow.train_log_prob)` of 64 rows within 1.2 of the
time and twice the memory of the batched call; an exported `log_prob` within 5 % of the live one.

    python benchmarks/own_loop.py [--repeats 7]
"""

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import jaxflow
from harness import interleaved, table, write_results
from jaxflow.objectives import maximum_likelihood
from jaxflow.runtime.mesh import replicate
from jaxflow.training.optimizer import optimizer_of
from jaxflow.training.rows import Dataset
from jaxflow.training.step import Steps, initial_state, train_steps
from jaxflow.training.trainable import partition_trainable

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "export.md"
DIM, WIDTH, ROWS, FEW = 43, 256, 1000, 64
CONFIG = jaxflow.TrainConfig(steps=1000, batch_size=ROWS, eval_every=4, warmup=0.05)


def fits_steps(flow: jaxflow.CNF, x: jax.Array, key: jax.Array) -> tuple[Any, Any]:
    """`train_steps`, and its inputs for `CONFIG.eval_every` steps of all rows."""
    params, frozen = partition_trainable(flow)
    optimizer, count = optimizer_of(CONFIG), CONFIG.eval_every
    indices = jnp.tile(jnp.arange(len(x)), (count, 1))
    numbers = jnp.asarray(count), jnp.asarray(0), jnp.asarray(0)
    loss_args = frozen, Dataset(x, None), None, maximum_likelihood
    inputs = Steps(loss_args, indices, *numbers, key, CONFIG.ema, optimizer, replicate)
    return inputs, lambda: initial_state(params, optimizer)


def own_step(flow: jaxflow.CNF, x: jax.Array) -> tuple[Callable[..., Any], Any]:
    """A user's step by the same optimiser, and the state before it."""
    params, static = eqx.partition(flow, jaxflow.trainable(flow))
    optimizer = optax.chain(
        optax.clip_by_global_norm(CONFIG.clip_norm),
        optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 2e-3, 50, 1000, 2e-5), weight_decay=0.0
        ),
    )

    @eqx.filter_jit
    def step(params: Any, state: Any, key: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return -eqx.combine(params, static).train_log_prob(x, None, key).mean()

        value, gradient = eqx.filter_value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return eqx.apply_updates(params, updates), state, value

    return step, (params, optimizer.init(params))


def compile_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds to trace and compile, all taking turns, without caches."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, lower in runs.items():
            jax.clear_caches()
            start = time.perf_counter()
            lower().compile()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def bytes_of(f: Any, *args: Any) -> int:
    """Temporary memory of a compiled program."""
    return f.lower(*args).compile().compiled.memory_analysis().temp_size_in_bytes


def densities(flow: jaxflow.CNF) -> dict[str, Any]:
    """Log-densities of rows, and their gradient, by a batched call and by vmap."""

    def batched(flow: jaxflow.CNF, x: jax.Array) -> jax.Array:
        return flow.train_log_prob(x)

    def each(flow: jaxflow.CNF, x: jax.Array) -> jax.Array:
        return jax.vmap(flow.train_log_prob)(x)

    def slope(f: Callable[..., jax.Array]) -> Any:
        return eqx.filter_grad(lambda flow, x: f(flow, x).mean())

    return {
        "values": (eqx.filter_jit(batched), eqx.filter_jit(each)),
        "gradients": (eqx.filter_jit(slope(batched)), eqx.filter_jit(slope(each))),
    }


def composed(flow: jaxflow.CNF) -> dict[str, tuple[Any, Any]]:
    """A gradient of rows under jax's transformations, each with its own inputs."""

    def loss(flow: jaxflow.CNF, x: jax.Array) -> jax.Array:
        return flow.train_log_prob(x).mean()

    def kept(flow: jaxflow.CNF, x: jax.Array) -> jax.Array:
        return jax.checkpoint(flow.train_log_prob)(x).mean()

    def scanned(flow: jaxflow.CNF, x: jax.Array) -> jax.Array:
        parts = x.reshape(4, -1, x.shape[-1])
        start = jnp.zeros(())
        return jax.lax.scan(lambda total, part: (total + loss(flow, part), None), start, parts)[0]

    def several(flows: jaxflow.CNF, x: jax.Array) -> jax.Array:
        return eqx.filter_vmap(loss, in_axes=(eqx.if_array(0), None))(flows, x).mean()

    def sharded(flow: jaxflow.CNF, x: jax.Array) -> jax.Array:
        mesh = jaxflow.rows_mesh(1)
        spec = jax.sharding.PartitionSpec("rows")
        split = jax.shard_map(
            flow.train_log_prob, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
        return split(x).mean()

    two = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2) if eqx.is_array(leaf) else leaf, flow)
    return {
        "batched": (loss, flow),
        "jax.checkpoint": (kept, flow),
        "lax.scan over 4 parts": (scanned, flow),
        "filter_vmap over 2 flows": (several, two),
        "shard_map": (sharded, flow),
    }


def exported(flow: jaxflow.CNF) -> Callable[[Any], Any]:
    """`log_prob` of the exported flow, by the loader that docs/howto/export.md prints."""
    loader = re.search(r"```python\n(import json\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert loader is not None
    names: dict[str, Any] = {}
    exec(loader[1], names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flow.zip"
        jaxflow.export(flow, path)
        return names["load_exported"](path)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="A loop of one's own against fit's step.")
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    jax.config.update("jax_enable_compilation_cache", False)
    key = jax.random.key(0)
    x = jax.random.normal(key, (ROWS, DIM))
    field = jaxflow.dynamics.MLP(DIM, width=WIDTH, depth=2, key=key)
    ode = jaxflow.ODE(solver="rk4", num_steps=8)
    flow = jaxflow.CNF(field, jaxflow.StandardNormal(DIM), ode=ode)

    inputs, start = fits_steps(flow, x, key)
    step, state = own_step(flow, x)

    def own_loop() -> Any:
        current = state
        for i in range(CONFIG.eval_every):
            *current, value = step(*current, jax.random.fold_in(key, i))
        return current, value

    def fits_loop() -> Any:
        return train_steps(inputs, start())  # takes over the memory of its state

    times = interleaved({"fit": fits_loop, "own": own_loop}, repeats)
    times = {name: seconds / CONFIG.eval_every for name, seconds in times.items()}
    compiles = compile_seconds(
        {
            "fit": lambda: train_steps.lower(inputs, start()),
            "own": lambda: step.lower(*state, key),
        },
        max(3, repeats // 2),
    )
    results: dict[str, Any] = {
        "step_seconds": times,
        "step_ratio": times["own"] / times["fit"],
        "compile_seconds": compiles,
        "compile_ratio": compiles["own"] / compiles["fit"],
    }
    rows = [
        ["a step, ms", f"{1e3 * times['own']:.1f}", f"{1e3 * times['fit']:.1f}"],
        ["its compilation, s", f"{compiles['own']:.2f}", f"{compiles['fit']:.2f}"],
    ]
    ratios = [results["step_ratio"], results["compile_ratio"]]

    few = x[:FEW]
    for name, (batched, each) in densities(flow).items():
        times = interleaved(
            {
                "batched": lambda f=batched: f(flow, few),
                "vmap": lambda f=each: f(flow, few),
            },
            5 * repeats,
        )
        memory = {
            kind: bytes_of(f, flow, few) for kind, f in (("batched", batched), ("vmap", each))
        }
        results[f"vmap_{name}"] = {
            "seconds": times,
            "time_ratio": times["vmap"] / times["batched"],
            "bytes": memory,
            "memory_ratio": memory["vmap"] / memory["batched"],
        }
        rows += [
            [
                f"{name} of {FEW} rows by vmap, ms",
                *(f"{1e3 * times[k]:.2f}" for k in ("vmap", "batched")),
            ],
            ["their memory, MiB", *(f"{memory[k] / 2**20:.2f}" for k in ("vmap", "batched"))],
        ]
        ratios += [results[f"vmap_{name}"][k] for k in ("time_ratio", "memory_ratio")]
    kept = {
        name: bytes_of(eqx.filter_jit(eqx.filter_grad(loss)), given, few)
        for name, (loss, given) in composed(flow).items()
    }
    results["composed_bytes"] = kept
    rows += [
        [
            f"a gradient under {name}, MiB",
            *(f"{kept[k] / 2**20:.2f}" for k in (name, "batched")),
        ]
        for name in kept
        if name != "batched"
    ]
    ratios += [kept[name] / kept["batched"] for name in kept if name != "batched"]
    run = exported(flow)
    times = interleaved({"live": lambda: flow.log_prob(x), "exported": lambda: run(x)}, repeats)
    results["exported"] = {"seconds": times, "time_ratio": times["exported"] / times["live"]}
    rows.append(
        [
            f"log_prob of {ROWS} rows, exported and live, ms",
            *(f"{1e3 * times[k]:.0f}" for k in ("exported", "live")),
        ]
    )
    ratios.append(results["exported"]["time_ratio"])
    rows = [[*row, f"{ratio:.3f}"] for row, ratio in zip(rows, ratios, strict=True)]
    print(table(["", "own loop, vmap", "fit, batched", "ratio"], rows))
    print(f"written to {write_results('own_loop', results)}")


if __name__ == "__main__":
    main()
