"""Kills `jaxflow fit` at random moments and resumes it: does it end with the same bits?

    python tests/chaos/kill_resume.py --times 50

Each time a fit is killed (SIGKILL), started again with --resume, perhaps killed again, and its
weights and history are compared with those of a fit that was left alone.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

PROGRAM = [sys.executable, "-c", "from jaxflow.cli import main; main()"]
STEPS = 200
# Kills of one fit; then it is left to end.
MOST_KILLS = 3


def start(table: Path, out: Path, cache: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a fit in another process."""
    sizes = ["--steps", str(STEPS), "--width", "8", "--batch-size", "64"]
    command = [*PROGRAM, "fit", str(table), "--out", str(out), *sizes, *options]
    # Compiled functions are shared by all processes: most of a short fit's time.
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
    kept |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    silent = subprocess.DEVNULL
    return subprocess.Popen(command, env=os.environ | kept, stdout=silent, stderr=silent)


def outcome(out: Path) -> tuple[dict[str, bytes], np.ndarray]:
    """The weights' bytes, and the history but for its clock."""
    arrays = {name: each.tobytes() for name, each in load_file(out / "flow.safetensors").items()}
    history = np.genfromtxt(out / "history.csv", delimiter=",", names=True)
    columns = [name for name in history.dtype.names or () if name != "seconds"]
    return arrays, np.stack([history[name] for name in columns])


def state(out: Path) -> str:
    """State of the run directory after a kill."""
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if "flow.safetensors" in names:
        return "finished"
    return "a state" if "state.safetensors" in names else "no state"


def attempt(table: Path, out: Path, cache: Path, seconds: float, rng: random.Random) -> list[str]:
    """Kill and resume one fit until it ends; returns the state after each kill."""
    left: list[str] = []
    while True:
        process = start(table, out, cache, "--resume")
        try:
            if len(left) == MOST_KILLS:
                process.wait()
            else:
                process.wait(timeout=rng.uniform(0.1, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            left.append(state(out))
            if left[-1] != "finished":
                continue
        if state(out) != "finished":
            raise AssertionError(f"{out} did not end: exit code {process.returncode}, {left}")
        return left


def main() -> None:
    parser = argparse.ArgumentParser(description="Fits killed and resumed.")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        table = folder / "table.csv"
        a, noise = np.random.default_rng(0).normal(size=(2, 300))
        np.savetxt(table, np.stack([a, a**2 + 0.3 * noise], 1), delimiter=",", header="a,b")
        for alone in ("first", "second"):
            # The second finds its compiled functions, as the fits that are killed do.
            begun = time.perf_counter()
            assert start(table, folder / alone, cache).wait() == 0
            seconds = time.perf_counter() - begun
        expected = outcome(folder / "first")
        same, kills = 0, Counter[str]()
        for i in range(arguments.times):
            out = folder / f"run{i}"
            kills.update(attempt(table, out, cache, seconds, rng))
            arrays, history = outcome(out)
            good = arrays == expected[0] and np.array_equal(history, expected[1])
            same += good
            print(f"{i + 1}: {'same bits' if good else 'DIFFERENT'}", flush=True)
        found = ", ".join(f"{count} left {what}" for what, count in kills.items())
        print(f"{same} of {arguments.times} the same to the bit; {kills.total()} kills: {found}")
    raise SystemExit(0 if same == arguments.times else 1)


if __name__ == "__main__":
    main()
