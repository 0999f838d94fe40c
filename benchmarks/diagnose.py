"""How often does `diagnose` find a flow that is wrong, and pass one that is right?

`python benchmarks/diagnose.py --seeds 5` examines the flows of `tests/diagnostics/flows.py`, each
wrong in one named way or right, on fresh rows for each seed, and prints the rates. A wrong flow
counts as found if there is any problem, and as named if the problem is that of its kind.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax

from harness import write_results
from jaxflow.diagnostics import diagnose

sys.path.append(str(Path(__file__).parent.parent))
from tests.diagnostics.flows import RIGHT, WRONG


def examine(case: Any, rows: int, seed: int) -> str:
    """The problems of one case, a line each."""
    flow, x, cond = case(rows, seed)
    return "\n".join(diagnose(flow, x, cond, key=jax.random.key(seed), num_samples=rows).problems)


def main() -> None:
    """Print and write the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[500])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    seeds = range(options.seeds)
    results: dict[str, Any] = {"seeds": options.seeds, "rows": {}}
    said: dict[tuple[int, str], list[str]] = {}
    for name, case in {**{n: c for n, (c, _) in WRONG.items()}, **RIGHT}.items():
        for rows in options.rows:
            said[rows, name] = [examine(case, rows, seed) for seed in seeds]
            print(f"{rows:6} rows, {name}: {sum(map(bool, said[rows, name]))} with a problem")
        jax.clear_caches()
    print("\n| rows | wrong flows found | cause named | right flows passed |\n| - | - | - | - |")
    for rows in options.rows:
        wrong = [(each, words) for n, (_, words) in WRONG.items() for each in said[rows, n]]
        found = sum(bool(each) for each, _ in wrong)
        named = sum(words in each for each, words in wrong)
        right = [each for name in RIGHT for each in said[rows, name]]
        passed = sum(not each for each in right)
        print(
            f"| {rows:,} | {found} of {len(wrong)} | {named} of {len(wrong)} "
            f"| {passed} of {len(right)} |"
        )
        results["rows"][rows] = {
            "wrong": len(wrong),
            "found": found,
            "named": named,
            "right": len(right),
            "passed": passed,
            "not found": [n for n in WRONG if not all(said[rows, n])],
            "false alarms": [n for n in RIGHT if any(said[rows, n])],
        }
    print(write_results("diagnose", results))


if __name__ == "__main__":
    main()
