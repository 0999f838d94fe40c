"""Gradients of 100 random fields by every method: how far off, and whether a bad one is silent.

Five kinds of field, twenty of each, from gentle to steep. The loss is the mean negative
log-density of 32 rows, its trace exact, in float32 at a tolerance of 1e-5; a gradient's error is
relative to one by a float64 solve at 1e-10. What a solver leaves, the flow itself may amplify: by
the largest singular value of the Jacobian of its map, at the rows. A gradient counts as silently
wrong where it is off by more than 100 times the tolerance and that factor, without the solve or
its way back having said so. Last come three fields with a Lipschitz constant of 50: one that
contracts, one that expands, one that turns.

    python benchmarks/random_fields.py [--quick]
"""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from harness import dynamics, flat, table, wide, write_results
from jaxflow.dynamics import MLP, ConcatSquash, Linear
from jaxflow.ode import Adjoint

ROWS, DIM, TOLERANCE = 32, 3, 1e-5
BASE = jaxflow.StandardNormal((DIM,))
# What counts as wrong: more than so many tolerances.
SLACK = 100
ADAPTIVE = jaxflow.ODE(rtol=TOLERANCE, atol=TOLERANCE, max_steps=10_000, throw=False)
METHODS: dict[str, dict[str, Any]] = {
    "adjoint": {"gradient": "adjoint"},
    "adjoint, checkpoints=16": {"gradient": Adjoint(checkpoints=16)},
    "checkpointed": {"gradient": "checkpointed"},
    "diffrax": {"gradient": "diffrax"},
    "direct, 200 steps of rk4": {
        "gradient": "direct",
        "solver": "rk4",
        "num_steps": 200,
    },
}


def kinds() -> dict[str, Any]:
    key = jax.random.key(0)
    return {
        "tanh": MLP(DIM, width=16, key=key),
        "softplus": MLP(DIM, width=16, activation="softplus", key=key),
        "sin": MLP(DIM, width=16, activation="sin", key=key),
        "concatsquash": ConcatSquash(DIM, width=16, key=key),
        "linear": Linear(DIM, key=key),
    }


def randomised(field: Any, seed: int, scale: float) -> Any:
    """The field with normal weights in place of its own, wider ones for a larger scale."""
    rng = np.random.default_rng(seed)

    def draw(w: Any) -> Any:
        if not eqx.is_inexact_array(w):
            return w
        fan_in = w.shape[-1] if w.ndim > 1 else 1
        return jnp.asarray(scale * rng.normal(size=w.shape) / np.sqrt(fan_in), w.dtype)

    return jax.tree.map(draw, field)


def loss_of(ode: jaxflow.ODE) -> Any:
    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def loss(field: Any, x: jax.Array) -> Any:
        start = x, jnp.zeros(len(x), x.dtype)
        (z, change), stats = jaxflow.odeint(dynamics, start, 1.0, 0.0, field, ode=ode)
        return jnp.mean(change - jax.vmap(BASE.log_prob)(z)), stats.status

    return loss


LOSSES = {
    name: loss_of(jaxflow.ODE(**{**vars(ADAPTIVE), **settings}))
    for name, settings in METHODS.items()
}
TIGHT = jaxflow.ODE(solver="dopri8", rtol=1e-10, atol=1e-10, max_steps=100_000)
EXACT = loss_of(TIGHT)


@eqx.filter_jit
def amplification(field: Any, x: jax.Array) -> jax.Array:
    """The largest factor by which the flow's map takes two close rows apart, at least 1."""

    def end(x: jax.Array) -> jax.Array:
        start = x[None], jnp.zeros(1, x.dtype)
        direct = jaxflow.ODE(solver="rk4", num_steps=400, gradient="direct")
        return jaxflow.odeint(dynamics, start, 1.0, 0.0, field, ode=direct)[0][0][0]

    jacobian = jax.vmap(jax.jacfwd(end))(x)
    return jnp.maximum(1.0, jnp.max(jnp.linalg.norm(jacobian, ord=2, axis=(1, 2))))


def gradient_errors(field: Any, x: jax.Array) -> tuple[float, float, dict[str, float]]:
    """Lipschitz constant at the data, amplification, errors; NaN for what was refused."""
    with jax.enable_x64(True):
        exact = flat(EXACT(*wide((field, x)))[1])
        factor = float(amplification(*wide((field, x))))
    jacobian = jax.vmap(jax.jacfwd(lambda y: field(jnp.asarray(1.0), y)))(x)
    found = {}
    for name, loss in LOSSES.items():
        (_, status), gradient = loss(field, x)
        error = float(np.linalg.norm(flat(gradient) - exact) / np.linalg.norm(exact))
        found[name] = error if status == jaxflow.Status.SUCCESS else float("nan")
    return float(jnp.max(jnp.linalg.norm(jacobian, ord=2, axis=(1, 2)))), factor, found


def main() -> None:
    parser = argparse.ArgumentParser(description="Gradients of random fields by every method.")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    each = 4 if arguments.quick else 20
    x = jax.random.normal(jax.random.key(1), (ROWS, DIM))
    slopes: list[float] = []
    factors: list[float] = []
    errors: dict[str, list[float]] = {name: [] for name in METHODS}
    for kind, field in kinds().items():
        for seed, scale in enumerate(np.geomspace(0.3, 3.0, each)):
            slope, factor, found = gradient_errors(randomised(field, seed, float(scale)), x)
            slopes.append(slope)
            factors.append(factor)
            for name, error in found.items():
                errors[name].append(error)
        print(f"{kind}: done", flush=True)
    low, middle, high = np.quantile(slopes, [0, 0.5, 1])
    print(f"Lipschitz constants at the data: {low:.2g} to {high:.3g}, median {middle:.2g}")
    print(f"amplification by the flow's map: up to {max(factors):.3g}")
    print(
        table(
            ["method", "median", "90 %", "worst", "refused", "silently wrong"],
            rows(errors, factors),
        )
    )
    turn = 50 * np.array([[0, -1, 0], [1, 0, 0], [0, 0, 0]])
    stretch = np.diag([50.0, 1.0, -1.0])
    fields = {"contracts": -stretch, "expands": stretch, "turns": turn}
    at_50 = {
        n: gradient_errors(Linear(matrix=jnp.asarray(m, jnp.float32)), x)[2]
        for n, m in fields.items()
    }
    lines = [
        [name, *("refused" if np.isnan(e[name]) else f"{e[name]:.1e}" for e in at_50.values())]
        for name in METHODS
    ]
    print(table(["Lipschitz constant 50", *fields], lines))
    results = {"lipschitz": slopes, "amplification": factors, "errors": errors, "at 50": at_50}
    if not arguments.quick:
        print(f"written to {write_results('random_fields', results)}")


def rows(errors: dict[str, list[float]], factors: list[float]) -> list[list[str]]:
    lines = []
    for name, values in errors.items():
        known = np.array([v for v in values if not np.isnan(v)])
        quantiles = [f"{q:.1e}" for q in np.quantile(known, [0.5, 0.9, 1])]
        wrong = int(np.sum(np.array(values) > SLACK * TOLERANCE * np.array(factors)))
        lines.append([name, *quantiles, str(len(values) - len(known)), str(wrong)])
    return lines


if __name__ == "__main__":
    main()
