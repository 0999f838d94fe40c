"""Diffusion models as flows: samplers, bounds, guidance, and bits an entry of 8x8 digits.

Four questions, each a part; without `--parts` all of them.

- samplers: on a mixture of known score, how far are the samples of each rule from the truth at
  equal evaluations, with the exact score and with a learned one?
- bounds: how good is the exact likelihood of DDPM, NCSN and the cosine schedule on a toy, and
  how far below it is the variational bound?
- guidance: how many guided samples are of their class, for both guidances, and does the guided
  model's density have mass 1?
- digits: bits an entry of a diffusion model, of flow matching and of maximum likelihood, and how
  many samples of a class a classifier of real digits takes for that class.

Distances from samples: KL(truth || samples) by nearest neighbours (Wang, Kulkarni and Verdu 2009)
and MMD^2 with a Gaussian kernel at the median distance, both on 10,000 and 2,000 samples.

    python benchmarks/diffusion.py [--quick] [--parts samplers bounds guidance digits]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from harness import read_results, table, write_results
from jaxflow import diffusion as d
from jaxflow.bases import GaussianMixture
from jaxflow.data import EightGaussians, digits, split
from jaxflow.dynamics import MLP, OptionalCondition, Residual
from jaxflow.objectives import (
    Denoising,
    FlowMatching,
    likelihood_weight,
    maximum_likelihood,
    simple,
)
from jaxflow.transforms import Standardise

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "diffusion.png"
KEY = jax.random.key(0)
# Each at the times that suit it.
RULES: dict[str, Any] = {
    "ancestral": d.Ancestral(),
    "annealed Langevin": d.Langevin(1, 0.9),
    "ancestral and Langevin": d.PredictorCorrector(),
    "DDIM": d.DDIM(),
    "Heun": d.Heun(),
    "DPM-Solver++": d.DPMSolver(),
}
EVALS = (10, 20, 50, 100, 200)
# Two sets of the truth are as far apart; the picture ends there.
NOISE = 1e-2


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    steps: int = 4000
    rows: int = 40_000
    test: int = 4000
    samples: int = 10_000
    width: int = 128
    bound_rows: int = 1000
    bound_steps: int = 1000


QUICK = Sizes(100, 4000, 100, 500, 16, 50, 20)


def fitted(
    denoiser: Any, x: np.ndarray, sizes: Sizes, cond: Any = None, **settings: Any
) -> tuple[jaxflow.CNF, float]:
    """A diffusion model of rows, and the seconds that it took."""
    start = time.perf_counter()
    flow = d.as_flow(denoiser, (x.shape[1],))
    config = jaxflow.TrainConfig(
        steps=sizes.steps, eval_every=sizes.steps, validation_rows=200, ema=0.999
    )
    flow, _ = jaxflow.fit(
        flow,
        x,
        cond,
        key=KEY,
        objective=Denoising(**settings),
        config=config,
        transform=Standardise.fit(jnp.asarray(x)),
        progress=False,
    )
    return flow, time.perf_counter() - start


def nearest_kl(truth: np.ndarray, samples: np.ndarray, k: int = 5) -> float:
    """KL(truth || samples) in nats, by distances to the k-th neighbours."""
    from scipy.spatial import KDTree

    own = KDTree(truth).query(truth, k + 1)[0][:, -1]
    other = KDTree(samples).query(truth, k)[0][:, -1]
    n, m = len(truth), len(samples)
    return float(truth.shape[1] * np.mean(np.log(other / own)) + np.log(m / (n - 1)))


def mmd_squared(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2, Gaussian kernel at the median distance of `x`."""
    x, y = x[:2000], y[:2000]

    def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((a[:, None] - b[None]) ** 2).sum(-1)

    within = squares(x, x)
    scale = np.median(within[np.triu_indices(len(x), 1)])
    kxx, kyy, kxy = (np.exp(-values / scale) for values in (within, squares(y, y), squares(x, y)))
    n, m = len(x), len(y)
    same = (kxx.sum() - n) / (n * (n - 1)) + (kyy.sum() - m) / (m * (m - 1))
    return float(same - 2 * kxy.mean())


def eight_gaussians() -> tuple[GaussianMixture, float]:
    """The toy as a mixture of deviation 1, and what it was divided by."""
    toy = EightGaussians()
    scale = float(toy.sample(100_000, 9).std())
    means = jnp.asarray(toy.centres / scale, jnp.float32)
    factors = jnp.stack([toy.std / scale * jnp.eye(2)] * 8)
    return GaussianMixture(jnp.full(8, 1 / 8), means, factors), scale


def samplers(sizes: Sizes) -> dict[str, Any]:
    """Distance of samples from the truth, by rule and evaluations."""
    mixture, _ = eight_gaussians()
    schedule = d.VariancePreserving()
    known = d.KnownDenoiser(mixture, schedule)
    draw_all = jax.jit(jax.vmap(mixture.sample))
    x = np.asarray(draw_all(jax.random.split(jax.random.key(1), sizes.rows)))
    network = Residual(2, width=sizes.width, depth=2, key=KEY)
    flow, seconds = fitted(d.Denoiser(network, schedule), x, sizes)
    learned = d.denoiser_of(flow)
    truth = np.asarray(draw_all(jax.random.split(jax.random.key(2), sizes.samples)))
    fresh = np.asarray(draw_all(jax.random.split(jax.random.key(3), sizes.samples)))
    floor = {"kl": nearest_kl(truth, fresh), "mmd": mmd_squared(truth, fresh)}
    errors = {}
    scale, mean = np.asarray(flow.transform.scale), np.asarray(flow.transform.mean)
    for s in (0.01, 0.1, 0.3, 0.6):
        noise = np.random.default_rng(0).normal(size=truth.shape)
        alpha, sigma = float(schedule.alpha(s)), float(schedule.sigma(s))
        noisy = jnp.asarray((alpha * truth + sigma * noise)[:2000], jnp.float32)
        # The model lives in units of deviation 1 a column, which the truth's nearly are.
        own = (noisy - alpha * mean) / scale
        time_of = jnp.asarray(s)
        told = jax.vmap(lambda x, s=time_of: learned.score(s, x))(own) / scale
        wanted = jax.vmap(lambda x, s=time_of: known.score(s, x))(noisy)
        errors[str(s)] = float(jnp.sqrt(jnp.mean((told - wanted) ** 2) / jnp.mean(wanted**2)))
    found: dict[str, Any] = {"floor": floor, "score_error": errors, "seconds": seconds}
    for kind, model in (("exact", d.as_flow(known, (2,))), ("learned", flow)):
        rows = {}
        for name, rule in RULES.items():
            rows[name] = []
            for evals in EVALS:
                y = np.asarray(
                    d.draw(
                        model,
                        jax.random.key(4),
                        sizes.samples,
                        sampler=rule,
                        num_steps=levels(evals, rule),
                    )
                )
                kl, mmd = nearest_kl(truth, y), mmd_squared(truth, y)
                rows[name].append({"evals": evals, "kl": kl, "mmd": mmd})
        y = np.asarray(model.sample(jax.random.key(4), sizes.samples))
        rows["ODE to 1e-5"] = [
            {"evals": 0, "kl": nearest_kl(truth, y), "mmd": mmd_squared(truth, y)}
        ]
        found[kind] = rows
    found["weights"] = mode_weights(sizes)
    show_samplers(found)
    return found


def levels(evals: int, rule: Any) -> int:
    """Noise levels between which the rule's steps take `evals` evaluations, the last one apart."""
    return max(1, evals // rule.evals) + 1


def mode_weights(sizes: Sizes) -> dict[str, list[float]]:
    """Share of samples in the smaller of two modes, truth 0.2, with the exact score.

    A ring of equal modes looks the same whatever a sampler does to their weights.
    """
    means = jnp.asarray([[-1.907, 0.0], [0.477, 0.0]])
    factors = jnp.stack([0.301 * jnp.eye(2)] * 2)
    mixture = GaussianMixture(jnp.asarray([0.2, 0.8]), means, factors)
    model = d.as_flow(d.KnownDenoiser(mixture, d.VariancePreserving()), (2,))
    found: dict[str, list[float]] = {}
    for name, rule in RULES.items():
        found[name] = []
        for evals in EVALS:
            num = levels(evals, rule)
            x = d.draw(model, jax.random.key(5), 4 * sizes.samples, sampler=rule, num_steps=num)
            found[name].append(float(jnp.mean(x[:, 0] < -0.7)))
    return found


def show_samplers(found: dict[str, Any]) -> None:
    text = ", ".join(f"{value:.3f} at s = {s}" for s, value in found["score_error"].items())
    print(f"relative error of the learned score: {text} ({found['seconds']:.0f} s of training)")
    for measure in ("kl", "mmd"):
        lines = []
        for kind in ("exact", "learned"):
            for name, runs in found[kind].items():
                cells = [f"{run[measure]:.4f}" for run in runs]
                lines.append([f"{name}, {kind} score", *cells, *[""] * (len(EVALS) - len(cells))])
        print(
            f"\n{measure} of samples at so many evaluations; two sets of the truth: "
            f"{found['floor'][measure]:.4f}"
        )
        print(table(["sampler", *map(str, EVALS)], lines))
    lines = [[name, *(f"{w:.4f}" for w in shares)] for name, shares in found["weights"].items()]
    print("\nshare of samples in the mode of weight 0.2, exact score")
    print(table(["sampler", *map(str, EVALS)], lines))


def bounds(sizes: Sizes) -> dict[str, Any]:
    """Exact likelihood and bound of models on 8 gaussians, KL to the truth in nats."""
    toy = EightGaussians()
    x, test = toy.sample(sizes.rows, 0), toy.sample(sizes.test, 1)
    entropy = -float(np.mean(toy.log_prob(test)))
    part = test[: sizes.bound_rows]
    part_entropy = -float(np.mean(toy.log_prob(part)))
    cases: dict[str, tuple[d.Schedule, dict[str, Any]]] = {
        "DDPM": (d.VariancePreserving(), {}),
        "DDPM, L_simple": (d.VariancePreserving(), {"weight": simple}),
        "DDPM, weight of the bound": (d.VariancePreserving(), {"weight": likelihood_weight}),
        "DDPM, 1000 betas": (d.Betas(1000), {"num_steps": 1000}),
        "cosine": (d.Cosine(), {}),
        "sub-VP": (d.SubVariancePreserving(), {}),
        "NCSN": (d.VarianceExploding(), {}),
    }
    if sizes is QUICK:
        cases = {"DDPM": cases["DDPM"]}
    found: dict[str, Any] = {}
    for name, (schedule, settings) in cases.items():
        network = Residual(2, width=sizes.width, depth=2, key=KEY)
        flow, seconds = fitted(d.Denoiser(network, schedule), x, sizes, **settings)
        answer = flow.log_prob_with_error(test)
        row: dict[str, Any] = {"kl": -float(jnp.mean(answer.value)) - entropy, "seconds": seconds}
        row["evals"] = float(jnp.mean(answer.num_evals))
        exact = float(jnp.mean(answer.value[: len(part)]))
        for spacing in ("time", "log_snr"):
            bound = d.elbo(flow, part, key=KEY, num_steps=sizes.bound_steps, spacing=spacing)
            value = float(jnp.mean(bound.value))
            row[f"bound_{spacing}"] = {
                "kl": -value - part_entropy,
                "gap": exact - value,
                "se": float(bound.se),
                "last": float(jnp.mean(bound.last)),
            }
        row["blur"] = schedule.blur()
        found[name] = row
        jax.clear_caches()
    lines = [
        [
            name,
            f"{row['kl']:.4f}",
            *(f"{row[f'bound_{s}']['gap']:.3f}" for s in ("time", "log_snr")),
            f"{row['bound_time']['last']:.1e}",
            f"{row['evals']:.0f}",
            f"{row['seconds']:.0f}",
        ]
        for name, row in found.items()
    ]
    header = [
        "8 gaussians, nats",
        "KL, exact",
        f"gap of the bound, {sizes.bound_steps} even steps",
        "gap, even in log-SNR",
        "L_T",
        "evaluations",
        "s",
    ]
    print(table(header, lines))
    return found


def guidance(sizes: Sizes) -> dict[str, Any]:
    """Share of guided samples that are of their class, and the mass of the guided density."""
    mixture, _ = eight_gaussians()
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, sizes.rows)
    width = float(mixture.factors[0, 0, 0])
    x = np.asarray(mixture.means)[labels] + width * rng.normal(size=(sizes.rows, 2))
    x = x.astype(np.float32)
    one_hot = np.eye(8, dtype=np.float32)
    schedule = d.VariancePreserving()
    network = OptionalCondition(Residual(2, width=sizes.width, depth=2, cond_dim=9, key=KEY), 8)
    flow, _ = fitted(d.Denoiser(network, schedule), x, sizes, one_hot[labels], drop=0.1)
    config = jaxflow.TrainConfig(steps=sizes.steps // 2, learning_rate=2e-3, eval_every=500)
    classifier = jaxflow.fit_classifier(
        Residual(2, outputs=8, width=sizes.width, depth=2, key=KEY),
        flow,
        x,
        labels,
        key=KEY,
        config=config,
        progress=False,
    )
    denoiser = d.denoiser_of(flow)
    guide = d.classifier_guide(classifier, schedule)
    wanted = np.arange(2000) % 8
    found: dict[str, Any] = {}
    for name, make in {
        "classifier-free": lambda scale: d.ClassifierFree(denoiser, scale),
        "classifier": lambda scale: d.Guided(denoiser, guide, scale),
    }.items():
        for scale in (0.0, 1.0, 2.0, 4.0):
            guided = replace(flow, field=d.ProbabilityFlow(make(scale)))
            y = np.asarray(d.draw(guided, KEY, len(wanted), one_hot[wanted], num_steps=51))
            distances = ((y[:, None] - np.asarray(mixture.means)) ** 2).sum(-1)
            right = float(np.mean(distances.argmin(1) == wanted))
            row = {"right": right, "std": float(np.std(y - np.asarray(mixture.means)[wanted]))}
            if scale in (1.0, 2.0):
                row["mass"], row["kl"] = mass_and_distance(guided, one_hot[1], mixture, sizes)
            found[f"{name}, scale {scale:g}"] = row
    lines = [
        [
            name,
            f"{100 * row['right']:.1f}",
            f"{row['std']:.3f}",
            f"{row['mass']:.4f}" if "mass" in row else "",
            f"{row['kl']:.3f}" if "kl" in row else "",
        ]
        for name, row in found.items()
    ]
    header = [
        "guidance",
        "of their class, %",
        f"deviation (truth {width:.3f})",
        "mass",
        "KL(p(x|y) || guided)",
    ]
    print(table(header, lines))
    return found


def mass_and_distance(
    flow: Any, cond: np.ndarray, mixture: GaussianMixture, sizes: Sizes
) -> tuple[float, float]:
    """Mass of a guided density on a grid about the second class, and its KL from that class."""
    count = 121 if sizes.steps > 1000 else 21
    centre, width = np.asarray(mixture.means)[1], float(mixture.factors[0, 0, 0])
    side = np.linspace(-8 * width, 8 * width, count)
    grid = (centre + np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)).astype(np.float32)
    log_p = np.asarray(flow.log_prob(grid, cond), float)
    cell = (side[1] - side[0]) ** 2
    truth = -0.5 * ((grid - centre) ** 2).sum(1) / width**2 - np.log(2 * np.pi * width**2)
    weight = np.exp(truth) * cell
    return float(np.exp(log_p).sum() * cell), float((weight * (truth - log_p)).sum())


def digits_part(sizes: Sizes) -> dict[str, Any]:
    """Bits an entry, and samples of a class as a classifier of real digits sees them."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    x = digits(seed=0).values.astype(np.float32)
    labels = load_digits(return_X_y=True)[1]
    train, test = split(len(x), 0.2, 0)
    train, held = train[: -len(train) // 9], train[-len(train) // 9 :]
    one_hot = np.eye(10, dtype=np.float32)
    # One transform for all: whole columns of darkness are noise on [0, 1), standardised too.
    transform = Standardise.fit(jnp.asarray(x[train]))
    steps = sizes.steps // 2
    config = jaxflow.TrainConfig(
        steps=steps,
        batch_size=256,
        eval_every=max(steps // 10, 1),
        validation_rows=180,
        ema=0.999,
        patience=None,
    )
    width = 2 * sizes.width
    schedule = d.VariancePreserving()
    found: dict[str, Any] = {}

    def mlp() -> Any:
        return MLP(64, width=width, depth=2, key=KEY)

    models: dict[str, tuple[Any, Any]] = {
        "diffusion (DDPM)": (d.as_flow(d.Denoiser(mlp(), schedule), (64,)), Denoising()),
        "flow matching": (jaxflow.CNF(mlp(), jaxflow.StandardNormal(64)), FlowMatching()),
        "maximum likelihood": (jaxflow.CNF(mlp(), jaxflow.StandardNormal(64)), maximum_likelihood),
        "flow matching, then likelihood": (jaxflow.CNF(mlp(), jaxflow.StandardNormal(64)), None),
    }
    for name, (flow, objective) in models.items():
        start = time.perf_counter()
        flow, history = jaxflow.fit(
            flow,
            x[train],
            key=KEY,
            validation=x[held],
            objective=objective,
            config=config,
            transform=transform,
            progress=False,
        )
        row = {"seconds": time.perf_counter() - start, "steps": history["step"][-1]}
        row["bits"] = d.bits_per_dim(flow.log_prob(x[test]), 64)
        if isinstance(objective, Denoising):
            row["bound"] = d.elbo(flow, x[test], key=KEY).bits_per_dim(64)
        found[name] = row
        jax.clear_caches()
    network = OptionalCondition(Residual(64, width=width, depth=3, cond_dim=11, key=KEY), 10)
    flow = d.as_flow(
        d.Denoiser(network, schedule), (64,), ode_eval=jaxflow.ODE(solver="rk4", num_steps=20)
    )
    flow, _ = jaxflow.fit(
        flow,
        x[train],
        one_hot[labels[train]],
        key=KEY,
        objective=Denoising(drop=0.1),
        validation=(x[held], one_hot[labels[held]]),
        config=replace(config, eval_every=steps, validation_rows=20),
        transform=transform,
        progress=False,
    )
    judge = SVC(gamma="scale").fit(x[train], labels[train])
    found["judge"] = {"right": float(np.mean(judge.predict(x[test]) == labels[test]))}
    wanted = np.arange(1000) % 10
    for scale in (1.0, 2.0):
        guided = replace(
            flow, field=d.ProbabilityFlow(d.ClassifierFree(d.denoiser_of(flow), scale))
        )
        y = np.asarray(d.draw(guided, KEY, len(wanted), one_hot[wanted], num_steps=51))
        found[f"scale {scale:g}"] = {
            "right": float(np.mean(judge.predict(y) == wanted)),
            "images": y[:20].round(1).tolist(),
        }
    names = [*models]
    lines = [
        [
            name,
            f"{found[name]['bits']:.3f}",
            f"{found[name]['bound']:.3f}" if "bound" in found[name] else "",
            f"{found[name]['seconds']:.0f}",
        ]
        for name in names
    ]
    print(table(["digits, bits an entry", "exact", "bound", "s"], lines))
    print(
        f"a classifier of real digits is right on {100 * found['judge']['right']:.1f} % of test "
        "digits, and takes "
        + ", ".join(
            f"{100 * found[f'scale {s}']['right']:.1f} % of samples at scale {s}" for s in (1, 2)
        )
        + " for their class"
    )
    return found


def draw_picture(found: dict[str, Any]) -> None:
    """Distance of samples against evaluations; guided digits."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(13, 3.4))
    grid = figure.add_gridspec(1, 3, width_ratios=(1, 1, 1.3))
    for i, kind in enumerate(("exact", "learned")):
        if "samplers" not in found:
            break
        ax = figure.add_subplot(grid[i])
        for name, runs in found["samplers"][kind].items():
            values = [max(run["kl"], NOISE) for run in runs]
            if len(runs) > 1:
                ax.loglog([run["evals"] for run in runs], values, "o-", ms=3, label=name)
            else:
                ax.axhline(values[0], color="black", lw=1, label=name)
        ax.set(
            title=f"8 gaussians, {kind} score",
            xlabel="evaluations of the network",
            ylabel="KL(truth || samples), nats",
            ylim=(0.8 * NOISE, 10),
        )
        if i == 0:
            ax.legend(fontsize=7)
    if "digits" in found:
        ax = figure.add_subplot(grid[2])
        images = np.asarray(found["digits"]["scale 2"]["images"]).reshape(2, 10, 8, 8)
        ax.imshow(np.concatenate(np.concatenate(images, axis=1), axis=1), cmap="gray_r")
        ax.set_axis_off()
        ax.set_title("digits 0 to 9, guidance of scale 2")
    figure.tight_layout()
    figure.savefig(IMAGE, dpi=100)
    print(f"drawn to {IMAGE}")


PARTS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "samplers": samplers,
    "bounds": bounds,
    "guidance": guidance,
    "digits": digits_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Diffusion models as flows.")
    parser.add_argument("--quick", action="store_true", help="a look, nothing is kept")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    arguments = parser.parse_args()
    # Parts that are not run keep what they found before.
    found = read_results("diffusion")
    for name in arguments.parts:
        print(f"\n## {name}", flush=True)
        found[name] = PARTS[name](QUICK if arguments.quick else Sizes())
        jax.clear_caches()
        if not arguments.quick:
            write_results("diffusion", found)
    if not arguments.quick:
        draw_picture(found)


if __name__ == "__main__":
    main()
