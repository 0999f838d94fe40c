"""Damaged and hostile files: each raises a one-line error or is read correctly.

    python tests/chaos/hostile_files.py --files 1000

Good files of every kind that jaxflow reads, tables, flows, options, run directories, states of
trainings and shards, are damaged at random (a fixed seed), and some are made to harm: pickles,
headers that claim 10^12 numbers, names that lead out of the folder. None may end in another
exception than those for bad input, take memory, run code, or write elsewhere.
"""

import argparse
import io
import json
import os
import pickle
import random
import resource
import struct
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
from typer.testing import CliRunner

import jaxflow
from jaxflow.cli.app import app
from jaxflow.cli.record import check_resumable, new_record
from jaxflow.cli.run_directory import read_record, write_record
from jaxflow.cli.settings import FitSettings
from jaxflow.data import Shards, read_blocks, read_table
from jaxflow.io.checkpoint import load_extra

# Memory that a reader may use, in bytes.
ROOM = 2 << 30
REFUSALS = (ValueError, TypeError, FileNotFoundError)
SETTINGS = FitSettings(
    model="cnf",
    field="auto",
    activation="auto",
    width=8,
    depth=2,
    steps=20,
    batch_size=64,
    learning_rate=1e-3,
    validation=0.1,
    max_seconds=None,
    seed=0,
    transform="auto",
    trace="auto",
    objective="auto",
    float64=False,
)
FINISHED = new_record("table.csv", "0" * 16, ["a", "b"], 20, SETTINGS) | {
    "transform": "none",
    "seconds": 1.0,
    "steps": 20,
    "validation": 1.0,
    "validation_se": None,
    "rows_held_out": 2,
}


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.canary),))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one or more of the usual accidents."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            del out[at:]
        elif kind == 1 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            del out[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            out[at : at + 8] = rng.choice([b"\0" * 8, b"\xff" * 8, b"99999999", b"../../x\0"])
        else:
            # Digits are sizes, shapes and numbers.
            digits = [i for i, byte in enumerate(out) if 48 <= byte <= 57]
            if digits:
                out[rng.choice(digits)] = rng.choice(b"0123456789-")
    return bytes(out)


def altered(data: bytes, rng: random.Random) -> bytes:
    """JSON in which one entry, anywhere, is gone or is something else."""
    whole = json.loads(data)
    inner: Any = whole
    while True:
        key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if not (isinstance(inner[key], dict | list) and inner[key] and rng.random() < 0.7):
            break
        inner = inner[key]
    if rng.random() < 0.3:
        del inner[key]
    else:
        inner[key] = rng.choice(
            [None, True, -1, 0, 1e300, 10**30, "", "../../x", [], {}, [1], "a"]
        )
    return json.dumps(whole).encode()


def npy(header: str, body: bytes = b"") -> bytes:
    """A .npy file with a header of one's own."""
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def safetensors(header: dict[str, Any], body: bytes = b"") -> bytes:
    """A safetensors file with a header of one's own."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def archive(**members: bytes) -> bytes:
    """A zip archive, as .npz files are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def good_files(folder: Path) -> dict[str, bytes]:
    """A good file of each kind, by its name."""
    x = np.random.default_rng(0).normal(size=(20, 3))
    field = jaxflow.dynamics.MLP(3, width=4, key=jax.random.key(0))
    flow = jaxflow.CNF(field, jaxflow.StandardNormal((3,)))
    jaxflow.save(folder / "flow.safetensors", flow, extra={"note": "good"})
    _train(folder / "state.safetensors", resume=False)
    write_record(folder, new_record("table.csv", "0" * 16, ["a", "b"], 20, SETTINGS))
    pl.DataFrame({"a": x[:, 0], "b": x[:, 1]}).write_parquet(folder / "part.parquet")
    Shards.convert([folder / "part.parquet"], folder / "shards")
    buffers = {name: io.BytesIO() for name in ("table.npy", "table.npz", "table.parquet")}
    np.save(buffers["table.npy"], x)
    np.savez_compressed(buffers["table.npz"], x=x)
    pl.DataFrame({"a": x[:, 0], "b": x[:, 1]}).write_parquet(buffers["table.parquet"])
    rows = "\n".join(",".join(map(str, row)) for row in x)
    quoted = "\n".join(f'"{row[0]}";{row[1]}' for row in x)
    return {
        "flow.safetensors": (folder / "flow.safetensors").read_bytes(),
        "state.safetensors": (folder / "state.safetensors").read_bytes(),
        "record.json": json.dumps(FINISHED).encode(),
        "run.json": (folder / "run.json").read_bytes(),
        "shards.json": (folder / "shards" / "shards.json").read_bytes(),
        "part-000000.npy": (folder / "shards" / "part-000000.npy").read_bytes(),
        "table.csv": f"a,b,c\n{rows}\n".encode(),
        "table.tsv": quoted.encode("utf-8-sig"),
        "run.toml": b'columns = "a,b"\nwidth = 8\nlearning_rate = 1e-3\nfloat64 = false\n',
    } | {name: buffer.getvalue() for name, buffer in buffers.items()}


def hostile_files(canary: Path) -> list[tuple[str, bytes]]:
    """Files that were made to harm."""
    bomb = pickle.dumps(Bomb(canary))
    huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    table = huge.replace("(1000000000000,)", "(1000000, 1000000)")
    objects = "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }"
    claims = {"x": {"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8 * 10**12]}}
    tree = {"kind": "flow", "format": 1, "tree": {"class": "os.system"}, "arrays": {}}
    deep = "[" * 100_000
    return [
        ("bomb.npy", bomb),
        ("bomb.npz", bomb),
        ("bomb.safetensors", bomb),
        ("bomb.parquet", bomb),
        ("bomb.csv", bomb),
        ("objects.npy", npy(objects, bomb)),
        ("objects.npz", archive(**{"x.npy": npy(objects, bomb)})),
        ("huge.npy", npy(huge, b"\0" * 64)),
        ("table.npy", npy(table, b"\0" * 64)),
        ("huge.npz", archive(**{"x.npy": npy(table, b"\0" * 64)})),
        ("zeros.npz", archive(**{"x.npy": npy(table, b"\0" * (1 << 22))})),
        ("out.npz", archive(**{"../x.npy": npy(huge), "../../x": b"1"})),
        ("code.npy", npy("__import__('os').mkdir('" + str(canary) + "')")),
        ("huge.safetensors", safetensors(claims, b"\0" * 64)),
        ("long.safetensors", struct.pack("<Q", 10**12) + b"{}"),
        ("names.safetensors", safetensors({"__metadata__": {"jaxflow": json.dumps(tree)}})),
        ("deep.safetensors", safetensors({"__metadata__": {"jaxflow": deep}})),
        ("text.safetensors", safetensors({"__metadata__": {"jaxflow": '"../../x"'}})),
        ("deep.toml", b"width = " + deep.encode()),
        ("quote.csv", b'a,b\n1,"2\n' + b"3,4\n" * 100_000),
        ("wide.csv", b"," * 1_000_000 + b"\n1,2\n"),
        ("nul.csv", b"a,b\n\0,\0\n"),
        ("empty.csv", b""),
        ("blank.csv", b"\n" * 1_000_000),
    ]


def read(path: Path, finished: Path) -> None:
    """Read a file by all the ways that jaxflow has for its kind."""
    if path.name == "state.safetensors":
        _allow_refusal(lambda path: _train(path, resume=True), path)
    elif path.name == "record.json":
        _allow_refusal(lambda path: _keep(path, finished), path)
        _command("info", str(path.parent / "run"))
    elif path.name == "run.json":
        _command("info", str(path.parent))
        # As a fit does that goes on with the run.
        record = json.loads((finished / "run.json").read_text())
        _allow_refusal(lambda path: check_resumable(path, read_record(path.parent), record), path)
    elif path.name in ("shards.json", "part-000000.npy"):
        for name in {"shards.json", "part-000000.npy"} - {path.name}:
            (path.parent / name).write_bytes((finished / "shards" / name).read_bytes())
        numbers = np.asarray([0, 7, 19])
        _allow_refusal(lambda path: Shards.open(path.parent).rows(numbers), path)
        for name in ("shards.json", "part-000000.npy"):
            (path.parent / name).unlink(missing_ok=True)
    elif path.suffix == ".safetensors":
        for reader in (jaxflow.load, load_extra):
            _allow_refusal(reader, path)
        run = path.parent / "run"
        run.mkdir(exist_ok=True)
        (run / "flow.safetensors").write_bytes(path.read_bytes())
        _command("info", str(run))
    elif path.suffix == ".toml":
        # A finished run, which refuses every fit.
        _command("fit", "table.csv", "--config", str(path), "--out", str(finished))
    else:
        _allow_refusal(read_table, path)
        _allow_refusal(lambda path: [len(t.values) for t in read_blocks(path, rows=4)], path)


def _keep(record: Path, finished: Path) -> None:
    """A run directory whose flow has the content of a file as its `extra`."""
    run = record.parent / "run"
    run.mkdir(exist_ok=True)
    flow = jaxflow.load(finished / "flow.safetensors")
    extra = json.loads(record.read_text())
    jaxflow.save(run / "flow.safetensors", flow, extra=extra, overwrite=True)


def _train(state: Path, *, resume: bool) -> None:
    """A fit of two steps that keeps its state, or goes on with it."""
    jaxflow.fit(
        jaxflow.CNF(
            jaxflow.dynamics.MLP(1, width=4, key=jax.random.key(0)), jaxflow.StandardNormal(1)
        ),
        np.arange(20.0)[:, None],
        key=jax.random.key(0),
        config=jaxflow.TrainConfig(steps=2, eval_every=1, batch_size=8),
        objective=jaxflow.objectives.FlowMatching(),
        transform=None,
        checkpoint=state,
        resume=resume,
        progress=False,
    )


def _allow_refusal(reader: Callable[[Path], Any], path: Path) -> None:
    try:
        reader(path)
    except REFUSALS as error:
        if not str(error):
            raise AssertionError(f"{type(error).__name__} without a word") from error


def _command(*arguments: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code not in (0, 2):
        raise AssertionError(f"exit code {result.exit_code}: {result.output}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Damaged and hostile files.")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        outer = Path(name)
        folder, canary, finished = outer / "a" / "b", outer / "canary", outer / "finished"
        for each in (folder, finished):
            each.mkdir(parents=True)
        good = good_files(finished)
        cases = hostile_files(canary)
        kinds = list(good)
        while len(cases) < arguments.files:
            kind = kinds[len(cases) % len(kinds)]
            damage = altered if kind.endswith(".json") and rng.random() < 0.7 else damaged
            cases.append((kind, damage(good[kind], rng)))
        before = sorted(str(path) for path in outer.rglob("*"))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        for i, (kind, data) in enumerate(cases):
            path = folder / kind
            path.write_bytes(data)
            try:
                read(path, finished)
            except BaseException as error:
                failures.append(f"file {i} ({kind}, {len(data)} bytes): {error!r:.200}")
                print(failures[-1], flush=True)
            path.unlink(missing_ok=True)
        run = folder / "run"
        leftover = {str(run), str(run / "flow.safetensors")}
        after = sorted(str(path) for path in outer.rglob("*") if str(path) not in leftover)
        if after != before:
            failures.append(f"written elsewhere: {sorted(set(after) - set(before))}")
            print(failures[-1])
    counts = Counter(Path(kind).suffix for kind, _ in cases)
    print(f"{len(cases)} files ({', '.join(f'{n} {k}' for k, n in counts.items())}):", end=" ")
    print(f"{len(failures)} not refused in one line or read")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
