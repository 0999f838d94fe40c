"""Does a test notice when the mathematics is changed? `make mutants`.

    python tests/mutants.py --sample 60 --seed 0

Changes one operator, comparison, number, `and`, `not` or returned value at a time, in a copy of
the tree, and runs the tests that mirror the file, the laws among them, until one fails. A mutant
that none notices survives: it is equivalent to the original (`CONTRIBUTING.md` says which are,
and why), or it shows a hole in the tests.

This is no mutmut or cosmic-ray because both run every mutant of a file against one command, some
thousands of runs at this size, and a run starts JAX and compiles. Here a sample is spread
evenly over files, every file has its own tests, quickest first and the slow ones last, and
mutants that differ in words alone (messages, annotations, docstrings) are never made.
"""

import argparse
import ast
import copy
import difflib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutants.json"
WIDE = 160
# What pytest exits with where it finds none.
NO_TESTS = 5
TARGETS = ("ode/*.py", "trace/*.py", "density/*.py", "flows/*.py", "objectives/*.py")

# The tests that mirror a file, the quickest first; a folder's where a file has no line.
SOLVES = ["tests/ode/test_arguments.py", "tests/laws/test_solves.py"]
GRADIENTS = ["tests/ode/test_checkpointed.py", "tests/laws/test_gradients.py"]
MANY = ["tests/ode/test_many.py", "tests/ode/test_failures.py"]
TRACES = ["tests/laws/test_traces.py", "tests/flows/test_flow_traces.py"]
FLOW = ["tests/flows/test_flow.py", "tests/density/test_tolerance.py", "tests/laws/test_flows.py"]
TESTS = {
    "ode": ["tests/ode", "tests/laws/test_solves.py", "tests/laws/test_gradients.py"],
    "ode/bridge.py": ["tests/ode/test_bridge.py"],
    "ode/checkpointed.py": GRADIENTS,
    "ode/checks.py": ["tests/ode/test_arguments.py", "tests/ode/test_save_at.py"],
    "ode/controller.py": ["tests/ode/test_steps.py", *SOLVES, "tests/ode/test_failures.py"],
    "ode/integrate.py": ["tests/ode/test_steps.py", *SOLVES, "tests/ode/test_failures.py"],
    "ode/lanes.py": MANY,
    "ode/many.py": ["tests/runtime/test_precision.py", *MANY, *GRADIENTS],
    "ode/odeint.py": ["tests/ode/test_save_at.py", "tests/ode/test_steps.py", *SOLVES, *GRADIENTS],
    "ode/pontryagin.py": ["tests/ode/test_drift.py", "tests/laws/test_gradients.py"],
    "ode/together.py": ["tests/density/test_continuity.py", "tests/training/test_mesh.py"],
    "ode/status.py": ["tests/ode/test_failures.py", *SOLVES],
    "ode/tableaus.py": ["tests/laws/test_orders.py"],
    "ode/twice.py": ["tests/density/test_accuracy.py", "tests/density/test_tolerance.py"],
    "trace/choice.py": ["tests/flows/test_flow_traces.py"],
    "trace/exact.py": ["tests/trace/test_exact.py", *TRACES],
    "trace/hutchinson.py": ["tests/trace/test_hutchinson.py", *TRACES],
    "trace/products.py": ["tests/trace/test_hutchinson.py", *TRACES],
    "trace/protocol.py": ["tests/flows/test_flow_traces.py"],
    "trace/sketched.py": ["tests/trace/test_sketched.py", "tests/flows/test_flow_traces.py"],
    "density/continuity.py": [
        "tests/density/test_continuity.py",
        "tests/flows/test_flow_traces.py",
        *FLOW,
    ],
    "flows": ["tests/flows", *FLOW],
    "flows/cnf.py": [*FLOW, "tests/flows/test_flow_traces.py"],
    "objectives/couplings.py": ["tests/objectives/test_couplings.py"],
    "objectives/denoising.py": ["tests/objectives/test_denoising.py"],
    "objectives/likelihood.py": ["tests/objectives/test_likelihood.py"],
    "objectives/matching.py": ["tests/objectives/test_matching.py"],
    "objectives/reflow.py": ["tests/objectives/test_reflow.py", "tests/objectives/test_staged.py"],
    "objectives/reverse_kl.py": ["tests/objectives/test_reverse_kl.py"],
    "objectives/staged.py": ["tests/objectives/test_staged.py"],
    "objectives/times.py": ["tests/objectives/test_matching.py"],
    "objectives/weights.py": ["tests/objectives/test_staged.py"],
}

SWAPS: dict[type, Any] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.Pow: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
}


@dataclass(frozen=True)
class Mutant:
    """One change: the file below `src/jaxflow`, the change as lines of a diff, the new source."""

    file: str
    line: int
    change: str
    source: str


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: `survived`, or by which test or limit it was noticed."""

    file: str
    line: int
    change: str
    outcome: str
    seconds: float


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that may stand in the place of this one."""
    new = copy.deepcopy(node)
    match new:
        case ast.BinOp() | ast.BoolOp() if type(new.op) in SWAPS:
            new.op = SWAPS[type(new.op)]()
            yield new
        case ast.Compare() if type(new.ops[0]) in SWAPS:
            new.ops[0] = SWAPS[type(new.ops[0])]()
            yield new
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield new.operand
        case ast.Constant(value=bool(value)):
            new.value = not value
            yield new
        case ast.Constant(value=int(value)):
            new.value = value + 1
            yield new
        case ast.Constant(value=float(value)):
            new.value = 2 * value or 1.0
            yield new
        case ast.Return(value=ast.expr()):
            new.value = ast.Constant(None)
            yield new


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Where a node stands that a test can tell: its parent, the field, the index in a list.

    Not in annotations, docstrings, messages of errors, assertions and decorators, nor in the
    settings of a dataclass's fields and `zip`'s `strict`.
    """
    skipped = {"annotation", "returns", "decorator_list", "type_params"}
    for name, value in ast.iter_fields(tree):
        if name in skipped or isinstance(value, ast.Raise | ast.Assert | ast.JoinedStr):
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
                continue
            if isinstance(node, ast.keyword) and node.arg in ("static", "strict"):
                continue
            if isinstance(node, ast.AST):
                yield tree, name, index
                yield from places(node)


def mutants_of(file: Path) -> list[Mutant]:
    """Every mutant of a file."""
    tree = ast.parse(file.read_text())
    before = ast.unparse(tree).splitlines()
    found = []
    for parent, name, index in places(tree):
        node = getattr(parent, name) if index is None else getattr(parent, name)[index]
        for new in changes(node):
            put(parent, name, index, new)
            source = ast.unparse(ast.fix_missing_locations(tree))
            put(parent, name, index, node)
            lines = difflib.unified_diff(before, source.splitlines(), n=0, lineterm="")
            if change := around_the_difference(list(lines)[3:]):
                where = str(file.relative_to(ROOT / "src" / "jaxflow"))
                found.append(Mutant(where, getattr(node, "lineno", 0), change, source))
    return found


def around_the_difference(lines: list[str]) -> str:
    """The lines of a diff, of long ones the part that differs."""
    if len(lines) == 2 and len(lines[0]) > WIDE:
        old, new = (line[1:] for line in lines)
        same = next(i for i in range(len(old)) if old[i] != new[i : i + 1])
        start = max(1, same - WIDE // 2)
        lines = [f"{line[0]} ... {line[start : start + WIDE]} ..." for line in lines]
    return "\n".join(lines)


def put(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    """Set a part of a tree."""
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def sample(files: list[Path], size: int, seed: int) -> list[Mutant]:
    """Mutants in random order, in turn from every file, so that no table of numbers rules."""
    rng = random.Random(seed)
    piles = [mutants_of(file) for file in files]
    piles = [rng.sample(pile, len(pile)) for pile in piles if pile]
    rng.shuffle(piles)
    chosen = []
    while len(chosen) < size and any(piles):
        chosen += [pile.pop() for pile in piles if pile]
    return chosen[:size]


def tests_of(file: str) -> list[str]:
    """The tests that mirror a file."""
    return TESTS.get(file) or TESTS[file.split("/")[0]]


def judge(tree: Path, tests: list[str], cache: Path, limit: float) -> str:
    """How the tests end in this tree, those of every day and then the slow ones."""
    outcome = run(tree, tests, cache, limit, "not slow")
    return outcome if outcome != "survived" else run(tree, tests, cache, limit, "slow")


def run(tree: Path, tests: list[str], cache: Path, limit: float, marked: str) -> str:
    """How tests end: `survived`, the first that failed, or the time limit."""
    # Without the run-time check of annotations, which takes longer to start than most tests.
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:nbmake", "-m", marked]
    command = [sys.executable, "-m", "pytest", *options, "-o", "addopts=--import-mode=importlib"]
    kept = {"PYTHONPYCACHEPREFIX": str(cache), "PYTHONPATH": str(tree / "src")}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | kept
    with subprocess.Popen(
        [*command, *tests],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "time limit"
    if process.returncode in (0, NO_TESTS):
        return "survived"
    return next(
        iter(re.findall(r"^(?:FAILED|ERROR) (\S+)", said, flags=re.MULTILINE)), said[-200:]
    )


def main() -> None:
    """Make a sample, run it, and say what survived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=60, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files whose name begins so, as ode/step.py")
    parser.add_argument("--limit", type=float, default=900, help="seconds a mutant may take")
    parser.add_argument("--no-baseline", action="store_true", help="the tests are known to pass")
    options = parser.parse_args()
    source = ROOT / "src" / "jaxflow"
    files = sorted(f for pattern in TARGETS for f in source.glob(pattern))
    files = [f for f in files if str(f.relative_to(source)).startswith(options.only)]
    chosen = sample(files, options.sample, options.seed)
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        tree, cache = Path(name) / "tree", Path(name) / "cache"
        for part in ("src", "tests", "pyproject.toml"):
            copy_to = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            tree.mkdir(exist_ok=True)
            copy_to(ROOT / part, tree / part)
        if not options.no_baseline:
            needed = sorted({test for mutant in chosen for test in tests_of(mutant.file)})
            if (outcome := judge(tree, needed, cache, 10 * options.limit)) != "survived":
                sys.exit(f"the tests fail as they are, mend them first: {outcome}")
        for mutant in chosen:
            file = tree / "src" / "jaxflow" / mutant.file
            original, start = file.read_text(), time.monotonic()
            file.write_text(mutant.source)
            outcome = judge(tree, tests_of(mutant.file), cache, options.limit)
            file.write_text(original)
            seconds = round(time.monotonic() - start, 1)
            outcomes.append(Outcome(mutant.file, mutant.line, mutant.change, outcome, seconds))
            print(f"{seconds:6.1f} s  {mutant.file}:{mutant.line}  {outcome}", flush=True)
            if outcome == "survived":
                print(mutant.change, flush=True)
            report(outcomes, options)
    killed = sum(each.outcome != "survived" for each in outcomes)
    print(f"{killed} of {len(outcomes)} mutants were noticed ({killed / len(outcomes):.0%})")


def report(outcomes: list[Outcome], options: argparse.Namespace) -> None:
    """Write what is known so far, the survivors first."""
    ordered = sorted(outcomes, key=lambda each: each.outcome != "survived")
    killed = sum(each.outcome != "survived" for each in outcomes)
    content = {
        "command": f"python tests/mutants.py --sample {options.sample} --seed {options.seed}",
        "mutants": len(outcomes),
        "noticed": killed,
        "outcomes": [asdict(each) for each in ordered],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
