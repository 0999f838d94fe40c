"""zuko's neural spline flow on the folds of small tables, with early stopping.

Reads a file of arrays `train_0`, `held_0`, `train_1`, ... and writes the log-density of the held
rows of all folds in turn, in nats, and the seconds of each fit. A tenth of the training rows stops
the training: it ends when they have gained nothing in 20 epochs. Flow and optimiser are those of
zuko's tutorials: three transforms, Adam at 1e-3.

    python benchmarks/peers/torch_small.py folds.npz --out out.json
"""
# This file runs in an environment of its own (requirements.txt beside it).
# pyright: reportMissingImports=false

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
import zuko

EPOCHS, PATIENCE, BATCH = 500, 20, 128


def fit(rows: torch.Tensor) -> zuko.flows.NSF:
    """The flow with the weights that were best on the tenth held out."""
    torch.manual_seed(0)
    order = torch.randperm(len(rows))
    held, train = rows[order[: max(1, len(rows) // 10)]], rows[order[max(1, len(rows) // 10) :]]
    flow = zuko.flows.NSF(rows.shape[1], transforms=3, hidden_features=(64, 64))
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3)
    best, lowest, since = copy.deepcopy(flow), float("inf"), 0
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(train)).split(BATCH):
            loss = -flow().log_prob(train[batch]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            value = float(-flow().log_prob(held).mean())
        since += 1
        if value < lowest:
            best, lowest, since = copy.deepcopy(flow), value, 0
        if since >= PATIENCE:
            break
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="Neural spline flows of the folds of a table.")
    parser.add_argument("folds", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folds = np.load(arguments.folds)
    log_p: list[float] = []
    seconds = []
    for k in range(len(folds.files) // 2):
        start = time.perf_counter()
        flow = fit(torch.as_tensor(folds[f"train_{k}"], dtype=torch.float32))
        seconds.append(time.perf_counter() - start)
        with torch.no_grad():
            held = torch.as_tensor(folds[f"held_{k}"], dtype=torch.float32)
            log_p += flow().log_prob(held).double().tolist()
    arguments.out.write_text(json.dumps({"log_p": log_p, "seconds": seconds}))


if __name__ == "__main__":
    main()
