"""Bits per dimension of images, with every error apart, beside Gaussians and mixtures.

All models see the same rows by the same transform (`jaxflow.transforms.pixels`): uniform noise
within the cell of a level, normal scores of each pixel by its frequencies of levels. A figure is
an upper bound of the mean of `-log2 P(image) / pixels` on test images
(`jaxflow.diagnostics.bits_per_dim`).

- digits: 1,797 images of 8 x 8 with 17 levels (scikit-learn); a fifth are test images.
- mnist: the 10,000 test images of MNIST in DIR/mnist, cut in 8,000, 1,000 and 1,000 by
  `default_rng(0)`. Published figures are trained on 60,000 others: FFJORD 0.99, RNODE 0.97.
- DIR/NAME.npz with uint8 `x` (n, height, width, channels), such as CIFAR-10: cut in 80, 10 and
  10 percent likewise.

Baselines: a Gaussian, and a mixture of Gaussians of low rank (Tipping and Bishop 1999), whose
numbers of components and ranks are those that are best on validation images.

With `--classes`, a flow of digits given their class (`jaxflow.fit_images`): how many samples a
support vector machine, trained on the same training images, takes for the class that was asked
for, at several scales of guidance.

With `--peers PYTHON`, an interpreter that has torchdiffeq, FFJORD's multiscale flow trains on the
same rows for as long as the U-Net did (`benchmarks/peers/torch_images.py`).

Finished models are kept in results/images.json and are not run again without `--again`.

    python benchmarks/images.py [--quick] [--data DIR] [--sets digits mnist] [--models unet]
    python benchmarks/images.py --classes [--quick]
"""

import argparse
import gzip
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import jaxflow
from harness import read_results, table, write_results
from jaxflow import CNF, ODE, Hutchinson, StandardNormal, TrainConfig
from jaxflow.data import split
from jaxflow.diagnostics import bits_per_dim
from jaxflow.dynamics import (
    MLP,
    Convolutional,
    DiT,
    GaussianVelocity,
    GuidedField,
    Sum,
    UNet,
)
from jaxflow.flows import Multiscale
from jaxflow.flows.flow import score_rows
from jaxflow.objectives import FlowMatching, Power, maximum_likelihood
from jaxflow.trace import has_closed_form
from jaxflow.training.augment import Moves, augment_rows
from jaxflow.transforms import pixels, spread_rows

IMAGES = Path(__file__).parent.parent / "docs" / "images"
KEY = jax.random.key(0)
TRAIN = ODE(solver="midpoint", num_steps=4)
# Of small images, and of larger ones.
SCORE = ODE(solver="tsit5", rtol=1e-3, atol=1e-3)
SCORE_LARGE = ODE(solver="rk4", num_steps=8)
MATCHING = FlowMatching()
# Fine levels are decided near the data: more times there.
NEAR_DATA = FlowMatching(time=Power(2.0))
CLASS_STEPS = 1500
# FFJORD's flow of torchdiffeq, its channels, and the draws of noise of each image that it sees.
PEER, PEER_WIDTH, PEER_DRAWS = "FFJORD on torchdiffeq", 32, 4


@dataclass(frozen=True)
class Images:
    """Levels of images, (n, height, width, channels), and their number."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    levels: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.train.shape[1:]

    @property
    def bits(self) -> int:
        """Depth that holds all levels."""
        return (self.levels - 1).bit_length()


@dataclass(frozen=True)
class Recipe:
    """A flow of a shape, and how it is trained."""

    flow: Callable[[tuple[int, ...]], Any]
    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    ema: float = 0.995
    objective: Any = MATCHING
    # Whether the field is added to that of the rows' Gaussian, as in `jaxflow.fit_images`.
    from_gaussian: bool = False
    # Largest move of an image of a minibatch, in pixels.
    shifts: int = 0


def digits() -> Images:
    """The images of scikit-learn, split as those of `benchmarks/diffusion.py`."""
    train, validation, test = (x for x, _ in labelled_digits())
    return Images(train, validation, test, 17)


def labelled_digits() -> list[tuple[np.ndarray, np.ndarray]]:
    """Training, validation and test images, and their classes."""
    x, labels = map(np.asarray, load_digits(return_X_y=True))
    x = x.astype(np.float32).reshape(-1, 8, 8, 1)
    rest, test = split(len(x), 0.2, 0)
    held = len(rest) // 9
    return [(x[rows], labels[rows]) for rows in (rest[:-held], rest[-held:], test)]


def mnist(folder: Path) -> Images:
    """The 10,000 test images in IDX format."""
    with gzip.open(folder / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    return cut(x, (8000, 9000))


def from_file(path: Path) -> Images:
    """Any images of 8 bits."""
    with np.load(path, allow_pickle=False) as file:
        x = file["x"]
    return cut(x, (len(x) * 8 // 10, len(x) * 9 // 10))


def cut(x: np.ndarray, ends: tuple[int, int]) -> Images:
    """Training, validation and test images."""
    order = np.random.default_rng(0).permutation(len(x))
    return Images(*np.split(x.astype(np.float32)[order], ends), levels=256)


def cnf(make: Any, **sizes: Any) -> Callable[[tuple[int, ...]], Any]:
    """A flow of one field, whose trace is exact in closed form, or estimated by probes."""

    def flow(shape: tuple[int, ...]) -> Any:
        field = eqx.filter_jit(lambda: make(shape, **sizes, key=KEY))()
        trace = "auto" if has_closed_form(field) else Hutchinson(1)
        return CNF(field, StandardNormal(shape), trace=trace, ode=TRAIN, ode_eval=TRAIN)

    return flow


def mlp(shape: tuple[int, ...], **sizes: Any) -> Any:
    """A network that knows nothing of places."""
    return MLP(int(np.prod(shape)), **sizes)


def multiscale(shape: tuple[int, ...]) -> Any:
    """FFJORD's architecture: a convolutional field for each scale."""
    shapes = [(shape[0] >> k, shape[1] >> k, shape[2] << k) for k in range(2)]
    fields = [
        Convolutional(each, width=32, depth=2, key=jax.random.fold_in(KEY, k))
        for k, each in enumerate(shapes)
    ]
    settings: dict[str, Any] = {"ode": TRAIN, "ode_eval": TRAIN}
    return Multiscale(fields, StandardNormal(shape), trace=Hutchinson(1), **settings)


LARGE = Recipe(cnf(UNet, width=8, multipliers=(1, 2, 4)), 500, 64, 2e-3, from_gaussian=True)
RECIPES = {
    "digits": {
        "mlp": Recipe(cnf(mlp, width=256, depth=2), 2000, 256, 2e-3, 0.999),
        "convolutional": Recipe(cnf(Convolutional, width=32), 1000),
        "unet": Recipe(cnf(UNet, width=16), 1000, 128, 2e-3),
        "dit": Recipe(cnf(DiT, width=48, depth=3), 1000, 128, 2e-3),
        "multiscale": Recipe(multiscale, 200, 64, objective=maximum_likelihood),
    },
    # Eighty passes over 8,000 images. Nine places of an image cost log2(9) / 784 = 0.004 bits.
    "mnist": {"unet": replace(LARGE, steps=10_000, ema=0.999, objective=NEAR_DATA, shifts=1)},
    "other": {"unet": LARGE},
}


class LowRank(eqx.Module):
    """A mixture of Gaussians `N(m_k, W_k W_k^T + s_k^2 I)` on events of any shape."""

    log_weights: Array
    means: Array
    whiten: Array
    log_dets: Array
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def log_prob(self, x: Array) -> Array:
        """The log-density of one event."""
        z = jnp.einsum("kij,kj->ki", self.whiten, x.reshape(1, -1) - self.means)
        each = -0.5 * jnp.sum(z**2 + float(np.log(2 * np.pi)), axis=1) + self.log_dets
        return jax.scipy.special.logsumexp(each + self.log_weights)

    def sample(self, key: Array) -> Array:
        """Draw one event."""
        choose, draw = jax.random.split(key)
        k = jax.random.categorical(choose, self.log_weights)
        z = jax.random.normal(draw, self.means.shape[1:], self.means.dtype)
        z = z / jnp.sum(self.whiten[k] ** 2, axis=1)
        return (self.means[k] + z @ self.whiten[k]).reshape(self.event_shape)


def low_rank(u: np.ndarray, components: int, rank: int) -> LowRank:
    """Clusters by k-means, and the maximum-likelihood factors of each."""
    flat = u.reshape(len(u), -1).astype(np.float64)
    dim = flat.shape[1]
    labels = KMeans(components, random_state=0).fit_predict(flat)
    parts = []
    for k in range(components):
        rows = flat[labels == k]
        centred = rows - rows.mean(axis=0)
        # Few rows know few directions: the pooled spread counts like 10 rows more.
        values, vectors = np.linalg.eigh(
            (centred.T @ centred + 10 * np.eye(dim)) / (len(rows) + 10)
        )
        noise = values[: dim - rank].mean() if rank < dim else values[0]
        values = np.maximum(np.where(np.arange(dim) < dim - rank, noise, values), 1e-6)
        whiten = vectors.T / np.sqrt(values)[:, None]
        log_weight = np.log(len(rows) / len(flat))
        parts.append((log_weight, rows.mean(axis=0), whiten, -0.5 * np.log(values).sum()))
    arrays = (jnp.asarray(np.stack(each), jnp.float32) for each in zip(*parts, strict=True))
    return LowRank(*arrays, event_shape=u.shape[1:])


def still(t: Array, x: Array) -> Array:
    """The field of a base that is the density already."""
    return 0.0 * x


def in_flow_space(transform: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images with noise in flow space, and the log-determinants."""
    noisy = spread_rows(transform, jnp.asarray(images), KEY)
    u, log_det = eqx.filter_jit(lambda transform, x: jax.vmap(transform.forward)(x))(
        transform, noisy
    )
    return np.asarray(u), np.asarray(log_det, np.float64)


def baseline(data: Images, transform: Any, choices: list[tuple[int, int]]) -> Any:
    """The mixture that is best on validation images, as a flow."""
    u, _ = in_flow_space(transform, data.train)
    flows = [
        CNF(
            still,
            low_rank(u, *choice),
            transform=transform,
            ode_eval=ODE(solver="euler", num_steps=1),
        )
        for choice in choices
    ]

    def value(flow: Any) -> float:
        return bits_per_dim(flow, data.validation, key=KEY, bits=data.bits, num_draws=1).bits

    return min(flows, key=value) if len(flows) > 1 else flows[0]


def trained(data: Images, recipe: Recipe, transform: Any, name: str) -> Any:
    """The flow of a recipe, and the record of its training."""
    config = TrainConfig(
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        ema=recipe.ema,
        eval_every=max(recipe.steps // 10, 1),
        validation_rows=128,
        patience=None,
        solver_error=float("inf"),
    )
    flow = recipe.flow(data.shape)
    moves = Moves(flips=False, shifts=recipe.shifts, shape=data.shape) if recipe.shifts else None
    images = data.train
    if moves is not None:
        images = np.asarray(augment_rows(moves, jnp.asarray(images), KEY))
        transform = pixels(images, data.levels)
    if recipe.from_gaussian:
        start = GaussianVelocity.fit(in_flow_space(transform, images)[0])
        flow = replace(flow, field=Sum((flow.field, start)))
    return jaxflow.fit(
        flow,
        data.train,
        key=KEY,
        validation=data.validation,
        objective=recipe.objective,
        config=config,
        transform=transform,
        augment=moves,
        progress=False,
        callback=lambda r: print(f"{name}: step {r.step}, {r.seconds:.0f} s", flush=True),
    )


def score(flow: Any, data: Images, draws: int) -> dict[str, Any]:
    """Bits per dimension of the test images, evaluations and seconds."""
    start = time.perf_counter()
    answer = bits_per_dim(flow, data.test, key=KEY, bits=data.bits, num_draws=draws)
    seconds = time.perf_counter() - start
    stats = score_rows(flow, jnp.asarray(data.test[:32]), key=KEY)[1]
    print(f"  {answer}", flush=True)
    own = answer._asdict() | {"standard_error": answer.standard_error}
    # Figures of each image.
    del own["each"], own["each_se"]
    evals = None if stats is None else float(np.mean(stats.num_evals))
    return own | {"evaluations": evals, "score_seconds": seconds}


def run(
    name: str, data: Images, *, quick: bool, again: bool, models: list[str] | None
) -> dict[str, Any]:
    """All models of a set of images."""
    kept = {} if quick else read_results("images")
    found: dict[str, Any] = kept.get(name, {})
    transform = pixels(data.train, data.levels)
    draws = 1 if data.train[0].size > 64 or quick else 2
    sizes = [(1, data.train[0].size), *((k, r) for k in (5, 10, 20) for r in (5, 15))]
    recipes = RECIPES.get(name, RECIPES["other"])
    work: dict[str, Callable[[], Any]] = {
        "gaussian": lambda: (baseline(data, transform, sizes[:1]), None),
        "low-rank mixture": lambda: (baseline(data, transform, sizes[1:]), None),
    }
    for model, recipe in recipes.items():
        recipe = replace(recipe, steps=4, batch_size=16) if quick else recipe
        work[model] = lambda r=recipe, m=model: trained(data, r, transform, m)
    for model, make in work.items():
        if (model in found and not again) or (models and model not in models):
            continue
        print(f"{name}, {model}", flush=True)
        start = time.perf_counter()
        flow, history = make()
        seconds = time.perf_counter() - start
        if history is not None:
            careful = SCORE if data.train[0].size <= 64 else SCORE_LARGE
            flow = replace(flow, ode_eval=TRAIN if quick else careful)
            if isinstance(flow.trace, Hutchinson) and draws > 1:
                flow = replace(flow, trace=Hutchinson(2))
        found[model] = score(flow, data, draws) | {"train_seconds": seconds}
        if history is not None:
            found[model]["steps"] = int(history["step"][-1])
            found[model]["parameters"] = sum(w.size for w in jax.tree.leaves(flow))
        if not quick:
            write_results("images", kept | {name: found})
            if model == "unet":
                picture(name, flow, data)
        jax.clear_caches()
    return found


def ffjord(data: Images, python: Path, seconds: float) -> dict[str, Any]:
    """The figures of FFJORD's flow, after as many seconds of training."""
    transform = pixels(data.train, data.levels)
    test, log_det = in_flow_space(transform, data.test)
    arrays: dict[str, Any] = {
        "train": in_flow_space(transform, np.concatenate([data.train] * PEER_DRAWS))[0],
        "validation": in_flow_space(transform, data.validation)[0],
        "test": test,
    }
    script = Path(__file__).parent / "peers" / "torch_images.py"
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder) / "images.npz", Path(folder) / "out.json"
        np.savez(images, **arrays)
        settings = ["--seconds", str(seconds), "--width", str(PEER_WIDTH)]
        subprocess.run([python, script, images, "--out", out, *settings], check=True)
        result = json.loads(out.read_text())
    bits = -(np.asarray(result.pop("log_p")) + log_det) / (test[0].size * np.log(2))
    # One probe and one draw of noise an image: their errors are within that of the test set.
    error = float(bits.std(ddof=1) / len(bits) ** 0.5)
    unknown = dict.fromkeys(("probe_se", "draw_se", "solver_error", "tighter"))
    return unknown | result | {"bits": float(bits.mean()), "test_se": error}


def picture(name: str, flow: Any, data: Images) -> None:
    """Test images beside samples."""
    samples = flow.sample(jax.random.key(1), 64)
    both = {"test images": data.test[:64], "samples": samples}
    grids(f"images_{name}", both, data.levels - 1)


def grids(name: str, images: dict[str, Any], most: float) -> None:
    """Two grids of images, by their titles."""
    import matplotlib.pyplot as plt

    from jaxflow import plotting

    figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
    for ax, (title, each) in zip(axes, images.items(), strict=True):
        plotting.grid(each, ax, wide=8, limits=(0, most))
        ax.set_title(title)
    figure.savefig(IMAGES / f"{name}.png", dpi=110)
    plt.close(figure)


def classes(*, quick: bool) -> dict[str, Any]:
    """Samples of each class, as a classifier sees them; writes a picture of some."""
    train, validation, test = (
        (x, np.eye(10, dtype=np.float32)[labels]) for x, labels in labelled_digits()
    )
    start = time.perf_counter()
    flow, _ = jaxflow.fit_images(
        *train,
        key=KEY,
        levels=17,
        validation=validation,
        steps=4 if quick else CLASS_STEPS,
        progress=False,
    )
    found: dict[str, Any] = {"train_seconds": time.perf_counter() - start}
    settings: dict[str, Any] = {"gamma": 1e-3, "C": 10}
    judge = SVC(**settings).fit(train[0].reshape(-1, 64), train[1].argmax(axis=1))

    def right(x: Any, cond: np.ndarray) -> float:
        return float(judge.score(np.asarray(x).reshape(-1, 64), cond.argmax(axis=1)))

    found["test images"] = right(*test)
    cond = np.eye(10, dtype=np.float32)[np.arange(20 if quick else 1000) % 10]
    draws = {}
    for scale in (1.0, 1.5, 2.0, 3.0):
        guided = flow if scale == 1 else replace(flow, field=GuidedField(flow.field, scale))
        draws[scale] = guided.sample(jax.random.key(1), len(cond), cond)
        found[f"guidance {scale:g}"] = right(draws[scale], cond)
        print(f"  guidance {scale:g}: {found[f'guidance {scale:g}']:.3f}", flush=True)
    if not quick:
        write_results("images", read_results("images") | {"classes": found})
        grids("images_classes", {f"guidance {s:g}": by_class(draws[s]) for s in (1.0, 2.0)}, 16)
    return found


def by_class(x: Any) -> np.ndarray:
    """The first 80 images, whose classes come in turn, a row a class."""
    return np.asarray(x[:80]).reshape(8, 10, 8, 8, 1).swapaxes(0, 1).reshape(-1, 8, 8, 1)


def report(name: str, data: Images, found: dict[str, Any]) -> str:
    """The table of a set."""
    lines = [
        [
            model,
            f"{row['bits']:.3f}",
            *(
                "" if row[error] is None else f"{row[error]:.4f}"
                for error in ("probe_se", "draw_se", "test_se", "solver_error")
            ),
            f"{row['evaluations']:.0f}",
            f"{row['train_seconds']:.0f}",
            f"{row['score_seconds']:.0f}",
        ]
        for model, row in found.items()
    ]
    head = [f"{name}, {len(data.train)} training images", "bits/dim, at most", "probes", "draws"]
    head += ["test set", "solves", "evaluations", "train s", "score s"]
    return table(head, lines)


def _shares(found: dict[str, Any]) -> list[list[str]]:
    return [[name, f"{x:.1%}"] for name, x in found.items() if name != "train_seconds"]


def main() -> None:
    """Run what is asked for, and print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a look: few steps, nothing written")
    parser.add_argument("--again", action="store_true", help="run finished models too")
    parser.add_argument("--data", type=Path, help="folder with mnist/ and NAME.npz")
    parser.add_argument("--sets", nargs="+", help="digits, mnist or the name of a file")
    parser.add_argument("--models", nargs="+", help="models to run; all by default")
    parser.add_argument("--classes", action="store_true", help="samples given their class alone")
    parser.add_argument("--peers", type=Path, help="a Python that has torchdiffeq")
    args = parser.parse_args()
    if args.classes:
        found = classes(quick=args.quick)
        print(table(["digits given their class", "classified right"], _shares(found)))
        return
    sets: dict[str, Callable[[], Images]] = {"digits": digits}
    if args.data is not None:
        if (args.data / "mnist").is_dir():
            sets["mnist"] = lambda: mnist(args.data)
        sets |= {path.stem: lambda p=path: from_file(p) for path in args.data.glob("*.npz")}
    for name in args.sets or sets:
        if name not in sets:
            parser.error(f"--sets {name} is not there; with --data there are {', '.join(sets)}")
        data = sets[name]()
        if args.quick:
            data = replace(data, train=data.train[:200], test=data.test[:16])
        found = run(name, data, quick=args.quick, again=args.again, models=args.models)
        if args.peers and (PEER not in found or args.again):
            seconds = 5.0 if args.quick else found["unet"]["train_seconds"]
            found[PEER] = ffjord(data, args.peers, seconds)
            if not args.quick:
                write_results("images", read_results("images") | {name: found})
        print("\n" + report(name, data, found) + "\n", flush=True)


if __name__ == "__main__":
    main()
