"""Learning densities without data: effective samples and log Z by flows trained with reverse KL.

Four targets in the plane, known up to a constant that is known here: a correlated Gaussian, a
mixture of four, Neal's funnel, a double well. Prints the effective sample size as a share of
20,000 draws, the estimate of log Z against the truth, and the shape of the weights' tail.

    python benchmarks/reverse_kl.py [--quick]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

import jaxflow
from harness import table, write_results
from jaxflow.objectives import ReverseKL

# What is added to each log-density, so that its constant is none of the usual ones.
SHIFT = 1.7
DRAWS = 20_000


@dataclass(frozen=True)
class Target:
    """A log-density up to a constant, and the constant."""

    log_prob: Callable[[Any], Any]
    log_z: float


def gaussian(x: Any) -> Any:
    z = jnp.stack([x[0] - 1.0, 2.0 * (x[1] + 0.5) - 1.5 * (x[0] - 1.0)])
    return SHIFT - 0.5 * jnp.sum(z**2)


def mixture(x: Any) -> Any:
    centres = 1.5 * jnp.asarray([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], x.dtype)
    parts = jnp.sum(norm.logpdf(x[None], centres, 0.6), axis=1)
    return SHIFT + jax.nn.logsumexp(parts) - jnp.log(4.0).astype(x.dtype)


def funnel(x: Any) -> Any:
    return SHIFT + norm.logpdf(x[0], 0.0, 3.0) + norm.logpdf(x[1], 0.0, jnp.exp(x[0] / 2))


def double_well(x: Any) -> Any:
    return -((x[0] ** 2 - 2.0) ** 2) - 0.5 * x[0] - 0.5 * x[1] ** 2


def _double_well_log_z() -> float:
    grid = np.linspace(-5.0, 5.0, 100_001)
    values = np.exp(-((grid**2 - 2.0) ** 2) - 0.5 * grid)
    return float(np.log(values.sum() * (grid[1] - grid[0])) + 0.5 * np.log(2 * np.pi))


TARGETS = {
    # |det| of the map to z is 2.
    "Gaussian": Target(gaussian, SHIFT + float(np.log(2 * np.pi / 2))),
    "mixture of four": Target(mixture, SHIFT),
    "funnel": Target(funnel, SHIFT),
    "double well": Target(double_well, _double_well_log_z()),
}


def run(target: Target, steps: int) -> dict[str, float]:
    start = time.perf_counter()
    field_key, fit_key, draw_key = jax.random.split(jax.random.key(0), 3)
    field = jaxflow.dynamics.MLP(2, width=64, depth=2, key=field_key)
    ode = jaxflow.ODE(solver="rk4", num_steps=8)
    flow, _ = jaxflow.fit(
        jaxflow.CNF(field, jaxflow.StandardNormal((2,)), ode=ode),
        None,
        key=fit_key,
        objective=ReverseKL(target=target.log_prob, num_samples=512),
        config=jaxflow.TrainConfig(
            steps=steps, learning_rate=5e-3, eval_every=max(1, steps // 5), patience=None
        ),
        progress=False,
    )
    drawn = jaxflow.importance_sample(flow, target.log_prob, DRAWS, key=draw_key)
    return {
        "effective": drawn.effective / DRAWS,
        "log_z": drawn.log_z,
        "log_z_se": drawn.log_z_se,
        "truth": target.log_z,
        "pareto_k": drawn.pareto_k,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Effective samples and log Z by reverse KL.")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    found = {}
    for name, target in TARGETS.items():
        found[name] = run(target, 100 if arguments.quick else 1500)
        print(name, found[name], flush=True)
        jax.clear_caches()
    lines = [
        [
            name,
            f"{each['effective']:.1%}",
            f"{each['log_z']:.4f} +- {each['log_z_se']:.4f}",
            f"{each['truth']:.4f}",
            f"{each['pareto_k']:.2f}",
            f"{each['seconds']:.0f}",
        ]
        for name, each in found.items()
    ]
    print(table(["target", "effective", "log Z", "truth", "Pareto k", "seconds"], lines))
    if not arguments.quick:
        print(f"written to {write_results('reverse_kl', found)}")


if __name__ == "__main__":
    main()
