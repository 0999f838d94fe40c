"""Many solves, each with steps of its own: what lanes cost, beside one joint solve and diffrax.

Forward solves of (x, log p) for rows of a 2-d field, 2 x 64, Tsit5, float32: by jaxflow in
lanes (a row's answer does not depend on its batch-mates), by jaxflow and diffrax in one joint
solve (it does), and by diffrax vmapped over rows. Equal tolerances are not equal errors: jaxflow
measures a row by its Euclidean norm and diffrax averages, over a row's entries or over all rows.
So each runs at several tolerances, and the time at an equal error of the worst 1 % of rows is
interpolated. Then the memory of a million rows, the cost of a log-density with its error, how
often the stated error covers the true one, and whether random batches and orders change a bit.

    python benchmarks/engine.py [--quick]
"""

import argparse
import dataclasses
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from harness import at_error, density, dynamics, interleaved, table, wide, write_results
from jaxflow.density.continuity import solve_density
from jaxflow.ode import odeint_together

BASE = jaxflow.StandardNormal((2,))
EXACT = jaxflow.ODE(solver="dopri8", rtol=1e-11, atol=1e-11)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
ERRORS = (1e-3, 1e-4)
ADJOINT = diffrax.RecursiveCheckpointAdjoint()


def field(key: Any) -> Any:
    """A field that moves its rows by ordinary distances, with steps that differ by row."""
    made = jaxflow.dynamics.MLP(2, width=64, depth=2, key=key)
    last = made.layers[-1]
    return eqx.tree_at(lambda f: f.layers[-1].weight, made, 15 * last.weight)


def lanes(field: Any, x: jax.Array, tolerance: float) -> jax.Array:
    """As users call it: chunks of rows in lanes, as many at once as there are cores."""
    ode = jaxflow.ODE(rtol=tolerance, atol=tolerance)
    return jaxflow.CNF(field, BASE, ode_eval=ode).log_prob(x)


@eqx.filter_jit
def joint(field: Any, x: jax.Array, tolerance: float) -> jax.Array:
    ode, start = jaxflow.ODE(rtol=tolerance, atol=tolerance), jnp.zeros(len(x))
    (z, change), _ = solve_density(odeint_together, field, x, start, 1.0, 0.0, None, None, ode=ode)
    return jax.vmap(BASE.log_prob)(z) - change


def solved_by_diffrax(
    f: Any, start: Any, args: Any, tolerance: float, adjoint: Any = ADJOINT
) -> Any:
    """The state at t = 0 from `start` at t = 1, by Tsit5 and one joint choice of steps."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(f),
        diffrax.Tsit5(),
        t0=1.0,
        t1=0.0,
        dt0=None,
        y0=start,
        args=args,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        adjoint=adjoint,
    )
    return jax.tree.map(lambda y: y[0], solution.ys)


@eqx.filter_jit
def diffrax_joint(field: Any, x: jax.Array, tolerance: float) -> jax.Array:
    prepared, start = field.prepare(), (x, jnp.zeros(len(x)))
    z, change = solved_by_diffrax(dynamics, start, prepared, tolerance)
    return jax.vmap(BASE.log_prob)(z) - change


@eqx.filter_jit
def diffrax_vmapped(field: Any, x: jax.Array, tolerance: float) -> jax.Array:
    prepared = field.prepare()
    solve = jax.vmap(lambda *state: solved_by_diffrax(density, state, prepared, tolerance))
    z, change = solve(x, jnp.zeros(len(x)))
    return jax.vmap(BASE.log_prob)(z) - change


SOLVES = {
    "jaxflow, lanes": lanes,
    "jaxflow, one joint solve": joint,
    "diffrax, one joint solve": diffrax_joint,
    "diffrax, vmapped": diffrax_vmapped,
}


def speed(
    net: Any,
    rows: int,
    repeats: int,
    solves: dict[str, Any] = SOLVES,
    tolerances: tuple[float, ...] = TOLERANCES,
) -> dict[str, Any]:
    """Seconds of each solve at each tolerance, and the error of its worst 1 % of rows."""
    x = 1.5 * jax.random.normal(jax.random.key(1), (rows, 2))
    some = x[:2000]
    with jax.enable_x64(True):
        flow = jaxflow.CNF(wide(net), jaxflow.StandardNormal((2,)), ode_eval=EXACT)
        truth = np.asarray(flow.log_prob(some.astype(jnp.float64)))
    found: dict[str, Any] = {name: {"seconds": [], "errors": []} for name in solves}
    for tolerance in tolerances:
        runs = {name: partial(solve, net, x, tolerance) for name, solve in solves.items()}
        for name, seconds in interleaved(runs, repeats).items():
            found[name]["seconds"].append(seconds)
        for name, run in runs.items():
            error = np.abs(np.asarray(run()[: len(some)], np.float64) - truth)
            found[name]["errors"].append(float(np.quantile(error, 0.99)))
    for each in found.values():
        each |= {f"at {e:g} nats": at_error(each["errors"], each["seconds"], e) for e in ERRORS}
    return found


def peak(rows: int) -> float:
    """Peak resident memory in MiB of a process that scores so many rows of a 2-d flow."""
    command = [sys.executable, __file__, "--peak", str(rows)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def score(rows: int) -> None:
    flow = jaxflow.CNF(field(jax.random.key(0)), BASE)
    rng = np.random.default_rng(0)
    flow.log_prob(rng.normal(size=(rows, 2)).astype(np.float32), progress=True)
    # Kibibytes on Linux; the peak that getrusage tells may be the parent's.
    status = Path("/proc/self/status").read_text().splitlines()
    print(int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024)


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
        flow = jaxflow.CNF(wide(net), jaxflow.StandardNormal((2,)))
        x = 1.5 * jax.random.normal(jax.random.key(3), (rows, 2), jnp.float64)
        truth = dataclasses.replace(flow, ode_eval=EXACT).log_prob(x)
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
    parser.add_argument("--peak", type=int, metavar="ROWS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        score(arguments.peak)
        return
    quick = arguments.quick
    net = field(jax.random.key(0))
    results: dict[str, Any] = {"tolerances": TOLERANCES, "speed": {}}
    for rows in (10_000,) if quick else (10_000, 100_000):
        found = speed(net, rows, 3 if quick else 5)
        results["speed"][rows] = found
        lines = [
            [f"{t:g}", name, f"{1e3 * each['seconds'][i]:.0f}", f"{each['errors'][i]:.1e}"]
            for i, t in enumerate(TOLERANCES)
            for name, each in found.items()
        ]
        print(f"{rows} rows")
        print(table(["tolerance", "solve", "ms", "99 % error, nats"], lines))
        names = [f"at {e:g} nats" for e in ERRORS]
        lines = [
            [
                name,
                *(f"{1e3 * each[at]:.0f} ({each[at] / reference:.2f})" for at, reference in refs),
            ]
            for refs in [[(at, found["jaxflow, lanes"][at]) for at in names]]
            for name, each in found.items()
        ]
        print(table(["ms (ratio to lanes)", *names], lines))
    million = 50_000 if quick else 1_000_000
    results["peak_mib"] = {rows: peak(rows) for rows in (1000, million)}
    for rows, mib in results["peak_mib"].items():
        print(f"{rows} rows scored in a process of {mib:.0f} MiB")
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
