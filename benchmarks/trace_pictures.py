"""Two pictures of the traces benchmark: cost against dimension, and error against cost."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
MARKERS = "osD^vP"


def draw_cost(costs: dict[str, Any], path: Path) -> None:
    """Time of one trace against the dimension, a panel for each family of fields."""
    figure, axes = plt.subplots(
        1, len(costs), figsize=(3.4 * len(costs), 3.4), sharey=True, layout="constrained"
    )
    methods = ["brute, all at once", "brute, chunked", "Hutchinson, k=8", "Hutchinson, k=1"]
    methods += ["closed form", "field alone"]
    for ax, (name, by_dim) in zip(axes, costs.items(), strict=True):
        for method, colour, marker in zip(methods, COLOURS, MARKERS, strict=False):
            pairs = [
                (int(d), by_dim[d][method]["trace_us_per_row"])
                for d in by_dim
                if method in by_dim[d]
            ]
            style = ":" if method == "field alone" else "-"
            ax.plot(*zip(*pairs, strict=True), style, c=colour, marker=marker, ms=4, label=method)
        ax.set(xscale="log", yscale="log", title=name, xlabel="dimension")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("one trace, microseconds a row")
    axes[-1].legend(fontsize=7, loc="upper left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_frontier(found: dict[str, Any], path: Path) -> None:
    """Error of log p against the time of scoring, with the frontier of what is worth choosing."""
    figure, axes = plt.subplots(
        1, len(found), figsize=(4.2 * len(found) + 1.8, 3.8), layout="constrained"
    )
    for ax, (name, results) in zip(axes, found.items(), strict=True):
        every = []
        for (method, points), colour, marker in zip(
            results["points"].items(), COLOURS, MARKERS, strict=False
        ):
            x = [p["us_per_row"] for p in points]
            y = [p["sd"] for p in points]
            ax.plot(x, y, marker=marker, c=colour, ms=4, lw=1, label=method)
            every += list(zip(x, y, strict=True))
        best = [(x, y) for x, y in sorted(every) if all(y < v for u, v in every if u < x)]
        ax.step(*zip(*best, strict=True), where="post", c="0.6", lw=4, alpha=0.4, zorder=0)
        exact = results["exact_us_per_row"], results["brute_us_per_row"]
        for cost, style, label in zip(
            exact, ("-", "--"), ("closed form", "d products"), strict=True
        ):
            ax.axvline(cost, c="k", ls=style, lw=1, label=f"exact, {label}")
        title = f"{name}, {results['dim']} columns"
        ax.set(xscale="log", yscale="log", title=title, xlabel="scoring, microseconds a row")
        ax.grid(alpha=0.3)
        ax.tick_params(which="both", labelsize=7)
    axes[0].set_ylabel("error of log p, nats")
    handles = axes[-1].get_legend_handles_labels()
    figure.legend(*handles, fontsize=8, loc="outside right center")
    figure.savefig(path, dpi=150)
    plt.close(figure)
