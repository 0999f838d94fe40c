"""Densities on spheres and tori: events on Earth, torsion angles of RNA, and known densities.

Negative log-density of held-out rows in nats, with respect to the surface measure (steradians,
radians), beside the kernel density of von Mises-Fisher or von Mises kernels whose concentration
the validation rows choose. Rows are split 80/10/10 by each seed; figures are means over seeds with
their standard errors. The mass, the integral of the density, is 1 for a right one; the worst
split's is shown. Of known densities the Kullback-Leibler divergence by 10,000 fresh rows, and the
mass by quadrature.

    python benchmarks/geometry.py [--minutes 30] [--data DIR] [--only quake rna] [--seeds 5]
                                  [--steps 8000] [--picture docs/images/globe.png]

DIR has `earth/earth_*.npz` (latlon, degrees) and `torus/rna_torsions_deg.npz`; without it only the
known densities run. `--minutes` is the time of one training; known densities take one minute.
`--steps` fixes the steps of flow matching instead, where other programs take the machine's time.
`--picture` draws a map of the first split's earthquakes.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import hyp1f1, i0e, logsumexp
from scipy.stats import sem

import jaxflow
from harness import read_results, table, write_results
from jaxflow import plotting
from jaxflow.bases import UniformOn
from jaxflow.diagnostics.mass import Mass, measure_mass
from jaxflow.diagnostics.solves import without_raising
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.manifolds import SO3, Manifold, Sphere, Torus, quadrature
from jaxflow.objectives import FlowMatching, Stage, Staged, maximum_likelihood
from jaxflow.transforms import Angles, LatLon

EARTH = {"volcano": "volerup", "quake": "quakes_all", "flood": "flood", "fire": "fire"}
# Steps of the run that tells how long one takes, and the share of the time for steps.
PILOT, SHARE = 300, 0.8
# Time of a step of likelihood, in steps of flow matching.
LIKELIHOOD = 40
# Concentrations of kernels.
KERNELS = np.geomspace(1.0, 1e5, 60)


class Size(NamedTuple):
    """How long one training takes: in minutes, or in steps if they are given."""

    minutes: float
    steps: int | None = None


class Known(NamedTuple):
    """A known density: its manifold, and a function of `(rng, n)` to points and log-densities.

    `rules` are the steps of two quadrature rules, whose difference is the error of the mass.
    """

    manifold: Any
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    rules: tuple[int, int]


def fisher_mixture(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Three von Mises-Fisher densities on the sphere."""
    centres = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -0.8, -0.6]])
    kappa, weight = np.array([20.0, 50.0, 10.0]), np.array([0.4, 0.3, 0.3])
    which = rng.choice(3, n, p=weight)
    u, turn = rng.uniform(size=n), rng.uniform(0, 2 * math.pi, n)
    height = 1 + np.log(u + (1 - u) * np.exp(-2 * kappa[which])) / kappa[which]
    flat = np.sqrt(np.maximum(1 - height**2, 0))
    frames = np.stack([np.linalg.svd(centre[None])[2][1:] for centre in centres])[which]
    across = np.cos(turn)[:, None] * frames[:, 0] + np.sin(turn)[:, None] * frames[:, 1]
    x = height[:, None] * centres[which] + flat[:, None] * across
    log_c = np.log(weight * kappa / (2 * math.pi)) - np.log1p(-np.exp(-2 * kappa))
    return x, np.asarray(logsumexp(log_c + kappa * (x @ centres.T - 1), axis=1))


def wrapped_mixture(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Three wrapped normals on the torus, two of them across the seam."""
    centres = np.array([[0.0, 0.5], [3.0, 6.0], [4.5, 2.5]])
    scale, weight = np.array([0.4, 0.25, 0.7]), np.array([0.4, 0.3, 0.3])
    which = rng.choice(3, n, p=weight)
    x = centres[which] + scale[which, None] * rng.normal(size=(n, 2))
    turns = 2 * math.pi * np.arange(-3, 4)
    away = ((x[:, None] - centres)[..., None] + turns) / scale[:, None, None]
    each = logsumexp(-0.5 * away**2, axis=-1) - np.log(scale * (2 * math.pi) ** 0.5)[:, None]
    return x % (2 * math.pi), np.asarray(logsumexp(np.log(weight) + each.sum(axis=-1), axis=1))


def bingham(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`exp(20 (q . a)^2)` on rotations, around the one of quaternion `a` (Watson's density)."""
    kappa, axis = 20.0, np.array([0.5, -0.5, 0.5, 0.5])
    rows: list[np.ndarray] = []
    while sum(map(len, rows)) < n:
        q = rng.normal(size=(100_000, 4))
        q /= np.linalg.norm(q, axis=1, keepdims=True)
        rows.append(q[rng.uniform(size=len(q)) < np.exp(kappa * ((q @ axis) ** 2 - 1))])
    x = np.concatenate(rows)[:n]
    log_volume = 2 * math.log(math.pi) + math.log(hyp1f1(0.5, 2.0, kappa))
    return x, kappa * (x @ axis) ** 2 - log_volume


KNOWN = {
    "von Mises-Fisher mixture, S^2": Known(Sphere(2), fisher_mixture, (32, 48)),
    "wrapped normals, T^2": Known(Torus(2), wrapped_mixture, (64, 96)),
    "Watson density, SO(3)": Known(SO3(), bingham, (18, 24)),
}


def make_flow(manifold: Manifold, width: int, depth: int, transform: Any) -> jaxflow.CNF:
    """A network of sines on the manifold, from the uniform density."""
    network = MLP(
        manifold.ambient,
        width=width,
        depth=depth,
        activation="sin",
        frequency=4.0 if manifold.dim < 4 else 1.0,
        key=jax.random.key(0),
    )
    return jaxflow.CNF(OnManifold(network, manifold), UniformOn(manifold), transform=transform)


def train(
    flow: jaxflow.CNF,
    x: Any,
    held_out: Any,
    size: Size,
    *,
    likelihood: float = 0.0,
    validations: int = 20,
) -> tuple[Any, dict[str, Any]]:
    """Fit within the time, compilation and validation included, or for a number of steps.

    `cpu` are the seconds of all cores together, which other programs do not change.
    """
    start, cpu = time.perf_counter(), time.process_time()
    stages = [Stage(FlowMatching(), 1 - likelihood, rate=2.5, ema=0.999)]
    if likelihood:
        stages.append(Stage(maximum_likelihood, likelihood, rate=0.5))
    objective = Staged(tuple(stages))

    def run(steps: int, every: int, objective: Any) -> tuple[Any, Any]:
        config = jaxflow.TrainConfig(steps=steps, eval_every=every, patience=None)
        return jaxflow.fit(
            flow,
            x,
            key=jax.random.key(1),
            validation=held_out,
            config=config,
            objective=objective,
            progress=False,
        )

    steps = size.steps
    if steps is None:
        _, pilot = run(PILOT, PILOT // 3, Staged((Stage(FlowMatching(), 1.0),)))
        rate = (pilot["seconds"][-1] - pilot["seconds"][0]) / (PILOT - PILOT // 3)
        left = 60 * size.minutes - (time.perf_counter() - start)
        steps = max(PILOT, int(SHARE * left / rate / (1 + (LIKELIHOOD - 1) * likelihood)))
    flow, history = run(steps, max(1, steps // validations), objective)
    seconds = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    return flow, {"steps": history["step"][-1], **seconds}


def kernel_density(
    manifold: Manifold, train: np.ndarray, held_out: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Log-density of the test points under kernels of the concentration best for `held_out`."""

    def score(x: np.ndarray, kappa: float) -> np.ndarray:
        if isinstance(manifold, Sphere):
            log_c = math.log(kappa / (2 * math.pi)) - math.log1p(-math.exp(-2 * kappa))
            each = kappa * (x @ train.T - 1) + log_c
        else:
            each = np.zeros((len(x), len(train)))
            for i in range(train.shape[1]):
                each += kappa * (np.cos(x[:, i, None] - train[None, :, i]) - 1)
            each -= train.shape[1] * math.log(2 * math.pi * i0e(kappa))
        return np.asarray(logsumexp(each, axis=1)) - math.log(len(train))

    best = max(KERNELS, key=lambda kappa: score(held_out, kappa).mean())
    return score(test, best)


def mass_of(flow: jaxflow.CNF, x: Any) -> dict[str, float]:
    """The integral of the density and its error, if quadrature or importance sampling finds it."""
    rng = np.random.default_rng(0)
    mass = measure_mass(without_raising(flow), jnp.asarray(x), None, rng, allowed=1e-3)
    assert isinstance(mass, Mass)  # flows on manifolds can always be integrated
    # Importance sampling of a sharp density may not find it.
    return {"mass": mass.value, "mass_error": mass.error} if math.isfinite(mass.error) else {}


def mass_text(runs: list[dict[str, Any]]) -> str:
    """The mass that is furthest from 1, with its error."""
    known = [run for run in runs if "mass" in run]
    if not known:
        return "not measured"
    worst = max(known, key=lambda run: abs(run["mass"] - 1))
    return f"{worst['mass']:.4f} +- {worst['mass_error']:.4f}"


def on_known(name: str, size: Size) -> dict[str, Any]:
    """The divergence of a flow fitted to 20,000 rows of a known density."""
    known, rng = KNOWN[name], np.random.default_rng(0)
    x, _ = known.draw(rng, 20_000)
    test, log_p = known.draw(rng, 10_000)
    flow = make_flow(known.manifold, 64, 2, "auto")
    # Validations cost as much as hundreds of steps.
    flow, result = train(flow, x[1000:], x[:1000], size, validations=4)
    gap = log_p - np.asarray(flow.log_prob(test), np.float64)
    masses = []
    for num in known.rules:
        points, weights = quadrature(known.manifold, num)
        density = np.exp(np.asarray(flow.log_prob(points), np.float64))
        masses.append(float(np.sum(weights * density)))
    result |= {"mass": masses[1], "mass_error": abs(masses[1] - masses[0])}
    return result | {"kl": float(gap.mean()), "se": float(gap.std() / len(gap) ** 0.5)}


def on_data(
    name: str, rows: np.ndarray, size: Size, seed: int, picture: Path | None
) -> dict[str, Any]:
    """Held-out negative log-densities of a flow and of kernels, for one split."""
    if name == "rna":
        manifold, transform = Torus(7), Angles(7, period=360.0, start=-180.0)
        # Per radian, as the published figures.
        units = 7 * math.log(math.pi / 180)
    else:
        manifold, transform, units = Sphere(2), LatLon(measure="surface"), 0.0
    order = np.random.default_rng(seed).permutation(len(rows))
    tenth = len(rows) // 10
    held_out, test, x = (rows[part] for part in np.split(order, [tenth, 2 * tenth]))
    flow = make_flow(manifold, 256, 3, transform)
    flow, result = train(flow, x, held_out, size)
    log_p = np.asarray(flow.log_prob(test), np.float64) - units
    if picture is not None and name == "quake" and not seed:
        axes = plotting.globe(flow, rows[::3], resolution=180, longitude=180)
        axes.figure.set_size_inches(8, 4.2)
        axes.figure.savefig(picture, dpi=110, bbox_inches="tight")
    into = jax.vmap(lambda row: transform.forward(row)[0])
    points = [np.asarray(into(jnp.asarray(part)), np.float64) for part in (x, held_out, test)]
    kernel = kernel_density(manifold, *points)
    result |= mass_of(flow, test)
    return result | {"flow": -float(log_p.mean()), "kernels": -float(kernel.mean())}


def data_sets(folder: Path) -> dict[str, np.ndarray]:
    """The rows of each table; of the volcanoes also without repeats."""
    sets = {n: np.load(folder / f"earth/earth_{f}.npz")["latlon"] for n, f in EARTH.items()}
    sets["volcano, no repeats"] = np.unique(sets["volcano"], axis=0)
    return sets | {"rna": np.load(folder / "torus/rna_torsions_deg.npz")["x"]}


def summarise(results: dict[str, Any]) -> str:
    """The tables of known densities and of data."""
    known = [
        [
            name,
            f"{r['kl']:.4f} +- {r['se']:.4f}",
            mass_text([r]),
            f"{r['steps']:,}",
            f"{r['seconds']:.0f}",
            f"{r['cpu']:.0f}" if "cpu" in r else "",
        ]
        for name, r in results["known"].items()
    ]
    rows = []
    for name, runs in results["data"].items():
        values = [f"{name}, {len(runs)} splits"]
        for key in ("flow", "kernels"):
            each = np.array([run[key] for run in runs])
            error = sem(each) if len(each) > 1 else math.nan
            values.append(f"{each.mean():.3f} +- {error:.3f}")
        values.append(mass_text(runs))
        seconds = np.mean([run["seconds"] for run in runs])
        rows.append([*values, f"{np.mean([run['steps'] for run in runs]):,.0f}", f"{seconds:.0f}"])
    parts = []
    if known:
        parts.append(
            table(
                ["known density", "divergence, nats", "mass", "steps", "seconds", "of a core"],
                known,
            )
        )
    if rows:
        header = ["data", "flow, nats", "kernels, nats", "mass", "steps", "seconds a fit"]
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Densities on spheres and tori.")
    parser.add_argument("--minutes", type=float, default=30.0, help="time of one training")
    parser.add_argument("--steps", type=int, help="steps of one training, in place of its time")
    parser.add_argument("--data", type=Path, help="folder with earth/ and torus/")
    parser.add_argument("--only", nargs="+", help="some of the tables")
    parser.add_argument("--picture", type=Path, help="file for a map of the earthquakes")
    parser.add_argument("--seeds", type=int, default=5, help="splits of each table")
    arguments = parser.parse_args()
    results = read_results("geometry")
    results = {"known": {}, "data": {}} | results
    for name in KNOWN:
        if arguments.only is None or name in arguments.only:
            results["known"][name] = on_known(
                name, Size(min(1.0, arguments.minutes), arguments.steps)
            )
            print(name, results["known"][name], flush=True)
            write_results("geometry", results)
    for name, rows in data_sets(arguments.data).items() if arguments.data else ():
        if arguments.only is None or name in arguments.only:
            runs = []
            for seed in range(arguments.seeds):
                size = Size(arguments.minutes, arguments.steps)
                runs.append(on_data(name, rows, size, seed, arguments.picture))
                print(name, seed, runs[-1], flush=True)
            results["data"][name] = runs
            write_results("geometry", results)
    print(summarise(results))


if __name__ == "__main__":
    main()
