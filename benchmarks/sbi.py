"""Posteriors by `fit_posterior` with its defaults, beside the reference posteriors of sbibm.

Eight tasks (`sbi_tasks.py`), five observations each. Every posterior is fitted once to the
simulations and judged at the five observations by C2ST, as Lueckmann et al. 2021 (arXiv
2101.04653) compute it: 10,000 draws and 10,000 reference draws, standardised by the latter's
counterpart, a scikit-learn network of two layers of ten units a dimension, the mean accuracy of
five folds. 0.5 is perfect, 1 is worst. Beside it: the mean log-density of the reference draws in
nats, which the reference's own (negative) entropy bounds from above, the effective sample size of
importance weights by the exact likelihood as a share of the draws, and their log evidence (for
sir and bernoulli_glm up to a constant).

Finished runs are kept in results/sbi.json and are not run again without `--again`.

    python benchmarks/sbi.py --data DIR [--tasks two_moons slcp] [--simulations 1000 10000]
        [--seconds 150] [--observations 5] [--members 1] [--again]

With `--proposal truncated` or `posterior`, two rounds of `fit_rounds` share the simulations, and
each observation has its own.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from harness import read_results, table, write_page, write_results
from jaxflow.inference import fit_posterior, fit_rounds, importance_sample
from jaxflow.inference.rounds import PROPOSALS
from sbi_tasks import TASKS, Task

# Mean C2ST of sbibm's neural posterior estimation, and of its best method, at the number of
# simulations; of GenSBI (arXiv 2605.27499) at 30,000.
PUBLISHED = {
    "two_moons": {"NPE 1e4": 0.606, "NPE 1e5": 0.542, "best 1e5": 0.530, "GenSBI 3e4": 0.51},
    "slcp": {"NPE 1e4": 0.901, "NPE 1e5": 0.831, "best 1e5": 0.578, "GenSBI 3e4": 0.57},
    "bernoulli_glm": {"NPE 1e4": 0.678, "NPE 1e5": 0.559, "best 1e5": 0.522, "GenSBI 3e4": 0.58},
    "gaussian_linear": {"NPE 1e4": 0.552, "NPE 1e5": 0.506, "best 1e5": 0.506, "GenSBI 3e4": 0.50},
    "gaussian_mixture": {
        "NPE 1e4": 0.615,
        "NPE 1e5": 0.548,
        "best 1e5": 0.536,
        "GenSBI 3e4": 0.50,
    },
    "sir": {"NPE 1e4": 0.680, "NPE 1e5": 0.585, "best 1e5": 0.547},
    "lotka_volterra": {"NPE 1e4": 0.997, "NPE 1e5": 0.981, "best 1e5": 0.695},
}
DRAWS, WEIGHTED = 10_000, 2000


def c2st(draws: np.ndarray, reference: np.ndarray) -> float:
    """Accuracy of a classifier of draws and reference draws, each (n, d)."""
    mean, std = reference.mean(axis=0), reference.std(axis=0, ddof=1)
    rows = np.concatenate([(reference - mean) / std, (draws - mean) / std])
    labels = np.repeat([0, 1], [len(reference), len(draws)])
    units = 10 * rows.shape[1]
    network = MLPClassifier((units, units), max_iter=10_000, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    with threadpool_limits(1):
        return float(cross_val_score(network, rows, labels, cv=folds).mean())


def run(
    task: Task,
    simulations: int,
    data: Any,
    observations: int,
    settings: dict[str, Any],
    proposal: str = "",
) -> dict[str, Any]:
    """One fit, judged at the observations; with a proposal, rounds for each of them."""
    key = jax.random.key(0)

    def fitted(observed: np.ndarray | None = None) -> Any:
        rng = np.random.default_rng(simulations)
        if observed is None:
            theta = task.draw(rng, simulations)
            return fit_posterior(
                theta, task.simulate(rng, theta), key=key, prior=task.prior, **settings
            )
        return fit_rounds(
            lambda theta: task.simulate(rng, theta),
            task.prior,
            observed.reshape(-1),
            key=key,
            proposal=proposal,
            rounds=2,
            simulations=simulations,
            **settings,
        )

    start = time.perf_counter()
    posterior = None if proposal else fitted()
    figures: dict[str, Any] = {"seconds": time.perf_counter() - start}
    start = time.perf_counter()
    each = []
    pairs = list(zip(data["observation"], data["reference"], strict=True))
    for number, (observed, reference) in enumerate(pairs[:observations]):
        observed, reference = observed.astype(np.float64), reference.astype(np.float64)
        if proposal:
            began = time.perf_counter()
            posterior = fitted(observed)
            figures["seconds"] += time.perf_counter() - began
        assert posterior is not None
        draws = np.asarray(posterior.sample(jax.random.fold_in(key, number), DRAWS, observed))
        found: dict[str, Any] = {"c2st": c2st(draws.astype(np.float64), reference)}
        log_q = posterior.log_prob(reference[::10], observed)
        found["log_q"] = float(np.mean(np.asarray(log_q)))
        try:
            settled = {"key": key, "num": WEIGHTED}
            sample = importance_sample(posterior, task.log_likelihood, observed, **settled).sample
            found["efficiency"] = sample.effective / WEIGHTED
            found["log_z"], found["log_z_se"] = sample.log_z, sample.log_z_se
            found["pareto_k"] = sample.pareto_k
        except ValueError as error:
            found["failed"] = str(error)
        print(
            {
                name: value if isinstance(value, str) else round(value, 3)
                for name, value in found.items()
            },
            flush=True,
        )
        each.append(found)
    assert posterior is not None
    figures |= {"left_out": posterior.left_out, "effective": posterior.effective}
    figures["c2st"] = float(np.mean([e["c2st"] for e in each]))
    return figures | {"observations": each, "judged_seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description="Posteriors beside sbibm's references.")
    parser.add_argument("--data", type=Path, required=True, help="folder with TASK.npz of sbibm")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--simulations", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--seconds", type=float, help="limit of each training")
    parser.add_argument("--observations", type=int, default=5, help="judge at the first ones")
    parser.add_argument("--members", type=int, default=1, help="flows to average")
    parser.add_argument(
        "--proposal", choices=PROPOSALS, default="", help="two rounds for each observation"
    )
    parser.add_argument("--again", action="store_true", help="run finished tasks too")
    arguments = parser.parse_args()
    results = read_results("sbi")
    settings = {"max_seconds": arguments.seconds, "members": arguments.members, "progress": False}
    for simulations in arguments.simulations:
        for name in arguments.tasks:
            entry = (
                f"{simulations}"
                if arguments.members == 1
                else f"{simulations} x{arguments.members}"
            )
            entry += f" {arguments.proposal}" if arguments.proposal else ""
            if entry in results.get(name, {}) and not arguments.again:
                continue
            print(name, entry, flush=True)
            with np.load(arguments.data / f"{name}.npz", allow_pickle=False) as data:
                figures = run(
                    TASKS[name],
                    simulations,
                    data,
                    arguments.observations,
                    settings,
                    arguments.proposal,
                )
            results.setdefault(name, {})[entry] = figures
            write_results("sbi", results)
            print(
                name, entry, f"C2ST {figures['c2st']:.3f}, {figures['seconds']:.0f} s", flush=True
            )
    print(summarise(results))
    write_page("sbi", summarise(results))


def summarise(results: dict[str, Any]) -> str:
    """The table: a row for each task and number of simulations."""
    published = ["NPE 1e4", "NPE 1e5", "best 1e5", "GenSBI 3e4"]
    rows = []
    for task in (name for name in TASKS if name in results):
        for entry, figures in sorted(results[task].items(), key=lambda each: len(each[0])):
            each = [found["c2st"] for found in figures["observations"]]
            shares = [found.get("efficiency", 0.0) for found in figures["observations"]]
            rows.append(
                [
                    task.replace("_", " "),
                    entry,
                    f"{figures['c2st']:.3f}",
                    f"{min(each):.3f} to {max(each):.3f}",
                    f"{100 * np.mean(shares):.0f}%",
                    *(str(PUBLISHED.get(task, {}).get(name, "")) for name in published),
                    f"{figures['seconds']:.0f}",
                ]
            )
    header = ["task", "simulations", "C2ST", "observations", "ESS", *published, "seconds"]
    return table(header, rows)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
        main()
