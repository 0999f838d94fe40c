"""Every promise about a number, as one table: promise, cases, worst figure, verdict.

Compiled as for users. Truths are closed forms, or float64 solves at 1e-11. Writes
`results/trust.json` and the table between the marks in `docs/accuracy.md`.

    python benchmarks/trust.py [--data DIR] [--random 200] [--only bits,rounding]
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from scipy.integrate import solve_ivp
from scipy.stats import t as student

import accuracy
import jaxflow
from harness import each_on_a_core, noisier, table, wide, write_page, write_results
from jaxflow.bases import DiagonalNormal, GaussianMixture, StandardNormal, StudentT
from jaxflow.dynamics import MLP, Linear
from jaxflow.trace import Hutchinson
from jaxflow.transforms import Bounded, Chain, Gaussianise, Standardise, Whiten, propose

KEY = jax.random.key(0)
MOST_ROWS = 255  # of a random case
EXACT = jaxflow.ODE(solver="dopri8", rtol=1e-11, atol=1e-11, max_steps=20_000)


class Line(NamedTuple):
    """One line of the table; `held` is the verdict, None for a limit that is known."""

    promise: str
    cases: str
    figure: str
    held: bool | None


class Pull(eqx.Module):
    """`-rate (x - 1)`, whose way back amplifies rounding by `exp(rate)`."""

    rate: jax.Array

    def __call__(self, t: Any, x: Any, cond: Any = None) -> Any:
        return -self.rate * (x - 1)


class Bump(eqx.Module):
    """`x (N(t; time, width) + drift)`: moves for a short time."""

    time: jax.Array
    width: jax.Array
    drift: jax.Array

    def __call__(self, t: Any, x: Any, cond: Any = None) -> Any:
        return x * (norm.pdf(t, self.time, self.width) + self.drift)


def single(tree: Any) -> Any:
    """The tree in float32."""
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(np.asarray(leaf), jnp.float32) if eqx.is_inexact_array(leaf) else leaf
        ),
        tree,
    )


def truth_of(flow: Any, x: Any) -> np.ndarray:
    """Log-densities in float64 at 1e-11: SciPy's DOP853, and the trace of the dense Jacobian."""
    with jax.enable_x64(True):
        flow, rows = wide(flow), np.asarray(x, np.float64)
        u, log_det = _forward(flow, rows)

        def side(t: float, state: np.ndarray) -> np.ndarray:
            return np.ravel(_velocity(flow, state.reshape(len(u), -1), jnp.asarray(t)))

        start = np.concatenate([u, np.zeros((len(u), 1))], axis=1).ravel()
        end = solve_ivp(side, (1.0, 0.0), start, "DOP853", rtol=1e-11, atol=1e-11).y[:, -1]
        end = end.reshape(len(u), -1)
        # From 1 to 0 the integral already has its sign.
        return np.asarray(_log_base(flow, end[:, :-1]) + log_det + end[:, -1])


@eqx.filter_jit
def _forward(flow: Any, x: Any) -> Any:
    return jax.vmap(flow.transform.forward)(x) if flow.transform else (x, jnp.zeros(len(x)))


@eqx.filter_jit
def _velocity(flow: Any, state: Any, t: Any) -> Any:
    def row(x: Any) -> Any:
        jacobian = jax.jacfwd(lambda x: flow.field(t, x))(x)
        return jnp.concatenate([flow.field(t, x), jnp.trace(jacobian)[None]])

    return jax.vmap(row)(state[:, :-1])


@eqx.filter_jit
def _log_base(flow: Any, z: Any) -> Any:
    return jax.vmap(flow.base.log_prob)(z)


def judged(flow: Any, x: Any, truth: np.ndarray) -> tuple[float, float]:
    """The share of rows whose true error is within the stated one; the median ratio of the two."""
    answer = flow.log_prob_with_error(x)
    true = np.abs(np.asarray(answer.value, np.float64) - truth)
    stated = np.asarray(answer.ode_error, np.float64)
    return float(np.mean(true <= stated)), float(np.median(stated / np.maximum(true, 1e-12)))


def percent(share: Any) -> str:
    return f"{100 * share:.1f} %"


def bits(arguments: argparse.Namespace) -> Iterator[Line]:
    """A row has the same bits alone and in any batch."""
    pairs = [(1, "student", "none"), (2, "mixture", "chain"), (6, "diagonal", "whiten")]
    pairs += [(12, "standard", "standardise"), (43, "mixture", "none")]
    sizes, rows = (1, 257), 2049
    order = np.random.default_rng(3).permutation(rows)
    different, compared = 0, 0
    for dim, base, transform in pairs:
        x = np.random.default_rng(dim).normal(size=(rows, dim)).astype(np.float32)
        bases = {
            "standard": lambda dim=dim: StandardNormal(dim),
            "diagonal": lambda dim=dim: DiagonalNormal(jnp.arange(dim) / 7, jnp.ones(dim)),
            "student": lambda dim=dim: StudentT(4.0, (dim,)),
            "mixture": lambda x=x: GaussianMixture.fit(x, 3),
        }
        transforms: dict[str, Callable[[], Any]] = {
            "none": lambda: None,
            "standardise": lambda x=x: Standardise.fit(x),
            "whiten": lambda x=x: Whiten.fit(x),
            "chain": lambda x=x: Chain((Standardise.fit(x), Gaussianise.fit(x))),
        }
        field = noisier(MLP(dim, width=32, depth=2, key=KEY), 0.1)
        flow = single(jaxflow.CNF(field, bases[base](), transform=transforms[transform]()))
        calls = [
            flow.log_prob,
            flow.encode,
            flow.decode,
            lambda x, flow=flow: flow.log_prob_at(0.5, x),
        ]
        calls.append(
            lambda x, flow=flow: jnp.stack(
                [each.astype(x.dtype) for each in flow.log_prob_with_error(x)], 1
            )
        )
        for call in calls:
            together = np.asarray(call(x)).reshape(rows, -1)
            for places in (*map(np.arange, sizes), order):
                batch = np.asarray(call(x[places])).reshape(len(places), -1)
                different += int((together[places] != batch).any(axis=1).sum())
                compared += len(places)
        jax.clear_caches()
    what = (
        f"5 flows, 1 to 43 columns, 5 calls, {compared:,} rows alone, in batches, in another order"
    )
    yield Line(
        "a row has the same bits in any batch", what, f"{different} rows differ", not different
    )


def rounding(arguments: argparse.Namespace) -> Iterator[Line]:
    """In float32 the stated error covers rounding."""
    rng, n = np.random.default_rng(3), 2000
    found = []
    for each in ((2, 2), (5, 5), (8, 8), (10, 10), (12, 12), (-9, 9)):
        rates = np.asarray(each, float)
        x = (1 + (rng.normal(size=(n, 2)) - 1) * np.exp(-rates)).astype(np.float32)
        z = 1 + (x.astype(float) - 1) * np.exp(rates)
        truth = -0.5 * np.sum(z**2, axis=1) - np.log(2 * np.pi) + rates.sum()
        flow = jaxflow.CNF(Pull(jnp.asarray(rates, jnp.float32)), StandardNormal(2))
        found.append(judged(flow, x, truth))
    *found, mixed = found
    contracts = "float32, fields that contract by exp(2) to exp(12)"
    yield _covered(contracts, f"{len(found)} fields, {n} rows", found)
    mixed_field = "float32, a field that contracts one column by exp(9) and expands the other"
    yield _covered(mixed_field, f"1 field, {n} rows", [mixed])
    axes = np.linalg.qr(rng.normal(size=(4, 4)))[0] * np.logspace(0, -4, 4)
    x = (rng.normal(size=(n, 4)) @ axes.T + 1).astype(np.float32)
    flow = jaxflow.CNF(
        noisier(MLP(4, width=16, key=KEY), 0.3, rng), StandardNormal(4), transform=Whiten.fit(x)
    )
    found = [judged(flow, x, truth_of(flow, x))]
    base = DiagonalNormal(jnp.full(2, 100.0), jnp.full(2, 1e-3))
    flow = jaxflow.CNF(Pull(jnp.full(2, -0.25)), base)
    x = (1 + (99 + 1e-3 * rng.normal(size=(n, 2))) * np.exp(0.25)).astype(np.float32)
    found.append(judged(flow, x, truth_of(flow, x)))
    x = 3e6 + rng.normal(size=(n, 1))
    offset = Standardise(jnp.asarray([3e6]), jnp.asarray([1.0]))
    flow = jaxflow.CNF(Pull(jnp.zeros(1)), StandardNormal(1), transform=offset)
    found.append(judged(flow, x, norm_log_pdf(x[:, 0] - 3e6)))
    yield _covered(
        "float32, a whitening of condition 1e4, a base at 100 +- 1e-3, float64 rows at 3e6",
        f"3 flows, {n} rows",
        found,
    )
    found = []
    for field, dim in accuracy.fields().values():
        flow = single(jaxflow.CNF(field, StandardNormal((dim,))))
        x = np.asarray(1.5 * jax.random.normal(accuracy.KEY, (n, dim)))
        found.append(judged(flow, x, truth_of(flow, x)))
        jax.clear_caches()
    yield _covered("float32, the flows of the table above", f"9 flows, {n} rows, 1e-5", found)
    if arguments.data is None:
        return
    found = []
    for path in sorted(Path(arguments.data).glob("*.npz")):
        with np.load(path) as file:
            x = np.asarray(file[file.files[0]])[:n].astype(np.float32)
        x = x[:, x.std(axis=0) > 0]
        proposal = propose(x)
        try:
            transform = (
                Chain((*proposal.parts, Standardise.fit(x))) if not proposal.parts else None
            )
            transform = transform or Chain((Standardise.fit(x), Gaussianise.fit(x)))
        except ValueError:
            continue
        field = noisier(MLP(x.shape[1], width=32, key=KEY), 0.1, rng)
        flow = single(jaxflow.CNF(field, StandardNormal(x.shape[1]), transform=transform))
        found.append(judged(flow, x, truth_of(flow, x)))
        jax.clear_caches()
    if found:
        yield _covered(
            "float32, chains of transforms fitted to real tables", f"{len(found)} tables", found
        )


def norm_log_pdf(z: np.ndarray) -> np.ndarray:
    return -0.5 * z**2 - 0.5 * np.log(2 * np.pi)


def _covered(
    promise: str, cases: str, found: list[tuple[float, float]], least: float = 0.99
) -> Line:
    coverage = min(each for each, _ in found)
    ratio = max(each for _, each in found)
    figure = (
        f"{percent(coverage)} of rows covered, stated / true at most {ratio:.0f} in the median"
    )
    return Line(
        f"{promise}: the stated error covers the true one", cases, figure, coverage >= least
    )


def tolerance(arguments: argparse.Namespace) -> Iterator[Line]:
    """`atol_nats` is met, or a status says that it is not."""
    rng, n, over = np.random.default_rng(5), 2000, 0
    for rate, centre in itertools.product((2.0, 6.0, 10.0, 14.0), (0, 1)):
        x = (centre + (rng.normal(size=(n, 2)) - centre) * np.exp(-rate)).astype(np.float32)
        z = centre + (x.astype(float) - centre) * np.exp(rate)
        truth = -0.5 * np.sum(z**2, axis=1) - np.log(2 * np.pi) + 2 * rate
        field = Pull(jnp.full(2, rate)) if centre else Linear(matrix=-rate * np.eye(2), key=KEY)
        flow = jaxflow.CNF(field, StandardNormal(2))
        for verify in (False, True):
            answer = np.asarray(flow.log_prob(x, atol_nats=1e-4, verify=verify), float)
            over += int(np.sum(np.abs(answer - truth) > 1e-4))
    yield Line(
        "float32, log_prob(x, atol_nats=1e-4), fields contracting by exp(2) to exp(14) to 0 or 1",
        f"8 fields, {n} rows, verified and not",
        f"{over} rows over",
        over <= 0.001 * 16 * n,
    )


def support(arguments: argparse.Namespace) -> Iterator[Line]:
    """The flow's own samples have a finite log-density; rows outside have -inf."""
    n, bad = 1_000_000, 0
    limits = {
        "(0, 1)": Bounded([0.0], [1.0]),
        "(0, inf)": Bounded([0.0], [jnp.inf]),
        "(-3e6, 5e-3)": Bounded([-3e6], [5e-3]),
    }
    for transform in limits.values():
        for base in (
            StandardNormal(1),
            StudentT(2.0, (1,)),
            DiagonalNormal(jnp.zeros(1), 9 * jnp.ones(1)),
        ):
            flow = jaxflow.CNF(Pull(jnp.zeros(1)), base, transform=transform)
            bad += int(np.sum(~np.isfinite(flow.log_prob(flow.sample(KEY, n)))))
    yield Line(
        "samples lie inside the support",
        f"3 limits x 3 bases, {n:,} samples each, float32",
        f"{bad} outside",
        bad == 0,
    )


def jumps(arguments: argparse.Namespace) -> Iterator[Line]:
    """A field that moves for a short time is met, or the error says that it was not."""
    x = 1.5 * jax.random.normal(KEY, (300, 2))
    for widths, least in (((0.3, 0.1, 0.05, 0.03), 0.99), ((0.01,), 0.97), ((0.003,), None)):
        shares = []
        for width in widths:
            for centre in (0.13, 0.37, 0.61, 0.88):
                for drift in (0.0, 0.5, 1.0):
                    with jax.enable_x64(True):
                        numbers = (jnp.asarray(each) for each in (centre, width, drift))
                        flow = jaxflow.CNF(Bump(*numbers), StandardNormal(2))
                        rows = np.asarray(x, float)
                        moved = norm.cdf(1.0, centre, width) - norm.cdf(0.0, centre, width) + drift
                        z = rows * np.exp(-float(moved))
                        truth = norm_log_pdf(z).sum(axis=1) - 2 * float(moved)
                        shares.append(judged(flow, rows, truth)[0])
        what = ", ".join(map(str, widths))
        yield Line(
            f"float64, a field that moves for a time of width {what}",
            f"{len(shares)} fields, 300 rows",
            f"{percent(min(shares))} of rows covered, {percent(np.mean(shares))} in the mean",
            None if least is None else min(shares) >= least,
        )


def kinks(arguments: argparse.Namespace) -> Iterator[Line]:
    """Fields with kinks in x and jumps in t, which no solver of high order likes."""
    fields = {
        "1 + 3 relu(x)": lambda t, x: 1 + 3 * jnp.maximum(x, 0),
        "abs(x) - 1": lambda t, x: jnp.abs(x) - 1.0,
        "x sign(t - 0.37)": lambda t, x: x * jnp.where(t > 0.37, 1.0, -1.0),
        "2x after t = 0.6": lambda t, x: jnp.where(t > 0.6, 2.0, 0.0) * x,
    }
    with jax.enable_x64(True):
        rows = np.asarray(1.5 * jax.random.normal(KEY, (2000, 2)), float)
        shares = {}
        for name, field in fields.items():
            flow = jaxflow.CNF(field, StandardNormal(2))
            # Rows meet their kinks at times of their own, so each takes its own steps.
            truth = np.asarray(dataclasses.replace(flow, ode_eval=EXACT).log_prob(rows))
            shares[name] = judged(flow, rows, truth)[0]
    figure = "; ".join(f"{name}: {percent(share)}" for name, share in shares.items())
    yield Line(
        "float64, kinks in x and jumps in t",
        "4 fields, 2,000 rows",
        figure,
        min(shares.values()) >= 0.97,
    )


def probes(arguments: argparse.Namespace) -> Iterator[Line]:
    """`value +- q trace_se` covers the exact trace."""
    u = jax.random.normal(KEY, (6, 6))
    pair = jnp.zeros((6, 6)).at[0, 1].set(0.5).at[1, 0].set(0.5)
    jacobians = jnp.stack([pair, jnp.kron(jnp.eye(3), pair[:2, :2]), u, jnp.outer(u[0], u[1])])
    shares = []
    for law in ("rademacher", "gaussian"):
        for k in (2, 4, 8, 16):
            trace = Hutchinson(k, law)

            def one(matrix: Any, key: Any, trace: Any = trace) -> Any:
                v = trace.draw(key, (6,), jnp.float32)
                return trace.estimate(jnp.sum(v * (v @ matrix.T), axis=1), v, 1.0)

            keys = jax.random.split(KEY, 4000)
            values, errors = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(jacobians, keys)
            if errors is not None:
                away = np.abs(values - jnp.trace(jacobians, axis1=1, axis2=2)[:, None])
                width = student.ppf(0.975, k - 1) * np.asarray(errors) + 1e-6
                shares += np.mean(away <= width, axis=1).tolist()
    yield Line(
        "95 % intervals of a stochastic trace",
        f"{len(shares)} pairs of Jacobian and probes, 4,000 draws",
        f"{percent(min(shares))} covered at least, {percent(np.mean(shares))} in the mean",
        min(shares) >= 0.93,
    )


def random_cases(arguments: argparse.Namespace) -> Iterator[Line]:
    """Random fields, bases, transforms, precisions and sizes of batches."""
    rng = np.random.default_rng(arguments.seed)
    counts, covered, rows, failed = 0, 0, 0, 0
    worst = 1.0
    while counts < arguments.random:
        dim = int(rng.choice([1, 2, 3, 6]))
        activation = str(rng.choice(["tanh", "softplus", "sin"]))
        field = MLP(dim, width=8, depth=2, activation=activation, key=KEY)
        data = rng.normal(size=(200, dim)) @ rng.normal(size=(dim, dim))
        transform = [None, Standardise, Whiten, Gaussianise][int(rng.integers(4))]
        with jax.enable_x64(True):
            bases = [StandardNormal(dim), StudentT(4.0, (dim,)), GaussianMixture.fit(data, 2)]
            flow = jaxflow.CNF(
                field, bases[int(rng.integers(3))], transform=transform and transform.fit(data)
            )
        # One structure serves many cases, which share its compilations.
        sizes = rng.choice([1, 7, 64, MOST_ROWS], size=2, replace=False)
        for _ in range(min(arguments.same, arguments.random - counts)):
            with jax.enable_x64(True):
                case = dataclasses.replace(
                    flow, field=noisier(wide(field), rng.uniform(0, 0.8), rng)
                )
            n = int(rng.choice(sizes))
            # Always as many rows, so that one program computes all truths.
            rows_of = rng.uniform(0.5, 2) * rng.normal(size=(MOST_ROWS, dim))
            x = (rows_of * data.std(axis=0)).astype(np.float32)
            in_float64 = bool(rng.integers(2))
            x, truth = x[:n], truth_of(case, x)[:n]
            try:
                if in_float64:
                    with jax.enable_x64(True):
                        share = judged(case, x.astype(float), truth)[0]
                else:
                    share = judged(single(case), x, truth)[0]
                covered, rows, worst = (
                    covered + round(share * n),
                    rows + n,
                    min(worst, share if n > 99 else 1),
                )
            except jaxflow.SolveError:
                failed += 1
            counts += 1
        jax.clear_caches()
    share = covered / max(rows, 1)
    yield Line(
        "random flows, precisions and batches: the stated error covers the true one",
        f"{counts} cases, {rows:,} rows",
        f"{percent(share)} of rows; {failed} solves refused; worst batch {percent(worst)}",
        share >= 0.99,
    )


VERDICTS = {True: "held", False: "**not held**", None: "known limit: write `max_step`"}
PARTS = {
    "bits": bits, "rounding": rounding, "tolerance": tolerance, "support": support, "jumps": jumps,
    "kinks": kinks, "probes": probes, "random": random_cases,
}  # fmt: skip
# These start first, in this order.
LONGEST = ("random", "bits", "rounding", "tolerance")


def try_part(arguments: argparse.Namespace, name: str) -> tuple[float, list[Line]]:
    """Seconds that a part took, and its lines."""
    start = time.perf_counter()
    lines = list(PARTS[name](arguments))
    return time.perf_counter() - start, lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Every promise about a number, tried.")
    parser.add_argument("--data", help="folder of .npz tables, for chains fitted to real data")
    parser.add_argument("--random", type=int, default=120, help="random cases; 10000 for a night")
    parser.add_argument("--same", type=int, default=20, help="random cases of one structure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="parts, separated by commas")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"--only: no part {sorted(unknown)}; choose from {', '.join(PARTS)}")
    chosen.sort(key=lambda name: [*LONGEST, name].index(name))
    found = {}
    for name, (seconds, each) in each_on_a_core(partial(try_part, arguments), chosen):
        found[name] = each
        for line in each:
            verdict = VERDICTS[line.held]
            print(f"{verdict} {line.promise} ({line.cases}): {line.figure}")
        print(f"  {name}: {seconds:.0f} s", flush=True)
    lines = [line for name in PARTS for line in found.get(name, [])]
    if not arguments.only:
        write_results("trust", {"lines": [line._asdict() for line in lines]})
        rows = [[line.promise, line.cases, line.figure, VERDICTS[line.held]] for line in lines]
        header = ["promise", "cases", "worst figure", "verdict"]
        write_page("trust", table(header, rows), "accuracy")
    raise SystemExit(any(line.held is False for line in lines))


if __name__ == "__main__":
    main()
