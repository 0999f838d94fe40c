"""FFJORD's multiscale flow of images on torchdiffeq, trained for a given time.

Reads a file of arrays `train`, `validation` and `test`, images (n, height, width, channels) in the
space of the flow, and writes log-densities of the test images there, in nats. Architecture and
settings are those of the paper's image experiments (Grathwohl et al. 2019, arXiv 1810.01367,
section 4.2 and appendix B), with as many channels as asked for: two scales, each a field of
convolutions that see time with softplus between them; after the first scale a squeeze, and half
of the channels are done. The trace has one Rademacher probe; dopri5 at 1e-5, gradients by the
adjoint, Adam at 1e-3. The weights that were best on validation images are tested.

    python benchmarks/peers/torch_images.py images.npz --out out.json --seconds 300
"""
# This file runs in an environment of its own (requirements.txt beside it).
# pyright: reportMissingImports=false

import argparse
import copy
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchdiffeq import odeint_adjoint

BATCH, EVERY, TOLERANCE = 100, 20, 1e-5


class Field(torch.nn.Module):
    """Velocity, and its divergence along a probe, of images (n, channels, height, width)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        sizes = [channels, width, width, width, channels]
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(a + 1, b, 3, padding=1) for a, b in itertools.pairwise(sizes)
        )
        self.probe, self.evals = torch.zeros(0), 0

    def velocity(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        for k, layer in enumerate(self.layers):
            x = torch.nn.functional.softplus(x) if k else x
            x = layer(torch.cat([x, t.expand(len(x), 1, *x.shape[2:])], dim=1))
        return x

    def forward(self, t: torch.Tensor, state: Any) -> Any:
        self.evals += 1
        with torch.enable_grad():
            x = state[0].requires_grad_(True)
            v = self.velocity(t, x)
            (along,) = torch.autograd.grad(v, x, self.probe, create_graph=True)
        return v, -(along * self.probe).flatten(1).sum(dim=1)


class Flow(torch.nn.Module):
    """Two scales; the log-density of images in nats."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fields = torch.nn.ModuleList([Field(channels, width), Field(2 * channels, width)])

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        log_p = torch.zeros(len(x))
        for k, field in enumerate(self.fields):
            field.probe = torch.randint(0, 2, x.shape).float() * 2 - 1
            solved, change = odeint_adjoint(
                field,
                (x, torch.zeros(len(x))),
                torch.tensor([1.0, 0.0]),
                method="dopri5",
                rtol=TOLERANCE,
                atol=TOLERANCE,
                adjoint_params=tuple(field.parameters()),
            )
            # `change` is the integral of minus the divergence, against time.
            x, log_p = solved[-1], log_p - change[-1]
            if not k:
                x = torch.nn.functional.pixel_unshuffle(x, 2)
                x, done = x.chunk(2, dim=1)
                log_p = log_p + normal(done)
        return log_p + normal(x)


def normal(z: torch.Tensor) -> torch.Tensor:
    """Log-density of a standard normal."""
    return -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(dim=1)


def evaluate(flow: Flow, x: torch.Tensor) -> torch.Tensor:
    """Log-densities, a batch at a time."""
    with torch.no_grad():
        return torch.cat([flow.log_prob(batch) for batch in x.split(BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--width", type=int, default=64)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    file = np.load(arguments.images)
    train, validation, test = (
        torch.tensor(file[name]).permute(0, 3, 1, 2).contiguous()
        for name in ("train", "validation", "test")
    )
    flow = Flow(train.shape[1], arguments.width)
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3)
    best, lowest, steps, start = copy.deepcopy(flow), math.inf, 0, time.perf_counter()
    while time.perf_counter() - start < arguments.seconds:
        for batch in torch.randperm(len(train)).split(BATCH):
            loss = -flow.log_prob(train[batch]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps += 1
            late = time.perf_counter() - start > arguments.seconds
            if steps % EVERY == 0 or late:
                value = float(-evaluate(flow, validation[:BATCH]).mean())
                print(f"step {steps}: {value:.2f} nats", flush=True)
                if value < lowest:
                    best, lowest = copy.deepcopy(flow), value
            if late:
                break
    seconds = time.perf_counter() - start
    for field in best.fields:
        field.evals = 0
    log_p = evaluate(best, test)
    batches = -(-len(test) // BATCH)
    result = {
        "log_p": log_p.tolist(),
        "steps": steps,
        "train_seconds": seconds,
        "score_seconds": time.perf_counter() - start - seconds,
        "evaluations": sum(field.evals for field in best.fields) / batches,
        "parameters": sum(p.numel() for p in flow.parameters()),
    }
    arguments.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
