"""What exact and stochastic traces cost in PyTorch: zuko, FFJORD's way on torchdiffeq, torch.func.

Case: 1000 rows of 43 standard normal columns, tanh MLP on (x, t) in every layer with two hidden
layers of 256, from t=1 to t=0, float32 on the CPU. torchdiffeq takes 8 RK4 steps, 32 evaluations
of the field; zuko's solver is adaptive, so its tolerance is one that gives near 32. Prints what
one training gradient costs, what scoring costs, and one evaluation of field and trace by
dimension; all variants of a table take turns.

    python benchmarks/peers/torch_traces.py [--repeats 5] [--dims 2 8 30 64 784] [--out FILE]
    python benchmarks/peers/torch_traces.py --quick | --check
"""
# This file runs in an environment of its own (requirements.txt beside it).
# pyright: reportMissingImports=false

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacfwd, jvp, vmap
from torchdiffeq import odeint, odeint_adjoint
from zuko.transforms import FreeFormJacobianTransform

DIM, WIDTH, ROWS, STEPS = 43, 256, 1000, 8
# Chosen on this case: looser gives 28 evaluations, tighter 42 and more. zuko's ratio of defaults.
RTOL = 7e-5
ATOL = RTOL / 10
# Above this dimension exact traces are timed on fewer rows, and the time scaled up.
FULL_DIM, FEWER_ROWS = 128, 100
# Seconds after which a measurement is not repeated.
LONG = 60

Trace = Callable[..., tuple[Tensor, Tensor]]


class Field(nn.Module):
    """Tanh MLP on the concatenation (x, t) in every layer; counts its evaluations.

    The column of t is added as a bias, the same numbers for less work than a concatenation.
    """

    def __init__(self, dim: int, width: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = [dim, width, width, dim]
        self.weights, self.times, self.biases = (nn.ParameterList() for _ in range(3))
        for inputs, outputs in itertools.pairwise(sizes):
            std = (inputs + 1) ** -0.5
            self.weights.append(std * torch.randn(outputs, inputs, generator=generator))
            self.times.append(std * torch.randn(outputs, generator=generator))
            self.biases.append(torch.zeros(outputs))
        self.evals = 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """`dx/dt` of a batch, (rows, dim), or of one row, (dim,)."""
        self.evals += 1
        layers = list(zip(self.weights, self.times, self.biases, strict=True))
        for weight, time_weight, bias in layers[:-1]:
            x = torch.tanh(nn.functional.linear(x, weight, bias + t * time_weight))
        weight, time_weight, bias = layers[-1]
        return nn.functional.linear(x, weight, bias + t * time_weight)


# Each trace: (field, t, x, probe) -> (f, tr df/dx), a batch at a time. It can be differentiated
# where gradients are enabled.


def vjp_probe(field: nn.Module, t: Tensor, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Hutchinson, one probe, v^T J by reverse mode: FFJORD's estimate."""
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        f = field(t, x)
        (row,) = torch.autograd.grad(f, x, probe, create_graph=further)
    return (f if further else f.detach()), (row * probe).sum(-1)


def vjp_loop(field: nn.Module, t: Tensor, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Exact by d vector-Jacobian products in turn: FFJORD's brute force."""
    further = torch.is_grad_enabled()
    trace = torch.zeros_like(x[:, 0])
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        f = field(t, x)
        for i in range(x.shape[1]):
            (row,) = torch.autograd.grad(f[:, i].sum(), x, create_graph=further, retain_graph=True)
            trace = trace + row[:, i]
    return (f if further else f.detach()), trace


def vjp_batched(field: nn.Module, t: Tensor, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Exact by d vector-Jacobian products at once, the way zuko asks autograd for them."""
    further = torch.is_grad_enabled()
    basis = torch.eye(x.shape[1], dtype=x.dtype).expand(*x.shape, -1).movedim(-1, 0)
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        f = field(t, x)
        (rows,) = torch.autograd.grad(f, x, basis, create_graph=further, is_grads_batched=True)
    return (f if further else f.detach()), torch.einsum("ini->n", rows)


def jvp_probe(field: nn.Module, t: Tensor, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Hutchinson, one probe, J v by forward mode, a row at a time under vmap."""

    def row(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        f, column = jvp(lambda x: field(t, x), (x,), (v,))
        return f, (v * column).sum()

    return vmap(row)(x, probe)


def jacfwd_trace(field: nn.Module, t: Tensor, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Exact by the Jacobian in forward mode, a row at a time under vmap."""

    def row(x: Tensor) -> tuple[Tensor, Tensor]:
        def twice(x: Tensor) -> tuple[Tensor, Tensor]:
            f = field(t, x)
            return f, f

        jacobian, f = jacfwd(twice, has_aux=True)(x)
        return f, jacobian.diagonal().sum()

    return vmap(row)(x)


def log_prob(
    field: nn.Module, x: Tensor, trace: Trace, probe: Tensor, *, solve: Any, steps: int = STEPS
) -> Tensor:
    """Log-density by torchdiffeq: `N(z) + int_1^0 tr(df/dx) dt`, with z where x flows to."""

    class Augmented(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = field

        def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return trace(self.field, t, state[0], probe)

    times = torch.tensor([1.0, 0.0], dtype=x.dtype)
    start = (x, torch.zeros_like(x[:, 0]))
    z, change = solve(Augmented(), start, times, method="rk4", options={"step_size": 1 / steps})
    return normal(z[-1]) + change[-1]


def zuko_log_prob(
    field: nn.Module, x: Tensor, *, exact: bool, train: bool, rtol: float = RTOL
) -> Tensor:
    """The same by zuko's transform, which holds one Gaussian probe through the solve."""
    phi = field.parameters() if train else ()
    transform = FreeFormJacobianTransform(
        field, t0=1.0, t1=0.0, phi=phi, rtol=rtol, atol=rtol / 10, exact=exact
    )
    z, change = transform.call_and_ladj(x)
    return normal(z) + change


def normal(z: Tensor) -> Tensor:
    """Log-density of standard normal columns."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def signs(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """A Rademacher probe a row."""
    return torch.randint(0, 2, tuple(shape)).to(dtype) * 2 - 1


def interleaved(
    runs: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each run, all taking turns, and what each returned last.

    The first turn warms up; it counts where it is the only one, or took over `LONG` seconds:
    then it is not repeated.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    values: dict[str, Any] = {}
    for turn in range(repeats + (repeats > 1)):
        for name, run in runs.items():
            if seconds[name] and seconds[name][0] > LONG:
                continue
            start = time.perf_counter()
            values[name] = run()
            seconds[name].append(time.perf_counter() - start)
            if turn == 0 and seconds[name][0] > LONG:
                print(f"{name} took over {LONG} s: measured once\n")
    return {
        name: statistics.median(times[1:] if len(times) > 1 else times)
        for name, times in seconds.items()
    }, values


def solves(x: Tensor, repeats: int, *, train: bool) -> dict[str, dict[str, float]]:
    """Time and number of evaluations of one training gradient, or of scoring without one."""
    field = Field(x.shape[1], WIDTH)
    parameters = list(field.parameters())

    def ours(trace: Trace, solve: Any) -> Callable[[], Tensor]:
        return lambda: log_prob(field, x, trace, signs(x.shape), solve=solve)

    def zuko(*, exact: bool) -> Callable[[], Tensor]:
        return lambda: zuko_log_prob(field, x, exact=exact, train=train)

    variants = {"zuko, exact": zuko(exact=True), "zuko, one probe": zuko(exact=False)}
    ways = {
        "torchdiffeq, exact by d VJPs": vjp_loop,
        "torchdiffeq, one VJP probe": vjp_probe,
        "torch.func, exact by jacfwd": jacfwd_trace,
        "torch.func, one JVP probe": jvp_probe,
    }
    for name, trace in ways.items():
        variants[name] = ours(trace, odeint_adjoint)
        if train:
            # Remembers all evaluations: with exact traces that takes up to 9 GB.
            variants[f"{name}, no adjoint"] = ours(trace, odeint)

    def run(variant: Callable[[], Tensor]) -> tuple[int, int]:
        """Evaluations of the solve, and further ones on the way back."""
        # zuko draws its probe from here: the same steps every time.
        torch.manual_seed(0)
        field.evals = 0
        if not train:
            with torch.no_grad():
                variant()
            return field.evals, 0
        loss = -variant().mean()
        forward = field.evals
        torch.autograd.grad(loss, parameters)
        return forward, field.evals - forward

    runs = {name: lambda variant=variant: run(variant) for name, variant in variants.items()}
    times, counts = interleaved(runs, repeats)
    return {
        name: {
            "seconds": seconds,
            "num_evals": counts[name][0],
            "num_evals_back": counts[name][1],
            "seconds_per_eval": seconds / counts[name][0],
        }
        for name, seconds in times.items()
    }


EXACT = {
    "exact by d VJPs": vjp_loop,
    "exact by batched VJPs": vjp_batched,
    "exact by jacfwd": jacfwd_trace,
}
PROBES = {"one VJP probe": vjp_probe, "one JVP probe": jvp_probe}


@torch.no_grad()
def traces(dim: int, rows: int, repeats: int) -> dict[str, float]:
    """Seconds of one evaluation of field and trace for all rows, without gradient."""
    field, x, t = Field(dim, WIDTH), torch.randn(rows, dim), torch.tensor(0.5)
    probe = signs(x.shape)
    fewer = rows if dim <= FULL_DIM else min(rows, FEWER_ROWS)
    runs: dict[str, Callable[[], Any]] = {"field alone": lambda: field(t, x)}
    for name, trace in PROBES.items():
        runs[name] = lambda trace=trace: trace(field, t, x, probe)
    for name, trace in EXACT.items():
        runs[name] = lambda trace=trace: trace(field, t, x[:fewer], probe)
    seconds, _ = interleaved(runs, repeats)
    return {name: s * rows / fewer if name in EXACT else s for name, s in seconds.items()}


def check() -> None:
    """The traces, densities and gradients against dense Jacobians and zuko, in float64.

    Raises:
        SystemExit: one of them is further off than its tolerance.
    """
    torch.manual_seed(0)
    dim, rows, t = 5, 7, torch.tensor(0.3, dtype=torch.float64)
    field = Field(dim, 16).double()
    parameters = list(field.parameters())
    x = torch.randn(rows, dim, dtype=torch.float64)
    failures = []

    def compare(what: str, ours: Any, theirs: Any, tolerance: float) -> None:
        ours, theirs = (torch.cat([a.flatten() for a in b]) for b in (ours, theirs))
        error = (ours - theirs).abs().max().item()
        print(f"{what}: off by {error:.1e}, tolerance {tolerance:.0e}")
        if not error <= tolerance:
            failures.append(what)

    def gradient(value: Tensor) -> tuple[Tensor, ...]:
        grads = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
        return tuple(
            torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True)
        )

    dense = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda x: field(t, x), row, create_graph=True
            ).trace()
            for row in x
        ]
    )
    every = [
        torch.tensor(v, dtype=x.dtype).expand_as(x)
        for v in itertools.product((-1.0, 1.0), repeat=dim)
    ]
    for name, trace in (EXACT | PROBES).items():
        # The mean over all sign vectors is the trace itself.
        probes = every if name in PROBES else every[:1]
        values = [trace(field, t, x, probe) for probe in probes]
        mean = torch.stack([value for _, value in values]).mean(0)
        compare(f"trace, {name}", [mean], [dense], 1e-12)
        compare(f"field, {name}", [values[0][0]], [field(t, x)], 1e-12)
        compare(f"gradient of trace, {name}", gradient(mean.sum()), gradient(dense.sum()), 1e-12)

    for name, trace in (EXACT | PROBES).items():
        # zuko's probe is the first thing it draws.
        torch.manual_seed(1)
        probe = torch.randn_like(x)
        torch.manual_seed(1)
        theirs = zuko_log_prob(field, x, exact=name in EXACT, train=True, rtol=1e-10)
        for solve in (odeint, odeint_adjoint):
            ours = log_prob(field, x, trace, probe, solve=solve, steps=128)
            what = f"{name}, {solve.__name__} against zuko"
            compare(f"log-density, {what}", [ours], [theirs], 1e-8)
            compare(f"its gradient, {what}", gradient(ours.mean()), gradient(theirs.mean()), 1e-8)
        with torch.no_grad():
            field.evals = 0
            scored = log_prob(field, x, trace, probe, solve=odeint_adjoint)
            compare(f"evaluations, {name}", [torch.tensor(field.evals)], [torch.tensor(32)], 0)
            compare(f"log-density in 8 steps, {name}", [scored], [theirs], 1e-3)
    if failures:
        raise SystemExit("failed: " + "; ".join(failures))
    print("all within tolerance")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["-" * len(cell) for cell in header], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description="What exact and stochastic traces cost.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 8, 30, 64, 784])
    parser.add_argument("--threads", type=int, help="all cores unless given")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    parser.add_argument("--quick", action="store_true", help="100 rows, one thread, once")
    parser.add_argument("--check", action="store_true", help="check correctness, time nothing")
    arguments = parser.parse_args()
    # Threads wait for each other: a smoke test beside other work is quicker with one.
    torch.set_num_threads(arguments.threads or (1 if arguments.quick else os.cpu_count() or 1))
    if arguments.check:
        check()
        return
    repeats, dims, rows = arguments.repeats, arguments.dims, ROWS
    if repeats < 1:
        parser.error(f"--repeats {repeats} must be at least 1")
    if arguments.quick:
        repeats, dims, rows = 1, [2, 30], 100

    torch.manual_seed(0)
    x = torch.randn(rows, DIM)
    document: dict[str, Any] = {
        "benchmark": "peers_traces",
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {p: version(p) for p in ("torch", "torchdiffeq", "zuko", "numpy")},
        "settings": {
            "dim": DIM,
            "width": WIDTH,
            "rows": rows,
            "dtype": "float32",
            "threads": torch.get_num_threads(),
            "repeats": repeats,
            "torchdiffeq": f"rk4, {STEPS} steps",
            "zuko": f"its Dormand-Prince, rtol={RTOL:g}, atol={ATOL:g}",
            "measured_once_above_seconds": LONG,
            "exact_traces_scaled": f"dim > {FULL_DIM}: timed on {FEWER_ROWS} rows, scaled up",
        },
    }
    print(f"{rows} rows of {DIM}, threads: {torch.get_num_threads()}, medians of {repeats}; zuko")
    print(f"with rtol={RTOL:g}, atol={ATOL:g}: near {4 * STEPS} evaluations on {ROWS} rows\n")
    for key, train in (("gradients", True), ("scoring", False)):
        document[key] = solves(x, repeats, train=train)
        lines = [
            [
                name,
                f"{1e3 * r['seconds']:.0f}",
                str(r["num_evals"]),
                str(r["num_evals_back"]),
                f"{1e3 * r['seconds_per_eval']:.2f}",
            ]
            for name, r in document[key].items()
        ]
        header = [key, "ms", "evaluations", "more on the way back", "ms / evaluation"]
        print(table(header, lines) + "\n", flush=True)

    document["traces"] = {str(dim): traces(dim, rows, repeats) for dim in dims}
    names = next(iter(document["traces"].values()))
    lines = [
        [name, *(f"{1e3 * document['traces'][str(dim)][name]:.2f}" for dim in dims)]
        for name in names
    ]
    print(table(["ms of field and trace, by dimension", *map(str, dims)], lines))
    if any(dim > FULL_DIM for dim in dims):
        print(f"exact above {FULL_DIM} dimensions: timed on {FEWER_ROWS} rows and scaled up")
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")
        print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
