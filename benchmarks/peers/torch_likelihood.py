"""Held-out likelihood against time in PyTorch: zuko's NSF, MAF and CNF, FFJORD's way, OT-CFM.

Reads a file of `train`, `validation` and `test` rows, trains one method for so many seconds, and
writes the mean negative log-density of the test rows, in nats, by the weights that were best on
the validation rows at moments that double. The clock counts training and validation, not the
evaluation of the test rows. Continuous flows are judged in float64 by dopri5 at 1e-7 with an
exact trace, whatever they were trained with.

    python benchmarks/peers/torch_likelihood.py zuko-nsf data.npz --seconds 60 --out out.json

Settings are those of each library's documentation: zuko's tutorials (Adam at 1e-3, batches of
256), FFJORD's toy experiments (Grathwohl et al. 2019, arXiv 1810.01367: dopri5 at 1e-5, adjoint,
one Rademacher probe, Adam at 1e-3, batches of 512, three layers of 64), torchcfm's (exact
optimal transport of batches of 256, Adam at 1e-3, four layers of 64 with SELU).
"""
# This file runs in an environment of its own (requirements.txt beside it).
# pyright: reportMissingImports=false

import argparse
import copy
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zuko
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

# Seconds of the first moment at which the test rows are scored.
FIRST = 5.0
# Steps between two validations, and the rows of one, for discrete and for continuous flows.
EVERY, ROWS = 200, 2000


class Field(nn.Module):
    """`f(t, x)`: a network on `(x, t)`."""

    def __init__(self, dim: int, width: int, depth: int, activation: type[nn.Module]) -> None:
        super().__init__()
        sizes = [dim + 1, *[width] * depth]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), activation()]
        self.net = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        time_column = t.expand(len(x), 1) if t.ndim == 0 else t
        return self.net(torch.cat([x, time_column], dim=1))


def normal_log_prob(z: Tensor) -> Tensor:
    return -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


class Density(nn.Module):
    """`(f, -trace)` for states `(x, log p)`: exact without a probe, Hutchinson's with one."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.probe = field, None

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0].requires_grad_(True)
            out = self.field(t, x)
            if self.probe is not None:
                (product,) = torch.autograd.grad(out, x, self.probe, create_graph=True)
                return out, -(product * self.probe).sum(1)
            trace = torch.zeros(len(x), dtype=x.dtype)
            for i in range(x.shape[1]):
                (row,) = torch.autograd.grad(out[:, i].sum(), x, create_graph=True)
                trace = trace + row[:, i]
            return out, -trace


def ode_log_prob(field: nn.Module, x: Tensor, tolerance: float, solve: Any = odeint) -> Tensor:
    """Log-density of data at t = 1 of a field whose base is at t = 0."""
    density = Density(field)
    if solve is odeint_adjoint:
        density.probe = 2.0 * torch.randint(0, 2, x.shape).to(x.dtype) - 1
    start = x, torch.zeros(len(x), dtype=x.dtype)
    times = torch.tensor([1.0, 0.0], dtype=x.dtype)
    z, change = solve(density, start, times, rtol=tolerance, atol=tolerance, method="dopri5")
    return normal_log_prob(z[-1]) - change[-1]


class ZukoField(nn.Module):
    """The field of zuko's CNF, whose data are at t = 0 and whose base is at t = 1."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.transform = flow.transform

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return -self.transform.f(1 - t, x)


Loss = Callable[[Tensor], Tensor]


class Method:
    """A model with its loss of a batch, its validation and its exact test score."""

    batch, every, rate, lr = 256, EVERY, 0.0, 1e-3

    def __init__(self, dim: int) -> None:
        self.model: Any = self.make(dim)

    def make(self, dim: int) -> Any:
        raise NotImplementedError

    def loss(self, x: Tensor) -> Tensor:
        return -self.model().log_prob(x).mean()

    def score(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model().log_prob(x)

    def exact(self, x: Tensor) -> Tensor:
        return self.score(x)


class NSF(Method):
    """Neural spline flow, autoregressive."""

    def make(self, dim: int) -> Any:
        return zuko.flows.NSF(dim, transforms=5, hidden_features=(128, 128))


class MAF(Method):
    """Masked autoregressive flow."""

    def make(self, dim: int) -> Any:
        return zuko.flows.MAF(dim, transforms=5, hidden_features=(128, 128))


class CNF(Method):
    """zuko's continuous flow, exact trace."""

    every = 50

    def make(self, dim: int) -> Any:
        return zuko.flows.CNF(dim, hidden_features=(64, 64))

    def exact(self, x: Tensor) -> Tensor:
        field = ZukoField(copy.deepcopy(self.model)).double()
        return ode_log_prob(field, x.double(), 1e-7).detach()


class FFJORD(Method):
    """FFJORD's way, on torchdiffeq."""

    batch, every = 512, 25

    def make(self, dim: int) -> Any:
        return Field(dim, 64, 3, nn.Tanh)

    def loss(self, x: Tensor) -> Tensor:
        return -ode_log_prob(self.model, x, 1e-5, odeint_adjoint).mean()

    # Without a graph of the whole solve, whose memory knows no bound.
    @torch.no_grad()
    def score(self, x: Tensor) -> Tensor:
        return ode_log_prob(self.model, x, 1e-5)

    @torch.no_grad()
    def exact(self, x: Tensor) -> Tensor:
        return ode_log_prob(copy.deepcopy(self.model).double(), x.double(), 1e-7)


class OTCFM(FFJORD):
    """Flow matching with optimal transport of batches, as in torchcfm."""

    batch, every = 256, 1000

    def make(self, dim: int) -> Any:
        return Field(dim, 64, 3, nn.SELU)

    def loss(self, x: Tensor) -> Tensor:
        z = torch.randn_like(x)
        rows, columns = linear_sum_assignment((torch.cdist(z, x) ** 2).numpy())
        z, x = z[rows], x[columns]
        t = torch.rand(len(x), 1)
        return ((self.model(t, z + t * (x - z)) - (x - z)) ** 2).mean()


METHODS: dict[str, type[Method]] = {
    "zuko-nsf": NSF,
    "zuko-maf": MAF,
    "zuko-cnf": CNF,
    "ffjord": FFJORD,
    "ot-cfm": OTCFM,
}


def in_parts(score: Callable[[Tensor], Tensor], x: Tensor, size: int = 500) -> float:
    parts = [score(part) for part in x.split(size)]
    return float(-torch.cat(parts).double().mean())


def train(method: Method, data: dict[str, Tensor], seconds: float) -> list[dict[str, float]]:
    optimizer = torch.optim.Adam(method.model.parameters(), lr=method.lr)
    held = data["validation"][:ROWS]
    best, weights, step = math.inf, copy.deepcopy(method.model.state_dict()), 0
    found: list[dict[str, float]] = []
    clock, moment = 0.0, FIRST
    while clock < seconds:
        start = time.perf_counter()
        for _ in range(method.every):
            rows = torch.randint(len(data["train"]), (method.batch,))
            optimizer.zero_grad()
            loss = method.loss(data["train"][rows])
            if torch.isfinite(loss):
                loss.backward()
                nn.utils.clip_grad_norm_(method.model.parameters(), 5.0)
                optimizer.step()
            step += 1
            if clock + time.perf_counter() - start > seconds:
                break
        value = in_parts(method.score, held)
        clock += time.perf_counter() - start
        if value < best:
            best, weights = value, copy.deepcopy(method.model.state_dict())
        if clock >= moment or clock >= seconds:
            current = copy.deepcopy(method.model.state_dict())
            method.model.load_state_dict(weights)
            test = in_parts(method.exact, data["test"])
            method.model.load_state_dict(current)
            found.append({"seconds": clock, "step": step, "validation": best, "test": test})
            print(found[-1], flush=True)
            while moment <= clock:
                moment *= 2
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Likelihood against time in PyTorch.")
    parser.add_argument("method", choices=list(METHODS))
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    with np.load(arguments.data, allow_pickle=False) as file:
        data = {name: torch.from_numpy(file[name]).float() for name in file.files}
    method = METHODS[arguments.method](data["train"].shape[1])
    arguments.out.write_text(json.dumps(train(method, data, arguments.seconds)))


if __name__ == "__main__":
    main()
