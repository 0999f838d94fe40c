"""The divergence on manifolds: its closed form beside Jacobian-vector products, and its gradient.

Microseconds for 128 rows in float32, the least of many runs, for a network of two layers of 64
sines; the gradient is that of the sum of divergences in the weights. `same` is the largest
difference of the two divergences in float64.

    python benchmarks/divergence.py
"""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from harness import table, write_results
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.manifolds import Euclidean, Manifold, Product, Sphere, Torus
from jaxflow.trace import exact_trace, jacobian_trace, prepare

ROWS, WIDTH, REPEATS = 128, 64, 200
MANIFOLDS = (
    Sphere(2),
    Sphere(5),
    Product(Sphere(2), Torus(1)),
    Product(Sphere(2), Torus(1), Euclidean(2)),
    Product(Sphere(2), Euclidean(8)),
    Product(Torus(2), Euclidean(8)),
)


def divergences(trace: Callable[..., Any], field: Any, x: Any) -> Any:
    """`div f` at each row, the field prepared as before a solve."""
    field = prepare(field) if trace is exact_trace else field
    return jax.vmap(lambda x: trace(field, jnp.asarray(0.3, x.dtype), x)[1])(x)


def microseconds(f: Callable[..., Any], *args: Any) -> float:
    """The least time of a call."""
    jax.block_until_ready(f(*args))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(f(*args))
        times.append(time.perf_counter() - start)
    return 1e6 * min(times)


def measure(manifold: Manifold) -> dict[str, float]:
    """Times of both ways and of their gradients, and whether they agree."""
    key = jax.random.key(0)
    field = OnManifold(MLP(manifold.ambient, width=WIDTH, activation="sin", key=key), manifold)
    field = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.ones_like(leaf), field)
    x = jax.random.normal(key, (ROWS, manifold.event_shape[0]))
    x = jax.vmap(manifold.retract)(x)
    result = {}
    for name, trace in (("products", jacobian_trace), ("closed", exact_trace)):

        def value(field: Any, x: Any, trace: Any = trace) -> Any:
            return divergences(trace, field, x)

        def total(field: Any, x: Any, trace: Any = trace) -> Any:
            return jnp.sum(divergences(trace, field, x))

        result[name] = microseconds(eqx.filter_jit(value), field, x)
        result[f"{name}, gradient"] = microseconds(
            eqx.filter_jit(eqx.filter_grad(total)), field, x
        )
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (field, x))
        one, other = (divergences(trace, *wide) for trace in (jacobian_trace, exact_trace))
        result["same"] = float(np.abs(one - other).max())
    return result


def main() -> None:
    results = {str(manifold): measure(manifold) for manifold in MANIFOLDS}
    header = ["manifold", "products", "closed", "gradient, products", "closed", "same"]
    keys = ("products", "closed", "products, gradient", "closed, gradient")
    rows = [
        [name, *(f"{r[key]:.0f}" for key in keys), f"{r['same']:.0e}"]
        for name, r in results.items()
    ]
    print(table(header, rows))
    write_results("divergence", results)


if __name__ == "__main__":
    main()
