"""Held-out likelihood on a larger real table, against models that need no training loop.

Reads `tables/magic_gamma.npz` (UCI MAGIC Gamma Telescope, CC BY 4.0; array `x`, 19,020 x 10) below
`--data`. Split 80/10/10 by `numpy.random.default_rng(0)`; figures are negative log-densities of
test rows in nats of columns standardised by the training rows. The peers see the coordinates of
the transform that `jaxflow.fit` chose, and count it; their sizes are chosen on validation rows.

    python benchmarks/tables.py --data DIR [--steps 2000]
"""

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import jaxflow
from harness import table, write_results


def split(x: np.ndarray) -> list[np.ndarray]:
    order = np.random.default_rng(0).permutation(len(x))
    parts = np.split(x[order], [int(0.8 * len(x)), int(0.9 * len(x))])
    mean, scale = parts[0].mean(axis=0), parts[0].std(axis=0)
    return [((part - mean) / scale).astype(np.float32) for part in parts]


def best_of(models: dict[str, Any], train: np.ndarray, held: np.ndarray) -> tuple[str, Any]:
    """The model with the best validation value, fitted."""
    with warnings.catch_warnings():
        # A mixture that has not quite converged is judged by validation like the others.
        warnings.simplefilter("ignore")
        fitted = {name: model.fit(train) for name, model in models.items()}
    name = max(fitted, key=lambda name: fitted[name].score_samples(held).mean())
    return name, fitted[name]


def main() -> None:
    parser = argparse.ArgumentParser(description="Held-out likelihood on a larger real table.")
    parser.add_argument("--data", type=Path, help="folder that holds tables/magic_gamma.npz")
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    path = arguments.data / "tables" / "magic_gamma.npz" if arguments.data else None
    if path is None or not path.exists():
        print("skipped: give --data DIR with tables/magic_gamma.npz", file=sys.stderr)
        return
    train, held, test = split(np.load(path, allow_pickle=False)["x"])
    dim = train.shape[1]
    key = jax.random.key(0)
    values: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}

    start = time.perf_counter()
    field = jaxflow.dynamics.MLP(dim, width=128, depth=2, key=key)
    flow = jaxflow.CNF(field, jaxflow.StandardNormal((dim,)))
    config = jaxflow.TrainConfig(steps=arguments.steps, batch_size=1000, eval_every=200)
    flow, history = jaxflow.fit(
        flow,
        train,
        validation=held,
        key=key,
        config=config,
        objective=jaxflow.objectives.maximum_likelihood,
    )
    values["continuous flow"] = np.asarray(flow.log_prob(test), float)
    seconds["continuous flow"] = time.perf_counter() - start

    start = time.perf_counter()
    coupling = jaxflow.CouplingFlow(dim, key=key)
    coupling, _ = jaxflow.fit(
        coupling, train, validation=held, key=key, config=config, transform=flow.transform
    )
    values["coupling flow"] = np.asarray(coupling.log_prob(test), float)
    seconds["coupling flow"] = time.perf_counter() - start

    forward = jax.jit(jax.vmap(lambda x: flow.transform.forward(x)))
    u, v, w = (np.asarray(forward(jnp.asarray(part))[0], float) for part in (train, held, test))
    log_det = np.asarray(forward(jnp.asarray(test))[1], float)
    families: dict[str, dict[str, Any]] = {
        "Gaussian": {"full covariance": GaussianMixture(1)},
        "Gaussian mixture": {
            f"{n} components": GaussianMixture(n, random_state=0, reg_covar=1e-4)
            for n in (10, 20, 40, 80, 160)
        },
        "kernel density": {
            f"bandwidth {h:g}": KernelDensity(bandwidth=h) for h in (0.2, 0.3, 0.4)
        },
    }
    chosen = {"continuous flow": type(flow.transform).__name__, "coupling flow": "-"}
    for family, models in families.items():
        start = time.perf_counter()
        chosen[family], model = best_of(models, u, v)
        values[family] = model.score_samples(w) + log_det
        seconds[family] = time.perf_counter() - start

    results = {
        name: {
            "nats": -float(log_p.mean()),
            "se": float(log_p.std(ddof=1) / len(log_p) ** 0.5),
            "chosen": chosen[name],
            "seconds": seconds[name],
        }
        for name, log_p in values.items()
    }
    rows = [
        [name, f"{r['nats']:.3f} +- {r['se']:.3f}", str(r["chosen"]), f"{r['seconds']:.0f}"]
        for name, r in results.items()
    ]
    print(table(["magic_gamma", "negative log-density, nats", "chosen", "seconds"], rows))
    print(f"{history['step'][-1]} steps, {flow.ode.num_steps} RK4 steps in training")
    print(f"written to {write_results('tables', {'magic_gamma': results})}")


if __name__ == "__main__":
    main()
