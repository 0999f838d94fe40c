"""What each penalty of maximum likelihood does to a flow: evaluations and likelihood.

Each toy is fitted by flow matching and then by maximum likelihood with one penalty, and by maximum
likelihood alone; the table shows evaluations of a solve at 1e-5 for held-out rows, and KL(data,
model) in nats.

    python benchmarks/penalties.py [--quick] [--only moons]
"""

import argparse
from typing import Any

import jax

import jaxflow
from harness import fit_toy, table, write_results
from jaxflow.data import EightGaussians, Moons
from jaxflow.dynamics import MLP, Potential
from jaxflow.objectives import FlowMatching, MaximumLikelihood, Reflow, Stage, Staged

TOYS = {"8 gaussians": EightGaussians, "moons": Moons}
PENALTIES: dict[str, dict[str, float]] = {
    "none": {},
    "kinetic 0.05": {"kinetic": 0.05},
    "kinetic 0.2": {"kinetic": 0.2},
    "jacobian 0.05": {"jacobian": 0.05},
    "kinetic 0.05, jacobian 0.05": {"kinetic": 0.05, "jacobian": 0.05},
    "taylor2 0.01": {"taylor2": 0.01},
    "taylor3 0.0001": {"taylor3": 0.0001},
    "steer 0.2": {"steer": 0.2},
}
# By maximum likelihood from the first step on, as in Finlay et al. 2020 (arXiv 2002.02798).
ALONE: dict[str, dict[str, float]] = {
    "likelihood alone": {},
    "alone, kinetic 0.05, jacobian 0.05": {"kinetic": 0.05, "jacobian": 0.05},
    "alone, kinetic 0.2, jacobian 0.2": {"kinetic": 0.2, "jacobian": 0.2},
}
# The HJB residual is that of a potential, so these fields are gradients, likewise matched first.
POTENTIAL: dict[str, dict[str, float]] = {
    "potential": {},
    "potential, hjb 0.02": {"hjb": 0.02},
    "potential, hjb 0.1": {"hjb": 0.1},
}


def staged(weights: dict[str, float]) -> Staged:
    """Flow matching, then likelihood with penalties."""
    likelihood = MaximumLikelihood(**weights)
    return Staged((Stage(FlowMatching(), 0.8, 2.5, 0.999), Stage(likelihood, 0.2, 1.0)))


def flow_of(kind: Any, key: Any) -> jaxflow.CNF:
    """A flow of a field with two layers of 64."""
    return jaxflow.CNF(kind(2, width=64, depth=2, key=key), jaxflow.StandardNormal((2,)))


def fit(toy: Any, objective: Any, steps: int, flow: Any = None) -> tuple[Any, dict[str, float]]:
    field_key, fit_key = jax.random.split(jax.random.key(0))
    config = jaxflow.TrainConfig(steps=steps, eval_every=max(1, steps // 10), patience=None)
    return fit_toy(toy, flow or flow_of(MLP, field_key), objective, config, fit_key)


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluations and likelihood with each penalty.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=TOYS, nargs="+", default=list(TOYS), help="toys")
    arguments = parser.parse_args()
    steps = 60 if arguments.quick else 2500
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in arguments.only:
        make, found[name] = TOYS[name], {}
        for label, weights in PENALTIES.items():
            flow, found[name][label] = fit(make(), staged(weights), steps)
            print(name, label, found[name][label], flush=True)
            if label == "none":
                pairs = Reflow.of(flow, jax.random.key(9), 1000 if arguments.quick else 32_768)
                stages = Stage(pairs, 0.9, 2.5, 0.999), Stage(MaximumLikelihood(kinetic=0.05), 0.1)
                _, found[name]["reflow, then kinetic 0.05"] = fit(
                    make(), Staged(stages), steps, flow
                )
            jax.clear_caches()
        for label, weights in ALONE.items():
            _, found[name][label] = fit(make(), MaximumLikelihood(**weights), steps)
            print(name, label, found[name][label], flush=True)
            jax.clear_caches()
        for label, weights in POTENTIAL.items():
            start = flow_of(Potential, jax.random.key(0))
            _, found[name][label] = fit(make(), staged(weights), steps, start)
            print(name, label, found[name][label], flush=True)
            jax.clear_caches()
    labels = list(next(iter(found.values())))
    lines = [
        [label, *(f"{f[label]['kl']:.3f}, {f[label]['num_evals']:.0f}" for f in found.values())]
        for label in labels
    ]
    print(table(["KL nats, evaluations", *found], lines))
    if not arguments.quick:
        for name, each in found.items():
            print(f"written to {write_results('penalties_' + name.replace(' ', '_'), each)}")


if __name__ == "__main__":
    main()
