"""Many solves, each with steps of its own: what lanes cost, beside one joint solve and diffrax.

Forward solves of (x, log p) for rows of a 2-d field, 2 x 64, Tsit5, float32: by jaxflow in
lanes (a row's answer does not depend on its batch-mates), by jaxflow and diffrax in one joint
solve (it does), and by diffrax vmapped over rows. Then the cost of a log-density with its
error, how often the stated error covers the true one, and whether random batches and orders
change a bit.

    python benchmarks/engine.py [--quick]
"""

import argparse
import dataclasses
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from harness import interleaved, table, write_results
from jaxflow.continuity import augmented_dynamics, transport_density

BASE = jaxflow.StandardNormal((2,))


def field(key: Any) -> Any:
    """A field that moves its rows by ordinary distances, with steps that differ by row."""
    made = jaxflow.dynamics.MLP(2, width=64, depth=2, key=key)
    last = made.layers[-1]
    return eqx.tree_at(lambda f: f.layers[-1].weight, made, 15 * last.weight)


@eqx.filter_jit
def ours(field: Any, x: jax.Array, tolerance: float, each: bool) -> jax.Array:
    ode = jaxflow.ODE(rtol=tolerance, atol=tolerance)
    (z, change), _ = transport_density(field, x, jnp.zeros(len(x)), 1.0, 0.0, ode=ode, each=each)
    return jax.vmap(BASE.log_prob)(z) - change


@eqx.filter_jit
def theirs(field: Any, x: jax.Array, tolerance: float, each: bool) -> jax.Array:
    prepared = field.prepare()

    def one(t: Any, state: Any) -> Any:
        return augmented_dynamics(jnp.asarray(t), state, (prepared, None, None))

    def solve(f: Any, x: jax.Array, zero: jax.Array) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: f(t, y)),
            diffrax.Tsit5(),
            t0=1.0,
            t1=0.0,
            dt0=None,
            y0=(x, zero),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        )
        assert solution.ys is not None
        return solution.ys[0][0], solution.ys[1][0]

    if each:
        z, change = jax.vmap(lambda x: solve(one, x, jnp.zeros(())))(x)
    else:
        rows = jax.vmap(one, in_axes=(None, 0))
        z, change = solve(rows, x, jnp.zeros(len(x)))
    return jax.vmap(BASE.log_prob)(z) - change


def speed(net: Any, rows: int, tolerance: float, repeats: int) -> dict[str, float]:
    x = 1.5 * jax.random.normal(jax.random.key(1), (rows, 2))
    runs: dict[str, Any] = {
        "jaxflow, lanes": partial(ours, net, x, tolerance, True),
        "jaxflow, one joint solve": partial(ours, net, x, tolerance, False),
        "diffrax, one joint solve": partial(theirs, net, x, tolerance, False),
    }
    if rows <= 10_000:
        runs["diffrax, vmapped"] = partial(theirs, net, x, tolerance, True)
    return interleaved(runs, repeats)


def batches(net: Any, tries: int) -> int:
    """Differing bits over random batches and orders."""
    ode_eval = jaxflow.ODE(rtol=1e-4, atol=1e-4)
    flow = jaxflow.CNF(net, BASE, ode_eval=ode_eval)
    x = np.asarray(1.5 * jax.random.normal(jax.random.key(2), (1500, 2)))
    together = np.asarray(flow.log_prob(x))
    rng, differing = np.random.default_rng(0), 0
    # Few sizes, so that few shapes are compiled.
    sizes = (1, 7, 256, 300, 999)
    for _ in range(tries):
        order = rng.permutation(len(x))[: rng.choice(sizes)]
        part = np.asarray(flow.log_prob(x[order]))
        differing += int(np.sum(part.view(np.int32) != together[order].view(np.int32)))
    return differing


def errors(net: Any, rows: int, repeats: int) -> dict[str, Any]:
    """Coverage and sharpness of the stated error, in float64, and its cost."""
    found = {}
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda w: w.astype(jnp.float64), net)
        flow = jaxflow.CNF(wide, jaxflow.StandardNormal((2,)))
        x = 1.5 * jax.random.normal(jax.random.key(3), (rows, 2), jnp.float64)
        exact = jaxflow.ODE(solver="dopri5", rtol=1e-11, atol=1e-11)
        truth = dataclasses.replace(flow, ode_eval=exact).log_prob(x)
        for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
            ode = jaxflow.ODE(rtol=tolerance, atol=tolerance)
            each = dataclasses.replace(flow, ode_eval=ode)
            answer = each.log_prob_with_error(x)
            assert answer.refined is not None
            true = np.abs(np.asarray(answer.value - truth))
            stated = np.asarray(answer.ode_error)
            times = interleaved(
                {
                    "plain": partial(each.log_prob, x),
                    "with error": partial(each.log_prob_with_error, x),
                },
                repeats,
            )
            found[str(tolerance)] = {
                "coverage": float(np.mean(true <= stated)),
                "stated_over_true": float(np.median(stated / np.maximum(true, 1e-16))),
                "true": float(np.median(true)),
                "refined": float(np.median(np.abs(np.asarray(answer.refined - truth)))),
                "cost": times["with error"] / times["plain"],
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Many solves, each with its own steps.")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    net = field(jax.random.key(0))
    cases = [(10_000, 1e-5)] if quick else [(10_000, 1e-5), (100_000, 1e-3), (100_000, 1e-5)]
    results: dict[str, Any] = {"speed": {}}
    lines = []
    for rows, tolerance in cases:
        times = speed(net, rows, tolerance, 3 if quick else 5)
        results["speed"][f"{rows}, {tolerance}"] = times
        reference = times["diffrax, one joint solve"]
        lines += [
            [f"{rows}, {tolerance:g}", name, f"{1e3 * t:.0f}", f"{t / reference:.2f}"]
            for name, t in times.items()
        ]
    print(table(["rows, tolerance", "solve", "ms", "ratio"], lines))
    tries = 50 if quick else 1000
    results["differing_bits"] = batches(net, tries)
    print(f"{results['differing_bits']} bits differ over {tries} random batches and orders")
    results["errors"] = errors(net, 500 if quick else 2000, 3)
    lines = [
        [tolerance, f"{100 * r['coverage']:.1f}%"]
        + [f"{r[k]:.3g}" for k in ("stated_over_true", "true", "refined", "cost")]
        for tolerance, r in results["errors"].items()
    ]
    header = ["tolerance", "covered", "stated/true", "true error", "of refined", "cost, solves"]
    print(table(header, lines))
    if not quick:
        print(f"written to {write_results('engine', results)}")


if __name__ == "__main__":
    main()
