"""How far a log-density can be trusted: stated errors against true ones, and tolerances in nats.

Nine flows that chose none of the method's constants: networks of several activations and sizes, a
linear field, one without weights that is fast in time, and a stiff one. Rows are drawn 1.5 times
as wide as the base, so that some lie where the flow has no data. The truth is a float64 solve at
1e-11. For each flow and tolerance: the share of rows whose true error is within the stated one,
how much larger the stated one is, and what it costs; then the errors of `log_prob(atol_nats=...)`.

    python benchmarks/accuracy.py [--quick] [--no-picture]
"""

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from harness import interleaved, noisier, table, write_results
from jaxflow.dynamics import MLP, ConcatSquash, Linear

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "accuracy.png"
EXACT = jaxflow.ODE(solver="dopri8", rtol=1e-11, atol=1e-11, max_steps=20_000)
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)
NATS = (1e-1, 1e-2, 1e-3, 1e-4)
KEY = jax.random.key(8)


def wave(t: Any, x: Any) -> Any:
    turn = jnp.stack([x[1], -x[0]]) * (1 + 0.5 * jnp.sin(9 * t))
    return turn + jnp.sin(2 * x[::-1] + 3 * t)


def stiff(t: Any, x: Any) -> Any:
    """Fast attraction to a moving curve, slow motion along it."""
    return jnp.stack([jnp.cos(3 * t) + 0.3 * x[0], 25.0 * (x[1] - jnp.sin(2 * x[0] + t))])


def fields() -> dict[str, tuple[Any, int]]:
    return {
        "tanh, d 3": (noisier(MLP(3, width=12, key=KEY), 0.5), 3),
        "sin, d 2": (noisier(MLP(2, width=8, activation="sin", key=KEY), 0.5), 2),
        "softplus, d 4": (noisier(MLP(4, width=10, activation="softplus", key=KEY), 0.5), 4),
        "concatsquash, d 3": (noisier(ConcatSquash(3, width=8, key=KEY), 0.5), 3),
        "tanh, d 16": (noisier(MLP(16, width=32, key=KEY), 0.2), 16),
        "tanh, d 64": (noisier(MLP(64, width=64, key=KEY), 0.1), 64),
        "linear, d 4": (Linear(4, key=KEY), 4),
        "wave, d 2": (wave, 2),
        "stiff, d 2": (stiff, 2),
    }


def examine(field: Any, dim: int, rows: int, repeats: int) -> dict[str, Any]:
    """Stated and true errors of one flow at each tolerance, and of tolerances in nats."""
    x = 1.5 * jax.random.normal(KEY, (rows, dim))
    flow = jaxflow.CNF(field, jaxflow.StandardNormal((dim,)))
    truth = np.asarray(dataclasses.replace(flow, ode_eval=EXACT).log_prob(x))
    found: dict[str, Any] = {"stated": {}, "nats": {}}
    for tolerance in TOLERANCES:
        ode = jaxflow.ODE(rtol=tolerance, atol=tolerance, max_steps=20_000)
        each = dataclasses.replace(flow, ode_eval=ode)
        answer = each.log_prob_with_error(x)
        assert answer.refined is not None
        true = np.abs(np.asarray(answer.value) - truth)
        stated = np.asarray(answer.ode_error)
        times = interleaved(
            {
                "plain": partial(each.log_prob, x),
                "with error": partial(each.log_prob_with_error, x),
            },
            repeats,
        )
        found["stated"][f"{tolerance:g}"] = {
            "coverage": float(np.mean(true <= stated)),
            "stated_over_true": float(np.median(stated / np.maximum(true, 1e-15))),
            "better": float(
                np.median(true) / np.median(np.abs(np.asarray(answer.refined) - truth))
            ),
            "cost": times["with error"] / times["plain"],
            "true": true.tolist(),
            "stated": stated.tolist(),
        }
    for nats in NATS:
        single = partial(flow.log_prob, x, atol_nats=nats)
        checked = partial(flow.log_prob_with_error, x, atol_nats=nats)
        once, twice = np.asarray(single()), checked()
        times = interleaved({"single": single, "checked": checked}, repeats)
        found["nats"][f"{nats:g}"] = {
            "single_within": float(np.mean(np.abs(once - truth) <= nats)),
            "single_worst": float(np.max(np.abs(once - truth)) / nats),
            "checked_within": float(np.mean(np.abs(np.asarray(twice.value) - truth) <= nats)),
            "checked_worst": float(np.max(np.abs(np.asarray(twice.value) - truth)) / nats),
            "inaccurate": int(np.sum(np.asarray(twice.status) != 0)),
            "cost": times["checked"] / times["single"],
        }
    return found


def draw(results: dict[str, Any]) -> None:
    """Stated against true errors of every row; and the worst row of each tolerance in nats."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4))
    for color, tolerance in zip(
        plt.get_cmap("viridis")([0.1, 0.4, 0.65, 0.9]), TOLERANCES, strict=True
    ):
        cases = [found["stated"][f"{tolerance:g}"] for found in results.values()]
        true = np.concatenate([case["true"][:200] for case in cases])
        stated = np.concatenate([case["stated"][:200] for case in cases])
        left.plot(np.maximum(true, 1e-14), stated, ".", ms=2, color=color, label=f"{tolerance:g}")
    ends = np.asarray([1e-14, 1.0])
    left.plot(ends, ends, color="0.3", lw=1)
    left.set(xscale="log", yscale="log", xlabel="true error, nats", ylabel="stated error, nats")
    left.set_title("each point a row: above the line it is covered")
    left.legend(title="tolerance", markerscale=5, frameon=False, loc="upper left")
    for what, marker in (("single", "o"), ("checked", "s")):
        for name, found in results.items():
            worst = [found["nats"][f"{nats:g}"][f"{what}_worst"] * nats for nats in NATS]
            color = "tab:blue" if what == "single" else "tab:orange"
            label = (
                None
                if name != next(iter(results))
                else {
                    "single": "log_prob(x, atol_nats=...)",
                    "checked": "the same, verified",
                }[what]
            )
            right.plot(NATS, worst, marker, ms=4, alpha=0.7, color=color, label=label)
    right.plot(NATS, NATS, color="0.3", lw=1)
    right.set(xscale="log", yscale="log", xlabel="tolerance asked for, nats")
    right.set_ylabel("error of the worst row, nats")
    right.set_title("below the line the tolerance is met")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    IMAGE.parent.mkdir(exist_ok=True)
    figure.savefig(IMAGE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="Stated errors of log-densities against true.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-picture", action="store_true")
    arguments = parser.parse_args()
    rows, repeats = (200, 1) if arguments.quick else (1000, 3)
    results = {}
    with jax.enable_x64(True):
        for name, (field, dim) in fields().items():
            results[name] = examine(field, dim, rows, repeats)
            # Every tolerance is compiled anew.
            jax.clear_caches()
    lines = [
        [name, tolerance, f"{100 * case['coverage']:.1f}%"]
        + [f"{case[key]:.3g}" for key in ("stated_over_true", "better", "cost")]
        for name, found in results.items()
        for tolerance, case in found["stated"].items()
    ]
    print(table(["flow", "tolerance", "covered", "stated/true", "refined", "cost, solves"], lines))
    lines = [
        [
            name,
            nats,
            f"{100 * case['single_within']:.1f}%",
            f"{case['single_worst']:.2f}",
            f"{100 * case['checked_within']:.1f}%",
            f"{case['checked_worst']:.2f}",
            str(case["inaccurate"]),
            f"{case['cost']:.2f}",
        ]
        for name, found in results.items()
        for nats, case in found["nats"].items()
    ]
    header = ["flow", "nats", "within", "worst", "verified", "worst", "out of reach", "cost"]
    print(table(header, lines))
    if not arguments.no_picture:
        draw(results)
        print(f"drawn to {IMAGE}")
    if not arguments.quick:
        for found in results.values():
            for case in found["stated"].values():
                del case["true"], case["stated"]
        print(f"written to {write_results('accuracy', results)}")


if __name__ == "__main__":
    main()
