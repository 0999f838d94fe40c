"""Work against precision by torchdiffeq: the problems of benchmarks/detest.py.

Reads its cases as JSON from the standard input and answers with JSON on the standard output: for
every problem, method and tolerance (rtol = atol, float64) the end, the evaluations and the
seconds of a solve. Errors are measured by who asked. A step is made to end where the solve does
(`step_t`): by itself torchdiffeq interpolates there, by a polynomial of less than dopri8's order.

    .venv-peers/bin/python benchmarks/peers/torch_work_precision.py < cases.json
"""
# This file runs in an environment of its own (requirements.txt beside it).
# pyright: reportMissingImports=false

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torchdiffeq import odeint


def growth(t: Tensor, y: Tensor) -> Tensor:
    return y * torch.cos(t)


def rigid_body(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]])


def diffusion(t: Tensor, y: Tensor) -> Tensor:
    inner = torch.nn.functional.pad(y, (1, 1))
    return inner[:-2] - 2 * y + inner[2:]


def orbit(t: Tensor, y: Tensor) -> Tensor:
    cube = (y[0] ** 2 + y[1] ** 2) ** 1.5
    return torch.stack([y[2], y[3], -y[0] / cube, -y[1] / cube])


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]])


def mixture_flow(centres: Tensor, std: float) -> Callable[[Tensor, Any], Any]:
    """The flow to a mixture and its divergence; the equations are in detest.py."""

    def f(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, _ = state
        v = (1 - t) ** 2 + t**2 * std**2
        rate = (t * std**2 - (1 - t)) / v
        offset = x[:, None, :] - t * centres
        weight = torch.softmax(-offset.square().sum(-1) / (2 * v), dim=-1)[..., None]
        u = centres + rate * offset
        dx = (weight * u).sum(1)
        slope = -offset / v
        mean_slope = (weight * slope).sum(1)
        spread = (weight * slope * u).sum((1, 2)) - (mean_slope * dx).sum(1)
        return dx, 2 * rate + spread

    return f


@torch.no_grad()
def point(
    f: Callable[[Tensor, Any], Any], y0: Any, times: Tensor, method: str, tol: float, repeats: int
) -> dict[str, Any]:
    """One solve: its end, evaluations and median seconds."""
    evals = 0
    solve = partial(
        odeint, rtol=tol, atol=tol, method=method, options={"step_t": times[1:].clone()}
    )

    def counted(t: Tensor, y: Any) -> Any:
        nonlocal evals
        evals += 1
        return f(t, y)

    def end(solution: Any) -> list[Any]:
        leaves = solution if isinstance(solution, tuple) else (solution,)
        return [leaf[-1].tolist() for leaf in leaves]

    y1 = end(solve(counted, y0, times))
    seconds = []
    # Turns enough for a median, or for a second.
    while len(seconds) < repeats and sum(seconds) < 1.0:
        start = time.perf_counter()
        solve(f, y0, times)
        seconds.append(time.perf_counter() - start)
    return {"tolerance": tol, "y1": y1, "evals": evals, "seconds": statistics.median(seconds)}


def main() -> None:
    cases = json.load(sys.stdin)
    torch.set_default_dtype(torch.float64)
    # States this small: a second thread only waits.
    torch.set_num_threads(1)
    fields = {
        "A3, growth": growth,
        "B5, rigid body": rigid_body,
        "C4, diffusion": diffusion,
        "D5, orbit": orbit,
        "E2, van der Pol": van_der_pol,
        "flow (x, log p)": mixture_flow(torch.tensor(cases["centres"]), cases["std"]),
    }
    found: dict[str, dict[str, list[Any]]] = {}
    for name, problem in cases["problems"].items():
        leaves: Any = tuple(torch.tensor(leaf) for leaf in problem["y0"])
        y0 = leaves if len(leaves) > 1 else leaves[0]
        times = torch.tensor(problem["times"])
        found[name] = {}
        for method in cases["methods"]:
            points = found[name][f"torchdiffeq {method}"] = []
            for tol in cases["tolerances"]:
                try:
                    points.append(point(fields[name], y0, times, method, tol, cases["repeats"]))
                except AssertionError as error:
                    # Its steps fell to the rounding limit; tighter tolerances end there too.
                    print(f"{name}, {method}, {tol:.0e}: {error}", file=sys.stderr)
                    break
    versions = {package: version(package) for package in ("torch", "torchdiffeq")}
    json.dump({"points": found, "versions": versions}, sys.stdout)


if __name__ == "__main__":
    main()
