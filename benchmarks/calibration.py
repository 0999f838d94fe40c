"""How often do the checks of posteriors find one that is wrong, and pass one that is right?

`python benchmarks/calibration.py` tests the posteriors of `tests/diagnostics/posteriors.py`, known
in closed form and wrong in one named way or right, on fresh pairs for each of 50 seeds, at the
level 5 %. It prints a table of rates and writes `results/calibration.json`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from harness import table, write_results
from jaxflow.diagnostics import Calibration, calibration, local_calibration

sys.path.append(str(Path(__file__).parent.parent))
from tests.diagnostics.posteriors import LOCAL, OBSERVED, RIGHT, WRONG, Case, simulate

LEVEL, DRAWS = 0.05, 99
CHECKS = ("ranks", "highest density", "TARP", "together", "local")


def p_values(case: Case, pairs: int, local_pairs: int, seed: int) -> dict[str, float]:
    """The smallest p-value of each check, corrected for the number of its tests."""
    key = jax.random.key(seed)
    theta, x = simulate(case.model, pairs, seed)
    found = calibration(case.posterior, theta, x, key=key, num_draws=DRAWS, level=LEVEL)
    parts = (found.tests[:2], found.tests[2:3], found.tests[3:], found.tests)
    p = [float(Calibration(part, LEVEL).p.min()) for part in parts]
    theta, x = simulate(case.model, local_pairs, seed + 1000)
    at = OBSERVED[case.model]
    local = local_calibration(case.posterior, theta, x, at, key=key, level=LEVEL)
    return dict(zip(CHECKS, [*p, float(local.p[0])], strict=True))


def main() -> None:
    """Print and write the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--local-pairs", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=50)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    results: dict[str, Any] = {**vars(options), "draws": DRAWS, "level": LEVEL, "posteriors": {}}
    rows = []
    for name, case in {**RIGHT, **WRONG, **LOCAL}.items():
        each = [
            p_values(case, options.pairs, options.local_pairs, seed)
            for seed in range(options.seeds)
        ]
        p = {check: np.asarray([one[check] for one in each]) for check in CHECKS}
        found = {check: int(np.sum(p[check] < LEVEL)) for check in CHECKS}
        results["posteriors"][name] = {
            "model": case.model,
            "found": found,
            "median_p": {check: float(np.median(p[check])) for check in CHECKS},
        }
        rows.append([name, *(str(found[check]) for check in CHECKS)])
        print(rows[-1], flush=True)
    print(f"\nfound in how many of {options.seeds}, at the level {LEVEL:.0%}\n")
    print(table(["posterior", *CHECKS], rows))
    print(write_results("calibration", results))


if __name__ == "__main__":
    main()
