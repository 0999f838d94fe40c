"""What a trace costs: time of one evaluation, of a training gradient and of scoring, by field."""

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import jaxflow
from harness import interleaved
from jaxflow.density.continuity import solve_density
from jaxflow.density.probes import draw_probes
from jaxflow.dynamics import MLP, ConcatSquash, Hollow, Potential
from jaxflow.ode import odeint_together
from jaxflow.trace import Hutchinson, HutchPlusPlus, exact_trace, jacobian_trace, prepare
from jaxflow.trace.exact import CHUNK
from jaxflow.trace.hutchinson import hutchinson_trace

WIDTH = 64
STEPS = jaxflow.ODE(solver="rk4", num_steps=2)
EVALS = 8
PROBES = (1, 2, 4, 8)
LAWS = ("rademacher", "gaussian", "orthogonal")

FIELDS: dict[str, Callable[..., Any]] = {
    "MLP": partial(MLP, width=WIDTH, depth=2),
    "ConcatSquash": partial(ConcatSquash, width=WIDTH, depth=2),
    "Potential": partial(Potential, width=WIDTH, depth=1),
    # A conditioner needs a unit for each entry.
    "Hollow": lambda dim, key: Hollow(dim, width=max(WIDTH, dim), depth=2, key=key),
}


class Brute(eqx.Module):
    """A field without its closed form: the exact trace takes d Jacobian-vector products."""

    field: Any
    chunk: int = eqx.field(static=True, default=CHUNK)

    def __call__(self, t: Any, x: Any, cond: Any = None) -> Any:
        return self.field(t, x)

    def with_trace(self, t: Any, x: Any, cond: Any = None) -> Any:
        return jacobian_trace(self.field, t, x, chunk=self.chunk)


def grown(field: Any, key: Any) -> Any:
    """The field with a last layer of ordinary size: at first it hardly moves anything."""
    leaves, structure = jax.tree.flatten(field)
    keys = jax.random.split(key, len(leaves))
    pairs = zip(leaves, keys, strict=True)
    size = 0.3 / WIDTH**0.5
    return structure.unflatten([w + size * jax.random.normal(k, w.shape) for w, k in pairs])


@eqx.filter_jit
def one_trace(field: Any, x: jax.Array, probes: jax.Array | None) -> Any:
    """`f` and its trace at one time, for all rows."""
    t = jnp.asarray(0.5)
    if probes is None:
        prepared = prepare(field)
        return jax.vmap(lambda x: exact_trace(prepared, t, x))(x)
    return jax.vmap(lambda x, v: hutchinson_trace(field, t, x, v))(x, probes)


@eqx.filter_jit
def change(field: Any, x: jax.Array, probes: jax.Array | None) -> jax.Array:
    """Change of the log-density of all rows; with probes one for each."""
    shape = (len(x),) if probes is None else probes.shape[:2]
    (_, log_p), _ = solve_density(
        odeint_together, field, x, jnp.zeros(shape), 1.0, 0.0, None, probes, ode=STEPS
    )
    return log_p


@eqx.filter_jit
def gradient(field: Any, x: jax.Array, probes: jax.Array | None) -> Any:
    """Gradient of the mean negative log-density in the weights."""
    base = jaxflow.StandardNormal(x.shape[1:])

    def loss(field: Any) -> jax.Array:
        start = jnp.zeros(len(x))
        (z, log_p), _ = solve_density(
            odeint_together, field, x, start, 1.0, 0.0, None, probes, ode=STEPS
        )
        return jnp.mean(log_p - jax.vmap(base.log_prob)(z))

    return eqx.filter_value_and_grad(loss)(field)


def measure(name: str, dim: int, rows: int, repeats: int) -> dict[str, Any]:
    """Microseconds a row and error of log p, for each method on one field.

    Brute force takes fewer rows: each is a batch of d products already.
    """
    keys = jax.random.split(jax.random.key(dim), 4)
    field = grown(FIELDS[name](dim, key=keys[0]), keys[1])
    x = jax.random.normal(keys[2], (rows, dim))
    few = x[: max(1, 3000 // dim)]
    methods: dict[str, tuple[Any, jax.Array, jax.Array | None]] = {
        "brute, all at once": (Brute(field, dim), few, None),
        "brute, chunked": (Brute(field), few, None),
        "closed form": (field, x, None),
    }
    for k in PROBES:
        if k <= dim:
            methods[f"Hutchinson, k={k}"] = (
                field,
                x,
                draw_probes(Hutchinson(k), keys[3], x, grouped=False),
            )
    results: dict[str, Any] = {method: {} for method in methods}
    for what, function in (("trace", one_trace), ("gradient", gradient), ("score", change)):
        runs = {m: partial(function, *arguments) for m, arguments in methods.items()}
        if what == "trace":
            runs["field alone"] = partial(bare, field, x)
        for method, seconds in interleaved(runs, repeats).items():
            used = methods[method][1] if method in methods else x
            results.setdefault(method, {})[f"{what}_us_per_row"] = 1e6 * seconds / len(used)
    exact = change(field, x, None)
    results["standard deviation of log p, nats"] = deviations(field, x, exact, keys[3])
    return results


@eqx.filter_jit
def bare(field: Any, x: jax.Array) -> jax.Array:
    return jax.vmap(lambda x: field(jnp.asarray(0.5), x))(x)


def deviations(field: Any, x: jax.Array, exact: jax.Array, key: Any) -> dict[str, float]:
    """Root mean square error of log p over rows, for each law and number of probes."""
    dim = x.shape[1]
    errors = {}
    for k in PROBES:
        traces: dict[str, Any] = {f"{law}, k={k}": Hutchinson(k, law) for law in LAWS if k <= dim}  # type: ignore[arg-type]
        if 2 <= k <= dim:
            q = jnp.linalg.qr(jax.random.normal(key, (dim, k // 2)))[0].T
            traces[f"Hutch++, random subspace, k={k}"] = HutchPlusPlus(q, num_probes=k - k // 2)
        for name, trace in traces.items():
            probes = draw_probes(trace, key, x, grouped=False)
            off = jnp.mean(change(field, x, probes), axis=1) - exact
            errors[name] = float(jnp.sqrt(jnp.mean(off**2)))
    return errors


def peak_memory(method: str, dim: int, rows: int) -> dict[str, float]:
    """Seconds and peak memory of scoring many rows, each in a process of its own."""
    command = [sys.executable, __file__, method, str(dim), str(rows)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path.cwd())
    mib, seconds = map(float, out.stdout.split())
    return {"peak_mib": mib, "seconds": seconds}


def _score_alone(method: str, dim: int, rows: int) -> None:
    import dataclasses
    import time

    key = jax.random.key(0)
    flow: Any = jaxflow.CNF(
        grown(MLP(dim, width=WIDTH, depth=2, key=key), key),
        jaxflow.StandardNormal((dim,)),
        ode_eval=jaxflow.ODE(solver="rk4", num_steps=1),
    )
    if method == "brute":
        flow = dataclasses.replace(flow, field=Brute(flow.field))
    elif method != "closed":
        flow = dataclasses.replace(flow, trace=Hutchinson(int(method)))
    x = jax.random.normal(key, (rows, dim))
    start = time.perf_counter()
    jax.block_until_ready(flow.log_prob(x, key=key))
    seconds = time.perf_counter() - start
    # Not ru_maxrss, which a child process inherits from its parent.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    print(int(peak[1]) / 1024, seconds)


if __name__ == "__main__":
    _score_alone(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
