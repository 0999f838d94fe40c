"""What one training gradient costs, against the machine's own rate of matrix products.

Case: mean negative log-likelihood of 1000 rows of 43 columns, tanh MLP on (x, t) with two
hidden layers of 256, 8 RK4 steps, float32. Prints a table of variants that took turns in one
run, the time to compile and take the first step, and the time of `import jaxflow` over that of
its dependencies.

    python benchmarks/step.py [--repeats 9]
"""

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

import jaxflow
from harness import interleaved, table, write_results
from jaxflow.trace import jacobian_trace

DIM, WIDTH, ROWS, STEPS = 43, 256, 1000, 8
EVALS = 4 * STEPS


def multiply_adds(*, closed_form: bool, recompute: bool) -> float:
    """Multiply-adds in matrix products of one gradient, in units of one row's evaluation.

    An evaluation has the products x W1, h W2, h W3; the closed form adds one of h x h, a probe
    repeats all three. Their reverse mode costs twice as much; a checkpointed step runs its
    stages once more.
    """
    field = 2 * DIM * WIDTH + WIDTH * WIDTH
    forward = field + WIDTH * WIDTH if closed_form else 2 * field
    return ROWS * EVALS * forward * (4 if recompute else 3)


def flow(trace: str, gradient: Any, key: Any) -> jaxflow.CNF:
    return jaxflow.CNF(
        jaxflow.dynamics.MLP(DIM, width=WIDTH, depth=2, key=key),
        jaxflow.StandardNormal((DIM,)),
        trace=trace,  # type: ignore[arg-type]
        ode=jaxflow.ODE(solver="rk4", num_steps=STEPS, gradient=gradient),
    )


@eqx.filter_jit
def gradient(flow: jaxflow.CNF, x: jax.Array, key: jax.Array) -> Any:
    def loss(flow: jaxflow.CNF) -> jax.Array:
        return jaxflow.objectives.maximum_likelihood(flow, x, None, key)[0]

    return eqx.filter_value_and_grad(loss)(flow)


@eqx.filter_jit
def diffrax_gradient(field: Any, x: jax.Array, probes: jax.Array) -> Any:
    """The same loss with diffrax: as many evaluations, constant steps, its default adjoint."""

    def dynamics(t: Any, state: Any, args: Any) -> Any:
        field, probes = args

        def one(x: jax.Array, v: jax.Array) -> Any:
            f, jv = jax.jvp(lambda x: field(t, x), (x,), (v,))
            return f, -jnp.sum(v * jv)

        return jax.vmap(one)(state[0], probes)

    def loss(field: Any) -> jax.Array:
        # Midpoint takes 2 evaluations a step.
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(dynamics),
            diffrax.Midpoint(),
            t0=1.0,
            t1=0.0,
            dt0=-2.0 / EVALS,
            y0=(x, jnp.zeros(len(x))),
            args=(field, probes),
            max_steps=EVALS // 2 + 2,
        )
        assert solution.ys is not None
        z, change = solution.ys[0][0], solution.ys[1][0]
        base = jaxflow.StandardNormal((DIM,))
        return -jnp.mean(jax.vmap(base.log_prob)(z) - change)

    return eqx.filter_value_and_grad(loss)(field)


@jax.jit
def products(h: jax.Array, w: jax.Array) -> jax.Array:
    """100 products of the case's largest shape, (rows, width) x (width, width).

    Written out: a compiled loop runs them at up to half the rate, which would flatter the rest.
    """
    for _ in range(100):
        h = h @ w
    return h


@jax.jit
def square(a: jax.Array) -> jax.Array:
    """One product large enough to show what the machine can do."""
    return a @ a


@eqx.filter_jit
def brute_force(field: Any, x: jax.Array) -> Any:
    """Gradient of one evaluation's trace by d Jacobian-vector products, summed over rows."""

    def loss(field: Any) -> jax.Array:
        f, trace = jax.vmap(lambda x: jacobian_trace(field, jnp.asarray(0.5), x))(x)
        return jnp.sum(f) + jnp.sum(trace)

    return eqx.filter_value_and_grad(loss)(field)


@eqx.filter_jit
def closed_form(field: Any, x: jax.Array) -> Any:
    """The same gradient by the closed form."""

    def loss(field: Any) -> jax.Array:
        prepared = field.prepare()
        f, trace = jax.vmap(lambda x: prepared.with_trace(jnp.asarray(0.5), x))(x)
        return jnp.sum(f) + jnp.sum(trace)

    return eqx.filter_value_and_grad(loss)(field)


def import_seconds(repeats: int) -> tuple[float, float]:
    """Medians of importing jaxflow, and of importing jax, equinox and optax alone."""
    times: dict[str, list[float]] = {"import jaxflow": [], "import jax, equinox, optax": []}
    for _ in range(repeats):
        for statement, values in times.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            values.append(time.perf_counter() - start)
    ours, theirs = (statistics.median(values) for values in times.values())
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description="What one training gradient costs.")
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    key = jax.random.key(0)
    x = jax.random.normal(key, (ROWS, DIM))
    probes = jax.random.rademacher(key, (ROWS, DIM), jnp.float32)
    h = jax.random.normal(key, (ROWS, WIDTH))
    w = jax.random.orthogonal(key, WIDTH)
    a = jax.random.normal(key, (2048, 2048))

    variants = {
        "Hutchinson, checkpointed": (flow("hutchinson", "checkpointed", key), False, True),
        "Hutchinson, direct": (flow("hutchinson", "direct", key), False, False),
        "closed form, checkpointed": (flow("auto", "checkpointed", key), True, True),
        "closed form, adjoint": (flow("auto", "adjoint", key), True, True),
        "closed form, direct": (flow("auto", "direct", key), True, False),
    }
    first = {}
    for name, (model, _, _) in variants.items():
        start = time.perf_counter()
        jax.block_until_ready(gradient(model, x, key))
        first[name] = time.perf_counter() - start

    runs: dict[str, Any] = {
        name: lambda model=model: gradient(model, x, key)
        for name, (model, _, _) in variants.items()
    }
    field = variants["closed form, checkpointed"][0].field
    runs["diffrax, constant steps, Hutchinson"] = lambda: diffrax_gradient(field, x, probes)
    runs["matrix products"] = lambda: products(h, w)
    runs["large matrix product"] = lambda: square(a)
    times = interleaved(runs, repeats)

    rate = max(
        2 * 100 * ROWS * WIDTH**2 / times.pop("matrix products"),
        2 * len(a) ** 3 / times.pop("large matrix product"),
    )
    reference = times["Hutchinson, checkpointed"]
    rows, results = [], {}
    for name, seconds in times.items():
        share = None
        if name in variants:
            _, exact, recompute = variants[name]
            work = multiply_adds(closed_form=exact, recompute=recompute)
            share = 2 * work / seconds / rate
        results[name] = {
            "seconds": seconds,
            "ratio": seconds / reference,
            "share_of_rate": share,
            "compile_and_first_step": first.get(name),
        }
        rows.append(
            [
                name,
                f"{1e3 * seconds:.0f}",
                f"{seconds / reference:.2f}",
                "-" if share is None else f"{100 * share:.0f}%",
                f"{first[name]:.1f}" if name in first else "-",
            ]
        )
    print(f"matrix products alone: {rate / 1e9:.0f} GFLOP/s in this run")
    print(table(["gradient", "ms", "ratio", "of that rate", "compile + first, s"], rows))

    traces = interleaved(
        {"d products": lambda: brute_force(field, x), "closed": lambda: closed_form(field, x)},
        max(3, repeats // 2),
    )
    brute_ratio = traces["d products"] / traces["closed"]
    print(
        f"one evaluation's gradient by d Jacobian-vector products: {brute_ratio:.0f}x the closed"
    )

    ours, theirs = import_seconds(5)
    print(f"import jaxflow: {ours:.2f} s; import jax, equinox, optax: {theirs:.2f} s")
    path = write_results(
        "step",
        {
            "matrix_product_rate": rate,
            "gradients": results,
            "brute_force_ratio": brute_ratio,
            "import_seconds": {"jaxflow": ours, "dependencies": theirs},
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
